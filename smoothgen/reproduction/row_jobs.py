"""A row's job: train it, draw its samples, measure it; and what was found of a row over the seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from smoothgen.reproduction.measuring import Effort, draw_sets, measure_row, measure_sets
from smoothgen.reproduction.rows import Row, RowSet, open_data
from smoothgen.reproduction.study import Job, Outcome
from smoothgen.reproduction.tables import Estimate
from smoothgen.reproduction.training import Trained, train_plain, train_smoothed, unseen

DATA = "data"
"""The name of the row that is no model: other examples of the data, what a perfect model would reach."""
SHOWN = 3000
"""Points of every set that are kept for pictures."""


def row_jobs(study: str, rows: RowSet, seeds: Sequence[int], quick: bool, floor: bool = True) -> list[Job]:
    """A job for each row and seed; `floor`: and for the data themselves."""
    trainings: dict[str, Any] = {DATA: None} if floor else {}
    trainings |= {row.name: row.settings(quick) for row in rows.rows}
    return [
        Job(study, name, seed, {"data": rows.data, "row": settings, "quick": quick})
        for name, settings in trainings.items()
        for seed in seeds
    ]


def run_row(job: Job) -> Outcome:
    """Trains what the job's settings say on data of its seed, and measures it."""
    effort, data = Effort.chosen(job.settings["quick"]), unseen(job.settings["data"], job.seed)
    if job.settings["row"] is None:
        return _floor(data, effort, job.seed)
    trained = train_row(job.settings["row"], data, job.seed)
    sets = draw_sets(trained, effort.samples, job.seed)
    numbers = measure_row(trained, job.seed, effort, sets)
    return Outcome(numbers, {name: shown(x) for name, x in sets.items()})


def train_row(row: Mapping[str, Any], data: Mapping[str, Any], seed: int) -> Trained:
    """The model of a row's settings."""
    if row["kernel"] is None:
        return train_plain(row["density"], data, row["trainer"], seed)
    return train_smoothed({**row, "data": data}, seed)


def _floor(data: Mapping[str, Any], effort: Effort, seed: int) -> Outcome:
    source = open_data(data)
    x = source.split("validation").x[: effort.samples]
    entropy = source.entropy
    numbers = {"entropy": entropy, "nll": entropy, "gap": 0.0} | measure_sets({DATA: x}, source, effort.samples, seed)
    return Outcome(numbers, {DATA: shown(x)})


def shown(x: torch.Tensor) -> NDArray[np.float32]:
    """What a picture needs of a set of points."""
    kept: NDArray[np.float32] = x[:SHOWN].detach().float().numpy()
    return kept


def by_row(outcomes: Mapping[Job, Outcome]) -> dict[str, list[Outcome]]:
    """The outcomes of every row, in order of their seeds."""
    found: dict[str, list[Outcome]] = {}
    for job in sorted(outcomes, key=lambda job: job.seed):
        found.setdefault(job.name, []).append(outcomes[job])
    return found


def estimates(outcomes: Sequence[Outcome]) -> dict[str, Estimate | None]:
    """Every number of a row over its seeds."""
    keys = {key for each in outcomes for key, value in each.numbers.items() if isinstance(value, int | float)}
    return {key: Estimate.over(each.numbers.get(key) for each in outcomes) for key in keys}


def estimates_of_set(outcomes: Sequence[Outcome], name: str) -> dict[str, Estimate | None]:
    """The two-sample measures of one of a row's sets over its seeds."""
    sets = [each.numbers["sets"][name] for each in outcomes if name in each.numbers["sets"]]
    keys = {key for each in sets for key in each}
    return {key: Estimate.over(each[key]["value"] for each in sets if key in each) for key in keys}


def smoothed_rows(rows: Sequence[Row]) -> set[str]:
    """Names of those that are smoothed models."""
    return {row.name for row in rows if row.smoothed}
