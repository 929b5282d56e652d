"""Dequantisation by a kernel, and the bound of stage one alone, against quadrature on lattices small enough for it."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from registered import MADE, kernel_config
from torch import Generator, Tensor

import smoothgen
from smoothgen import lattice
from smoothgen.checkpoint import load_model, save_model
from smoothgen.density_model import DensityModel
from smoothgen.dequantization import UniformDequantization, build_density
from smoothgen.errors import ConfigError, MeasureError, NoClosedFormError, NoDensityError, ShapeError
from smoothgen.event import ContextSpec, EventSpec
from smoothgen.inverter import Inverter
from smoothgen.kernel_dequantization import DequantizedConfig, KernelDequantization
from smoothgen.lattice import draw_levels as decode
from smoothgen.lattice import log_lattice_sum
from smoothgen.noise_kernel import NoiseKernel
from smoothgen.smoothed_model import SmoothedConfig, SmoothedModel
from smoothgen.testing.material import contexts_of, lopsided
from smoothgen.testing.quadrature import chi_square

pytestmark = pytest.mark.usefixtures("float64")

FIVE = EventSpec(shape=(1,), low=-1.0, high=1.0, levels=5)
BYTES = EventSpec(shape=(1,), low=-1.0, high=1.0, levels=256)
SQUARE = EventSpec(shape=(2,), low=0.0, high=3.0, levels=4)
KINDS = ("gaussian", "laplace", "uniform")


def kernel_of(kind: str, sigma: float | tuple[float, ...], event: EventSpec, **keys: bool) -> NoiseKernel:
    return kernel_config(kind, sigma=sigma, **keys).build(event)


def density_of_noise(kind: str, e: Tensor, sigma: float) -> Tensor:
    """q(e), written down again: what the kernels themselves are checked against here."""
    if kind == "gaussian":
        return torch.exp(-0.5 * (e / sigma) ** 2) / (sigma * math.sqrt(2.0 * math.pi))
    if kind == "laplace":
        return torch.exp(-math.sqrt(2.0) * e.abs() / sigma) / (math.sqrt(2.0) * sigma)
    return (e.abs() <= math.sqrt(3.0) * sigma).to(e) / (2.0 * math.sqrt(3.0) * sigma)


def levels_of(event: EventSpec) -> Tensor:
    assert event.levels is not None and event.low is not None and event.high is not None
    return torch.linspace(event.low, event.high, event.levels)


@dataclass(frozen=True)
class Line:
    """Quadrature on a line: Gauss-Legendre on panels that meet at every kink and edge of every level's kernel."""

    v: Tensor
    weight: Tensor

    @staticmethod
    def over(event: EventSpec, sigma: float) -> Line:
        reach = torch.tensor([0.0, 1.0, math.sqrt(3.0), 3.0, 6.0, 12.0, 30.0]) * sigma
        marks = levels_of(event)[:, None] + torch.cat([-reach, reach])
        marks = torch.cat([marks.flatten(), levels_of(event)[:-1] + 0.5 * event.bin_width]).unique()
        nodes, weights = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(12))
        half = 0.5 * marks.diff()[:, None]
        middle = 0.5 * (marks[1:] + marks[:-1])[:, None]
        return Line((middle + half * nodes).flatten(), (half * weights).flatten())


class NoisyLevels(DensityModel):
    """The exact density of levels plus noise: sum_k P(k) q(v | k), for probabilities (levels,) * D."""

    def __init__(self, kind: str, sigma: float, probabilities: Tensor, event: EventSpec) -> None:
        super().__init__(event.smoothed())
        self.kind, self.width, self.lattice = kind, sigma, event
        self.register_buffer("probabilities", probabilities)

    def _log_prob(self, x: Tensor, context: Tensor | None, generator: Generator | None) -> Tensor:
        total = self.probabilities.expand(len(x), *self.probabilities.shape)
        for value in x.flatten(1).T:
            q = density_of_noise(self.kind, value[:, None] - levels_of(self.lattice), self.width)
            total = torch.einsum("bk,bk...->b...", q, total)
        return total.log()

    def _sample(self, num_samples: int, context: Tensor | None, generator: Generator | None) -> Tensor:
        flat = torch.multinomial(self.probabilities.flatten(), num_samples, replacement=True, generator=generator)
        index = torch.stack(torch.unravel_index(flat, self.probabilities.shape), 1)
        noise = kernel_of(self.kind, self.width, self.event)
        return noise.sample(levels_of(self.lattice)[index], generator=generator)


def lopsided_probabilities(event: EventSpec, seed: int = 0) -> Tensor:
    raw = torch.randn([event.levels] * event.dimensions, generator=Generator().manual_seed(seed))  # type: ignore[list-item]
    return torch.softmax(1.5 * raw.flatten(), 0).reshape(raw.shape)


def by_quadrature(kind: str, sigma: float, density: DensityModel, event: EventSpec) -> tuple[Tensor, Tensor]:
    """(E_q[log p(v) - log sum_k q(v | k)], the model's own P(x)) of each level of a line: (levels,) each."""
    line = Line.over(event, sigma)
    q = density_of_noise(kind, line.v[:, None] - levels_of(event), sigma)
    log_p = density.log_prob(line.v[:, None])
    integrand = torch.where(q > 0, q * (log_p - q.sum(1).log())[:, None], 0.0)
    share = torch.where(q > 0, q / q.sum(1, keepdim=True), 0.0)
    return line.weight @ integrand, (line.weight * log_p.exp()) @ share


def entropy_bits(probabilities: Tensor) -> float:
    return -(probabilities * probabilities.log2()).sum().item()


# --- the bound against quadrature ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sigma", [0.05, 0.2, 0.5])
def test_the_bound_is_below_log_p_and_drawn_as_quadrature_says(kind, sigma):
    probabilities = lopsided_probabilities(FIVE)
    density = NoisyLevels(kind, sigma, probabilities, FIVE)
    bound, own = by_quadrature(kind, sigma, density, FIVE)
    assert own.sum().item() == pytest.approx(1.0, abs=1e-9), "the decoder makes the density a distribution of levels"
    assert (bound <= own.log() + 1e-12).all()
    assert (probabilities * bound).sum() <= (probabilities * probabilities.log()).sum() + 1e-12
    model = KernelDequantization(density, kernel_of(kind, sigma, FIVE), FIVE)
    draws = 20_000
    x = levels_of(FIVE).repeat(draws)[:, None]
    drawn = model.log_prob(x, generator=Generator().manual_seed(1)).reshape(draws, 5)
    assert close(drawn, bound)
    assert close(drawn.exp(), own), "and the weights average to the model's own probability"
    if sigma > 0.2 and kind != "uniform":
        assert (own.log() - bound).max() > 0.005, "wide noise costs something here"


def close(draws: Tensor, expected: Tensor) -> bool:
    """Whether the mean over the first axis is the expected value, within 5 standard errors and what rare draws add."""
    error = draws.std(0) / math.sqrt(len(draws))
    return bool(((draws.mean(0) - expected).abs() <= 5.0 * error + 1e-5).all())


@pytest.mark.parametrize("kind", KINDS)
def test_the_bound_in_two_coordinates_by_quadrature(kind):
    """Dependent coordinates: the lattice sum factorises, the density does not."""
    sigma, probabilities = 0.4, lopsided_probabilities(SQUARE)
    density = NoisyLevels(kind, sigma, probabilities, SQUARE)
    line = Line.over(SQUARE, sigma)
    q = density_of_noise(kind, line.v[:, None] - levels_of(SQUARE), sigma)
    some = (q > 0).any(1)
    v, weight, q = line.v[some], line.weight[some], q[some]
    log_p = density.log_prob(torch.cartesian_prod(v, v)).reshape(len(v), len(v))
    log_sum = q.sum(1).log()
    term = torch.where(log_p.isneginf(), 0.0, log_p - log_sum[:, None] - log_sum)
    weighted = weight[:, None] * q
    bound = torch.einsum("ik,ij,jl->kl", weighted, term, weighted)
    average = (probabilities * bound).sum()
    assert average <= (probabilities * probabilities.log()).sum() + 1e-12
    model = KernelDequantization(density, kernel_of(kind, sigma, SQUARE), SQUARE)
    draws = 4000
    x = torch.cartesian_prod(levels_of(SQUARE), levels_of(SQUARE)).repeat(draws, 1)
    drawn = model.log_prob(x, generator=Generator().manual_seed(2)).reshape(draws, 16)
    assert close(drawn, bound.flatten())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sigma", [0.01, 0.3, 2.0])
@pytest.mark.parametrize("event", [FIVE, SQUARE, BYTES], ids=["5", "4x4", "256"])
def test_equally_likely_levels_make_the_bound_exact_in_every_draw(kind, sigma, event):
    """p(v) is then the lattice sum itself, over levels ** D."""
    probabilities = torch.full([event.levels] * event.dimensions, float(event.levels) ** -event.dimensions)
    density = NoisyLevels(kind, sigma, probabilities, event)
    model = KernelDequantization(density, kernel_of(kind, sigma, event), event)
    x = event.quantize(lopsided(event, 300))
    bound = model.log_prob(x, generator=Generator().manual_seed(0))
    assert torch.allclose(bound, torch.tensor(-event.dimensions * math.log(event.levels)), rtol=0.0, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_narrow_noise_makes_the_bound_exact(kind):
    """sigma -> 0 with the exact p(v): the gap to log P(x) vanishes, for every level."""
    probabilities = lopsided_probabilities(FIVE)
    gaps = []
    for sigma in (0.4, 0.1, 0.02):
        bound, _ = by_quadrature(kind, sigma, NoisyLevels(kind, sigma, probabilities, FIVE), FIVE)
        gaps.append((probabilities * (probabilities.log() - bound)).sum().item())
    assert gaps[0] > gaps[1] - 1e-12 and gaps[1] > gaps[2] - 1e-12
    assert gaps[0] > 0.01 and gaps[2] < 1e-7


class Steps(DensityModel):
    """Constant on the bin of every level: P(k) / width."""

    def __init__(self, probabilities: Tensor, event: EventSpec) -> None:
        super().__init__(event.smoothed())
        self.lattice = event
        self.register_buffer("probabilities", probabilities)

    def _log_prob(self, x: Tensor, context: Tensor | None, generator: Generator | None) -> Tensor:
        return (self.probabilities[self.lattice.levels_of(x)[:, 0]] / self.lattice.bin_width).log()

    def _sample(self, num_samples: int, context: Tensor | None, generator: Generator | None) -> Tensor:
        level = torch.multinomial(self.probabilities, num_samples, replacement=True, generator=generator)
        u = torch.rand(num_samples, generator=generator) - 0.5
        return (levels_of(self.lattice)[level] + u * self.lattice.bin_width)[:, None]


def test_uniform_noise_over_the_bins_is_exact_for_a_density_constant_on_them():
    """The kernel of that width and the word "uniform" are the same bound."""
    probabilities = lopsided_probabilities(FIVE)
    density = Steps(probabilities, FIVE)
    kernel = kernel_of("uniform", FIVE.bin_width / math.sqrt(12.0), FIVE)
    x = levels_of(FIVE).repeat(200)[:, None]
    truth = probabilities.log().repeat(200)
    for model in (KernelDequantization(density, kernel, FIVE), UniformDequantization(density, FIVE)):
        assert torch.allclose(model.log_prob(x, generator=Generator().manual_seed(0)), truth, atol=1e-12)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_uniform_noise_narrower_than_a_bin_loses_the_gaps_and_no_more(share):
    """Its boxes cover `share` of every bin: the bound is P(k) times that, and still a bound. Samples fall anywhere."""
    probabilities = lopsided_probabilities(FIVE)
    kernel = kernel_of("uniform", share * FIVE.bin_width / math.sqrt(12.0), FIVE)
    model = KernelDequantization(Steps(probabilities, FIVE), kernel, FIVE)
    x = levels_of(FIVE).repeat(100)[:, None]
    bound = model.log_prob(x, generator=Generator().manual_seed(0))
    assert torch.allclose(bound, (share * probabilities).log().repeat(100), atol=1e-12)
    samples = FIVE.check(model.sample(50_000, generator=Generator().manual_seed(0)))
    count = torch.bincount(FIVE.levels_of(samples)[:, 0], minlength=5).to(samples)
    assert chi_square(probabilities[None], count) < 5.0, "from a gap, the nearest level"


def test_the_releases_noise_on_bytes_is_worth_the_width_of_a_level():
    """sigma = 0.01 on 256 levels of [-1, 1]: log2 of the sum is 6.9944 bits, but not at the ends."""
    kernel = kernel_of("gaussian", 0.01, BYTES)
    x = levels_of(BYTES)[:, None]
    v = kernel.sample(x.repeat(100, 1), generator=Generator().manual_seed(0))
    bits = log_lattice_sum(kernel, v, BYTES).reshape(100, 256) / math.log(2.0)
    assert bits[:, 20:-20].mean().item() == pytest.approx(math.log2(127.5), abs=1e-10)
    assert math.log2(127.5) == pytest.approx(6.9944, abs=5e-5)
    assert bits.mean().item() < math.log2(127.5) - 1e-3, "the constant would claim too little there"
    wide = kernel_of("gaussian", 0.3, BYTES)
    line = Line.over(BYTES, 0.3)
    q = density_of_noise("gaussian", line.v[:, None] - levels_of(BYTES), 0.3)
    exact = (line.weight @ (q * q.sum(1).log()[:, None])).mean().item()
    v = wide.sample(x.repeat(200, 1), generator=Generator().manual_seed(0))
    assert log_lattice_sum(wide, v, BYTES).mean().item() == pytest.approx(exact, abs=5e-3)
    assert exact / math.log(2.0) < math.log2(127.5) - 0.1, "wide noise loses much of it"


@pytest.mark.parametrize("sigma", [0.01, 0.05])
def test_bits_of_bytes_with_the_exact_density(sigma):
    """A smooth distribution of 256 levels: the bound is within a hundredth of a bit of the entropy, from above."""
    z = levels_of(BYTES)
    probabilities = torch.softmax(-(((z + 0.3) / 0.25) ** 2) + 2.0 * torch.cos(9.0 * z), 0)
    density = NoisyLevels("gaussian", sigma, probabilities, BYTES)
    bound, own = by_quadrature("gaussian", sigma, density, BYTES)
    bits = -(probabilities * bound).sum().item() / math.log(2.0)
    assert own.sum().item() == pytest.approx(1.0, abs=1e-9)
    assert entropy_bits(probabilities) - 1e-9 < bits < entropy_bits(probabilities) + (0.01 if sigma < 0.02 else 0.3)


# --- the lattice sum and the decoder ---------------------------------------------------------------------------------


EVENTS = st.builds(
    lambda low, span, levels, dimensions: EventSpec(shape=(dimensions,), low=low, high=low + span, levels=levels),
    st.floats(-100.0, 100.0),
    st.floats(0.1, 300.0),
    st.integers(2, 40),
    st.integers(1, 3),
)


@given(event=EVENTS, kind=st.sampled_from(KINDS), widths=st.floats(0.05, 20.0), data=st.data())
def test_the_sum_and_the_decoder_on_any_lattice(event, kind, widths, data):
    """Against a sum written down again, with a sigma per coordinate; the decoder's draws are on levels it can reach."""
    factors = [data.draw(st.floats(0.5, 2.0)) for _ in range(event.dimensions)]
    sigma = tuple(widths * event.bin_width * factor for factor in factors)
    kernel = kernel_of(kind, sigma, event)
    x = event.low + event.bin_width * torch.randint(
        event.levels, (7, event.dimensions), generator=Generator().manual_seed(data.draw(st.integers(0, 99)))
    )
    v = kernel.sample(x, generator=Generator().manual_seed(1))
    log_sum = log_lattice_sum(kernel, v, event)
    assert log_sum.isfinite().all(), "a drawn v is reached by its own level at least"
    for d, width in enumerate(sigma):
        q = density_of_noise(kind, v[:, d, None] - levels_of(event), width)
        edge = ((v[:, d, None] - levels_of(event)).abs() - math.sqrt(3.0) * width).abs() < 1e-9 * (1.0 + abs(event.low))
        clear = ~edge.any(1) if kind == "uniform" else torch.ones(7, dtype=torch.bool)
        assert torch.allclose(log_sum[clear, d], q.sum(1).log()[clear], rtol=1e-7, atol=1e-7)
    drawn = event.check(decode(kernel, v, event, Generator().manual_seed(2)))
    assert kernel.log_prob_each(v, drawn).isfinite().all()


@given(event=EVENTS, kind=st.sampled_from(KINDS), widths=st.floats(0.05, 5.0))
def test_equally_likely_levels_make_the_bound_exact_on_any_lattice(event, kind, widths):
    sigma = widths * event.bin_width
    probabilities = torch.full([event.levels] * event.dimensions, float(event.levels) ** -event.dimensions)
    density = NoisyLevels(kind, sigma, probabilities, event)
    x = event.quantize(torch.full((4, event.dimensions), event.low))
    terms = KernelDequantization(density, kernel_of(kind, sigma, event), event).terms(
        x, None, Generator().manual_seed(0)
    )
    assert torch.allclose(sum(terms), torch.tensor(-event.dimensions * math.log(event.levels)), rtol=0.0, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", [0.05, 0.4])
def test_the_decoder_draws_in_proportion(kind, width):
    kernel = kernel_of(kind, (width, 2.0 * width), SQUARE)
    v = torch.tensor([1.4, 2.6])
    if kind == "uniform" and width < 0.1:
        v = torch.tensor([1.02, 2.1])
    n = 40_000
    drawn = SQUARE.levels_of(decode(kernel, v.expand(n, 2), SQUARE, Generator().manual_seed(0)))
    for d in range(2):
        q = density_of_noise(kind, v[d] - levels_of(SQUARE), width * (1 + d))
        count = torch.bincount(drawn[:, d], minlength=4).to(v)
        if (n * q / q.sum() > 5.0).sum() > 1:
            assert chi_square((q / q.sum())[None], count) < 5.0
        else:
            assert count.argmax() == q.argmax() and count.max() > 0.99 * n


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_the_decoder_takes_the_nearest_level_where_nothing_reaches(kind, dtype):
    kernel = kernel_of(kind, 0.01, SQUARE).to(dtype)
    far = torch.tensor([[100.0, -100.0], [1.4, 2.6]], dtype=dtype)
    assert decode(kernel, far, SQUARE).tolist() == [[3.0, 0.0], [1.0, 3.0]]


@pytest.mark.parametrize("elements", [1, 9, 64])
def test_the_size_of_the_passes_changes_nothing(monkeypatch, elements):
    kernel = kernel_of("gaussian", 0.4, SQUARE)
    v = 2.0 * torch.randn(13, 2, generator=Generator().manual_seed(0))

    def answers() -> list[Tensor]:
        return [log_lattice_sum(kernel, v, SQUARE), decode(kernel, v, SQUARE, Generator().manual_seed(1))]

    whole = answers()
    monkeypatch.setattr(lattice, "NUMBERS_AT_ONCE", elements)
    for one, other in zip(whole, answers(), strict=True):
        assert torch.allclose(one, other, rtol=0.0, atol=1e-12)


@pytest.mark.parametrize("kind", ["gaussian", "laplace"])
@pytest.mark.parametrize("sigma", [0.01, 0.5, (0.01, 0.5, 0.1)])
def test_float32_is_accurate_on_bytes(kind, sigma):
    event = EventSpec(shape=(3,), low=-1.0, high=1.0, levels=256)
    kernel = kernel_of(kind, sigma, event)
    v = kernel.sample(event.quantize(0.6 * torch.randn(2000, 3, generator=Generator().manual_seed(0)))).float()
    wide = log_lattice_sum(kernel, v.double(), event)
    narrow = log_lattice_sum(kernel.float(), v, event)
    assert narrow.dtype == torch.float32
    assert (narrow.double() - wide).abs().max() < 2e-5
    far = torch.tensor([[-30.0, 0.0, 30.0]])
    assert log_lattice_sum(kernel, far, event).isfinite().all(), "no underflow far away"


class Coupled(NoiseKernel):
    """One number added to every coordinate: not independent between them."""

    @property
    def sigma(self) -> Tensor:
        return torch.ones(1)

    def _sample(self, x: Tensor, generator: Generator | None) -> Tensor:
        return x + torch.randn(len(x), 1, generator=generator)

    def _log_prob(self, x_tilde: Tensor, x: Tensor) -> Tensor:
        return torch.zeros(len(x))


def test_a_kernel_that_is_no_product_says_so():
    with pytest.raises(NoClosedFormError, match="no density for each coordinate"):
        log_lattice_sum(Coupled(SQUARE), torch.zeros(2, 2), SQUARE)


@pytest.mark.parametrize("kind", KINDS)
def test_each_coordinates_density_adds_up_to_log_prob(kind):
    kernel = kernel_of(kind, (0.3, 0.7), SQUARE)
    x = torch.randn(50, 2, generator=Generator().manual_seed(0))
    x_tilde = kernel.sample(x, generator=Generator().manual_seed(1))
    each = kernel.log_prob_each(x_tilde, x)
    assert torch.equal(each.sum(1), kernel.log_prob(x_tilde, x))
    for d, sigma in enumerate((0.3, 0.7)):
        assert torch.allclose(each[:, d].exp(), density_of_noise(kind, x_tilde[:, d] - x[:, d], sigma))
    with pytest.raises(ShapeError, match="x_tilde must have shape"):
        kernel.log_prob_each(x_tilde[:, :1], x)


@pytest.mark.parametrize("noise", ["uniform", {"type": "gaussian", "sigma": 0.01}])
def test_gradients_reach_data_context_and_weights(noise):
    spec = ContextSpec(BYTES.shape, (0.3,), features=1)
    model = build_density(DequantizedConfig(density=MADE, noise=noise), BYTES, spec)
    x = lopsided(BYTES, 64)
    given = contexts_of(spec, x, Generator().manual_seed(0)).requires_grad_(True)
    model.initialize(x, given.detach())
    variable = x.clone().requires_grad_(True)
    model.log_prob(variable, given).sum().backward()
    for value in (variable, given, *model.parameters()):
        assert value.grad.isfinite().all() and (value.grad != 0).any()


# --- configuration ---------------------------------------------------------------------------------------------------


def test_continuous_data_and_nesting_are_refused():
    config = DequantizedConfig(density=MADE)
    with pytest.raises(ConfigError, match=r'the event is continuous.*"made", itself'):
        config.build(SQUARE.smoothed())
    with pytest.raises(ConfigError, match="the event is continuous"):
        DequantizedConfig(density=config).build(SQUARE)
    with pytest.raises(ConfigError, match='head "discretized" needs discrete data'):
        DequantizedConfig(density=MADE | {"head": "discretized"}).build(SQUARE)


def test_the_noise_is_a_word_or_a_kernel():
    for noise in ("uniform", {"type": "laplace", "sigma": 0.3, "learnable": False}):
        config = DequantizedConfig(density=MADE, noise=noise)
        assert config.model_dump(mode="json")["noise"] == noise
        assert DequantizedConfig.model_validate_json(config.model_dump_json()) == config
        assert DequantizedConfig.model_validate(config.model_dump()) == config
    for noise, message in (
        ("gausian", r'noise\n.*did you mean "gaussian"'),
        ({"type": "gaussian", "sigma": 0.0}, r"noise\.sigma\n.*must be a number above 0"),
        (None, r"noise\n.*expected a kernel"),
    ):
        with pytest.raises(ValueError, match=message):
            DequantizedConfig(density=MADE, noise=noise)


def test_the_median_is_found_inside():
    noise = {"type": "gaussian", "sigma": "median"}
    config = DequantizedConfig(density=MADE, noise=noise)
    with pytest.raises(ConfigError, match="median"):
        config.build(SQUARE)
    resolved = config.resolve(lopsided(SQUARE, 100))
    assert resolved.noise.sigma > 0 and resolved.density == config.density
    assert DequantizedConfig(density=MADE).resolve(lopsided(SQUARE, 100)) == DequantizedConfig(density=MADE)


def test_the_automatic_dequantisation_stays_and_is_not_doubled():
    flow = smoothgen.installed().components["density"]["realnvp"](layers=2, hidden=(8,))
    automatic = build_density(flow, SQUARE)
    assert isinstance(automatic, UniformDequantization) and automatic.density.measure == "density"
    chosen = build_density(DequantizedConfig(density=flow), SQUARE)
    assert isinstance(chosen, UniformDequantization) and chosen.density.measure == "density"
    assert chosen.state_dict().keys() == automatic.state_dict().keys()
    by_kernel = DequantizedConfig(density=flow, noise={"type": "gaussian", "sigma": 0.1})
    assert isinstance(build_density(by_kernel, SQUARE), KernelDequantization)


@pytest.mark.parametrize("noise", ["uniform", {"type": "gaussian", "sigma": 0.3}])
@pytest.mark.parametrize("place", ["baseline", "inverter", "automatic"])
def test_a_saved_model_comes_back(tmp_path, noise, place):
    dequantized = DequantizedConfig(density=MADE, noise=noise)
    if place == "inverter":
        config = SmoothedConfig(
            kernel={"type": "gaussian", "sigma": 0.5},
            density=MADE,
            inverter={"type": "conditional", "density": dequantized},
        )
    elif place == "baseline":
        config = dequantized
    else:
        config = smoothgen.installed().components["density"]["realnvp"](layers=2, hidden=(8,))
    model = build_density(config, SQUARE)
    x = lopsided(SQUARE, 20)
    model.initialize(x)
    save_model(model.eval(), config, tmp_path)
    again = load_model(tmp_path)
    assert type(again) is type(model)
    first, second = (m.log_prob(x, generator=Generator().manual_seed(0)) for m in (model, again))
    assert torch.equal(first, second)
    first, second = (m.sample(9, generator=Generator().manual_seed(0)) for m in (model, again))
    assert torch.equal(first, second)


# --- stage one alone -------------------------------------------------------------------------------------------------


def gradient_inverter(event: EventSpec, kernel: NoiseKernel) -> Inverter:
    return smoothgen.installed().components["inverter"]["gradient"]().build(event, kernel)


def stage_one_model(sigma: float, probabilities: Tensor, event: EventSpec) -> SmoothedModel:
    kernel = kernel_of("gaussian", sigma, event)
    density = NoisyLevels("gaussian", sigma, probabilities, event)
    return SmoothedModel(kernel, density, gradient_inverter(event, kernel), event)


def test_stage_one_alone_is_the_bound_of_quadrature():
    probabilities = lopsided_probabilities(FIVE)
    sigma, n = 0.3, 4000
    model = stage_one_model(sigma, probabilities, FIVE)
    bound, own = by_quadrature("gaussian", sigma, model.density, FIVE)
    x = levels_of(FIVE).repeat(n)[:, None]
    result = model.stage_one_likelihood(x, generator=Generator().manual_seed(0))
    assert (result.kind, result.measure, result.draws, result.dimensions) == ("lower bound", "discrete", 1, 1)
    assert set(result.terms) == {"log p(x̃)", "−log Σ q(x̃|level)"}
    assert torch.allclose(sum(result.terms.values()), result.per_example, atol=1e-12)
    assert close(result.per_example.reshape(n, 5), bound)
    many = model.stage_one_likelihood(x[:500], importance_samples=300, generator=Generator().manual_seed(1))
    assert torch.allclose(sum(many.terms.values()), many.per_example, atol=1e-12)
    gap = own.log().repeat(100) - many.per_example
    assert gap.abs().max() < 0.2 and abs(gap.mean().item()) < 0.02, "many draws leave the decoder's own probability"
    assert (own.log() - bound).max() > 0.05, "which one draw falls short of"
    with pytest.raises(NoDensityError):
        model.likelihood(x)


def test_stage_one_alone_is_valid_and_loose():
    """It exceeds the entropy of the levels by what the decoder cannot know, at every sigma."""
    z = levels_of(BYTES)
    probabilities = torch.softmax(-(((z + 0.3) / 0.25) ** 2), 0)
    bits = []
    for sigma in (0.3, 0.1, 0.01):
        density = NoisyLevels("gaussian", sigma, probabilities, BYTES)
        bound, _ = by_quadrature("gaussian", sigma, density, BYTES)
        bits.append(-(probabilities * bound).sum().item() / math.log(2.0))
    assert bits[0] > bits[1] > bits[2] > entropy_bits(probabilities) - 1e-9
    assert bits[0] > entropy_bits(probabilities) + 0.3


@pytest.mark.parametrize("rows_at_once", [1, 7, 4096])
@pytest.mark.parametrize("draws", [1, 5])
def test_stage_one_does_not_depend_on_the_size_of_the_passes(draws, rows_at_once):
    probabilities = torch.full((4, 4), 1.0 / 16.0)
    model = stage_one_model(0.7, probabilities, SQUARE)
    x = lopsided(SQUARE, 13)
    result = model.stage_one_likelihood(x, importance_samples=draws)
    assert torch.allclose(result.per_example, torch.tensor(-math.log(16.0)), atol=1e-9)
    assert result.bits_per_dim == pytest.approx(2.0, abs=1e-9) and result.n == 13


def test_stage_one_refuses_what_it_cannot_say():
    event = SQUARE.smoothed()
    kernel = kernel_of("gaussian", 0.5, event)
    density = NoisyLevels("gaussian", 0.5, torch.full((4, 4), 1.0 / 16.0), SQUARE)
    model = SmoothedModel(kernel, density, gradient_inverter(event, kernel), event)
    with pytest.raises(MeasureError, match="the data are continuous"):
        model.stage_one_likelihood(torch.zeros(3, 2))
    discrete = stage_one_model(0.5, torch.full((4, 4), 1.0 / 16.0), SQUARE)
    with pytest.raises(ConfigError, match="at least 1, got 0"):
        discrete.stage_one_likelihood(torch.zeros(3, 2), importance_samples=0)
    with pytest.raises(ShapeError, match="must have shape"):
        discrete.stage_one_likelihood(torch.zeros(3, 3))
    coupled = copy.copy(discrete)
    coupled.kernel = Coupled(SQUARE)
    with pytest.raises(NoClosedFormError, match="no density for each coordinate"):
        coupled.stage_one_likelihood(torch.zeros(3, 2))


@pytest.mark.parametrize("noise", ["uniform", {"type": "gaussian", "sigma": 0.2}])
def test_samples_follow_the_model_the_bound_is_about(noise):
    """Draws against the model's own P(x) by quadrature, in one dimension; a shift by one level is caught."""
    probabilities = lopsided_probabilities(FIVE)
    density = NoisyLevels("gaussian", 0.15, probabilities, FIVE)
    line = Line.over(FIVE, 0.15)
    p = line.weight * density.log_prob(line.v[:, None]).exp()
    if noise == "uniform":
        model: DensityModel = UniformDequantization(density, FIVE)
        share = torch.nn.functional.one_hot(FIVE.levels_of(line.v), 5).to(p)
    else:
        model = KernelDequantization(density, kernel_of("gaussian", 0.2, FIVE), FIVE)
        q = density_of_noise("gaussian", line.v[:, None] - levels_of(FIVE), 0.2)
        share = q / q.sum(1, keepdim=True)
    own = p @ share
    samples = model.sample(40_000, generator=Generator().manual_seed(0))
    count = torch.bincount(FIVE.levels_of(samples)[:, 0], minlength=5).to(p)
    assert chi_square(own[None], count) < 5.0
    assert chi_square(own[None], count.roll(1)) > 10.0
