"""Numbers over seeds: mean and standard error, differences between what shares its seeds, and tables of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from smoothgen.reproduction.study import Job, Outcome

Seeded = dict[int, Outcome]
"""The outcomes of one row or curve point, by seed."""


@dataclass(frozen=True)
class Estimate:
    """A mean over n seeds and its standard error, which is nan for one seed."""

    mean: float
    error: float
    n: int

    def __str__(self) -> str:
        """-0.012 ± 0.003; alone where there is one seed."""
        return f"{self.mean:.3f}" + (f" ± {self.error:.3f}" if self.n > 1 else "")

    def sign(self) -> int:
        """-1 or 1 where the mean is more than two standard errors from 0, else 0. One seed decides nothing."""
        return 0 if not abs(self.mean) > 2.0 * self.error else int(math.copysign(1.0, self.mean))


def estimate(values: Iterable[float]) -> Estimate:
    """The mean of numbers, one a seed."""
    numbers = list(values)
    mean = math.fsum(numbers) / len(numbers)
    if len(numbers) == 1:
        return Estimate(mean, math.nan, 1)
    variance = math.fsum((value - mean) ** 2 for value in numbers) / (len(numbers) - 1)
    return Estimate(mean, math.sqrt(variance / len(numbers)), len(numbers))


def of_key(outcomes: Seeded, key: str) -> Estimate:
    """The estimate of one of the outcomes' numbers."""
    return estimate(outcome.numbers[key] for outcome in outcomes.values())


def difference(first: Seeded, second: Seeded, key: str) -> Estimate:
    """first - second of one of their numbers, seed by seed, so that what both share cancels."""
    shared = sorted(first.keys() & second.keys())
    return estimate(first[seed].numbers[key] - second[seed].numbers[key] for seed in shared)


def grouped(outcomes: Mapping[Job, Outcome], *keys: str) -> dict[tuple[Any, ...], Seeded]:
    """The outcomes whose settings have all these keys, by their values there, in the order of the jobs."""
    groups: dict[tuple[Any, ...], Seeded] = {}
    for job, outcome in outcomes.items():
        if all(key in job.settings for key in keys):
            groups.setdefault(tuple(job.settings[key] for key in keys), {})[job.seed] = outcome
    return groups


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table in Markdown; the first column is text, the others numbers."""
    lines = [header, ["---", *["--:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)
