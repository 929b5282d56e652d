"""Numbers of outcomes over seeds, and differences between what shares its seeds: for curves and sentences."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from smoothgen.reproduction.study import Job, Outcome
from smoothgen.reproduction.tables import SURE, Column, Estimate, cell, line

Seeded = dict[int, Outcome]
"""The outcomes of one row or curve point, by seed."""


def grouped(outcomes: Mapping[Job, Outcome], *keys: str) -> dict[tuple[Any, ...], Seeded]:
    """The outcomes whose settings have all these keys, by their values there, in the order of the jobs."""
    groups: dict[tuple[Any, ...], Seeded] = {}
    for job, outcome in outcomes.items():
        if all(key in job.settings for key in keys):
            groups.setdefault(tuple(job.settings[key] for key in keys), {})[job.seed] = outcome
    return groups


def of_key(outcomes: Seeded, key: str) -> Estimate:
    """One of the outcomes' numbers over the seeds; those that are None, not finite once, are left out."""
    return _over(outcome.numbers[key] for outcome in outcomes.values())


def difference(first: Seeded, second: Seeded, key: str) -> Estimate:
    """first - second of one of their numbers, seed by seed, so that what both share cancels.

    Seeds where one of them is missing or None are left out; the mean is nan where none is left.
    """
    shared = sorted(first.keys() & second.keys())
    pairs = [(first[seed].numbers.get(key), second[seed].numbers.get(key)) for seed in shared]
    return _over(one - other for one, other in pairs if one is not None and other is not None)


def _over(values: Iterable[float]) -> Estimate:
    return Estimate.over(values) or Estimate(math.nan, math.nan, 0)


def sure_sign(value: Estimate) -> int:
    """-1 or 1 where a difference is more than two standard errors from 0, else 0; one seed decides nothing."""
    return int(math.copysign(1.0, value.mean)) if abs(value.mean) > SURE * value.stderr else 0


def text(value: Estimate, digits: int = 3) -> str:
    """`0.1254 ± 0.0012`, or `0.125` for one seed."""
    return cell(value, Column("", "", digits=digits))


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table in Markdown; the first column is text, the others numbers. Bars in cells are escaped."""
    body = [[str(value) for value in cells] for cells in (header, *rows)]
    body.insert(1, ["---", *["--:"] * (len(header) - 1)])
    return "\n".join(map(line, body))
