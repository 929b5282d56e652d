"""A checkerboard in the plane: a density with edges."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Generator, Tensor

from smoothgen.data_source import DataSource
from smoothgen_datasets.toy import ToyConfig, ToySource, category, uniform

CELLS = 4
WIDTH = 2.0
EDGE = CELLS * WIDTH / 2.0
AREA = CELLS**2 * WIDTH**2 / 2.0


class Checkerboard(ToySource):
    """Uniform on 8 of the 16 squares of side 2 of [-4, 4]^2: 1/32 where column and row are both even or both odd.

    The squares are closed, so that a sample rounded onto an edge still has its density. On the support: in one of them;
    exact rate of true data off it: 0.
    """

    def __init__(self, config: CheckerboardConfig) -> None:
        super().__init__(config, dimensions=2)

    def _sample(self, n: int, generator: Generator) -> Tensor:
        square = category(n, CELLS * CELLS // 2, generator)
        column = square // (CELLS // 2)
        row = 2 * (square % (CELLS // 2)) + column % 2
        corner = torch.stack([column, row], dim=1)
        place = uniform(2 * n, generator).reshape(n, 2)
        return (corner + place).mul_(WIDTH).sub_(EDGE)

    def _log_prob(self, x: Tensor) -> Tensor:
        return x.new_full((len(x),), -math.inf).masked_fill(self._on_support(x), -math.log(AREA))

    def _on_support(self, x: Tensor) -> Tensor:
        cell = x / WIDTH
        parity = torch.where(cell == cell.floor(), 0.0, 1.0 - 2.0 * cell.floor().remainder(2.0))
        return (x.abs() <= EDGE).all(1) & (parity.prod(1) >= 0.0)

    def _smoothed_log_prob(self, x: Tensor, sigma: float) -> Tensor:
        """log of [even(x_1) even(x_2) + odd(x_1) odd(x_2)] / 32, with the blurred stripes even and odd.

        In float64: the gradient of torch's log_ndtr loses a relative 1e-7 z^2 in single precision, z the argument.
        """
        even, odd = (self._log_stripes(x.double(), first, sigma).sum(1) for first in (0, 1))
        return (torch.logaddexp(even, odd) - math.log(AREA)).to(x.dtype)

    def _log_stripes(self, x: Tensor, first: int, sigma: float) -> Tensor:
        """log P(x + noise lies in a column first, first + 2, ...), for each coordinate on its own."""
        logs = []
        for column in range(first, CELLS, 2):
            low = (column * WIDTH - EDGE - x) / sigma
            logs.append(log_normal_mass(low, low + WIDTH / sigma))
        return torch.logsumexp(torch.stack(logs), 0)

    def _compute_entropy(self) -> float:
        return math.log(AREA)


def log_normal_mass(low: Tensor, high: Tensor) -> Tensor:
    """log(Phi(high) - Phi(low)) for low < high: in the lower tail, where neither rounds to one."""
    flip = low > 0.0
    upper = torch.special.log_ndtr(torch.where(flip, -low, high))
    lower = torch.special.log_ndtr(torch.where(flip, -high, low))
    return upper + torch.log(-torch.expm1(lower - upper))


class CheckerboardConfig(ToyConfig):
    """A 4 x 4 checkerboard on [-4, 4]^2: entropy log 32 = 3.4657 nats.

    Source: the checkerboard of FFJORD (arXiv 1810.01367), which arXiv 2103.15089 (section 5) also uses.
    """

    type: Literal["checkerboard"] = "checkerboard"

    def build(self) -> DataSource:
        return Checkerboard(self)
