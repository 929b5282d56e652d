"""The studies in the plane: their jobs, what they say of outcomes with known numbers, a quick job of each kind."""

from __future__ import annotations

import re

import numpy as np
import pytest

from smoothgen.reproduction.components import COUNTS
from smoothgen.reproduction.data_size import SIZES, STOPPING, name_of
from smoothgen.reproduction.row_jobs import DATA
from smoothgen.reproduction.sigma import GRID
from smoothgen.reproduction.studies import chosen
from smoothgen.reproduction.study import Job, Outcome, Study

NOISE = {0: -0.02, 1: 0.02}
"""What each seed adds: the mean is the number itself, and its standard error 0.02."""


def study_of(name: str) -> Study:
    (study,) = chosen(name)
    return study


def outcome(seed: int, nll: float, sets: tuple[str, ...] = (), **more: float) -> Outcome:
    """An outcome whose likelihood is known; every set of samples lies on the diagonal."""
    numbers = {"entropy": 2.0, "nll": nll + NOISE[seed], "gap": nll - 2.0 + NOISE[seed]} | more
    numbers["sets"] = {name: {"off support": {"value": 0.25}, "MMD^2": {"value": 0.001}} for name in sets}
    line = np.linspace(-1.0, 1.0, 50, dtype=np.float32)
    return Outcome(numbers, {name: np.stack([line, line], 1) for name in sets})


def shown(study: Study, outcomes: dict[Job, Outcome], directory) -> str:
    """The section; every picture that it names is there, and every table is whole."""
    section = study.present(outcomes, directory)
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", section)
    assert pictures and all((directory / picture).stat().st_size > 2_000 for picture in pictures)
    for rows in re.findall(r"(?:^\|.*\n?)+", section, re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows.strip().splitlines()}) == 1
    return section


# --- components -------------------------------------------------------------------------------------------------------


def test_every_number_of_components_is_a_job_of_its_own():
    jobs = study_of("components").jobs([0, 1], quick=True)
    assert len({(job.study, job.name, job.seed) for job in jobs}) == len(jobs) == 2 * 2 * len(COUNTS) * 2
    for job in jobs:
        kind, count = job.name.split(" ")
        densities = [job.settings["row"]["density"]]
        if kind == "smoothed":
            densities.append(job.settings["row"]["inverter"]["density"])
        assert {density["components"] for density in densities} == {int(count)}
        assert (
            job.settings["row"]["trainer"]["max_steps"] <= 10
            and job.study == f"components-{job.settings['data']['type']}"
        )


def components(seeds=(0, 1), data="rings", plain=True) -> dict[Job, Outcome]:
    """Plain: 3.0 with two components, 2.2 with seven. Smoothed: 2.5 and 2.4."""
    found = {}
    for count in (7, 2):
        for seed in seeds:
            smoothed = outcome(seed, 2.5 if count == 2 else 2.4, ("two-step", "single-step", "smoothed"), iw_100=2.3)
            found[Job(f"components-{data}", f"smoothed {count}", seed)] = smoothed
            if plain:
                found[Job(f"components-{data}", f"plain {count}", seed)] = outcome(
                    seed, 3.0 if count == 2 else 2.2, ("plain",), off_support=0.5
                )
    return found


def test_components_are_compared_at_both_ends(tmp_path):
    """The differences are .5 and .2, their standard errors sqrt(2) / 50."""
    section = shown(study_of("components"), components(), tmp_path)
    assert section.startswith(
        "Rings: with 2 components the smoothed model is better by 0.500 ± 0.028 nats; "
        "with 7 components the plain model is better by 0.200 ± 0.028 nats.\n"
    )
    assert "### Rings, entropy 2.0000 nats" in section and "Olympics" not in section.split("Settings")[0]
    assert "| 2 | 3.000 ± 0.020 | 2.500 ± 0.020 |" in section and "| 7 | 2.200 ± 0.020 | 2.400 ± 0.020 |" in section
    assert section.index("| 2 | 3.0") < section.index("| 7 | 2.2"), "in order of the number"
    assert {"plain off support", "single step off support"} <= set(re.split(r" ?\| ?", section))


def test_components_of_one_seed_or_one_kind_claim_nothing(tmp_path):
    section = shown(study_of("components"), components(seeds=(0,)), tmp_path)
    assert "better by 0.5 nats (from a single seed)" in section
    alone = components(plain=False) | components(data="olympics")
    section = shown(study_of("components"), alone, tmp_path)
    assert section.startswith("Rings: no pair of models to compare. Olympics: with 2 components the smoothed model")


# --- the size of the data ---------------------------------------------------------------------------------------------


def test_every_size_is_trained_to_the_end_and_with_patience():
    jobs = study_of("data-size").jobs([0], quick=True)
    assert len({job.name for job in jobs}) == len(jobs) == 2 * len(SIZES) * len(STOPPING)
    for job in jobs:
        assert job.settings["data"]["validation_size"] * 5 == job.settings["data"]["train_size"]
        patience = STOPPING[job.name.rsplit(", ", 1)[1]]
        assert job.settings["row"]["trainer"]["patience"] == patience
        assert f", {job.settings['data']['train_size']:,}, " in job.name


def sizes(seeds=(0, 1), kinds=("smoothed", "plain")) -> dict[Job, Outcome]:
    """Gaps fall with the size; plain overfits the smallest set unless it is stopped, and is best on the largest."""
    found = {}
    for size, smoothed, plain in zip(SIZES, (2.4, 2.3, 2.2), (2.9, 2.30, 2.1), strict=True):
        for stopping, worse in (("to the end", 0.3), ("early stopping", 0.0)):
            for kind, nll in (("smoothed", smoothed), ("plain", plain)):
                if kind in kinds:
                    for seed in seeds:
                        more = {"train_nll": 2.05, "overfitting": nll + worse - 2.05}
                        found[Job("data-size", name_of(kind, size, stopping), seed)] = outcome(
                            seed, nll + worse, **more
                        )
    return found


def test_sizes_are_compared_by_the_better_way_to_stop(tmp_path):
    section = shown(study_of("data-size"), sizes(), tmp_path)
    assert section.startswith(
        "With 1,000 training examples the smoothed model is better by 0.500 ± 0.028 nats; "
        "with 10,000 training examples the plain model is better by 0.000 ± 0.028 nats (within two standard errors); "
        "with 100,000 training examples the plain model is better by 0.100 ± 0.028 nats.\n"
    )
    assert "Exact entropy 2.0000 nats" in section and "1/5 of the training set's size" in section
    rows = re.findall(r"^\| (\w+, [\d,]+, [\w ]+) \|", section, re.MULTILINE)
    assert len(rows) == 12 and rows[0] == "smoothed, 1,000, to the end" and rows[-1] == "plain, 100,000, early stopping"
    assert "overfitting" not in section.split("| model")[0].split("\n")[0]


def test_sizes_of_one_kind_compare_nothing(tmp_path):
    section = shown(study_of("data-size"), sizes(kinds=("plain",)), tmp_path)
    assert section.startswith("No pair of models to compare.\n")


# --- sigma ------------------------------------------------------------------------------------------------------------


def test_the_grid_and_the_rules_are_jobs():
    jobs = study_of("sigma").jobs([3], quick=True)
    by_set = {data: [job for job in jobs if job.study == f"sigma-{data}"] for data in ("rings", "olympics")}
    assert sum(map(len, by_set.values())) == len(jobs)
    for found in by_set.values():
        sigmas = {job.name: job.settings["row"]["kernel"]["sigma"] for job in found}
        assert sigmas == {f"σ = {sigma:g}": sigma for sigma in GRID} | {"median rule": "median", "auto": "auto"}


def sigmas(seeds=(0, 1), grid=GRID) -> dict[Job, Outcome]:
    """-ELBO 2.2 at the best of the grid, .3, and a tenth more for each step from it."""
    found = {}
    for seed in seeds:
        for sigma in grid:
            away = abs(GRID.index(sigma) - GRID.index(0.3))
            found[Job("sigma-rings", f"σ = {sigma:g}", seed)] = outcome(seed, 2.2 + 0.1 * away, sigma=sigma, iw_100=2.1)
        found[Job("sigma-rings", "median rule", seed)] = outcome(seed, 2.8, sigma=0.7)
        found[Job("sigma-rings", "auto", seed)] = outcome(seed, 2.19, sigma=0.28)
    return found


def test_rules_are_measured_against_the_best_of_the_grid(tmp_path):
    section = shown(study_of("sigma"), sigmas(), tmp_path)
    assert section.startswith(
        "Rings: the best of the grid is σ = 0.3; median rule (σ = 0.7) is 0.600 ± 0.028 nats above it; "
        "auto (σ = 0.28) is 0.010 ± 0.028 nats below it (within two standard errors).\n"
    )
    assert "| σ = 0.3 | 0.300 | 2.200 ± 0.020 |" in section and "olympics" not in section.split("Settings")[0].lower()


def test_rules_without_a_grid_are_only_listed(tmp_path):
    section = shown(study_of("sigma"), sigmas(grid=()), tmp_path)
    assert section.startswith("Rings: no grid to compare with.\n") and "| median rule |" in section


# --- tables -----------------------------------------------------------------------------------------------------------


def rows_of(study: Study, seeds=(0, 1), **nll: float) -> dict[Job, Outcome]:
    """Outcomes of the first smoothed row, the first plain one, and of the data themselves."""
    names = {"data": DATA}
    for job in study.jobs([0], quick=True):
        if job.settings["row"] is not None:
            names.setdefault("plain" if job.settings["row"]["kernel"] is None else "smoothed", job.name)
    sets = {"data": (DATA,), "plain": ("plain",), "smoothed": ("two-step", "single-step", "smoothed")}
    return {
        Job(study.name, names[kind], seed): outcome(seed, value, sets[kind], off_support=0.1, mmd=0.002)
        for kind, value in nll.items()
        for seed in seeds
    }


def test_a_table_says_which_model_is_better_and_by_how_much(tmp_path):
    study = study_of("rings")
    outcomes = rows_of(study, data=2.0, smoothed=2.3, plain=2.6)
    section = shown(study, outcomes, tmp_path)
    ours, theirs = (job.name for job in [*outcomes][2::2])
    assert f"−ELBO against NLL: best smoothed ({ours}) 0.300 ± 0.028 nats below best plain ({theirs})." in section
    assert "| *data* | 2.000 ± 0.020 |" in section and "Exact entropy 2.0000 nats" in section
    assert "single step off support" in section and "goal" in section
    worse = shown(study, rows_of(study, (0,), smoothed=2.7, plain=2.6), tmp_path)
    assert f"best smoothed ({ours}) 0.1 nats above best plain ({theirs}), from a single seed." in worse


def test_a_table_of_data_alone_compares_nothing(tmp_path):
    study = study_of("rings")
    section = shown(study, rows_of(study, data=2.0), tmp_path)
    assert section.startswith("No model to compare.") and "smoothed model" not in section


# --- jobs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "which", "sets"),
    [
        ("rings", lambda job: job.name == DATA, {DATA}),
        ("components", lambda job: job.name == "smoothed 2", {"two-step", "single-step", "smoothed"}),
        ("sigma", lambda job: job.name == "median rule", {"two-step", "single-step", "smoothed"}),
        ("data-size", lambda job: job.name == "plain, 1,000, to the end", set()),
    ],
)
def test_a_quick_job_of_each_study_measures_what_its_table_shows(name, which, sets):
    study = study_of(name)
    job = next(job for job in study.jobs([0], quick=True) if which(job))
    found = study.run(job)
    numbers = found.numbers
    assert set(found.arrays) == sets and all(len(points) == 200 for points in found.arrays.values())
    assert numbers["nll"] - numbers["gap"] == pytest.approx(numbers["entropy"], abs=1e-9)
    assert numbers["gap"] >= 0.0 and (name == "rings" or numbers["steps"] >= 10)
    if name == "rings":
        assert numbers["gap"] == 0.0 and numbers["off_support"] < 0.05
    if name == "sigma":
        assert 0.3 < numbers["sigma"] < 1.5, "the median rule's, found from the data"
    if name == "data-size":
        assert numbers["overfitting"] == pytest.approx(numbers["gap"] - numbers["train_gap"])
