"""Independent Gaussians in any number of dimensions: the set on which everything is known."""

from __future__ import annotations

import math
from typing import Literal, Self

import torch
from pydantic import PositiveFloat, PositiveInt, model_validator
from torch import Generator, Tensor

from smoothgen.data_source import DataSource
from smoothgen_datasets.toy import ToyConfig, ToySource, constant, normal


class Gaussian(ToySource):
    """N(mean, diag(std^2)) over R^D. Entropy: sum_i log(std_i) + D log(2 pi e) / 2 nats."""

    def __init__(self, config: GaussianDataConfig) -> None:
        super().__init__(config, config.dimensions)
        self.means = config.per_dimension(config.mean)
        self.stds = config.per_dimension(config.std)

    def _sample(self, n: int, generator: Generator) -> Tensor:
        means, stds = (constant(values, torch.float32, generator.device) for values in (self.means, self.stds))
        return torch.addcmul(means, stds, normal((n, len(self.means)), generator))

    def _log_prob(self, x: Tensor) -> Tensor:
        return self._smoothed_log_prob(x, 0.0)

    def _smoothed_log_prob(self, x: Tensor, sigma: float) -> Tensor:
        means, stds = (constant(values, x.dtype, x.device) for values in (self.means, self.stds))
        variance = stds.square() + sigma**2
        return (-0.5 * (x - means).square() / variance - 0.5 * (2.0 * math.pi * variance).log()).sum(1)

    def _compute_entropy(self) -> float:
        return math.fsum(math.log(std) + 0.5 * math.log(2.0 * math.pi * math.e) for std in self.stds)


class GaussianDataConfig(ToyConfig):
    """Independent Gaussian coordinates.

    dimensions: D. mean, std: one number for all coordinates, or one for each.
    """

    type: Literal["gaussian"] = "gaussian"
    dimensions: PositiveInt = 2
    mean: float | tuple[float, ...] = 0.0
    std: PositiveFloat | tuple[PositiveFloat, ...] = 1.0

    @model_validator(mode="after")
    def _one_each(self) -> Self:
        for name, values in (("mean", self.mean), ("std", self.std)):
            if isinstance(values, tuple) and len(values) != self.dimensions:
                raise ValueError(f"{name} has {len(values)} numbers for dimensions: {self.dimensions}; give one or all")
        return self

    def per_dimension(self, values: float | tuple[float, ...]) -> tuple[float, ...]:
        """One number for each of the D coordinates."""
        return values if isinstance(values, tuple) else (values,) * self.dimensions

    def build(self) -> DataSource:
        return Gaussian(self)
