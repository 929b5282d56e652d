"""Dequantisation by any noise: the bound, its decoder and the lattice sum, against quadrature and brute force.

The oracle: levels with probabilities P(k), noise q, and the exact density p(v) = sum_k P(k) q(v | k) of noisy levels.
Then p(v) / sum_k q(v | k) = sum_k P(k) r(k | v), r being the posterior under even levels, and the model's probability
is E_q(v | x) of it. The bound is E_q(v | x) of its logarithm. Both are quadratures in numpy, without this package.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

import smoothgen
from smoothgen import lattice
from smoothgen.checkpoint import load_model, save_model
from smoothgen.config import ExperimentConfig, load_config
from smoothgen.density_model import DensityModel
from smoothgen.dequantization import UniformDequantization, build_density
from smoothgen.errors import ConfigError, DataError, MeasureError, NoClosedFormError, ShapeError
from smoothgen.event import ContextSpec, EventSpec
from smoothgen.kernel_dequantization import DequantizedConfig, KernelDequantization
from smoothgen.lattice import draw_levels, log_lattice_sum
from smoothgen.noise_kernel import NoiseKernel
from smoothgen.particles import Particles
from smoothgen.registry import json_schema
from smoothgen.smoothed_model import SmoothedConfig, SmoothedModel

pytestmark = pytest.mark.usefixtures("float64")

MADE = {"type": "made", "hidden": [8], "components": 2}
THREE = EventSpec(shape=(1,), low=-1.0, high=1.0, levels=3)
BYTES = EventSpec(shape=(1,), low=-1.0, high=1.0, levels=256)
PAIR = EventSpec(shape=(2,), low=-1.0, high=1.0, levels=5)
LINE = EventSpec(shape=(1,))


def kernel_of(tag: str, sigma: float | tuple[float, ...], event: EventSpec = THREE) -> NoiseKernel:
    return smoothgen.installed().components["kernel"][tag](sigma=sigma).build(event)


def levels_of(event: EventSpec) -> np.ndarray:
    return np.linspace(event.low, event.high, event.levels)


def uneven(event: EventSpec) -> np.ndarray:
    """Probabilities of the levels that differ by a factor of up to 20 between neighbours and over the range."""
    k = np.arange(event.levels)
    weight = np.exp(-2.0 * ((k - 0.3 * event.levels) / event.levels) ** 2) * np.where(k % 3 == 1, 0.05, 1.0)
    return weight / weight.sum()


def noise(tag: str, e: np.ndarray, sigma: float) -> np.ndarray:
    """The density of noise e with standard deviation sigma, written out once more."""
    if tag == "gaussian":
        return np.exp(-0.5 * (e / sigma) ** 2) / (sigma * math.sqrt(2.0 * math.pi))
    return np.exp(-math.sqrt(2.0) * np.abs(e) / sigma) / (math.sqrt(2.0) * sigma)


def exact(event: EventSpec, tag: str, sigma: float, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The bound and the model's log probability of every level, by the midpoint rule."""
    reach = (9.0 if tag == "gaussian" else 26.0) * sigma
    e = (np.arange(4000) + 0.5) / 4000 * 2.0 * reach - reach
    bound, mass = [], []
    for level in levels_of(event):
        each = noise(tag, level + e[:, None] - levels_of(event), sigma)
        mixed = np.log(each @ weights) - np.log(each.sum(1))
        q = noise(tag, e, sigma)
        q /= q.sum()
        bound.append((q * mixed).sum())
        mass.append((q * np.exp(mixed)).sum())
    return np.array(bound), np.log(np.array(mass))


class NoisyLevels(DensityModel):
    """p(v) = sum_k P(k) q(v | k), or with `flat` P(k) / width within the bin of level k, for one coordinate."""

    def __init__(self, kernel: NoiseKernel, event: EventSpec, weights: np.ndarray, flat: bool = False) -> None:
        super().__init__(LINE)
        self.kernel, self.levels, self.flat = kernel, event, flat
        self.log_weights = torch.from_numpy(np.log(weights))

    def _log_prob(self, x: Tensor, context: Tensor | None, generator: Generator | None) -> Tensor:
        if self.flat:
            return self.log_weights[self.levels.levels_of(x)[:, 0]] - math.log(self.levels.bin_width)
        levels = torch.from_numpy(levels_of(self.levels))
        each = torch.stack([self.kernel.log_prob(x, level.expand_as(x)) for level in levels], 1)
        return torch.logsumexp(each + self.log_weights, 1)

    def _sample(self, num_samples: int, context: Tensor | None, generator: Generator | None) -> Tensor:
        index = torch.multinomial(self.log_weights.exp(), num_samples, replacement=True, generator=generator)
        return self.kernel.sample(torch.from_numpy(levels_of(self.levels))[index][:, None], generator=generator)


def oracle(event: EventSpec, tag: str, sigma: float, weights: np.ndarray) -> KernelDequantization:
    kernel = kernel_of(tag, sigma, event)
    return KernelDequantization(NoisyLevels(kernel, event, weights), kernel, event)


def all_levels(event: EventSpec) -> Tensor:
    return torch.from_numpy(levels_of(event))[:, None]


SETTINGS = [
    (event, tag, sigma)
    for event, sigmas in ((THREE, (0.05, 0.4, 1.0)), (BYTES, (0.004, 0.01, 0.3)))
    for tag in ("gaussian", "laplace")
    for sigma in sigmas
]


@pytest.mark.parametrize(("event", "tag", "sigma"), SETTINGS)
def test_the_bound_and_the_probability_are_the_quadratures(event, tag, sigma):
    weights = uneven(event)
    bound, log_mass = exact(event, tag, sigma, weights)
    assert np.exp(log_mass).sum() == pytest.approx(1.0, abs=3e-5), "the decoder gives every v to some level"
    assert (bound <= log_mass + 1e-9).all()
    assert (weights * bound).sum() <= (weights * np.log(weights)).sum() + 1e-9, "no code beats the entropy"
    model = oracle(event, tag, sigma, weights)
    rows = all_levels(event)[:: max(1, event.levels // 8)]
    draws = 4000
    log_prob = model.log_prob(rows.repeat(draws, 1), generator=Generator().manual_seed(0)).reshape(draws, -1)
    for found, wanted in ((log_prob, bound), (log_prob.exp(), np.exp(log_mass))):
        wanted = torch.from_numpy(wanted[:: max(1, event.levels // 8)])
        error = found.std(0) / math.sqrt(draws)
        assert ((found.mean(0) - wanted).abs() < 4.5 * error + 3e-5 * wanted.abs()).all()
        if sigma > 0.01:
            assert (error < 0.05 * wanted.abs() + 1e-12).all(), "too noisy to prove anything"


@pytest.mark.parametrize("tag", ["gaussian", "laplace", "uniform"])
@pytest.mark.parametrize("event", [THREE, BYTES])
def test_even_levels_are_met_exactly_by_any_noise(event, tag):
    model = oracle(event, tag, 0.3, np.full(event.levels, 1.0 / event.levels))
    log_prob = model.log_prob(all_levels(event).repeat(50, 1), generator=Generator().manual_seed(0))
    assert torch.allclose(log_prob, torch.tensor(-math.log(event.levels)), atol=1e-9)


@pytest.mark.parametrize(("event", "sigma"), [(THREE, 0.05), (BYTES, 0.0004)])
def test_noise_far_below_a_bin_loses_nothing(event, sigma):
    weights = uneven(event)
    model = oracle(event, "gaussian", sigma, weights)
    log_prob = model.log_prob(all_levels(event), generator=Generator().manual_seed(0))
    assert torch.allclose(log_prob, torch.from_numpy(np.log(weights)), atol=1e-9)


@pytest.mark.parametrize("event", [THREE, BYTES])
@pytest.mark.parametrize(("share", "lost"), [(1.0, 0.0), (0.6, math.log(0.6))])
def test_uniform_noise_and_a_density_that_is_constant_on_each_bin(event, share, lost):
    """Exact over the whole bin; noise over a share of the bin gives away the rest, and stays a bound."""
    weights = uneven(event)
    sigma = share * event.bin_width / math.sqrt(12.0)
    kernel = kernel_of("uniform", sigma, event)
    density = NoisyLevels(kernel, event, weights, flat=True)
    x, truth = all_levels(event).repeat(100, 1), torch.from_numpy(np.log(weights)).repeat(100)
    by_kernel = KernelDequantization(density, kernel, event).log_prob(x, generator=Generator().manual_seed(0))
    assert torch.allclose(by_kernel, truth + lost, atol=1e-9)
    assert torch.allclose(UniformDequantization(density, event).log_prob(x), truth, atol=1e-9)


def test_v_out_of_reach_of_bounded_noise_goes_to_the_nearest_level():
    kernel = kernel_of("uniform", 0.1)
    v = torch.tensor([[-7.0], [-0.45], [-0.55], [0.9], [5.0]])
    assert log_lattice_sum(kernel, v, THREE)[[0, 1, 2, 4]].isneginf().all()
    assert draw_levels(kernel, v, THREE).flatten().tolist() == [-1.0, 0.0, -1.0, 1.0, 1.0]


@pytest.mark.parametrize("tag", ["gaussian", "laplace", "uniform"])
def test_the_sum_is_that_over_all_pairs_of_levels_with_a_sigma_for_each_coordinate(tag):
    kernel = kernel_of(tag, (0.2, 0.9), PAIR)
    v = torch.linspace(-1.5, 1.5, 40).reshape(20, 2).roll(7)
    pairs = torch.tensor(list(itertools.product(levels_of(PAIR).tolist(), repeat=2)))
    each = torch.stack([kernel.log_prob(v, pair.expand_as(v)) for pair in pairs])
    assert torch.allclose(log_lattice_sum(kernel, v, PAIR).sum(1), torch.logsumexp(each, 0), atol=1e-10)


def test_the_sum_of_the_papers_jitter_is_one_over_the_bin_width():
    """sigma .01 at 256 levels in [-1, 1]: log2 127.5 = 6.9944 bits, inside; half of that mass at the ends."""
    kernel = kernel_of("gaussian", 0.01, BYTES)
    v = torch.linspace(-0.9, 0.9, 9001)[:, None]
    bits = log_lattice_sum(kernel, v, BYTES) / math.log(2.0)
    assert torch.allclose(bits, torch.tensor(6.9943534368588576), atol=1e-9)
    middle_of_the_end = torch.tensor([[1.0 + 0.5 * BYTES.bin_width]])
    assert (log_lattice_sum(kernel, middle_of_the_end, BYTES) / math.log(2.0)).item() == pytest.approx(
        5.99435, abs=0.01
    )


@pytest.mark.parametrize("sigma", [0.01, 0.5])
def test_single_precision_is_enough(sigma):
    event = EventSpec(shape=(3, 8, 8), low=-1.0, high=1.0, levels=256)
    generator = Generator().manual_seed(0)
    x = event.quantize(2.0 * torch.rand(32, *event.shape, generator=generator) - 1.0)
    v = (x + sigma * torch.randn(x.shape, generator=generator)).float()
    wide = log_lattice_sum(kernel_of("gaussian", sigma, event), v.double(), event)
    narrow = log_lattice_sum(kernel_of("gaussian", sigma, event).float(), v, event)
    assert narrow.dtype == torch.float32
    assert (narrow.double() - wide).abs().max() < 2e-4
    per_dimension = (narrow.double() - wide).flatten(1).mean(1).abs().max().item() / math.log(2.0)
    assert per_dimension < 2e-6, "bits per dim"


def test_parts_of_any_size_give_the_same(monkeypatch):
    kernel, v = kernel_of("laplace", (0.2, 0.9), PAIR), torch.linspace(-1.5, 1.5, 40).reshape(20, 2)
    whole = log_lattice_sum(kernel, v, PAIR), draw_levels(kernel, v, PAIR, Generator().manual_seed(0))
    for numbers in (1, 7, 10, 33):
        monkeypatch.setattr(lattice, "NUMBERS_AT_ONCE", numbers)
        assert torch.allclose(log_lattice_sum(kernel, v, PAIR), whole[0], atol=1e-12)
        assert torch.equal(draw_levels(kernel, v, PAIR, Generator().manual_seed(0)), whole[1])


@pytest.mark.parametrize("tag", ["gaussian", "laplace", "uniform"])
def test_the_decoder_draws_from_the_posterior_of_even_levels(tag):
    kernel, n = kernel_of(tag, (0.3, 0.8), PAIR), 40_000
    v = torch.tensor([0.2, -0.9])
    drawn = PAIR.levels_of(draw_levels(kernel, v.expand(n, 2), PAIR, Generator().manual_seed(0)))
    for d in range(2):
        x = torch.from_numpy(levels_of(PAIR))[:, None].expand(-1, 2)
        wanted = torch.softmax(kernel.log_prob_each(v.expand(5, 2), x)[:, d], 0)
        found = torch.bincount(drawn[:, d], minlength=5) / n
        assert ((found - wanted).abs() < 4.5 * (wanted * (1.0 - wanted) / n).sqrt() + 1e-12).all()
    joint = torch.bincount(5 * drawn[:, 0] + drawn[:, 1], minlength=25).reshape(5, 5) / n
    assert torch.allclose(joint, joint.sum(1, keepdim=True) * joint.sum(0), atol=0.01), "coordinates are apart"


@pytest.mark.parametrize("sigma", [0.05, 0.4, 1.0])
def test_samples_have_the_models_probabilities(sigma):
    weights, n = uneven(THREE), 40_000
    _, log_mass = exact(THREE, "gaussian", sigma, weights)
    x = oracle(THREE, "gaussian", sigma, weights).sample(n, generator=Generator().manual_seed(0))
    found = np.bincount(THREE.levels_of(x)[:, 0].numpy(), minlength=3) / n
    assert (np.abs(found - np.exp(log_mass)) < 4.5 * np.sqrt(0.25 / n)).all()


@pytest.mark.parametrize("known", ["01", "10", "11", "00"])
def test_the_evidence_of_known_levels_is_their_probability(known):
    """E of the particles' weights against a quadrature of p(v) P(x_known | v) over both coordinates."""
    event = EventSpec(shape=(2,), low=-1.0, high=1.0, levels=4)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        noise = {"type": "gaussian", "sigma": 0.5}
        model = build_density(DequantizedConfig.model_validate({"density": MADE, "noise": noise}), event)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.15 * torch.randn_like(parameter)
    x, mask = torch.tensor([event.low + event.bin_width, event.high]), torch.tensor([digit == "1" for digit in known])
    line = torch.linspace(-12.0, 12.0, 801)
    v = torch.cartesian_prod(line, line)
    decoded = model.kernel.log_prob_each(v, x.expand_as(v)) - log_lattice_sum(model.kernel, v, event)
    with torch.no_grad():
        log_joint = model.density.log_prob(v) + (decoded * mask).sum(1)
    truth = log_joint.exp().sum().item() * (line[1] - line[0]).item() ** 2
    groups, count = 6000, 8
    cloud = Particles(groups, count, x, generator=Generator().manual_seed(0))
    completed = model.complete(
        x.expand(groups * count, -1), mask, particles=cloud, generator=Generator().manual_seed(1)
    )
    assert (completed[:, mask] == x[mask]).all()
    event.check(completed)
    assert_unbiased(cloud, truth)
    cloud, rows = Particles(groups, count, x, generator=Generator().manual_seed(0)), x.expand(groups * count, -1)
    per_unit = torch.full_like(rows, 0.7)  # what the known values' own log density is measured against
    model.complete(rows, mask, particles=cloud, log_reference=per_unit, generator=Generator().manual_seed(1))
    assert_unbiased(cloud, truth * math.exp(-0.7 * mask.sum().item()))


def assert_unbiased(cloud: Particles, truth: float) -> None:
    ratio = torch.exp(cloud.log_evidence - math.log(truth))
    error = ratio.std().item() / math.sqrt(cloud.groups)
    assert error < 0.05
    assert abs(ratio.mean().item() - 1.0) < 4.5 * error + 1e-3


# --- the configuration -----------------------------------------------------------------------------------------------


def config_of(noise: object = "uniform", density: object = None) -> DequantizedConfig:
    return DequantizedConfig.model_validate({"density": density or MADE, "noise": noise})


def test_the_noise_is_the_word_uniform_or_a_kernel():
    assert DequantizedConfig.model_validate({"density": MADE}) == config_of()
    for noise in ("uniform", {"type": "gaussian", "sigma": 0.01}, {"type": "uniform", "sigma": [0.1, 0.2]}):
        config = config_of(noise)
        assert DequantizedConfig.model_validate(config.model_dump(mode="json")) == config
    schema = json_schema(ExperimentConfig)["$defs"]["density.dequantized"]["properties"]["noise"]
    assert schema["default"] == "uniform"
    assert schema["anyOf"] == [{"const": "uniform"}, {"$ref": "#/$defs/kernel"}]


@pytest.mark.parametrize(
    ("noise", "line"),
    [
        ("unifrom", 'baseline.noise: unknown type "unifrom"; did you mean "uniform"'),
        ({"type": "gaussian", "sigma": -1.0}, "baseline.noise.sigma: must be a number above 0"),
        ({"sigma": 0.1}, "baseline.noise: no type given"),
    ],
)
def test_wrong_noise_is_named_where_it_stands(noise, line):
    with pytest.raises(ConfigError) as error:
        load_config({**CONFIG, "baseline": {"type": "dequantized", "density": MADE, "noise": noise}})
    assert line in str(error.value)


CONFIG = {
    "name": "levels",
    "data": "digits",
    "kernel": {"type": "gaussian", "sigma": 0.3},
    "density": MADE,
    "inverter": {
        "type": "conditional",
        "density": {"type": "dequantized", "density": MADE, "noise": {"type": "gaussian", "sigma": "median"}},
    },
    "baseline": {"type": "dequantized", "density": {"type": "realnvp", "layers": 2, "hidden": [8]}},
}


def test_what_cannot_be_built_says_why():
    with pytest.raises(ConfigError, match=r'event is continuous.*use its density, "made", itself'):
        config_of().build(EventSpec(shape=(2,)))
    with pytest.raises(ConfigError, match="event is continuous"):
        config_of(density={"type": "dequantized", "density": MADE}).build(PAIR)
    with pytest.raises(ConfigError, match=r"learnable.*give a fixed sigma"):
        config_of({"type": "gaussian", "sigma": 0.1, "learnable": True}).build(PAIR)
    with pytest.raises(ConfigError, match="3 numbers for 2 coordinates"):
        config_of({"type": "gaussian", "sigma": [0.1, 0.1, 0.1]}).build(PAIR)
    with pytest.raises(ConfigError, match='"median" needs training data'):
        config_of({"type": "gaussian", "sigma": "median"}).build(PAIR)
    with pytest.raises(DataError, match="no levels"):
        log_lattice_sum(kernel_of("gaussian", 0.1, LINE), torch.zeros(1, 1), LINE)


def test_noise_that_is_not_independent_is_refused_when_built(monkeypatch):
    kernel = type(kernel_of("gaussian", 0.1))
    monkeypatch.setattr(kernel, "_log_prob_each", NoiseKernel._log_prob_each)
    with pytest.raises(ConfigError, match="needs noise that is independent"):
        config_of({"type": "gaussian", "sigma": 0.1}).build(PAIR)
    smoothed = {"kernel": {"type": "gaussian", "sigma": 0.3}, "density": MADE, "inverter": "gradient"}
    with pytest.raises(NoClosedFormError, match="independent"):
        SmoothedConfig.model_validate(smoothed).build(PAIR).stage_one_likelihood(torch.zeros(2, 2))


@pytest.mark.parametrize("noise", ["uniform", {"type": "laplace", "sigma": [0.1, 0.2]}])
@pytest.mark.parametrize("inner", ["made", "realnvp"])
def test_it_is_wrapped_once_and_comes_back_from_disk(noise, inner, tmp_path):
    config = config_of(noise, {"type": inner, "hidden": [8]})
    context = ContextSpec(PAIR.shape, (0.3, 0.3), features=1)
    model = build_density(config, PAIR, context).eval()
    assert model.density.measure == "density" and model.density.event == PAIR.smoothed()
    assert model.density.context == context
    assert model.rows_at_once == model.density.rows_at_once and model.continuous is model.density
    x, given = PAIR.quantize(torch.randn(6, 2)), torch.randn(6, 3)
    model.initialize(x, given)
    save_model(model, config, tmp_path)
    loaded = load_model(tmp_path).double()
    assert type(loaded) is type(model) and type(loaded.density) is type(model.density)
    first, second = (m.log_prob(x, given, generator=Generator().manual_seed(0)) for m in (model, loaded))
    assert torch.equal(first, second)


def test_a_median_is_found_wherever_the_noise_stands(tmp_path):
    model = smoothgen.build(CONFIG)
    inner = model.inverter.density
    assert isinstance(inner, KernelDequantization)
    assert 0.01 < inner.kernel.sigma.item() < 1.0
    model.save_pretrained(tmp_path)
    assert torch.equal(smoothgen.load(tmp_path).inverter.density.kernel.sigma, inner.kernel.sigma)


# --- the bound from stage one alone ----------------------------------------------------------------------------------


def smoothed_oracle(event: EventSpec, tag: str, sigma: float, weights: np.ndarray) -> SmoothedModel:
    kernel = kernel_of(tag, sigma, event)
    inverter = smoothgen.installed().components["inverter"]["gradient"]().build(event, kernel)
    return SmoothedModel(kernel, NoisyLevels(kernel, event, weights), inverter, event)


@pytest.mark.parametrize(("event", "sigma"), [(THREE, 0.4), (THREE, 1.0), (BYTES, 0.3)])
def test_the_bound_from_stage_one_is_the_quadrature(event, sigma):
    weights, draws = uneven(event), 3000
    bound, log_mass = exact(event, "gaussian", sigma, weights)
    some = slice(0, None, max(1, event.levels // 8))
    rows = all_levels(event)[some]
    model = smoothed_oracle(event, "gaussian", sigma, weights)
    one = model.stage_one_likelihood(rows.repeat(draws, 1), generator=Generator().manual_seed(0))
    assert (one.kind, one.measure, one.draws, one.n) == ("lower bound", "discrete", 1, draws * len(rows))
    assert torch.allclose(sum(one.terms.values()), one.per_example)
    each = one.per_example.reshape(draws, -1)
    error = each.std(0) / math.sqrt(draws)
    assert ((each.mean(0) - torch.from_numpy(bound[some])).abs() < 4.5 * error + 1e-4).all()
    many = model.stage_one_likelihood(rows, importance_samples=20_000, generator=Generator().manual_seed(0))
    assert torch.allclose(many.per_example, torch.from_numpy(log_mass[some]), atol=0.06)
    assert torch.allclose(sum(many.terms.values()), many.per_example)
    assert many.per_example.mean() > bound[some].mean()


def test_the_bound_from_stage_one_is_loose_and_no_better_than_the_entropy():
    """In the mean over the data, wider noise loses more; the entropy is never beaten."""
    weights = uneven(BYTES)
    entropy = -(weights * np.log(weights)).sum() / math.log(2.0)
    bits = []
    for sigma in (0.002, 0.01, 0.3):
        model = smoothed_oracle(BYTES, "gaussian", sigma, weights)
        x = all_levels(BYTES)[np.random.default_rng(0).choice(256, 20_000, p=weights)]
        found = model.stage_one_likelihood(x, generator=Generator().manual_seed(0))
        assert found.bits_per_dim > entropy - 4.0 * found.bits_per_dim_stderr
        bits.append(found.bits_per_dim)
    assert bits[0] < bits[1] < bits[2]


def test_stage_one_takes_contexts_and_refuses_continuous_data():
    config = SmoothedConfig.model_validate(
        {"kernel": {"type": "laplace", "sigma": [0.3, 0.5]}, "density": MADE, "inverter": "gradient"}
    )
    model = config.build(PAIR, ContextSpec(features=2))
    x, context = PAIR.quantize(torch.randn(7, 2)), torch.randn(7, 2)
    found = model.stage_one_likelihood(x, context, importance_samples=3, generator=Generator().manual_seed(0))
    assert found.n == 7 and found.effective_sample_size is not None
    other = model.stage_one_likelihood(x, -context, importance_samples=3, generator=Generator().manual_seed(0))
    assert not torch.allclose(found.per_example, other.per_example)
    with pytest.raises(ShapeError, match="needs a context"):
        model.stage_one_likelihood(x)
    with pytest.raises(ConfigError, match="at least 1"):
        model.stage_one_likelihood(x, context, importance_samples=0)
    with pytest.raises(MeasureError, match="the data are continuous"):
        config.build(EventSpec(shape=(2,))).stage_one_likelihood(x)


def test_the_papers_second_stage_is_a_bound_by_its_formula():
    """log P(x | x_tilde) = log p(v | x_tilde) - D log 127.5 with jitter of .01, but for levels near the ends."""
    event = EventSpec(shape=(2,), low=-1.0, high=1.0, levels=256)
    config = config_of({"type": "gaussian", "sigma": 0.01})
    model = build_density(config, event, ContextSpec(event.shape, (0.3, 0.3)))
    x = event.quantize(torch.rand(50, 2) - 0.5)
    context = x + 0.3 * torch.randn(50, 2)
    found = model.log_prob(x, context, generator=Generator().manual_seed(0))
    v = model.kernel.sample(x, generator=Generator().manual_seed(0))
    assert torch.allclose(found, model.density.log_prob(v, context) - 2.0 * math.log(127.5), atol=1e-8)
