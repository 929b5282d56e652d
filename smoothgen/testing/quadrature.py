"""Masses by quadrature, and whether samples follow them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

LogDensity = Callable[[Tensor], Tensor]
"""(n, D) -> (n,), nats."""


@dataclass(frozen=True)
class Grid:
    """Midpoints of `cells` cells a coordinate, equal in asinh(x / width): fine in the middle, reaching `reach`.

    The trapezoid rule on such a grid converges faster than any power for smooth densities with light tails.
    """

    dimensions: int
    cells: int
    reach: float = 400.0
    width: float = 1.0

    @property
    def half_range(self) -> float:
        return math.asinh(self.reach / self.width)

    def axis(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """The points of one coordinate and their weights."""
        step = 2.0 * self.half_range / self.cells
        t = (torch.arange(self.cells, dtype=like.dtype, device=like.device) + 0.5) * step - self.half_range
        return self.width * t.sinh(), self.width * t.cosh() * step

    def masses(self, log_density: LogDensity, like: Tensor, rows_at_once: int = 200_000) -> Tensor:
        """The mass of every cell, of shape (cells,) * dimensions."""
        points, weights = self.axis(like)
        x = torch.cartesian_prod(*[points] * self.dimensions).reshape(-1, self.dimensions)
        volume = torch.cartesian_prod(*[weights] * self.dimensions).reshape(-1, self.dimensions).prod(1)
        density = torch.cat([log_density(rows).exp() for rows in x.split(rows_at_once)])
        return (density * volume).reshape([self.cells] * self.dimensions)

    def cell_of(self, x: Tensor) -> Tensor:
        """The cell of each coordinate of x (n, D), as integers."""
        step = 2.0 * self.half_range / self.cells
        return ((torch.asinh(x / self.width) + self.half_range) / step).floor().long().clamp(0, self.cells - 1)


def surprise(masses: Tensor, cells: Tensor, bins: int) -> float:
    """How unlikely a sample is under cell masses: (chi^2 - df) / sqrt(2 df), about standard normal if it follows them.

    masses: (estimates, *cells), from a grid; several where they are Monte-Carlo estimates, whose own error then
    counts. cells: (n, D), the sample's. Every coordinate is cut at quantiles of its marginal into `bins` bins.
    """
    dimensions = masses.dim() - 1
    mean = masses.mean(0)
    bin_of_sample = torch.zeros(len(cells), dtype=torch.long, device=cells.device)
    bin_of_cell = torch.zeros(mean.shape, dtype=torch.long, device=cells.device)
    for i in range(dimensions):
        others = [j for j in range(dimensions) if j != i]
        marginal = mean.sum(others) if others else mean
        cumulative = (marginal.cumsum(0) - 0.5 * marginal) / marginal.sum()
        bins_of_axis = (cumulative * bins).floor().long().clamp(0, bins - 1)
        bin_of_sample = bin_of_sample * bins + bins_of_axis[cells[:, i]]
        bin_of_cell = bin_of_cell * bins + bins_of_axis.reshape([-1 if j == i else 1 for j in range(dimensions)])
    probabilities = masses.new_zeros(len(masses), bins**dimensions)
    probabilities.index_add_(1, bin_of_cell.flatten(), masses.flatten(1))
    count = torch.bincount(bin_of_sample, minlength=bins**dimensions).to(masses)
    return chi_square(probabilities, count)


def chi_square(probabilities: Tensor, count: Tensor) -> float:
    """(chi^2 - df) / sqrt(2 df) of counts (categories,) against probabilities (estimates, categories).

    Categories expected below 5 times are pooled with the most frequent one. The variance of a count is the expected
    count, plus what the spread of the estimates adds.
    """
    n = count.sum()
    expected = n * probabilities.mean(0)
    rare = expected < 5.0
    rare[expected.argmax()] = True
    probabilities = torch.cat([probabilities[:, ~rare], probabilities[:, rare].sum(1, keepdim=True)], 1)
    count = torch.cat([count[~rare], count[rare].sum()[None]])
    expected = n * probabilities.mean(0)
    variance = expected
    if len(probabilities) > 1:
        variance = expected + n.square() * probabilities.var(0) / len(probabilities)
    freedom = len(expected) - 1
    assert freedom >= 1, "one category proves nothing"
    statistic = ((count - expected).square() / variance).sum().item()
    return (statistic - freedom) / math.sqrt(2.0 * freedom)
