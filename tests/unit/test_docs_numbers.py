"""The numbers on the pages of mathematics and likelihoods, computed again from closed forms and by quadrature."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from numpy.polynomial.hermite_e import hermegauss
from numpy.polynomial.laguerre import laggauss
from numpy.polynomial.legendre import leggauss

CONCEPTS = Path(__file__).parents[2] / "docs" / "concepts"
MATHEMATICS = (CONCEPTS / "mathematics.md").read_text()
LIKELIHOODS = (CONCEPTS / "likelihoods.md").read_text()
DATA = ((0.5, -0.3, 0.1), (0.5, 0.3, 0.1))
MODEL = ((0.5, -0.25, 0.15), (0.5, 0.35, 0.2))
KURTOSIS = {"gaussian": 3.0, "laplace": 6.0, "uniform": 1.8}


def density(x, mixture):
    return sum(w * np.exp(-0.5 * ((x - m) / s) ** 2) / (s * math.sqrt(2 * math.pi)) for w, m, s in mixture)


def score(x, mixture):
    logs = np.stack([math.log(w / s) - 0.5 * ((x - m) / s) ** 2 for w, m, s in mixture])
    shares = np.exp(logs - np.logaddexp.reduce(logs))
    return sum(share * (m - x) / s**2 for share, (_, m, s) in zip(shares, mixture, strict=True))


def log_density(x, mixture):
    logs = np.stack([math.log(w / s) - 0.5 * ((x - m) / s) ** 2 for w, m, s in mixture])
    return np.logaddexp.reduce(logs) - 0.5 * math.log(2 * math.pi)


def mean(function, mixture, nodes=200):
    """E f(x) of a mixture of Gaussians, by Gauss-Hermite quadrature."""
    z, weight = hermegauss(nodes)
    weight = weight / weight.sum()
    return sum(w * float((weight * function(m + s * z)).sum()) for w, m, s in mixture)


def noise(name, nodes):
    """Standard noise as nodes and weights."""
    if name == "gaussian":
        z, weight = hermegauss(nodes)
    elif name == "laplace":
        u, half = laggauss(nodes)
        z, weight = np.concatenate([-u, u]) / math.sqrt(2), np.concatenate([half, half])
    else:
        u, weight = leggauss(nodes)
        z = math.sqrt(3) * u
    return z, weight / weight.sum()


def derivatives(x):
    """The second and the fourth derivative of the model's log density, by central differences of its score."""
    h = 1e-3
    f = {k: score(x + k * h, MODEL) for k in (-3, -2, -1, 0, 1, 2, 3)}
    second = (45 * (f[1] - f[-1]) - 9 * (f[2] - f[-2]) + (f[3] - f[-3])) / (60 * h)
    fourth = (-13 * (f[1] - f[-1]) + 8 * (f[2] - f[-2]) - (f[3] - f[-3])) / (8 * h**3)
    return second, fourth


def rows(page, start):
    """The cells of a table's row, as numbers."""
    line = next(line for line in page.splitlines() if line.startswith(f"| {start}"))
    return [float(cell.replace("\u2212", "-")) for cell in line.split("|")[2:-1]]


def test_proposition_1():
    def error(name, eta):
        z, weight = noise(name, 60)
        smoothed = mean(lambda x: (weight * log_density(x[:, None] + math.sqrt(eta) * z, MODEL)).sum(1), DATA)
        return smoothed - mean(lambda x: log_density(x, MODEL), DATA)

    curvature = 1e-3 / 2 * mean(lambda x: derivatives(x)[0], DATA)
    fourth = mean(lambda x: derivatives(x)[1], DATA)
    eta = 1.25e-4
    lefts = [error(name, 1e-3) for name in KURTOSIS]
    second = eta / 2 * mean(lambda x: derivatives(x)[0], DATA)
    errors = [(error(name, eta) - second) / eta**2 for name in KURTOSIS]
    predicted = [kappa / 24 * fourth for kappa in KURTOSIS.values()]
    assert rows(MATHEMATICS, "left side") == [round(value, 8) for value in lefts]
    assert rows(MATHEMATICS, "curvature term") == [round(curvature, 8)] * 3
    assert rows(MATHEMATICS, "error \\(/\\eta^2\\)") == pytest.approx(errors, abs=0.02)
    assert rows(MATHEMATICS, "predicted:") == pytest.approx(predicted, abs=0.02)


@pytest.mark.parametrize("sigma", [0.3, 0.5])
def test_the_two_scores_on_a_gaussian_chain(sigma):
    index = np.arange(64)
    covariance = 0.98 ** np.abs(index[:, None] - index)
    noisy = covariance + sigma**2 * np.eye(64)
    full = np.trace(covariance - covariance @ np.linalg.solve(noisy, covariance)) / 64
    causal = 0.0
    for i in index:
        before = covariance[i, : i + 1]
        causal += (1.0 - before @ np.linalg.solve(noisy[: i + 1, : i + 1], before)) / 64
    line = f"| {sigma} | {full:.4f} | {causal:.4f} | {sigma**2:g} |"
    assert line in MATHEMATICS, line


def test_posterior_means_under_laplace_noise():
    sigma, b = 0.3, 0.3 / math.sqrt(2)
    u, half = leggauss(2000)
    x, weight = 1.2 * u, 1.2 * half * density(1.2 * u, DATA)
    nodes, shares = laggauss(32)
    y = np.linspace(-3.5, 3.5, 701)

    def q(y):
        return np.exp(-np.abs(y[:, None] - x) / b) @ weight / (2 * b)

    kernel = np.exp(-np.abs(y[:, None] - x) / b) / (2 * b)
    posterior = (kernel * x) @ weight / q(y)
    slope = (kernel * -np.sign(y[:, None] - x) / b) @ weight / q(y)
    ahead, behind = (sum(w * q(y + sign * b * node) for node, w in zip(nodes, shares, strict=True)) for sign in (1, -1))

    def root_mean_square(found):
        return math.sqrt((q(y) * (found - posterior) ** 2).sum() / q(y).sum())

    gaussian, laplace = root_mean_square(y + sigma**2 * slope), root_mean_square(y + b * (ahead - behind) / q(y))
    text = " ".join(MATHEMATICS.split())
    assert f"applied to Laplace noise is wrong by {gaussian:.3f} (root mean square)" in text, gaussian
    digit, power = f"{laplace:.0e}".split("e")
    assert f"the Laplace form to \\({digit}\\cdot10^{{{int(power)}}}\\)" in text, laplace


def test_the_posterior_mean_under_uniform_noise():
    a = 0.3 * math.sqrt(3)
    y = np.linspace(-1.0, 1.0, 201)
    normal = np.vectorize(lambda z: 0.5 * math.erfc(-z / math.sqrt(2)))

    def cdf(t):
        return sum(w * normal((t - m) / s) for w, m, s in DATA)

    def integral(t):
        """Of the CDF."""
        return sum(w * ((t - m) * normal((t - m) / s) + s**2 * density(t, ((1.0, m, s),))) for w, m, s in DATA)

    def q(t):
        return (cdf(t + a) - cdf(t - a)) / (2 * a)

    exact = (
        sum(
            w * (m * (normal((y + a - m) / s) - normal((y - a - m) / s))
                 - s**2 * (density(y + a, ((1.0, m, s),)) - density(y - a, ((1.0, m, s),))))
            for w, m, s in DATA
        ) / (2 * a * q(y))
    )  # fmt: skip
    below = (integral(y + a) - integral(y - a)) / (2 * a)
    copies = sum(q(y - 2 * a * k) - q(y + 2 * a * k) for k in range(1, 20))
    found = y + (a * copies - below + 0.5) / q(y)
    assert np.abs(found - exact).max() < 1e-13
    assert "the Gaussian and the uniform form are right to rounding" in " ".join(MATHEMATICS.split())


def test_the_papers_losses_as_bits_of_levels():
    """Exact stages on levels k = 0 .. 255 with P(k) proportional to a mixture of two Gaussians of k."""
    k = np.arange(256)
    mass = density(k, ((0.7, 100.0, 20.0), (0.3, 200.0, 15.0)))
    mass /= mass.sum()
    entropy = -(mass * np.log2(mass)).sum()
    x, sigma, jitter = k / 127.5 - 1.0, 0.3, 0.01
    z, weight = hermegauss(40)
    weight = weight / weight.sum()

    def mixture(y, probability, width):
        return (probability * np.exp(-0.5 * ((y[..., None] - x) / width) ** 2)).sum(-1) / (width * math.sqrt(2 * np.pi))

    first = second = bound = 0.0
    for probability, level in zip(mass, x, strict=True):
        noisy = level + sigma * z
        likelihood = mass * np.exp(-0.5 * ((noisy[:, None] - x) / sigma) ** 2)
        posterior = likelihood / likelihood.sum(1, keepdims=True)
        q = mixture(noisy, mass, sigma)
        first -= probability * (weight * np.log2(q)).sum()
        jittered = np.stack([mixture(level + jitter * z, each, jitter) for each in posterior])
        second -= probability * (weight * (np.log2(jittered) * weight).sum(1)).sum()
        exact = posterior[:, round((level + 1) * 127.5)]
        bound -= probability * (weight * (np.log2(q) + np.log2(exact))).sum()
    kernel = 0.5 * math.log2(2 * math.pi * math.e * sigma**2)
    paper = first + second - kernel + math.log2(127.5)
    text = " ".join(LIKELIHOODS.split())
    wanted = (
        f"the entropy is {entropy:.4f} bits, bound (3) with exact parts {bound - kernel:.4f}, "
        f"and the formula above {paper:.4f}"
    )
    assert wanted in text, wanted
