"""The exact oracle: Gaussian data and noise, where the bound is log p(x) for every x and every draw.

Data N(mean, S), noise of standard deviation sigma, p(x_tilde) = N(mean, S + sigma^2 I), the exact p(x | x_tilde).
"""

from __future__ import annotations

import itertools
import json
import math

import pytest
import torch
from exact import GaussianDensity, GaussianPosterior, log_normal
from torch import Generator, Tensor

import smoothgen
from smoothgen.density_model import DensityModel
from smoothgen.errors import ConfigError, MeasureError, NoDensityError, ShapeError
from smoothgen.event import ContextSpec, EventSpec
from smoothgen.inverter import Inverter
from smoothgen.likelihood import Likelihood
from smoothgen.noise_kernel import NoiseKernel
from smoothgen.objectives import JointObjective, bound_terms, importance_weighted
from smoothgen.smoothed_model import SmoothedModel

pytestmark = pytest.mark.usefixtures("float64")

SIGMA = 0.6
MEANS = {1: [0.3], 2: [0.3, -1.2], 3: [0.3, -1.2, 2.0]}


def mean_and_covariance(dimensions: int) -> tuple[Tensor, Tensor]:
    root = torch.randn(dimensions, dimensions, generator=Generator().manual_seed(dimensions))
    return torch.tensor(MEANS[dimensions]), root @ root.T + 0.2 * torch.eye(dimensions)


def gaussian_kernel(dimensions: int, sigma: float = SIGMA) -> NoiseKernel:
    config = smoothgen.installed().components["kernel"]["gaussian"]
    return config(sigma=sigma).build(EventSpec(shape=(dimensions,)))


def oracle(dimensions: int, event: EventSpec | None = None, sigma: float = SIGMA, **wrong: float) -> SmoothedModel:
    mean, covariance = mean_and_covariance(dimensions)
    smoothed = GaussianDensity(mean, covariance + sigma**2 * torch.eye(dimensions))
    inverter = GaussianPosterior(mean, covariance, sigma, **wrong)
    event = event or EventSpec(shape=(dimensions,))
    return SmoothedModel(gaussian_kernel(dimensions, sigma), smoothed, inverter, event)


def data(dimensions: int, n: int) -> Tensor:
    mean, covariance = mean_and_covariance(dimensions)
    return GaussianDensity(mean, covariance).sample(n, generator=Generator().manual_seed(2103))


def exact_log_prob(x: Tensor) -> Tensor:
    mean, covariance = mean_and_covariance(x.shape[1])
    return log_normal(x - mean, covariance)


# --- exactness -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [0.01, 0.6, 5.0])
@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_the_bound_is_log_p_for_every_x_and_every_draw(dimensions, sigma):
    model = oracle(dimensions, sigma=sigma)
    x = torch.cat([data(dimensions, 50), 5.0 * torch.randn(50, dimensions, generator=Generator().manual_seed(1))])
    truth = exact_log_prob(x)
    for seed in range(10):
        draw = model.log_prob(x, generator=Generator().manual_seed(seed))
        assert torch.allclose(draw, truth, rtol=0.0, atol=1e-10)


@pytest.mark.parametrize("draws", [1, 7])
def test_the_likelihood_of_the_oracle_is_exact_and_its_terms_sum_to_it(draws):
    x = data(3, 200)
    result = oracle(3).likelihood(x, importance_samples=draws, generator=Generator().manual_seed(0))
    assert torch.allclose(result.per_example, exact_log_prob(x), rtol=0.0, atol=1e-10)
    assert torch.allclose(sum(result.terms.values()), result.per_example, rtol=0.0, atol=1e-10)
    assert (result.kind, result.measure, result.draws, result.dimensions) == ("lower bound", "density", draws, 3)
    if draws > 1:
        assert torch.allclose(result.effective_sample_size, torch.tensor(float(draws)), atol=1e-8), "equal weights"


def test_the_terms_are_what_they_are_called():
    x = data(2, 4000)
    result = oracle(2).likelihood(x, generator=Generator().manual_seed(0))
    _, covariance = mean_and_covariance(2)
    smoothed = covariance + SIGMA**2 * torch.eye(2)
    expected = {
        "log p(x̃)": -0.5 * torch.logdet(2 * math.pi * math.e * smoothed).item(),
        "−log q(x̃|x)": math.log(2 * math.pi * math.e * SIGMA**2),
    }
    for name, value in expected.items():
        term = result.terms[name]
        assert term.mean().item() == pytest.approx(value, abs=5.0 * term.std().item() / math.sqrt(len(x)))
    assert set(result.terms) == {*expected, "log p(x|x̃)"}


@pytest.mark.parametrize(
    "wrong", [{"shift": 0.2}, {"inflation": 1.5}, {"inflation": 0.7}, {"shift": -0.3, "inflation": 1.3}]
)
@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_a_wrong_posterior_costs_its_divergence(dimensions, wrong):
    """On average over data, the gap is KL(exact posterior || wrong one), in closed form."""
    model = oracle(dimensions, **wrong)
    divergence = model.inverter.divergence
    x = data(dimensions, 20_000)
    gap = exact_log_prob(x) - model.log_prob(x, generator=Generator().manual_seed(3))
    error = gap.std().item() / math.sqrt(len(x))
    assert gap.mean().item() == pytest.approx(divergence, abs=5.0 * error)
    assert gap.mean().item() > 5.0 * error, "the bound lies below log p by more than chance"


def test_a_bound_with_the_wrong_entropy_would_be_caught():
    """The kernel's noise and its log_prob must agree: a density for a smaller sigma breaks the exactness."""
    model = oracle(2)
    model.density = GaussianDensity(*mean_and_covariance(2))
    x = data(2, 50)
    assert not torch.allclose(model.log_prob(x), exact_log_prob(x), atol=0.1)


def test_the_loss_of_joint_training_is_minus_the_mean_bound():
    model, x = oracle(2), data(2, 64)
    loss = JointObjective(model.kernel, model.density, model.inverter)(x)
    assert loss.shape == ()
    assert loss.item() == pytest.approx(-exact_log_prob(x).mean().item(), abs=1e-10)


# --- importance weighting --------------------------------------------------------------------------------------------


def marginal_log_prob(model: SmoothedModel, x: Tensor) -> Tensor:
    """log of the model's own p(x), the integral of p(x_tilde) p(x | x_tilde): Gaussian whatever is wrong with it."""
    posterior, smoothed = model.inverter, model.density
    covariance = posterior.gain @ smoothed.covariance @ posterior.gain.T
    return log_normal(
        x - posterior.mean - posterior.shift, covariance + posterior.inflation * posterior.exact_covariance
    )


@pytest.mark.parametrize("wrong", [{"shift": 0.4}, {"inflation": 1.6}, {"inflation": 0.6}])
def test_more_draws_tighten_the_bound(wrong):
    """ELBO <= IW-10 <= IW-100 <= log p(x) of the model <= log p(x) of the data, on average; 1 <= ESS <= K."""
    model = oracle(2, **wrong)
    x = data(2, 1500)
    values = []
    for draws in (1, 10, 100):
        result = model.likelihood(x, importance_samples=draws, generator=Generator().manual_seed(draws))
        assert result.draws == draws and result.n == len(x)
        values.append(result.per_example)
        if draws == 1:
            assert result.effective_sample_size is None
        else:
            ess = result.effective_sample_size
            assert ess.shape == (len(x),)
            assert (ess >= 1.0).all() and (ess <= draws + 1e-9).all()
            assert 1.0 < ess.mean() < draws
    limit = marginal_log_prob(model, x)
    for looser, tighter in itertools.pairwise([*values, limit, exact_log_prob(x)]):
        difference = tighter - looser
        assert difference.mean().item() > -4.0 * difference.std().item() / math.sqrt(len(x))
    elbo_gap, _, gap_of_100 = ((limit - value).mean().item() for value in values)
    assert elbo_gap > 5.0 * (limit - values[0]).std().item() / math.sqrt(len(x))
    assert abs(gap_of_100) < 0.2 * elbo_gap, "a hundred draws remove most of the gap"


def test_importance_weighting_of_known_weights():
    log_weights = torch.tensor([[0.0, 1000.0], [math.log(3.0), -1000.0]])
    log_mean, effective = importance_weighted(log_weights)
    assert log_mean.tolist() == pytest.approx([math.log(2.0), 1000.0 - math.log(2.0)])
    assert effective.tolist() == pytest.approx([16.0 / 10.0, 1.0])
    one, size = importance_weighted(torch.tensor([[-3.0, 5.0]]))
    assert one.tolist() == pytest.approx([-3.0, 5.0]) and size.tolist() == pytest.approx([1.0, 1.0])


class Counting(DensityModel):
    """Remembers how many rows each pass had."""

    def __init__(self, density: DensityModel, context: ContextSpec | None = None) -> None:
        super().__init__(density.event, context)
        self.density = density
        self.rows: list[int] = []

    def _log_prob(self, x: Tensor, context: Tensor | None, generator: Generator | None) -> Tensor:
        self.rows.append(len(x))
        return self.density.log_prob(x)

    def _sample(self, num_samples: int, context: Tensor | None, generator: Generator | None) -> Tensor:
        return self.density.sample(num_samples, generator=generator)


@pytest.mark.parametrize("rows_at_once", [1, 2, 7, 10, 64, 4096])
@pytest.mark.parametrize("draws", [1, 3, 10])
@pytest.mark.parametrize("n", [1, 5, 13])
def test_the_answer_does_not_depend_on_the_size_of_the_passes(n, draws, rows_at_once):
    model = oracle(2)
    model.density = Counting(model.density)
    x = data(2, n)
    result = model.likelihood(x, importance_samples=draws, rows_at_once=rows_at_once)
    assert torch.allclose(result.per_example, exact_log_prob(x), rtol=0.0, atol=1e-10)
    assert result.per_example.shape == (n,) and result.draws == draws
    assert all(term.shape == (n,) for term in result.terms.values())
    assert sum(model.density.rows) == n * draws, "every example gets every draw, once"
    assert max(model.density.rows) <= rows_at_once


@pytest.mark.parametrize("rows_at_once", [7, 50, 5000])
def test_a_wrong_posterior_gets_the_same_bound_whatever_the_passes(rows_at_once):
    """Not exact, so that mixing up examples and draws would show: against the bound computed here, draw by draw."""
    model = oracle(2, shift=0.5)
    x = data(2, 300)
    whole = model.likelihood(x, importance_samples=20, generator=Generator().manual_seed(0), rows_at_once=100_000)
    split = model.likelihood(x, importance_samples=20, generator=Generator().manual_seed(1), rows_at_once=rows_at_once)
    generator = Generator().manual_seed(2)
    terms = [bound_terms(model.kernel, model.density, model.inverter, x, None, generator).total for _ in range(20)]
    reference = torch.logsumexp(torch.stack(terms), 0) - math.log(20.0)
    for result in (whole, split):
        difference = result.per_example - reference
        assert difference.mean().abs() < 5.0 * difference.std() / math.sqrt(len(x))
        correlation = torch.corrcoef(torch.stack([result.per_example, reference]))[0, 1]
        assert correlation > 0.9, "each example has its own value"


class ContextPosterior(GaussianPosterior):
    """The exact posterior of data whose mean is the context."""

    def log_prob(self, x, x_tilde, *, context=None, generator=None):
        return super().log_prob(x - context, x_tilde - context)

    def invert(self, x_tilde, smoothed, kernel, *, context=None, generator=None):
        return super().invert(x_tilde - context, smoothed, kernel, generator=generator) + context


class ContextDensity(DensityModel):
    """A Gaussian around the context."""

    def __init__(self, density: GaussianDensity) -> None:
        super().__init__(density.event, ContextSpec(features=density.event.dimensions))
        self.density = density

    def _log_prob(self, x, context, generator):
        return self.density.log_prob(x - context)

    def _sample(self, num_samples, context, generator):
        return self.density.sample(num_samples, generator=generator) + context


@pytest.mark.parametrize("rows_at_once", [2, 5, 4096])
def test_contexts_stay_with_their_examples(rows_at_once):
    mean, covariance = mean_and_covariance(2)
    density = ContextDensity(GaussianDensity(mean, covariance + SIGMA**2 * torch.eye(2)))
    inverter = ContextPosterior(mean, covariance, SIGMA)
    model = SmoothedModel(gaussian_kernel(2), density, inverter, EventSpec(shape=(2,)), ContextSpec(features=2))
    x, context = data(2, 9), 10.0 * torch.randn(9, 2, generator=Generator().manual_seed(5))
    truth = exact_log_prob(x - context)
    assert torch.allclose(model.log_prob(x, context), truth, atol=1e-10)
    result = model.likelihood(x, context, importance_samples=4, rows_at_once=rows_at_once)
    assert torch.allclose(result.per_example, truth, atol=1e-10)
    many = context[:1].expand(4000, 2)
    samples, smoothed = model.sample(4000, many, return_smoothed=True, generator=Generator().manual_seed(0))
    for value, spread in ((samples, covariance), (smoothed, covariance + SIGMA**2 * torch.eye(2))):
        centred = value - context[0] - mean
        assert torch.allclose(centred.mean(0), torch.zeros(2), atol=5.0 * math.sqrt(spread.max() / 4000))
        assert torch.allclose(centred.T @ centred / 4000, spread, atol=0.15 * spread.max().item())


# --- units -----------------------------------------------------------------------------------------------------------

DATA_UNITS = EventSpec(shape=(2,), shift=(100.0, -3.0), scale=(20.0, 0.25))


def test_densities_are_per_unit_of_the_data():
    """integral of exp(log_prob) over the data's own units is 1; the standardised density is off by the scales."""
    model = oracle(2, event=DATA_UNITS)
    axes = [torch.linspace(-12.0, 12.0, 401)] * 2
    standard = torch.cartesian_prod(*axes)
    x = DATA_UNITS.to_data(standard)
    volume = (axes[0][1] - axes[0][0]) ** 2 * 20.0 * 0.25
    assert (model.log_prob(x).exp().sum() * volume).item() == pytest.approx(1.0, abs=1e-9)
    mean, covariance = mean_and_covariance(2)
    scale = torch.tensor(DATA_UNITS.scale)
    truth = log_normal(
        x - (torch.tensor(DATA_UNITS.shift) + scale * mean), scale[:, None] * covariance * scale[None, :]
    )
    some = slice(None, None, 997)
    assert torch.allclose(model.log_prob(x[some]), truth[some], atol=1e-9)
    result = model.likelihood(x[some], importance_samples=3)
    assert torch.allclose(result.per_example, truth[some], atol=1e-9)
    assert torch.allclose(sum(result.terms.values()), result.per_example, atol=1e-9)
    assert torch.allclose(result.terms["units of the data"], torch.tensor(-math.log(20.0 * 0.25)))


def test_samples_and_denoised_data_are_in_units_of_the_data():
    model = oracle(2, event=DATA_UNITS)
    mean, covariance = mean_and_covariance(2)
    n = 20_000
    x, x_tilde = model.sample(n, return_smoothed=True, generator=Generator().manual_seed(0))
    for value, spread in ((x, covariance), (x_tilde, covariance + SIGMA**2 * torch.eye(2))):
        standard = DATA_UNITS.to_model(value) - mean
        assert torch.allclose(standard.T @ standard / n, spread, atol=0.05 * spread.max().item())
    noise = (model.smooth(x, generator=Generator().manual_seed(1)) - x) / torch.tensor(DATA_UNITS.scale)
    assert noise.std(0).tolist() == pytest.approx([SIGMA, SIGMA], rel=0.03)
    exact = DATA_UNITS.to_data(model.inverter._mean(DATA_UNITS.to_model(x_tilde)))
    assert torch.allclose(model.denoise(x_tilde, method="single-step"), exact, atol=1e-7)
    drawn = model.denoise(x_tilde, generator=Generator().manual_seed(2))
    residual = (drawn - exact) / torch.tensor(DATA_UNITS.scale)
    assert torch.allclose(residual.T @ residual / n, model.inverter.exact_covariance, atol=0.02)
    with pytest.raises(ConfigError, match='unknown method "mean"'):
        model.denoise(x_tilde, method="mean")


def test_samples_are_values_the_event_can_take():
    """low and high bound the model's coordinates; the samples that come out are in the data's."""
    bounded = EventSpec(shape=(2,), low=-0.5, high=0.5, shift=(100.0, -3.0), scale=(20.0, 0.25))
    x = oracle(2, event=bounded).sample(500, generator=Generator().manual_seed(0))
    standard = bounded.to_model(x)
    assert standard.min() >= -0.5 - 1e-9 and standard.max() <= 0.5 + 1e-9
    assert ((standard.abs() - 0.5).abs() < 1e-9).any(), "some had to be moved to a bound"
    levels = EventSpec(shape=(2,), low=-2.0, high=2.0, levels=9)
    levels.check(oracle(2, event=levels).sample(500, generator=Generator().manual_seed(0)))


def test_the_gradient_inverter_is_the_posterior_mean():
    mean, covariance = mean_and_covariance(3)
    smoothed = GaussianDensity(mean, covariance + SIGMA**2 * torch.eye(3))
    kernel = gaussian_kernel(3)
    inverter = smoothgen.installed().components["inverter"]["gradient"]().build(EventSpec(shape=(3,)), kernel)
    x_tilde = 3.0 * torch.randn(40, 3, generator=Generator().manual_seed(0))
    exact = GaussianPosterior(mean, covariance, SIGMA)._mean(x_tilde)
    assert torch.allclose(inverter.invert(x_tilde, smoothed, kernel), exact, atol=1e-10)
    model = SmoothedModel(kernel, smoothed, inverter, EventSpec(shape=(3,)))
    assert torch.allclose(model.denoise(x_tilde), exact, atol=1e-10)
    with pytest.raises(NoDensityError, match="inverter type: conditional"):
        model.likelihood(x_tilde)
    with pytest.raises(NoDensityError):
        model.log_prob(x_tilde)


# --- Likelihood ------------------------------------------------------------------------------------------------------


def likelihood(n: int = 5, measure: str = "discrete", draws: int = 1, seed: int = 0) -> Likelihood:
    generator = Generator().manual_seed(seed)
    terms = {name: torch.randn(n, generator=generator) - 3.0 for name in ("log p(x̃)", "−log q(x̃|x)")}
    return Likelihood(
        per_example=sum(terms.values()),
        dimensions=4,
        measure=measure,
        kind="lower bound",
        terms=terms,
        draws=draws,
        effective_sample_size=torch.full((n,), 2.5) if draws > 1 else None,
    )


def test_bits_per_dim_are_minus_nats_over_dimensions_log_2():
    result = likelihood()
    assert result.nats == pytest.approx(result.per_example.mean().item())
    assert result.bits_per_dim == pytest.approx(-result.nats / (4 * math.log(2.0)))
    assert result.bits_per_dim_stderr == pytest.approx(result.stderr / (4 * math.log(2.0)))
    assert result.stderr == pytest.approx(result.per_example.std(unbiased=True).item() / math.sqrt(5))
    uniform = Likelihood(torch.full((3,), -784 * math.log(256.0)), 784, "discrete", "exact")
    assert uniform.bits_per_dim == pytest.approx(8.0), "256 equally likely levels are 8 bits"


def test_a_density_has_no_bits_per_dim():
    result = likelihood(measure="density")
    for name in ("bits_per_dim", "bits_per_dim_stderr"):
        with pytest.raises(MeasureError, match=r"use \.nats"):
            getattr(result, name)
    assert "bits" not in str(result) and "bits_per_dim" not in result.summary()


@pytest.mark.parametrize("measure", ["discrete", "density"])
@pytest.mark.parametrize("draws", [1, 7])
def test_the_summary_is_plain_json_with_every_number(measure, draws):
    result = likelihood(measure=measure, draws=draws)
    summary = json.loads(json.dumps(result.summary(), allow_nan=False))
    assert summary["nats"] == result.nats and summary["stderr"] == result.stderr
    assert (summary["kind"], summary["measure"]) == ("lower bound", measure)
    assert (summary["n"], summary["draws"], summary["dimensions"]) == (5, draws, 4)
    assert set(summary["terms"]) == set(result.terms)
    for name, term in result.terms.items():
        assert summary["terms"][name]["nats"] == term.mean().item()
        assert summary["terms"][name]["stderr"] == pytest.approx(term.std().item() / math.sqrt(5))
    assert ("bits_per_dim" in summary) == (measure == "discrete")
    assert summary.get("effective_sample_size") == (2.5 if draws > 1 else None)


def test_the_text_says_unit_kind_measure_and_number():
    text = str(likelihood(draws=7))
    for part in ("bits/dim", "nats", "lower bound", "discrete", "n = 5", "7 draws each", "log p(x̃)", "2.5 of 7"):
        assert part in text
    assert "1 draw each" in str(likelihood())
    exact = str(Likelihood(torch.tensor([-1.0, -2.0]), 1, "density", "exact"))
    assert "exact" in exact and "draw" not in exact and "-1.5000" in exact


def test_one_example_has_no_standard_error():
    assert math.isnan(Likelihood(torch.tensor([-1.0]), 1, "density", "exact").stderr)


def test_batches_join_in_order():
    parts = [likelihood(n, draws=3, seed=n) for n in (2, 5, 1)]
    joined = Likelihood.join(parts)
    assert joined.n == 8 and joined.draws == 3 and joined.measure == "discrete" and joined.dimensions == 4
    assert torch.equal(joined.per_example, torch.cat([part.per_example for part in parts]))
    assert torch.allclose(sum(joined.terms.values()), joined.per_example)
    assert joined.effective_sample_size.shape == (8,)
    assert Likelihood.join([likelihood(2), likelihood(3)]).effective_sample_size is None


def test_impossible_requests_are_refused():
    model, x = oracle(2), data(2, 4)
    with pytest.raises(ConfigError, match="at least 1, got 0"):
        model.likelihood(x, importance_samples=0)
    for call in (model.likelihood, model.log_prob, model.denoise, model.smooth):
        with pytest.raises(ShapeError, match=r"must have shape \(batch, 2\), got \(4, 3\)"):
            call(torch.zeros(4, 3))
    with pytest.raises(ShapeError, match="without a context"):
        model.likelihood(x, torch.zeros(4, 1))


def test_a_bound_as_the_smoothed_density_is_refused_a_score():
    """Several noise levels by composition: log p(x_tilde) is then a random bound, which has no gradient to trust."""
    inner = oracle(2)
    kernel = gaussian_kernel(2)
    assert isinstance(inner, DensityModel) and not inner.exact
    gradient: Inverter = smoothgen.installed().components["inverter"]["gradient"]().build(inner.event, kernel)
    with pytest.raises(smoothgen.SmoothgenError, match="random lower bound"):
        SmoothedModel(kernel, inner, gradient, inner.event)


def test_two_noise_levels_are_exact_too():
    """x -> x_1 = x + noise -> x_2 = x_1 + noise: with exact parts the composed bound is log p(x) again."""
    mean, covariance = mean_and_covariance(2)
    noisier = covariance + SIGMA**2 * torch.eye(2)
    event = EventSpec(shape=(2,))
    inner = SmoothedModel(
        gaussian_kernel(2, 1.1),
        GaussianDensity(mean, noisier + 1.1**2 * torch.eye(2)),
        GaussianPosterior(mean, noisier, 1.1),
        event,
    )
    model = SmoothedModel(gaussian_kernel(2), inner, GaussianPosterior(mean, covariance, SIGMA), event)
    x = data(2, 60)
    assert torch.allclose(model.log_prob(x), exact_log_prob(x), rtol=0.0, atol=1e-10)
