"""Eight Gaussians on a circle."""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import PositiveFloat
from torch import Generator, Tensor

from smoothgen.data_source import DataSource
from smoothgen_datasets.quadrature import around
from smoothgen_datasets.toy import REACH, ToyConfig, ToySource, category, constant, normal

MODES = 8


class EightGaussians(ToySource):
    """(1/8) sum_k N(radius (cos k pi/4, sin k pi/4), noise^2 I).

    On the support: at most 3 noise from a centre. Exact rate of true data off it: exp(-9/2) = 0.0111 less what the
    neighbours' discs catch: 0.00989 with the default radius and noise.
    """

    def __init__(self, config: EightGaussiansConfig) -> None:
        super().__init__(config, dimensions=2)
        angles = [2.0 * math.pi * k / MODES for k in range(MODES)]
        self.means = tuple((config.radius * math.cos(angle), config.radius * math.sin(angle)) for angle in angles)
        self.radius, self.noise = config.radius, config.noise

    def _sample(self, n: int, generator: Generator) -> Tensor:
        means = constant(self.means, torch.float32, generator.device)
        return means[category(n, MODES, generator)].add_(normal((n, 2), generator), alpha=self.noise)

    def _log_prob(self, x: Tensor) -> Tensor:
        return self._smoothed_log_prob(x, 0.0)

    def _smoothed_log_prob(self, x: Tensor, sigma: float) -> Tensor:
        variance = self.noise**2 + sigma**2
        return torch.logsumexp(-0.5 * self._squared_distances(x) / variance, 1) - math.log(
            2.0 * math.pi * variance * MODES
        )

    def _on_support(self, x: Tensor) -> Tensor:
        return (self._squared_distances(x) <= (REACH * self.noise) ** 2).any(1)

    def _squared_distances(self, x: Tensor) -> Tensor:
        """(batch, 8), from every centre."""
        return (x[:, None] - constant(self.means, x.dtype, x.device)).square().sum(2)

    def _compute_entropy(self) -> float:
        """The mean of -log p over the Gaussian on the first axis (all are alike), by Gauss-Legendre."""
        first, first_weights = around(self.radius, self.noise)
        second, second_weights = around(0.0, self.noise)
        x = torch.cartesian_prod(first, second)
        mode = -0.5 * (x - torch.tensor([self.radius, 0.0])).square().sum(1) / self.noise**2
        weights = torch.outer(first_weights, second_weights).flatten() / (2.0 * math.pi * self.noise**2)
        return -(weights * mode.exp() * self._log_prob(x)).sum().item()


class EightGaussiansConfig(ToyConfig):
    """Eight equal Gaussians on a circle around the origin.

    Source: "8gaussians" in the code of FFJORD (arXiv 1810.01367), radius 4 / sqrt(2) and noise 0.5 / sqrt(2), rounded.

    radius: of the circle. noise: standard deviation of each Gaussian's coordinates.
    """

    type: Literal["eight_gaussians"] = "eight_gaussians"
    radius: PositiveFloat = 2.83
    noise: PositiveFloat = 0.354

    def build(self) -> DataSource:
        return EightGaussians(self)
