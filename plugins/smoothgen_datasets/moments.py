"""Means and standard deviations of columns, in one pass over chunks of any number of rows."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

CHUNK = 2**21
"""Values that are taken together, 16 MiB in float64."""


class Moments:
    """Of the rows added so far: how many, their mean, their spread, their largest magnitude, the first of them.

    Sums of squared deviations of chunks are put together without subtracting large numbers from each other. Results are
    the same bits for the same chunks, wherever the rows come from.
    Source: Chan, Golub and LeVeque, "Algorithms for Computing the Sample Variance", The American Statistician 37
    (1983), Eq. 2.1.
    """

    def __init__(self, columns: int) -> None:
        self.count = 0
        self.mean = torch.zeros(columns, dtype=torch.float64)
        self.largest = torch.zeros(columns, dtype=torch.float64)
        self.first = torch.zeros(columns, dtype=torch.float64)
        self._squares = torch.zeros(columns, dtype=torch.float64)

    def add(self, rows: Tensor) -> None:
        """rows: (k, columns), float64; k may be 0."""
        if not len(rows):
            return
        if not self.count:
            self.first = rows[0].clone()
        variance, mean = torch.var_mean(rows, 0, correction=0)
        total = self.count + len(rows)
        step = mean - self.mean
        self._squares += variance * len(rows) + step.square() * (self.count * len(rows) / total)
        self.mean = self.mean + step * (len(rows) / total)
        self.largest = torch.maximum(self.largest, rows.abs().amax(0))
        self.count = total

    @property
    def std(self) -> Tensor:
        """Sample standard deviation (n - 1) of every column."""
        return (self._squares / (self.count - 1)).sqrt()


def chunks(n: int, columns: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of the chunks of n rows: a function of the two numbers alone."""
    size = max(1, CHUNK // columns)
    for start in range(0, n, size):
        yield start, min(n, start + size)
