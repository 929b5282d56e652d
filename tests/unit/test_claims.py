"""The verdicts on the paper's claims, from outcomes made up so that each verdict is known."""

from __future__ import annotations

import pytest

from smoothgen.errors import ConfigError
from smoothgen.reproduction.claims import CLAIMS, Claims, judged
from smoothgen.reproduction.studies import chosen, studies
from smoothgen.reproduction.study import Job, Outcome

SEEDS = (0, 1, 2)
NOISE = (-0.001, 0.0, 0.001)


def rows(study: str, values: dict[str, float], key: str = "nll", spread: float = 1.0) -> dict[Job, Outcome]:
    """Three seeds of each row around a mean."""
    return {
        Job(study, name, seed): Outcome({key: mean + spread * NOISE[(seed + index) % 3]})
        for index, (name, mean) in enumerate(values.items())
        for seed in SEEDS
    }


def verdict(outcomes: dict[Job, Outcome], said: str, tmp_path) -> str:
    text = Claims([]).present(outcomes, tmp_path)
    (row,) = [part for part in text.splitlines() if said in part]
    return row.split("**")[1]


@pytest.mark.parametrize(
    ("ours", "spread", "wanted"), [(2.6, 1, "holds"), (2.9, 1, "fails"), (2.7501, 1000, "undecided")]
)
def test_a_difference_decides_only_beyond_its_error(ours, spread, wanted, tmp_path):
    values = {"smoothed MADE, 3 logistics": ours, "MADE, 6 logistics": 2.75}
    assert verdict(rows("rings", values, spread=spread), "Three smoothed components", tmp_path) == wanted


def test_sets_that_disagree_make_it_depend(tmp_path):
    outcomes = rows("rings", {"smoothed MADE, 3 logistics": 2.6, "MADE, 6 logistics": 2.8})
    outcomes |= rows("olympics", {"smoothed MADE, 3 logistics": 0.9, "MADE, 6 logistics": 0.8})
    assert verdict(outcomes, "Three smoothed components", tmp_path) == "depends"


@pytest.mark.parametrize(
    ("signs", "wanted"),
    [((1, 0), "holds in part"), ((-1, 0), "fails in part"), ((1, -1, 0), "depends"), ((0, 0), "undecided")],
)
def test_what_is_undecided_hides_neither_success_nor_failure(signs, wanted):
    found = judged({str(place): sign for place, sign in enumerate(signs)}, ["a", "b"])
    assert found == (wanted, "a; b")


@pytest.mark.parametrize(("best", "spread", "wanted"), [(0.5, 1, "holds"), (0.1, 1, "fails"), (0.5, 1000, "undecided")])
def test_a_reverse_u_has_its_best_inside_and_surely_below_both_ends(best, spread, wanted, tmp_path):
    values = {f"six modes, gaussian {sigma:g}": abs(sigma - best) for sigma in (0.1, 0.3, 0.5, 0.7)}
    values |= {"six modes, gaussian 0.1, at best": -1.0}
    assert verdict(rows("variance", values, "gap", spread), "U in the variance", tmp_path) == wanted


def test_best_against_best_knows_peers_and_leaves_the_floor_out(tmp_path):
    """A smoothed model is one with a sigma, whatever its name; the strongest plain one may be no MADE."""
    values = {"data": 2.0, "Laplace noise": 2.7, "MADE, 6 logistics": 2.75, "spline flow": 2.6}
    outcomes = rows("rings", values)
    for job, outcome in outcomes.items():
        outcome.numbers["sigma"] = 0.3 if "noise" in job.name else None
    text = Claims([]).present(outcomes, tmp_path)
    assert "(Laplace noise against spline flow)" in text
    assert verdict(outcomes, "best against best", tmp_path) == "fails"


def test_small_numbers_are_shown_in_a_unit_of_their_own(tmp_path):
    outcomes = rows("rings", {"Laplace noise": 3.1e-4, "MADE, 6 logistics": 9.2e-4}, "mmd", spread=1e-3)
    for job, outcome in outcomes.items():
        outcome.numbers["sigma"] = 0.3 if "noise" in job.name else None
    assert "rings, MMD² × 10⁴: -6.1000 ± 0.0100" in Claims([]).present(outcomes, tmp_path)


def test_rows_without_a_seed_in_common_are_no_evidence(tmp_path):
    outcomes = rows("rings", {"smoothed MADE, 3 logistics": 2.6, "MADE, 6 logistics": 2.75})
    apart = {job: outcome for job, outcome in outcomes.items() if (job.seed == 0) == job.name.startswith("smoothed")}
    assert Claims([]).present(apart, tmp_path).startswith("Of 0 claims")


def test_compounding_is_judged_by_its_growth_too(tmp_path):
    keys = ("own total", "compounding", "trimmed compounding")
    plain, ours = dict.fromkeys(keys, 1.0), dict(zip(keys, (0.5, 2.0, 2.0), strict=True))
    outcomes = {}
    for seed in SEEDS:
        for name, numbers in (("MADE, 10 components", plain), ("smoothed MADE, 3 components", ours)):
            outcomes[Job("compounding", f"rings: {name}", seed)] = Outcome(dict(numbers))
    assert verdict(outcomes, "Errors compound less", tmp_path) == "depends"


def test_a_number_that_was_not_finite_costs_its_seed_alone(tmp_path):
    """An outcome's file holds None for it."""
    outcomes = rows("rings", {"smoothed MADE, 3 logistics": 2.6, "MADE, 6 logistics": 2.75})
    outcomes[Job("rings", "MADE, 6 logistics", 2)].numbers["nll"] = None
    assert verdict(outcomes, "Three smoothed components", tmp_path) == "holds"


def test_times_that_are_not_equal_are_said(tmp_path):
    outcomes = rows("rings", {"smoothed MADE, 3 logistics": 2.6, "MADE, 6 logistics": 2.75})
    for job, outcome in outcomes.items():
        outcome.numbers["cpu_seconds"] = 50.0 if job.name.startswith("smoothed") else 40.0
    assert "(50 against 40 CPU s)" in Claims([]).present(outcomes, tmp_path)


def test_claims_alone_point_to_all():
    with pytest.raises(ConfigError, match="reproduce all"):
        chosen("claims")


@pytest.mark.parametrize(("gaps", "wanted"), [((0.8, 1.2), "holds"), ((0.01, 0.02), "fails"), ((0.01, 1.2), "depends")])
def test_eight_components_fail_where_modes_are_missing(gaps, wanted, tmp_path):
    values = {f"8 from {start}": gap for start, gap in zip("ab", gaps, strict=True)} | {"2 from a": 1.2}
    assert verdict(rows("plain-mixture", values, "gap"), "Eight plain components", tmp_path) == wanted


@pytest.mark.parametrize(("sigma", "wanted"), [(0.64, "fails"), (2.5, "holds")])
def test_a_learned_variance_is_large_or_not(sigma, wanted, tmp_path):
    outcomes = rows("learned-sigma", {"six_modes from 0.1": sigma, "two_gaussians from 3": 9.0}, "sigma")
    assert verdict(outcomes, "learned variance", tmp_path) == wanted


@pytest.mark.parametrize(("single", "wanted"), [(0.4, "holds"), (0.02, "fails")])
def test_a_single_step_is_judged_by_what_it_leaves_off_the_support(single, wanted, tmp_path):
    sets = {"two-step": {"off support": {"value": 0.02}}, "single-step": {"off support": {"value": single}}}
    outcomes = {Job("rings", "smoothed MADE, 3 logistics", seed): Outcome({"nll": 2.7, "sets": sets}) for seed in SEEDS}
    assert verdict(outcomes, "single step", tmp_path) == wanted


def test_the_jobs_that_claims_look_for_exist():
    """Every job name that a verdict depends on is one that some study really has."""
    jobs = [job for study in studies() for job in study.jobs(SEEDS, False)]
    names = {(job.study, job.name) for job in jobs}
    for name in ("rings", "olympics", "checkerboard"):
        for family in ("logistics", "Gaussians"):
            assert {(name, f"smoothed MADE, 3 {family}"), (name, f"MADE, 6 {family}")} <= names
        for how in ("", ", no Fourier inputs"):
            assert {(name, f"smoothed RealNVP{how}"), (name, f"RealNVP{how}")} <= names
    assert any(study == "variance" and name.startswith("six modes, laplace ") for study, name in names)
    assert any(study == "plain-mixture" and name.startswith("8 ") for study, name in names)
    assert any(study == "learned-sigma" and name.startswith("six_modes from") for study, name in names)
    assert any(study == "data-size" and name.startswith("smoothed, ") for study, name in names)
    assert any(study == "compounding" and ": MADE" in name for study, name in names)


def test_all_begins_with_the_claims_and_every_job_belongs_to_another_study():
    first, *others = chosen("all")
    assert first.name == "claims"
    assert set(first.jobs(SEEDS, True)) == {job for study in others for job in study.jobs(SEEDS, True)}
    assert len(CLAIMS) == len({claim.said for claim in CLAIMS})
