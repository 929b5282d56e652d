"""Standard errors from repeated subsets."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from smoothgen.errors import DataError

GROUPS = 10
"""How many groups; a standard error from 10 of them is itself known to about a quarter."""
JACKKNIFE = f"jackknife over {GROUPS} disjoint groups of the samples, the reference held fixed"
"""How such an error is described."""


@dataclass(frozen=True)
class Jackknife:
    """A statistic, its standard error, and its bias of order 1/n, estimated by leaving groups out."""

    value: float
    stderr: float
    bias: float


def groups_of(n: int, generator: Generator | None, groups: int = GROUPS) -> list[Tensor]:
    """A random partition of 0 .. n - 1 into groups of nearly equal size, as indices on the CPU.

    Raises DataError for fewer than two a group.
    """
    if n < 2 * groups:
        raise DataError(f"a standard error from {groups} groups needs at least {2 * groups} examples, got {n}")
    device = generator.device if generator is not None else None
    return list(torch.randperm(n, generator=generator, device=device).cpu().tensor_split(groups))


def jackknife(
    statistic: Callable[[Tensor], float], rows: Tensor, generator: Generator | None, groups: int = GROUPS
) -> Jackknife:
    """The statistic of all rows (n, ...), with errors from its values without each of `groups` disjoint groups.

    stderr^2 = (g - 1) / g sum_j (t_j - mean t)^2 and bias = (g - 1) (mean t - t). Unlike a bootstrap it repeats no
    row, which a nearest-neighbour statistic would mistake for density. Source: Efron & Stein 1981; Quenouille 1956.
    """
    without = []
    for group in groups_of(len(rows), generator, groups):
        keep = torch.ones(len(rows), dtype=torch.bool)
        keep[group] = False
        without.append(statistic(rows[keep.to(rows.device)]))
    return from_groups(statistic(rows), without)


def from_groups(value: float, without: Sequence[float]) -> Jackknife:
    """The same from the statistic of all rows and those without each group, however they were computed."""
    groups = len(without)
    mean = math.fsum(without) / groups
    spread = math.fsum((each - mean) ** 2 for each in without)
    return Jackknife(value, math.sqrt((groups - 1) / groups * spread), (groups - 1) * (mean - value))
