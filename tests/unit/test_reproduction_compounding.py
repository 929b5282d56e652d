"""The study of compounding errors: its quick jobs run, their numbers add up, and the section shows them."""

from __future__ import annotations

import math

import pytest

from smoothgen.evaluation.chains import PlainChain
from smoothgen.reproduction.compounding import SETS, Compounding, Effort, measure
from smoothgen.reproduction.rows import load_rows
from smoothgen.reproduction.study import Outcome
from smoothgen.reproduction.training import train_plain


def test_quick_jobs_run_and_the_section_shows_every_set(tmp_path):
    study = Compounding()
    jobs = study.jobs([0, 1], quick=True)
    assert len({(job.name, job.seed) for job in jobs}) == len(jobs) == 2 * 3 * len(SETS)
    chosen = [job for job in jobs if job.seed == 0]
    outcomes = {job: study.run(job) for job in chosen}
    for job, outcome in outcomes.items():
        numbers = outcome.numbers
        length = len(numbers["positions"])
        assert length == (8 if "curve" in job.name else 2) * (2 if "smoothed" in job.name else 1)
        for kind in ("data", "own"):
            terms = [numbers[f"{kind} {place}"] for place in range(length)]
            assert all(map(math.isfinite, terms)) and numbers[f"{kind} total"] == pytest.approx(sum(terms))
        assert numbers["compounding"] == pytest.approx(numbers["own total"] - numbers["data total"])
        assert all(0.0 <= numbers[f"off {known}"] <= 1.0 for known in range(length))
    section = study.present(outcomes, tmp_path)
    for name in SETS:
        assert f"### {name.capitalize()}" in section
        assert all(row.name in section for row in load_rows(f"compounding-{name}").rows)
    assert "| x̃8 |" in section and "| x8 |" in section
    for picture in ("compounding.png", "compounding-known.png"):
        assert f"({picture})" in section and (tmp_path / picture).stat().st_size > 5_000


def test_a_job_is_a_function_of_its_settings():
    job = Compounding().jobs([3], quick=True)[0]
    first, again = (Compounding().run(job) for _ in range(2))
    assert without_time(first) == without_time(again)


def without_time(outcome: Outcome) -> dict[str, object]:
    return {key: value for key, value in outcome.numbers.items() if key != "cpu_seconds"}


def test_the_measured_gap_is_that_of_the_likelihood():
    """The chain rule, through the study's own path, for an order that is not the natural one."""
    made = {"type": "made", "hidden": [24, 24], "components": 4, "order": [1, 0]}
    trained = train_plain(made, {"type": "rings"}, {"max_steps": 60, "warmup_steps": 2}, seed=0)
    assert PlainChain(trained.model).order == (1, 0)
    numbers = measure(trained, 0, Effort(prefixes=4000, draws=8, completions=100))
    assert numbers["positions"] == ["x2", "x1"]
    x = trained.data.split("test").x
    gaps = trained.data.log_prob(x.double()) - trained.model.log_prob(x).double()
    assert numbers["data total"] == pytest.approx(gaps.mean().item(), abs=0.02)
    assert gaps.mean() > 0.2
