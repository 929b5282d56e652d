"""Two spirals in the plane."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from smoothgen.data_source import DataSource
from smoothgen_datasets.curves import SMALLEST_NOISE, CurvePair
from smoothgen_datasets.toy import ToyConfig


class TwoSpirals(CurvePair):
    """c(t) = (-t cos t, t sin t) / 3 with t = 3 pi sqrt(u), one and a half turns, and its reflection in the origin."""

    def __init__(self, config: TwoSpiralsConfig) -> None:
        super().__init__(config, (0.0, 0.0), config.noise)

    def _curve(self, u: Tensor) -> Tensor:
        t = 3.0 * math.pi * u.sqrt()
        return torch.stack([-t * t.cos(), t * t.sin()], dim=1) / 3.0


class TwoSpiralsConfig(ToyConfig):
    """Two interleaved Archimedean spirals with isotropic Gaussian noise.

    Source: after "2spirals" in the code of FFJORD (arXiv 1810.01367), without the uniform jitter that it adds along
    the spirals, so that the density is an integral along a curve.

    noise: standard deviation of each coordinate's noise.
    """

    type: Literal["two_spirals"] = "two_spirals"
    noise: Annotated[float, Field(ge=SMALLEST_NOISE)] = 0.1

    def build(self) -> DataSource:
        return TwoSpirals(self)
