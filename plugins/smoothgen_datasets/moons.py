"""Two interleaved half circles in the plane."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from smoothgen.data_source import DataSource
from smoothgen_datasets.curves import SMALLEST_NOISE, CurvePair
from smoothgen_datasets.toy import ToyConfig


class Moons(CurvePair):
    """c(u) = (cos pi u, sin pi u) and its reflection in (0.5, 0.25), (1 - cos pi u, 0.5 - sin pi u)."""

    def __init__(self, config: MoonsConfig) -> None:
        super().__init__(config, (0.5, 0.25), config.noise)

    def _curve(self, u: Tensor) -> Tensor:
        angle = math.pi * u
        return torch.stack([angle.cos(), angle.sin()], dim=1)


class MoonsConfig(ToyConfig):
    """Two half circles with isotropic Gaussian noise.

    Source: scikit-learn's make_moons, whose angles are equally spaced; here they are uniformly random.

    noise: standard deviation of each coordinate's noise.
    """

    type: Literal["moons"] = "moons"
    noise: Annotated[float, Field(ge=SMALLEST_NOISE)] = 0.1

    def build(self) -> DataSource:
        return Moons(self)
