"""The one-dimensional studies: what is exact in them against closed forms, and every one of them in quick mode."""

from __future__ import annotations

import math
import re

import pytest
import torch
from exact import SIX_MODES, SMOOTHED, TEN_MODES, TWO_MODES
from torch import Tensor

from smoothgen.event import EventSpec
from smoothgen.reproduction import proposition_1, theorem_1, thin_ring
from smoothgen.reproduction.capacity import best_cross_entropy, capacity
from smoothgen.reproduction.denoising_1d import single_step
from smoothgen.reproduction.estimates import difference, grouped, of_key, sure_sign, table
from smoothgen.reproduction.learned_sigma import _claim as claim_of_learned_sigma
from smoothgen.reproduction.line import (
    REACH,
    SmoothedData,
    data_of,
    kernel_of,
    nodes_of_data,
    nodes_of_smoothed,
    posterior,
    smoothed_log_prob,
)
from smoothgen.reproduction.plain_mixture import PlainMixture
from smoothgen.reproduction.studies import chosen
from smoothgen.reproduction.study import Job, Outcome
from smoothgen.reproduction.tables import Estimate
from smoothgen.reproduction.variance import _order as order_of_kernels

NAMES = (
    "thin-ring",
    "theorem-1",
    "proposition-1",
    "ten-modes",
    "plain-mixture",
    "variance",
    "learned-sigma",
    "denoising-1d",
)
MODES = {"two_gaussians": TWO_MODES, "six_modes": SIX_MODES, "ten_modes": TEN_MODES}


@pytest.mark.parametrize("name", NAMES)
def test_a_quick_study_runs_and_is_presented(name, tmp_path):
    (study,) = chosen(name)
    jobs = study.jobs([0, 1], quick=True)
    assert len({(job.name, job.seed) for job in jobs}) == len(jobs)
    outcomes = {job: study.run(job) for job in jobs}
    section = study.present(outcomes, tmp_path)
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", section)
    assert pictures and all((tmp_path / picture).stat().st_size > 5_000 for picture in pictures)
    assert not section.startswith(("|", "!", "#", "-", "*", "<", "`")), "the page's summary quotes the first paragraph"
    assert not re.search(r"\bnan\b|\binf\b|None", section)
    for rows in re.findall(r"(?:^\|.*\n?)+", section, re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in rows.strip().splitlines()}) == 1


@pytest.mark.parametrize("name", ["variance", "learned-sigma", "ten-modes", "denoising-1d", "plain-mixture"])
def test_a_section_is_made_even_where_jobs_failed(name, tmp_path):
    (study,) = chosen(name)
    job = study.jobs([0], quick=True)[0]
    assert study.present({job: study.run(job)}, tmp_path)


def test_a_job_is_a_function_of_its_fields():
    study = PlainMixture()
    first, other = study.jobs([0, 1], quick=True)[:2]
    assert study.run(first).numbers["gap"] == study.run(first).numbers["gap"]
    assert study.run(first).numbers["gap"] != study.run(other).numbers["gap"]


# --- exact densities by sums over a grid -----------------------------------------------------------------------------


def closed_form(modes: tuple[tuple[float, ...], tuple[float, ...]], kernel: str, sigma: float, x: Tensor) -> Tensor:
    means, stds = (torch.tensor(values, dtype=torch.float64) for values in modes)
    return torch.logsumexp(SMOOTHED[kernel](x[:, None] - means, stds, sigma), 1) - math.log(len(means))


@pytest.mark.parametrize(("kernel", "tolerance"), [("gaussian", 1e-6), ("laplace", 1e-3), ("uniform", 2e-2)])
def test_smoothed_densities_on_the_grid(kernel, tolerance):
    """Smooth kernels to rounding of the kernel's float32 sigma; kinks and edges to what the spacing leaves of them."""
    data = nodes_of_data(data_of({"type": "two_gaussians"}), 0.005)
    x = torch.linspace(-0.8, 0.8, 41, dtype=torch.float64)
    found = smoothed_log_prob(data, kernel_of(kernel, 0.3), x)
    assert torch.allclose(found, closed_form(TWO_MODES, kernel, 0.3, x), atol=tolerance)


def test_nodes_hold_the_entropy_and_the_divergence():
    source = data_of({"type": "six_modes"})
    data = nodes_of_data(source, 0.02)
    assert data.entropy == pytest.approx(source.entropy, abs=1e-7)
    assert data.divergence(source.log_prob(data.x[:, None])) == pytest.approx(0.0, abs=1e-9)
    shifted = source.log_prob(data.x[:, None] - 0.01)
    assert data.divergence(shifted) == pytest.approx(0.5 * (0.01 / 0.15) ** 2, rel=1e-3)


def test_posteriors_add_up_to_the_data():
    data = nodes_of_data(data_of({"type": "two_gaussians"}), 0.01)
    noise = kernel_of("laplace", 0.3)
    smoothed = nodes_of_smoothed(data, noise, REACH["laplace"] * 0.3, 0.002)
    mixed = smoothed.probability @ posterior(data, noise, smoothed.x)
    assert torch.allclose(mixed, data.probability, atol=1e-6)


@pytest.mark.parametrize(("kernel", "tolerance"), [("gaussian", 1e-6), ("laplace", 1e-3)])
def test_empirical_bayes_of_the_exact_density_is_the_posterior_mean(kernel, tolerance):
    data, noise = nodes_of_data(data_of({"type": "two_gaussians"}), 0.005), kernel_of(kernel, 0.3)
    x_tilde = torch.linspace(-1.0, 1.0, 41, dtype=torch.float64)
    found = noise.posterior_mean(x_tilde[:, None], SmoothedData(data, noise))[:, 0]
    wanted = posterior(data, noise, x_tilde) @ data.x
    assert (found - wanted).abs().max() < tolerance
    gaussian_step = x_tilde + 0.09 * SmoothedData(data, noise).score(x_tilde[:, None])[:, 0]
    assert kernel == "gaussian" or (gaussian_step - wanted).abs().max() > 0.1


@pytest.mark.parametrize(("sigma", "error", "share"), [(0.3, 0.0441, 0.183), (0.1, 0.0062, 0.025)])
def test_least_error_and_share_between_the_modes(sigma, error, share):
    """science.md, B.1; there by 20000 draws."""
    least, middle = single_step(nodes_of_data(data_of({"type": "two_gaussians"}), 0.01), "gaussian", sigma)
    assert least == pytest.approx(error, abs=1e-4)
    assert middle == pytest.approx(share, abs=0.005)


def test_least_error_of_a_single_gaussian():
    data = nodes_of_data(data_of({"type": "mixture_1d", "means": [0.0], "stds": [0.4]}), 0.01)
    assert single_step(data, "gaussian", 0.3)[0] == pytest.approx(0.16 * 0.09 / 0.25, rel=1e-4)


# --- the capacity of few logistics -----------------------------------------------------------------------------------


def test_logistics_are_found_again():
    """The cross-entropy of a mixture of two logistics with itself is its entropy."""
    x = torch.linspace(-40.0, 40.0, 4001, dtype=torch.float64)
    parts = [
        weight * torch.sigmoid(z) * torch.sigmoid(-z) / s
        for weight, z, s in ((0.3, (x + 4) / 0.5, 0.5), (0.7, x - 3, 1.0))
    ]
    density = sum(parts)
    probability = (density / density.sum())[None]
    entropy = -(probability[0] * density.log()).sum().item()
    rows = torch.cat([probability, probability.flip(1)])
    found = best_cross_entropy(x, rows, 2, 0.02)
    assert found.tolist() == pytest.approx([entropy, entropy], abs=2e-4)


def test_one_logistic_for_a_gaussian():
    """The best logistic has a scale of about 0.57 std and loses 0.0144 nats, found by a fine search."""
    x = torch.linspace(-8.0, 8.0, 1601, dtype=torch.float64)
    p = torch.exp(-0.5 * x.square())
    p /= p.sum()
    scales = torch.linspace(0.5, 0.65, 301, dtype=torch.float64)[:, None]
    log_f = 2.0 * torch.nn.functional.logsigmoid(x / scales) - x / scales - scales.log()
    assert best_cross_entropy(x, p[None], 1, 0.01).item() == pytest.approx(-(log_f @ p).max().item(), abs=1e-5)


@pytest.mark.parametrize(
    ("kernel", "sigma", "gap", "smooth"), [("gaussian", 0.7, 0.1195, 0.078), ("uniform", 0.95, 0.1206, None)]
)
def test_capacity_of_two_logistics_on_six_modes(kernel, sigma, gap, smooth):
    """science.md, section 3: the prototype's optimum, found with another optimiser; ours may be a little lower."""
    data = nodes_of_data(data_of({"type": "six_modes"}), 0.03)
    found = capacity(data, kernel_of(kernel, sigma), 2, REACH[kernel] * sigma, 0.2)
    assert gap - 0.006 < found.gap < gap + 0.001
    assert smooth is None or found.smooth == pytest.approx(smooth, abs=5e-4)


# --- Theorem 1, Proposition 1, the thin ring -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "sigma", "ratio"),
    [
        ("six_modes", 0.01, 0.99558),
        ("six_modes", 0.3, 0.2),
        ("two_gaussians", 0.3, 0.1082),
        ("ten_modes", 0.3, 0.02705),
    ],
)
def test_ratios_of_lipschitz_constants(data, sigma, ratio):
    assert theorem_1.smoothed_ratio(data_of({"type": data}), "gaussian", sigma, 5e-4) == pytest.approx(ratio, rel=4e-4)


@pytest.mark.parametrize("kernel", theorem_1.KERNELS)
@pytest.mark.parametrize("data", MODES)
def test_no_kernel_raises_the_lipschitz_constant(data, kernel):
    source = data_of({"type": data})
    ratios = [theorem_1.smoothed_ratio(source, kernel, sigma, 1e-3) for sigma in (0.01, 0.1, 1.0)]
    assert ratios == sorted(ratios, reverse=True) and ratios[0] <= 1.0 + 1e-9


@pytest.mark.parametrize(("kernel", "constant"), [("gaussian", 127.3), ("laplace", 254.6), ("uniform", 76.4)])
def test_what_is_left_of_proposition_1(kernel, constant):
    study = proposition_1.PropositionOne()
    (job,) = [job for job in study.jobs([0], quick=True) if job.name == kernel]
    numbers = study.run(job).numbers
    model, eta = numbers["model"], numbers["etas"][-1]
    assert model["predicted"] == pytest.approx(constant, rel=1e-3)
    assert model["error"][-1] / eta**2 == pytest.approx(constant, rel=2e-3)
    assert max(map(abs, numbers["quadratic"]["error"])) < 1e-11


def test_slopes_of_the_thin_ring():
    """A Gaussian profile around a unit circle: Lip 0.242 / (2 pi s²), and a score of 1 / s in the mean square."""
    source = data_of({"type": "thin_ring", "radius": thin_ring.RADIUS, "noise": thin_ring.NOISE})
    for sigma in (0.0, 0.01, 0.03):
        lipschitz, rms = thin_ring.steepness(source, sigma, 8001)
        assert lipschitz == pytest.approx(thin_ring.closed_form(sigma), rel=2e-3)
        assert rms == pytest.approx(1.0 / math.hypot(thin_ring.NOISE, sigma), rel=2e-3)
    _, radial, across = thin_ring.derivatives(source, 0.0, torch.tensor([0.99, 1.01], dtype=torch.float64))
    assert radial.tolist() == pytest.approx([100.0 - 1 / 0.99, -100.0 - 1 / 1.01], rel=1e-9)
    assert across.abs().max() < 1e-9


# --- numbers over seeds ----------------------------------------------------------------------------------------------


def test_differences_pair_the_seeds():
    first = {seed: Outcome({"gap": 10.0 * seed + 1.0}) for seed in (0, 1, 2)}
    second = {seed: Outcome({"gap": 10.0 * seed}) for seed in (1, 2, 3)}
    found = difference(first, second, "gap")
    assert (found.mean, found.stderr, found.n) == (1.0, 0.0, 2)
    assert (
        sure_sign(found) == 1 and sure_sign(Estimate(-0.1, 0.06, 3)) == 0 and sure_sign(Estimate(0.1, math.nan, 1)) == 0
    )


def test_a_number_that_was_not_finite_costs_its_seed_alone():
    first = {seed: Outcome({"gap": 1.0}) for seed in (0, 1, 2)}
    second = {0: Outcome({"gap": None}), 1: Outcome({"gap": 0.5}), 2: Outcome({"gap": 0.25})}
    assert difference(first, second, "gap").n == of_key(second, "gap").n == 2


def test_sentences_need_what_they_compare():
    """One kernel has no order; trainings without the curve beside them are not large or small."""
    gaussian = [(0.5, {0: Outcome({"gap": 0.1})})]
    assert order_of_kernels({"gaussian": gaussian}, "gap", "-ELBO") == ""
    trained = {("six_modes", 0.1): {0: Outcome({"sigma": 0.6})}}
    assert "not known" in claim_of_learned_sigma(trained, {})


def test_outcomes_are_grouped_by_settings():
    jobs = [Job("s", f"{k}", seed, {"k": k}) for k in (1, 2) for seed in (0, 1)] + [Job("s", "x", 0, {})]
    found = grouped({job: Outcome({}) for job in jobs}, "k")
    assert {key: sorted(seeded) for key, seeded in found.items()} == {(1,): [0, 1], (2,): [0, 1]}


def test_bars_in_cells_are_escaped():
    assert table(("p(x|y)", "n"), [("a", 1)]) == "| p(x\\|y) | n |\n| --- | --: |\n| a | 1 |"


def test_kernels_are_those_of_the_event():
    assert (
        kernel_of("uniform", 0.5, EventSpec(shape=(3,))).log_prob(torch.zeros(1, 3), torch.ones(1, 3)).item()
        == -math.inf
    )
