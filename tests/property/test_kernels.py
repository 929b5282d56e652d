"""The laws of a noise kernel, over every registered one, and the posterior means against exact ones."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from exact import SIX_MODES, SMOOTHED, TWO_MODES, SmoothedMixture
from hypothesis import given
from hypothesis import strategies as st
from registered import KERNEL_TAGS, kernel_config
from torch import Generator, Tensor

from smoothgen.density_model import DensityModel
from smoothgen.errors import ConfigError, NoClosedFormError, ShapeError
from smoothgen.event import ContextSpec, EventSpec
from smoothgen.noise_kernel import NoiseKernel, median_sigma
from smoothgen.objectives import bound_terms
from smoothgen.testing.quadrature import chi_square
from smoothgen_inverters.conditional import ConditionalInverter

pytestmark = pytest.mark.usefixtures("float64")

LINE = EventSpec(shape=(1,))
CUBE = EventSpec(shape=(3,))
PICTURE = EventSpec(shape=(1, 2, 2))
SIGMAS = [(CUBE, 0.3), (CUBE, (0.1, 0.5, 2.0)), (PICTURE, 0.7), (PICTURE, (0.2, 0.4, 0.8, 1.6))]
EVERY_KERNEL = pytest.mark.parametrize("tag", KERNEL_TAGS)
ENTROPY = {
    "gaussian": lambda sigma: 0.5 * math.log(2.0 * math.pi * math.e * sigma**2),
    "laplace": lambda sigma: math.log(2.0 * math.e * sigma / math.sqrt(2.0)),
    "uniform": lambda sigma: math.log(2.0 * sigma * math.sqrt(3.0)),
}


def build(tag: str, sigma, event: EventSpec = LINE, device="cpu", **keys) -> NoiseKernel:
    return kernel_config(tag, sigma=sigma, **keys).build(event).to(device)


def noise_nodes(sigma: float) -> tuple[Tensor, Tensor]:
    """Gauss-Legendre nodes and weights of panels that meet at 0 and at the edges of the uniform kernel: (n, 1), (n,).

    So the integrals of smooth functions against a kernel with a kink at 0 or edges there are exact to rounding.
    """
    nodes, weights = np.polynomial.legendre.leggauss(60)
    edges = sigma * np.array([0.0, math.sqrt(3.0) / 2, math.sqrt(3.0), 4.0, 8.0, 14.0, 24.0, 40.0])
    x = np.concatenate([0.5 * (a + b) + 0.5 * (b - a) * nodes for a, b in itertools.pairwise(edges)])
    w = np.concatenate([0.5 * (b - a) * weights for a, b in itertools.pairwise(edges)])
    return torch.tensor(np.concatenate([-x[::-1], x]))[:, None], torch.tensor(np.concatenate([w[::-1], w]))


def moments(kernel: NoiseKernel, sigma: float, centre: float = 0.7) -> tuple[float, float, float, float]:
    """Mass, mean, standard deviation and entropy of the kernel around `centre`, by quadrature."""
    e, w = noise_nodes(sigma)
    log_q = kernel.log_prob(e + centre, torch.full_like(e, centre))
    q = w * log_q.exp()
    mean = (q @ e).item()
    return q.sum().item(), mean, math.sqrt((q @ e.square()).item() - mean**2), -(q * log_q).nansum().item()


@EVERY_KERNEL
@given(sigma=st.floats(0.01, 20.0))
def test_log_prob_has_mass_one_and_the_claimed_moments(tag, sigma):
    mass, mean, std, entropy = moments(build(tag, sigma), sigma)
    accuracy = 1e-9 if tag in ENTROPY else 1e-3  # the nodes know where our kernels have kinks, not a stranger's
    assert mass == pytest.approx(1.0, abs=accuracy)
    assert mean == pytest.approx(0.0, abs=accuracy * sigma)
    assert std == pytest.approx(sigma, rel=10.0 * accuracy)
    if tag in ENTROPY:
        assert entropy == pytest.approx(ENTROPY[tag](sigma), abs=1e-8)


@EVERY_KERNEL
@pytest.mark.parametrize(("event", "sigma"), SIGMAS)
def test_noise_has_the_claimed_std_in_every_coordinate(tag, event, sigma, device, generator):
    kernel = build(tag, sigma, event, device)
    claimed = torch.tensor(sigma).expand(event.dimensions).reshape(event.shape).to(device)
    assert torch.allclose(kernel.sigma.expand(event.shape), claimed, rtol=1e-12)
    assert not kernel.learnable
    x = torch.full((100_000, *event.shape), 0.5, device=device)
    noise = kernel.sample(x, generator=generator) - x
    assert z_score(noise, claimed) < 5.0
    assert z_score(noise * 1.03, claimed) > 5.0, "3 % off has to be caught"
    standardised = (noise / claimed).flatten(1)
    assert standardised.mean(0).abs().amax() < 5.0 / math.sqrt(len(x))
    off_diagonal = standardised.T @ standardised / len(x) - torch.eye(event.dimensions, device=device)
    off_diagonal.fill_diagonal_(0.0)
    assert off_diagonal.abs().amax() < 5.0 / math.sqrt(len(x)), "coordinates are independent"
    if event.dimensions > 1:
        magnitudes = standardised.abs() - standardised.abs().mean(0)
        correlation = (magnitudes.T @ magnitudes / len(x)).fill_diagonal_(0.0)
        assert correlation.abs().amax() < 5.0 / math.sqrt(len(x)), "and so are their magnitudes"


def z_score(noise: Tensor, claimed: Tensor) -> float:
    """How many standard errors the variance of the noise is from sigma^2, in the worst coordinate."""
    ratio = (noise / claimed).square()
    return ((ratio.mean(0) - 1.0) / (ratio.std(0) / math.sqrt(len(noise)))).abs().amax().item()


@EVERY_KERNEL
def test_sampling_matches_log_prob(tag, device, generator):
    """Counts in 40 bins of [-4, 4] sigma against the mass of each bin."""
    sigma = 0.3
    kernel = build(tag, sigma, device=device)
    edges = torch.linspace(-4.0 * sigma, 4.0 * sigma, 41, device=device)
    nodes, weights = (torch.from_numpy(v).to(device) for v in np.polynomial.legendre.leggauss(400))
    half = 0.5 * (edges[1] - edges[0])
    e = (0.5 * (edges[1:] + edges[:-1])[:, None] + half * nodes).reshape(-1, 1)
    mass = half * kernel.log_prob(e, torch.zeros_like(e)).exp().reshape(40, -1) @ weights
    mass = torch.cat([mass, (1.0 - mass.sum()).clamp(min=0.0)[None]])
    noise = kernel.sample(torch.zeros(50_000, 1, device=device), generator=generator)

    def off(noise: Tensor) -> float:
        inside = noise[noise.abs() < 4.0 * sigma]
        count = torch.bincount(torch.bucketize(inside, edges) - 1, minlength=40).to(mass)
        return chi_square(mass[None], torch.cat([count, count.new_tensor([noise.numel() - inside.numel()])]))

    assert off(noise) < 5.0
    assert off(1.05 * noise) > 10.0
    assert off(noise + 0.05 * sigma) > 10.0


@EVERY_KERNEL
@given(data=st.data())
def test_symmetric_and_stationary(tag, data):
    """q(x_tilde | x) depends on |x_tilde - x| alone. Noise off the edge of the uniform kernel, where it jumps."""
    number = st.floats(-50.0, 50.0)
    sigma = data.draw(st.floats(0.05, 5.0))
    kernel = build(tag, sigma, CUBE)
    rows = [data.draw(st.tuples(number, number, number)) for _ in range(2)]
    x, moved = torch.tensor(rows)[:, None]
    in_sigmas = st.floats(-1.7, 1.7) | st.floats(1.76, 6.0)
    e = sigma * torch.tensor([[data.draw(in_sigmas) for _ in range(3)]])
    here = kernel.log_prob(x + e, x)
    for other in (
        kernel.log_prob(x, x + e),
        kernel.log_prob(x - e, x),
        kernel.log_prob(x + moved + e, x + moved),
        kernel.log_prob(e, torch.zeros_like(e)),
        kernel.log_prob(x + e * torch.tensor([1.0, -1.0, 1.0]), x),
        kernel.log_prob((x + e).roll(1, 1), x.roll(1, 1)),
    ):
        assert torch.equal(here.isneginf(), other.isneginf())
        assert here.isneginf().all() or torch.allclose(here, other, rtol=1e-9, atol=1e-9)


@EVERY_KERNEL
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_own_samples_are_always_possible(tag, dtype, device, generator):
    """Rounding in x + noise must not push a sample over the edge of the support, whatever x is."""
    kernel = build(tag, 0.5, CUBE, device).to(dtype)
    x = 100.0 * torch.rand(100_000, 3, dtype=dtype, device=device, generator=generator)
    x_tilde = kernel.sample(x, generator=generator)
    assert x_tilde.dtype == dtype and x_tilde.device == x.device
    assert kernel.log_prob(x_tilde, x).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_noise_at_the_edge_of_the_uniform_kernel_is_possible(dtype):
    """The largest noise it can draw, added to any x and taken from it again."""
    kernel = build("uniform", 0.5, CUBE).to(dtype)
    x = 100.0 * torch.rand(10_000, 3, dtype=dtype, generator=Generator().manual_seed(0))
    edge = 0.5 * math.sqrt(3.0) * (1.0 - torch.finfo(dtype).eps)
    for sign in (-1.0, 1.0):
        assert kernel.log_prob(x + sign * edge, x).isfinite().all()
        assert kernel.log_prob(x + sign * 1.0001 * edge, x).isneginf().all()


@EVERY_KERNEL
def test_the_generator_alone_decides_the_noise(tag, device):
    kernel, x = build(tag, 0.5, CUBE, device), torch.zeros(8, 3, device=device)
    torch.manual_seed(0)
    first = kernel.sample(x, generator=Generator(device).manual_seed(1))
    torch.manual_seed(1)
    assert torch.equal(first, kernel.sample(x, generator=Generator(device).manual_seed(1)))
    assert not torch.equal(first, kernel.sample(x, generator=Generator(device).manual_seed(2)))
    assert len(first.unique()) == first.numel(), "every coordinate of every row has noise of its own"


@EVERY_KERNEL
def test_runs_on_the_meta_device_and_survives_a_state_dict(tag):
    kernel = build(tag, (0.2, 0.4, 0.8), CUBE)
    x = torch.randn(5, 3)
    other = build(tag, (1.0, 1.0, 1.0), CUBE)
    other.load_state_dict(kernel.state_dict())
    assert torch.equal(other.log_prob(x, 0.9 * x), kernel.log_prob(x, 0.9 * x))
    kernel.to("meta")
    x = x.to("meta")
    assert kernel.sample(x).device.type == "meta"
    assert kernel.log_prob(x, x).shape == (5,)


@EVERY_KERNEL
def test_wrong_shapes_and_sigmas_are_refused(tag):
    kernel = build(tag, 0.3, CUBE)
    with pytest.raises(ShapeError, match=r"x must have shape \(batch, 3\), got \(4, 2\)"):
        kernel.sample(torch.zeros(4, 2))
    with pytest.raises(ShapeError, match="x_tilde"):
        kernel.log_prob(torch.zeros(4, 2), torch.zeros(4, 3))
    with pytest.raises(ConfigError, match="2 numbers for 3 coordinates"):
        build(tag, (0.1, 0.2), CUBE)
    with pytest.raises(ConfigError, match="needs training data"):
        build(tag, "median", CUBE)
    for wrong in (0.0, -1.0, math.nan, math.inf, (0.1, -0.2, 0.3), "mean"):
        with pytest.raises(ValueError, match="must be a number above 0"):
            type(kernel_config(tag, sigma=1.0))(sigma=wrong)


# --- the median rule -------------------------------------------------------------------------------------------------


def brute_force_median_sigma(x: np.ndarray) -> tuple[float, float]:
    """The rule by double loop; both middle values where the number of pairs is even."""
    flat = x.reshape(len(x), -1)
    distances = sorted(math.dist(flat[i], flat[j]) for i in range(len(flat)) for j in range(i + 1, len(flat)))
    middle = [distances[(len(distances) - 1) // 2], distances[len(distances) // 2]]
    return tuple(value / (2.0 * math.sqrt(flat.shape[1])) for value in middle)


@given(n=st.integers(2, 30), shape=st.sampled_from([(1,), (2,), (5,), (1, 3, 2)]), seed=st.integers(0, 999))
def test_median_rule_against_brute_force(n, shape, seed):
    x = np.random.default_rng(seed).normal(size=(n, *shape)) * 3.0 + 1.0
    low, high = brute_force_median_sigma(x)
    assert low * (1 - 1e-12) <= median_sigma(torch.tensor(x)) <= high * (1 + 1e-12)


@EVERY_KERNEL
def test_median_rule_resolves_in_the_configuration(tag):
    """Two-Gaussian data: .1605 (science.md, section 5b), whatever order and number of examples."""
    generator = Generator().manual_seed(0)
    x = 0.1 * torch.randn(6000, 1, generator=generator) + 0.3 * torch.randn(6000, 1, generator=generator).sign()
    config = kernel_config(tag, sigma="median").resolve(x)
    assert config.sigma == pytest.approx(0.1605, rel=0.05)
    assert config.resolve(10.0 * x).sigma == config.sigma, "a number stays"
    assert kernel_config(tag, sigma="median").resolve(10.0 * x).sigma == pytest.approx(10.0 * config.sigma)
    assert config.build(EventSpec(shape=(1,))).sigma.item() == pytest.approx(config.sigma)


def test_median_rule_refuses_what_it_cannot_measure():
    with pytest.raises(ConfigError, match="at least two"):
        median_sigma(torch.zeros(1, 2))
    with pytest.raises(ConfigError, match="most training examples are equal"):
        median_sigma(torch.zeros(50, 2))


# --- a learnable scale -----------------------------------------------------------------------------------------------


@EVERY_KERNEL
@pytest.mark.parametrize("sigma", [0.5, (0.4, 0.9)])
def test_gradient_of_the_bound_in_log_sigma(tag, sigma, device):
    """Autograd through the reparametrised noise equals central differences with the same noise."""
    event = EventSpec(shape=(2,))
    kernel = build(tag, sigma, event, device, learnable=True)
    assert kernel.learnable
    context = ContextSpec(noisy_copy=(2,), noise_std=(0.5, 0.5))
    density, posterior = MovedLogistic(event).to(device), MovedLogistic(event, context).to(device)
    x = torch.randn(40, 2, generator=Generator().manual_seed(0)).to(device)

    def bound() -> Tensor:
        return bound_terms(
            kernel, density, ConditionalInverter(event, context, posterior), x, None, fresh(device)
        ).total.mean()

    (parameter,) = kernel.parameters()
    (gradient,) = torch.autograd.grad(bound(), parameter)
    assert gradient.isfinite().all() and (gradient != 0).all()
    step = 1e-5
    with torch.no_grad():
        for index in range(parameter.numel()):
            flat = parameter.view(-1)
            flat[index] += step
            above = bound()
            flat[index] -= 2 * step
            below = bound()
            flat[index] += step
            assert gradient.view(-1)[index].item() == pytest.approx(((above - below) / (2 * step)).item(), rel=1e-5)


def fresh(device: torch.device) -> Generator:
    return Generator(device).manual_seed(5)


class MovedLogistic(DensityModel):
    """Independent logistics, at the context if there is one: a smooth density with a simple derivative."""

    def _log_prob(self, x, context, generator):
        z = 1.3 * (x - (0.2 if context is None else 0.9 * context))
        return (-z - 2.0 * torch.nn.functional.softplus(-z) + math.log(1.3)).sum(1)

    def _sample(self, num_samples, context, generator):
        raise NotImplementedError


# --- posterior means -------------------------------------------------------------------------------------------------


def mixture_1d(modes, noise: str, sigma: float, context: ContextSpec | None = None) -> SmoothedMixture:
    means, stds = (torch.tensor(values)[:, None] for values in modes)
    return SmoothedMixture(means, stds, noise, (sigma,), context)


def exact_posterior_mean(modes, kernel: NoiseKernel, y: Tensor) -> Tensor:
    """E[x | y] by quadrature over the noise e, x = y - e: the kinks then lie at fixed e. y (n, 1) -> (n, 1)."""
    e, w = noise_nodes(kernel.sigma.item())
    x = y[:, None] - e
    means, stds = (torch.tensor(values) for values in modes)
    data = torch.exp(-0.5 * ((x - means) / stds).square()).div(stds).sum(-1)
    weights = data * w * kernel.log_prob(e, torch.zeros_like(e)).exp()
    return ((weights * x[..., 0]).sum(1) / weights.sum(1))[:, None]


def draw(modes, kernel: NoiseKernel, n: int) -> Tensor:
    """x_tilde of n examples of the mixture: (n, 1)."""
    generator = Generator().manual_seed(17)
    means, stds = (torch.tensor(values) for values in modes)
    which = torch.randint(len(means), (n,), generator=generator)
    x = means[which] + stds[which] * torch.randn(n, generator=generator)
    return kernel.sample(x[:, None], generator=generator)


POSTERIOR_MEANS = [
    ("gaussian", TWO_MODES, 0.3, 1e-7),
    ("gaussian", SIX_MODES, 0.7, 1e-7),
    ("laplace", TWO_MODES, 0.3, 5e-4),
    ("laplace", SIX_MODES, 0.7, 2e-3),
]


def rms(value: Tensor) -> float:
    return value.square().mean().sqrt().item()


@pytest.mark.parametrize(("tag", "modes", "sigma", "tolerance"), POSTERIOR_MEANS)
def test_posterior_mean_of_exact_densities_on_the_line(tag, modes, sigma, tolerance):
    """Source of the tolerances: science.md, sections 4 and 7b."""
    kernel = build(tag, sigma)
    y = draw(modes, kernel, 2000)
    truth = exact_posterior_mean(modes, kernel, y)
    mean = kernel.posterior_mean(y, mixture_1d(modes, tag, sigma))
    assert mean.shape == y.shape
    assert rms(mean - truth) < tolerance
    assert rms(y - truth) > 0.05, "and the step is far larger than the tolerance"
    wrong = {"gaussian": "laplace", "laplace": "gaussian"}[tag]
    misused = build(wrong, sigma).posterior_mean(y, mixture_1d(modes, tag, sigma))
    assert rms(misused - truth) > 0.03, "another kernel's formula is caught"


@pytest.mark.parametrize("tag", ["gaussian", "laplace"])
def test_posterior_mean_in_the_plane(tag):
    """Three components, a standard deviation of the noise per coordinate, a context that moves the mixture."""
    sigma = (0.3, 0.6)
    event, context = EventSpec(shape=(2,)), ContextSpec(features=2)
    means = torch.tensor([[-0.5, 0.2], [0.4, 0.9], [0.3, -0.8]])
    stds = torch.tensor([[0.3, 0.4], [0.35, 0.25], [0.5, 0.3]])
    kernel = build(tag, sigma, event)
    generator = Generator().manual_seed(3)
    moved = torch.randn(200, 2, generator=generator)
    which = torch.randint(3, (200,), generator=generator)
    x = means[which] + stds[which] * torch.randn(200, 2, generator=generator) + moved
    y = kernel.sample(x, generator=generator)
    mean = kernel.posterior_mean(y, SmoothedMixture(means, stds, tag, sigma, context), context=moved)
    truth = posterior_mean_of_mixture(means, stds, tag, sigma, y - moved) + moved
    assert rms(mean - truth) < {"gaussian": 1e-7, "laplace": 5e-4}[tag]
    rolled = kernel.posterior_mean(y, SmoothedMixture(means, stds, tag, sigma, context), context=moved.roll(1, 0))
    assert rms(rolled - truth) > 0.1, "contexts of other rows are caught"


def posterior_mean_of_mixture(means: Tensor, stds: Tensor, tag: str, sigma: tuple[float, ...], y: Tensor) -> Tensor:
    """Given its component, each coordinate is a one-dimensional problem: quadrature there, then the mixture."""
    log_weight = torch.zeros(len(y), len(means))
    component_means = torch.zeros(len(y), len(means), 2)
    for i in range(2):
        kernel = build(tag, sigma[i])
        for k in range(len(means)):
            modes = ([means[k, i].item()], [stds[k, i].item()])
            component_means[:, k, i] = exact_posterior_mean(modes, kernel, y[:, i, None])[:, 0]
            log_weight[:, k] += SMOOTHED[tag](y[:, i] - means[k, i], stds[k, i], sigma[i])
    return (log_weight.softmax(1)[..., None] * component_means).sum(1)


@pytest.mark.parametrize("tag", ["gaussian", "laplace", "uniform"])
def test_the_exact_smoothed_densities_of_these_tests_are_exact(tag):
    """p(y) = E_q[p_data(y - e)] by quadrature."""
    kernel = build(tag, 0.3)
    y = torch.linspace(-2.0, 2.0, 81)[:, None]
    e, w = noise_nodes(0.3)
    means, stds = (torch.tensor(values) for values in TWO_MODES)
    x = y[:, None] - e
    data = (torch.exp(-0.5 * ((x - means) / stds).square()) / (stds * math.sqrt(2.0 * math.pi))).mean(-1)
    by_quadrature = (data * w * kernel.log_prob(e, torch.zeros_like(e)).exp()).sum(1)
    assert torch.allclose(mixture_1d(TWO_MODES, tag, 0.3).log_prob(y).exp(), by_quadrature, rtol=1e-8, atol=1e-10)


def test_single_step_of_the_paper_leaves_mass_between_the_modes():
    """Appendix B.1 at sigma .3: the mass of |x| < .1 is .183 after the exact single step (.0221 in the data)."""
    kernel = build("gaussian", 0.3)
    y = draw(TWO_MODES, kernel, 40_000)
    single_step = kernel.posterior_mean(y, mixture_1d(TWO_MODES, "gaussian", 0.3))
    assert (single_step.abs() < 0.1).double().mean().item() == pytest.approx(0.183, abs=0.005)


# --- refusals --------------------------------------------------------------------------------------------------------


class Bound(MovedLogistic):
    """A random lower bound."""

    exact = False


class Probabilities(MovedLogistic):
    """A mass function."""

    measure = "discrete"


def refused(tag: str, density: DensityModel, because: str, score: str = "full") -> None:
    event = density.event
    kernel = build(tag, 0.3, event)
    for call in (
        lambda: kernel.check_posterior_mean(density, score),
        lambda: kernel.posterior_mean(torch.zeros(2, *event.shape), density, score=score),
    ):
        with pytest.raises(NoClosedFormError, match=because):
            call()


def test_posterior_means_that_do_not_exist_say_why():
    refused("uniform", MovedLogistic(LINE), "kernel uniform: .* 1 % error.*use inverter type: conditional")
    refused("laplace", MovedLogistic(EventSpec(shape=(11,))), "up to 10 coordinates, not 11.*gaussian kernel")
    refused("laplace", MovedLogistic(LINE), "no causal score; use score: full", score="causal")
    refused("gaussian", MovedLogistic(LINE), "not autoregressive.*use score: full", score="causal")
    for tag in ("gaussian", "laplace"):
        refused(tag, Bound(LINE), "random lower bound.*inverter type: conditional")
        refused(tag, Probabilities(LINE), "probabilities of levels")


def test_laplace_posterior_mean_is_offered_up_to_ten_coordinates():
    event = EventSpec(shape=(10,))
    mean = build("laplace", 0.3, event).posterior_mean(torch.zeros(2, 10), MovedLogistic(event))
    assert mean.shape == (2, 10) and mean.isfinite().all()
