"""The squared maximum mean discrepancy of two sets of points, its standard error, and its spread for equal ones."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from smoothgen.errors import DataError
from smoothgen.evaluation.nearest import l2_distances, wide

BLOCK = 2**20
"""Kernel values at a time: 8 MB."""


@dataclass(frozen=True)
class KernelPairs:
    """What a kernel matrix k(a_i, b_j) leaves. rows (n,), columns (m,): its means over the other index.

    square: the mean of k^2. Within one set the pairs of a point with itself are left out.
    """

    rows: Tensor
    columns: Tensor
    square: float

    @property
    def mean(self) -> float:
        """The mean of k over all pairs."""
        return self.rows.mean().item()

    @property
    def interaction(self) -> float:
        """The mean square of k(a, b) minus its means given a and given b, plus its mean: 0 or more."""
        rows, columns = self.rows.square().mean().item(), self.columns.square().mean().item()
        return max(self.square - rows - columns + self.mean**2, 0.0)


@torch.no_grad()
def pairs_between(a: Tensor, b: Tensor, bandwidths: Sequence[float], block: int = BLOCK) -> KernelPairs:
    """Of a (n, F) with b (m, F), at most `block` pairs at a time."""
    return _collect(_blocks(a, b, bandwidths, block), len(a), len(b), len(b), len(a))


@torch.no_grad()
def pairs_within(a: Tensor, bandwidths: Sequence[float], block: int = BLOCK) -> KernelPairs:
    """Of a (n, F) with itself, each point's pair with itself left out."""

    def blocks() -> Iterator[Tensor]:
        start = 0
        for values in _blocks(a, a, bandwidths, block):
            values.diagonal(start).zero_()  # k(a_i, a_i): column i of row i - start
            start += len(values)
            yield values

    return _collect(blocks(), len(a), len(a), len(a) - 1, len(a) - 1)


def _blocks(a: Tensor, b: Tensor, bandwidths: Sequence[float], block: int) -> Iterator[Tensor]:
    """Rows of k(a, b) = mean over the bandwidths h of exp(-|a - b|^2 / (2 h^2))."""
    for rows in a.split(max(block // len(b), 1)):
        squared = l2_distances(rows, b).square_()
        total = torch.zeros_like(squared)
        for width in bandwidths:
            total += (squared * (-0.5 / width**2)).exp_()
        yield total.div_(len(bandwidths))


def _collect(blocks: Iterator[Tensor], n: int, m: int, in_row: int, in_column: int) -> KernelPairs:
    rows, columns, squares = [], [], []
    for values in blocks:
        rows.append(values.sum(1) / in_row)
        columns.append(values.sum(0) / in_column)
        squares.append(values.square().sum())
    square = torch.stack(squares).sum().item() / (n * in_row)
    assert len(columns[0]) == m
    return KernelPairs(torch.cat(rows), torch.stack(columns).sum(0), square)


def mmd_squared(
    fake: Tensor, real: Tensor, bandwidths: Sequence[float], own: KernelPairs | None = None, block: int = BLOCK
) -> dict[str, Any]:
    """MMD^2 of fake (n, F) and real (m, F), unbiased, hence below 0 at times: E k(x, x') + E k(y, y') - 2 E k(x, y).

    k: the mean over the bandwidths h of exp(-|x - y|^2 / (2 h^2)), between 0 and 1. own: `pairs_within` of the real.
    stderr: over draws of both sets; a sixth too large where both have the same distribution, for the first-order part
    is then 0 and its estimate is not let below. null_sd: the standard deviation of the value if both were draws of the
    distribution of the real; values within two of it cannot be told from perfect. Blocks bound the memory.

    Source: Gretton et al. 2012 (JMLR 13), Eq. 3 and Lemma 6 for any n and m. By the Hoeffding decomposition (Hoeffding
    1948) the variance is V1 + V2 exactly: V1 = 4/n var f(x) + 4/m var f(y) of the witness f =
    E k(., x) - E k(., y), and V2 = 2/(n(n-1)) c_xx + 2/(m(m-1)) c_yy + 4/(nm) c_xy of the interactions c. The witness
    as estimated varies by noise as well, so that V1 comes out as V1 + 2 V2 + O(1/n^3); the excess is taken off.
    Raises DataError for sets of fewer than 2.
    """
    n, m = len(fake), len(real)
    if min(n, m) < 2 or not bandwidths:
        raise DataError(f"MMD^2 needs 2 points of each set and a bandwidth, got {n}, {m} and {len(bandwidths)}")
    fake, real = wide(fake), wide(real)
    mine = pairs_within(fake, bandwidths, block)
    theirs = own if own is not None else pairs_within(real, bandwidths, block)
    cross = pairs_between(fake, real, bandwidths, block)
    at_fake, at_real = mine.rows - cross.rows, cross.columns - theirs.rows
    second = _second_order(mine.interaction, theirs.interaction, cross.interaction, n, m)
    first = max(4.0 * (at_fake.var() / n + at_real.var() / m).item() - 2.0 * second, 0.0)
    return {
        "value": mine.mean + theirs.mean - 2.0 * cross.mean,
        "stderr": math.sqrt(first + second),
        "null_sd": math.sqrt(_second_order(theirs.interaction, theirs.interaction, theirs.interaction, n, m)),
        "error_from": "variance of the two-sample U-statistic, both sets drawn anew",
        "n_real": m,
        "n_fake": n,
    }


def _second_order(within_fake: float, within_real: float, between: float, n: int, m: int) -> float:
    """V2 of `mmd_squared`."""
    return 2.0 * within_fake / (n * (n - 1)) + 2.0 * within_real / (m * (m - 1)) + 4.0 * between / (n * m)
