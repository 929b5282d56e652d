"""Which rows are whose: the rows of one long array, drawn for training, validation and test."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
import torch

from smoothgen.data_source import SplitName
from smoothgen.permutation import Bijection
from smoothgen.row_order import DRAWN


class Division(Protocol):
    """Every row of 0 .. n - 1 in one split."""

    def count(self, name: SplitName) -> int:
        """How many rows a split has."""

    def rows(self, name: SplitName, which: np.ndarray) -> np.ndarray:
        """The rows that are examples `which` of a split, (k,) int64."""

    def training(self, start: int, stop: int) -> np.ndarray:
        """Whether each of the rows start .. stop - 1 is a training row, (stop - start,) bool."""


def divide(n: int, drawn: Mapping[SplitName, int], seed: int) -> Division:
    """So many rows for each split that is drawn, in this order, and the rest to train on. A pure function."""
    return Listed(n, drawn, seed) if n <= DRAWN else Computed(n, drawn, seed)


class Listed:
    """The splits as lists of rows, in the order of the rows."""

    def __init__(self, n: int, drawn: Mapping[SplitName, int], seed: int) -> None:
        order = torch.randperm(n, generator=torch.Generator().manual_seed(seed)).numpy()
        self._rows: dict[SplitName, np.ndarray] = {}
        for name, count in drawn.items():
            self._rows[name], order = np.sort(order[:count]), order[count:]
        self._rows["train"] = np.sort(order)
        self._training = np.zeros(n, dtype=bool)
        self._training[order] = True

    def count(self, name: SplitName) -> int:
        return len(self._rows[name])

    def rows(self, name: SplitName, which: np.ndarray) -> np.ndarray:
        return self._rows[name][which]

    def training(self, start: int, stop: int) -> np.ndarray:
        return self._training[start:stop]


class Computed:
    """The splits as ranges of a random order that is computed on the spot: no memory, and examples in random order."""

    def __init__(self, n: int, drawn: Mapping[SplitName, int], seed: int) -> None:
        self._order = Bijection(n, seed)
        self._ranges: dict[SplitName, tuple[int, int]] = {}
        start = 0
        for name, count in drawn.items():
            self._ranges[name] = start, start + count
            start += count
        self._ranges["train"] = start, n

    def count(self, name: SplitName) -> int:
        start, stop = self._ranges[name]
        return stop - start

    def rows(self, name: SplitName, which: np.ndarray) -> np.ndarray:
        return self._order(which + self._ranges[name][0])

    def training(self, start: int, stop: int) -> np.ndarray:
        return self._order.inverse(np.arange(start, stop)) >= self._ranges["train"][0]
