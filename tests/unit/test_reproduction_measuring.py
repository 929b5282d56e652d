"""What a table says of a model, on models whose likelihoods, gaps and samples are known exactly."""

from __future__ import annotations

import math

import pytest
import torch
from exact import GaussianDensity, GaussianPosterior

from smoothgen.component import ComponentConfig
from smoothgen.data_source import DataSource
from smoothgen.event import EventSpec
from smoothgen.registry import installed
from smoothgen.reproduction.measuring import Effort, draw_sets, measure_row
from smoothgen.reproduction.rows import open_data
from smoothgen.reproduction.training import TEST_SEED, Trained, train_plain, train_smoothed, unseen
from smoothgen.smoothed_model import SmoothedModel

SIGMA, STD = 0.5, (1.0, 0.3)
COVARIANCE = torch.diag(torch.tensor(STD).square())
EFFORT = Effort(points=4000, samples=500, importance=((10, 4000), (100, 4000)))
DATA = {"type": "gaussian", "std": list(STD)}


def kernel(tag: str, sigma: float) -> torch.nn.Module:
    config: type[ComponentConfig] = installed().find("kernel", tag)
    return config(sigma=sigma).build(EventSpec(shape=(2,)))  # type: ignore[call-arg, attr-defined]


def source(seed: int = 0) -> DataSource:
    return open_data(unseen(DATA, seed))


def plain(shift: float = 0.0) -> Trained:
    density = GaussianDensity(torch.tensor([shift, 0.0]), COVARIANCE)
    return Trained(density, None, source(), cpu_seconds=1.5, steps=7, parameters=3)


def smoothed(noise: str = "gaussian", **wrong: float) -> Trained:
    noisy = COVARIANCE + SIGMA**2 * torch.eye(2)
    widened = wrong.pop("widened", 1.0)
    model = SmoothedModel(
        kernel(noise, SIGMA),  # type: ignore[arg-type]
        GaussianDensity(torch.zeros(2), widened * noisy),
        GaussianPosterior(torch.zeros(2), COVARIANCE, SIGMA, **wrong),
        EventSpec(shape=(2,)),
    )
    return Trained(model, model, source(), 1.0, 1, 0, sigma=SIGMA, kernel=noise)


def test_the_exact_density_has_no_gap():
    numbers = measure_row(plain(), 0, EFFORT)
    entropy = math.log(2.0 * math.pi * math.e) + math.log(0.3)
    assert numbers["kind"] == "exact" and numbers["entropy"] == pytest.approx(entropy, abs=1e-12)
    assert numbers["gap"] == pytest.approx(0.0, abs=1e-6) and numbers["nll"] == pytest.approx(entropy, abs=1e-6)
    assert numbers["gap_stderr"] < 1e-6  # the control variate takes all of the points' own luck away
    assert not [key for key in numbers if key.startswith("iw_") or "smoothing" in key]
    assert (numbers["cpu_seconds"], numbers["steps"], numbers["parameters"]) == (1.5, 7, 3)
    assert set(numbers["sets"]) == {"plain"}
    assert abs(numbers["mmd"]) < 4.0 * numbers["sets"]["plain"]["MMD^2"]["null_sd"] + 1e-9


def test_a_wrong_density_has_its_divergence_as_gap():
    numbers = measure_row(plain(shift=0.2), 0, EFFORT)
    divergence = 0.5 * 0.2**2  # KL of N(0, 1) from N(0.2, 1)
    assert abs(numbers["gap"] - divergence) < 4.0 * numbers["gap_stderr"] and numbers["gap_stderr"] < 0.01
    assert numbers["nll"] - numbers["entropy"] == pytest.approx(numbers["gap"])


def test_exact_parts_have_no_gap_at_any_number_of_draws():
    numbers = measure_row(smoothed(), 0, EFFORT)
    assert numbers["kind"] == "bound"
    for name in ("gap", "smoothing_gap", "inversion_gap", "iw_10_gap", "iw_100_gap"):
        assert numbers[name] == pytest.approx(0.0, abs=1e-5), name
        assert numbers[f"{name}_stderr"] < 1e-5
    assert numbers["iw_100"] == pytest.approx(numbers["entropy"], abs=1e-5)
    assert list(numbers["sets"]) == ["two-step", "single-step", "smoothed"]
    precision = numbers["sets"]["two-step"]["precision"]["value"]
    assert numbers["precision"] == precision > 0.9 > numbers["sets"]["smoothed"]["precision"]["value"]


def test_each_part_of_the_gap_is_the_divergence_of_its_stage():
    numbers = measure_row(smoothed(shift=0.1, inflation=1.3, widened=1.5), 0, EFFORT)
    inversion = GaussianPosterior(torch.zeros(2), COVARIANCE, SIGMA, shift=0.1, inflation=1.3).divergence
    smoothing = 0.5 * 2 * (1.0 / 1.5 - 1.0 + math.log(1.5))
    assert abs(numbers["inversion_gap"] - inversion) < 4.0 * numbers["inversion_gap_stderr"]
    assert abs(numbers["smoothing_gap"] - smoothing) < 4.0 * numbers["smoothing_gap_stderr"]
    assert numbers["gap"] == pytest.approx(numbers["inversion_gap"] + numbers["smoothing_gap"], abs=1e-9)
    # many draws reach the model's own density: a Gaussian again, of variance gain^2 (1.5 noisy) + 1.3 posterior
    data, noisy = torch.tensor(STD).square(), torch.tensor(STD).square() + SIGMA**2
    own = (data / noisy).square() * 1.5 * noisy + 1.3 * data * SIGMA**2 / noisy
    divergence = 0.5 * ((data + 0.1**2) / own - 1.0 + (own / data).log()).sum().item()
    assert abs(numbers["iw_100_gap"] - divergence) < 4.0 * numbers["iw_100_gap_stderr"] + 1e-3
    assert divergence < numbers["gap"] - 4.0 * numbers["gap_stderr"]


def test_the_split_is_left_out_where_the_smoothed_density_is_unknown():
    numbers = measure_row(smoothed("laplace"), 0, EFFORT)
    assert "smoothing_gap" not in numbers and numbers["gap"] > 0.0  # Gaussian parts are wrong for this noise
    assert "single-step" in numbers["sets"]  # Laplace noise has a posterior mean
    assert "single-step" not in measure_row(smoothed("uniform"), 0, EFFORT)["sets"]  # uniform noise has not


def test_measuring_depends_on_the_seed_alone():
    first, again, other = (measure_row(smoothed(shift=0.1), seed, EFFORT) for seed in (0, 0, 1))
    assert first == again and first["gap"] != other["gap"]
    sets = draw_sets(smoothed(), 20, 0)
    assert torch.equal(sets["smoothed"], draw_sets(smoothed(), 20, 0)["smoothed"])


def test_trainings_report_what_they_took_and_never_see_the_points_of_the_tuning():
    assert unseen({"type": "rings", "seed": 0}, 2) == {"type": "rings", "seed": TEST_SEED + 2}
    made = {"type": "made", "hidden": [8], "components": 2}
    trainer = {"max_steps": 3, "inverter": {"max_steps": 5}, "batch_size": 16}
    config = {"data": unseen({"type": "rings"}, 0), "density": made, "trainer": trainer}
    config |= {"kernel": {"type": "gaussian", "sigma": 0.3}, "inverter": {"type": "conditional", "density": made}}
    trained = train_smoothed(config, 0)
    assert trained.steps == 8 and trained.sigma == pytest.approx(0.3) and trained.kernel == "gaussian"
    assert trained.smoothed is trained.model and trained.cpu_seconds > 0.0
    networks = (trained.smoothed.density, trained.smoothed.inverter)
    weights = sum(parameter.numel() for network in networks for parameter in network.parameters())
    assert trained.parameters == weights  # a fixed sigma is none
    alone = train_plain(made, unseen({"type": "rings"}, 0), trainer, 0)
    assert alone.smoothed is None and alone.steps == 3
    tuned = set(map(tuple, open_data({"type": "rings"}).split("test").x.tolist()))
    for each in (trained, alone):
        assert not tuned & set(map(tuple, each.data.split("test").x.tolist()))


def test_a_single_step_model_has_samples_and_no_likelihood():
    made = {"type": "made", "hidden": [8], "components": 2}
    config = {"data": {"type": "rings"}, "density": made, "kernel": {"type": "laplace", "sigma": 0.3}}
    trained = train_smoothed(config | {"inverter": "gradient", "trainer": {"max_steps": 2}}, 0)
    numbers = measure_row(trained, 0, Effort.chosen(quick=True))
    assert "nll" not in numbers and list(numbers["sets"]) == ["single-step", "smoothed"]
    assert 0.0 <= numbers["off_support"] <= 1.0
