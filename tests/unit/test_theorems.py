"""Theorem 1 and Proposition 1 (arXiv 2103.15089), with this package's kernels as the noise."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from exact import SIX_MODES, TEN_MODES, TWO_MODES
from torch import Tensor

import smoothgen
from smoothgen.event import EventSpec
from smoothgen.noise_kernel import NoiseKernel

pytestmark = pytest.mark.usefixtures("float64")

LINE = EventSpec(shape=(1,))
TAGS = ("gaussian", "laplace", "uniform")
MODES = {"two": TWO_MODES, "six": SIX_MODES, "ten": TEN_MODES}


def kernel(tag: str, sigma: float) -> NoiseKernel:
    return smoothgen.installed().components["kernel"][tag](sigma=sigma).build(LINE)


def noise_density(tag: str, sigma: float, e: Tensor) -> Tensor:
    """q(e | 0), from the package's own log_prob. e (n,) -> (n,)."""
    return kernel(tag, sigma).log_prob(e[:, None], torch.zeros(len(e), 1)).exp()


# --- Theorem 1: smoothing lowers the Lipschitz constant of the density -----------------------------------------------


def slope(x: Tensor, means, stds, sigma: float = 0.0) -> Tensor:
    """p'(x) of an even mixture of Gaussians after Gaussian noise of standard deviation sigma."""
    total = torch.zeros_like(x)
    for mean, std in zip(means, stds, strict=True):
        variance = std**2 + sigma**2
        total -= (
            (x - mean) / variance * torch.exp(-0.5 * (x - mean) ** 2 / variance) / math.sqrt(2 * math.pi * variance)
        )
    return total / len(means)


def lipschitz(means, stds, sigma: float = 0.0, points: int = 400_001) -> float:
    reach = max(abs(mean) for mean in means) + 8.0 * math.hypot(max(stds), sigma)
    return slope(torch.linspace(-reach, reach, points), means, stds, sigma).abs().max().item()


def test_lipschitz_constant_of_the_standard_normal():
    """1 / sqrt(2 pi e), at x = 1; the slope agrees with autograd."""
    assert lipschitz([0.0], [1.0]) == pytest.approx(1.0 / math.sqrt(2.0 * math.pi * math.e), rel=1e-9)
    x = torch.linspace(-3.0, 3.0, 1001, requires_grad=True)
    p = torch.exp(-0.5 * x.square()) / math.sqrt(2.0 * math.pi)
    (gradient,) = torch.autograd.grad(p.sum(), x)
    assert torch.allclose(slope(x.detach(), [0.0], [1.0]), gradient, atol=1e-14)


@pytest.mark.parametrize(
    ("modes", "sigma", "ratio"),
    [
        ("six", 0.01, 0.99558),
        ("six", 0.1, 0.69231),
        ("six", 0.3, 0.2),
        ("two", 0.01, 0.9901),
        ("two", 0.1, 0.5),
        ("two", 0.3, 0.1082),
        ("ten", 0.01, 0.9615),
        ("ten", 0.3, 0.02705),
    ],
)
def test_ratio_of_lipschitz_constants_under_gaussian_noise(modes, sigma, ratio):
    """s^2 / (s^2 + sigma^2) where the smoothed modes stay apart (all but the wide noise on two and ten modes)."""
    means, stds = MODES[modes]
    measured = lipschitz(means, stds, sigma) / lipschitz(means, stds)
    assert measured == pytest.approx(ratio, rel=4e-4)
    apart = (modes, sigma) not in {("two", 0.3), ("ten", 0.3)}
    if apart:
        closed_form = stds[0] ** 2 / (stds[0] ** 2 + sigma**2)
        # neighbouring tails of the two modes overlap a little at .1
        assert measured == pytest.approx(closed_form, rel=1e-4 if (modes, sigma) != ("two", 0.1) else 4e-3)


@pytest.mark.parametrize("modes", MODES)
def test_lipschitz_constant_falls_monotonically_with_gaussian_noise(modes):
    means, stds = MODES[modes]
    values = [lipschitz(means, stds, sigma, points=100_001) for sigma in np.linspace(0.0, 2.0, 41)]
    assert all(later <= earlier + 1e-12 for earlier, later in itertools.pairwise(values))
    assert values[-1] < 0.2 * values[0]


def discrete_weights(tag: str, sigma: float, spacing: float) -> np.ndarray:
    """The kernel's own density on a grid of noise values, normalised to sum 1."""
    steps = max(1, math.ceil(20.0 * sigma / spacing))
    e = torch.arange(-steps, steps + 1) * spacing
    weights = noise_density(tag, sigma, e).numpy()
    return weights / weights.sum()


def smoothed_ratio(modes, weights: np.ndarray, spacing: float) -> float:
    """Lip of the mixture convolved with the weights over Lip of the mixture, both on the same grid.

    Circular convolution over a grid wide enough that nothing wraps: with weights that sum to 1, every smoothed slope
    is an average of slopes on the grid, so that the theorem holds to rounding.
    """
    means, stds = modes
    half = max(abs(mean) for mean in means) + 9.0 * max(stds) + spacing * len(weights)
    points = 2 * math.ceil(half / spacing) + 1
    exact = slope(torch.linspace(-(points // 2) * spacing, (points // 2) * spacing, points), means, stds).numpy()
    size = points + len(weights) - 1
    smoothed = np.fft.irfft(np.fft.rfft(exact, size) * np.fft.rfft(weights, size), size)
    return float(np.abs(smoothed).max() / np.abs(exact).max())


@pytest.mark.parametrize("tag", TAGS)
@pytest.mark.parametrize("sigma", [0.01, 0.1, 0.3, 1.0])
@pytest.mark.parametrize("modes", MODES)
def test_no_kernel_raises_the_lipschitz_constant(tag, sigma, modes):
    ratio = smoothed_ratio(MODES[modes], discrete_weights(tag, sigma, 5e-4), 5e-4)
    assert ratio <= 1.0 + 1e-9
    assert ratio < 0.9999, "and these all lower it"
    if tag == "gaussian":
        closed_form = lipschitz(*MODES[modes], sigma) / lipschitz(*MODES[modes])
        assert ratio == pytest.approx(closed_form, rel=1e-3)


def test_noise_that_is_no_distribution_is_caught():
    """A deconvolving filter (weights of both signs, sum 1) raises the constant; so do weights that sum to 1.01."""
    spacing = 5e-4
    weights = discrete_weights("gaussian", 0.1, spacing)
    sharpening = -0.5 * weights
    sharpening[len(weights) // 2] += 1.5
    assert smoothed_ratio(TWO_MODES, sharpening, spacing) > 1.1
    assert smoothed_ratio(TWO_MODES, 1.01 * discrete_weights("gaussian", 0.001, spacing), spacing) > 1.0


# --- Proposition 1: to first order in the noise's variance, smoothing adds eta / 2 E[d^2 log p] ----------------------

MODEL = ((-0.25, 0.35), (0.15, 0.2))
EXPECTED = {"gaussian": (-0.01470966, 127.3), "laplace": (-0.01458522, 254.6), "uniform": (-0.01476036, 76.4)}
"""LHS - E[log p] at eta 1e-3, and err / eta^2 = kappa_4 / 24 E[d^4 log p] (science.md, sections 7 and 7b)."""


def log_mixture(x: Tensor) -> Tensor:
    means, stds = (torch.tensor(values) for values in MODEL)
    z = (x[..., None] - means) / stds
    return torch.logsumexp(-0.5 * z.square() - stds.log(), -1) - 0.5 * math.log(2.0 * math.pi) - math.log(2.0)


def log_gaussian(x: Tensor) -> Tensor:
    return -0.5 * ((x - 0.1) / 0.4).square() - math.log(0.4 * math.sqrt(2.0 * math.pi))


def data_nodes() -> tuple[Tensor, Tensor]:
    """Points and their probabilities under the two-Gaussian data: the trapezoid rule, exact to rounding for it."""
    x = torch.linspace(-1.5, 1.5, 4001)
    means, stds = (torch.tensor(values) for values in TWO_MODES)
    p = (torch.exp(-0.5 * ((x[:, None] - means) / stds).square()) / stds).sum(1)
    return x, p / p.sum()


def noise_nodes(tag: str, sigma: float) -> tuple[Tensor, Tensor]:
    """Gauss-Legendre panels between the kinks and edges of the kernels, weighted by the kernel's own density."""
    nodes, weights = np.polynomial.legendre.leggauss(16)
    edges = sigma * np.array([0.0, math.sqrt(3.0), 5.0, 10.0, 18.0, 30.0])
    e = np.concatenate([0.5 * (a + b) + 0.5 * (b - a) * nodes for a, b in itertools.pairwise(edges)])
    w = np.concatenate([0.5 * (b - a) * weights for a, b in itertools.pairwise(edges)])
    e, w = (torch.from_numpy(np.concatenate([first, second])) for first, second in ((-e[::-1], e), (w[::-1], w)))
    q = w * noise_density(tag, sigma, e)
    assert q.sum().item() == pytest.approx(1.0, abs=1e-12)
    assert (q @ e.square()).item() == pytest.approx(sigma**2, rel=1e-10)
    return e, q


def change(tag: str, eta: float, log_p: Callable[[Tensor], Tensor]) -> float:
    """E_data E_q[log p(x_tilde)] - E_data[log p(x)], q of variance eta."""
    x, p = data_nodes()
    e, q = noise_nodes(tag, math.sqrt(eta))
    return sum(
        (p[part] @ (log_p(x[part][:, None] + e) - log_p(x[part])[:, None]) @ q).item() for part in chunks(len(x))
    )


def chunks(n: int, size: int = 5000) -> list[slice]:
    return [slice(start, start + size) for start in range(0, n, size)]


def first_order(eta: float, log_p: Callable[[Tensor], Tensor]) -> float:
    """eta / 2 E_data[d^2 log p / dx^2], by autograd."""
    x, p = data_nodes()
    x.requires_grad_(True)
    (first,) = torch.autograd.grad(log_p(x).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    return 0.5 * eta * (p @ second).item()


@pytest.mark.parametrize("tag", TAGS)
def test_proposition_1(tag):
    at_eta, constant = EXPECTED[tag]
    assert change(tag, 1e-3, log_mixture) == pytest.approx(at_eta, abs=2e-8)
    assert first_order(1e-3, log_mixture) == pytest.approx(-0.01483670, abs=2e-8)
    etas = (1e-3, 5e-4, 2.5e-4, 1.25e-4)
    errors = {eta: change(tag, eta, log_mixture) - first_order(eta, log_mixture) for eta in etas}
    for eta, half in itertools.pairwise(etas):
        assert 3.9 < errors[eta] / errors[half] < 4.1, "the remainder is of second order in the variance"
    assert errors[1.25e-4] / 1.25e-4**2 == pytest.approx(constant, rel=0.01)


def test_the_remainders_of_the_kernels_are_as_their_fourth_cumulants():
    """kappa_4 of the standardised noise (fourth moment): 3 : 6 : 1.8."""
    errors = [change(tag, 1e-4, log_mixture) - first_order(1e-4, log_mixture) for tag in TAGS]
    assert errors[1] / errors[0] == pytest.approx(2.0, rel=0.01)
    assert errors[2] / errors[0] == pytest.approx(0.6, rel=0.01)


@pytest.mark.parametrize("tag", TAGS)
def test_proposition_1_is_exact_where_log_p_is_quadratic(tag):
    for eta in (1e-4, 1e-2, 1.0):
        assert change(tag, eta, log_gaussian) == pytest.approx(first_order(eta, log_gaussian), rel=1e-11, abs=1e-12)


def test_noise_of_another_variance_is_caught():
    """sigma taken for the scale of the Laplace noise instead of its standard deviation: no second-order remainder."""
    wrong = [change("laplace", 2.0 * eta, log_mixture) - first_order(eta, log_mixture) for eta in (1e-3, 5e-4)]
    assert not 3.9 < wrong[0] / wrong[1] < 4.1
