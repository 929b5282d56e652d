"""Densities and posteriors in closed form: what the approximate parts are measured against."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from smoothgen.density_model import DensityModel
from smoothgen.event import ContextSpec, EventSpec
from smoothgen.inverter import Inverter
from smoothgen.noise_kernel import NoiseKernel

TWO_MODES = ((-0.3, 0.3), (0.1, 0.1))
SIX_MODES = ((-5.0, -3.0, -1.0, 1.0, 3.0, 5.0), (0.15,) * 6)
TEN_MODES = (tuple(k - 4.5 for k in range(10)), (0.05,) * 10)
"""Means and standard deviations of the one-dimensional data of the paper; equal weights."""


def gaussian_smoothed(e: Tensor, std: Tensor, sigma: float) -> Tensor:
    """log density at e of N(0, std^2) plus Gaussian noise."""
    variance = std.square() + sigma**2
    return -0.5 * e.square() / variance - 0.5 * torch.log(2.0 * math.pi * variance)


def laplace_smoothed(e: Tensor, std: Tensor, sigma: float) -> Tensor:
    """log density at e of N(0, std^2) plus Laplace noise of standard deviation sigma."""
    b = sigma / math.sqrt(2.0)
    ratio = std / b
    sides = [sign * e / b + torch.special.log_ndtr(-sign * e / std - ratio) for sign in (1.0, -1.0)]
    return torch.logaddexp(*sides) + 0.5 * ratio.square() - math.log(2.0 * b)


def uniform_smoothed(e: Tensor, std: Tensor, sigma: float) -> Tensor:
    """log density at e of N(0, std^2) plus uniform noise of standard deviation sigma."""
    a = sigma * math.sqrt(3.0)
    return torch.log((torch.special.ndtr((e + a) / std) - torch.special.ndtr((e - a) / std)) / (2.0 * a))


SMOOTHED = {"gaussian": gaussian_smoothed, "laplace": laplace_smoothed, "uniform": uniform_smoothed}


class SmoothedMixture(DensityModel):
    """A mixture of axis-aligned Gaussians after product noise; a context of D numbers moves the whole mixture.

    means, stds (K, D); noise: a key of SMOOTHED; sigma: one standard deviation per coordinate, 0 for no noise.
    """

    def __init__(
        self, means: Tensor, stds: Tensor, noise: str, sigma: tuple[float, ...], context: ContextSpec | None = None
    ) -> None:
        super().__init__(EventSpec(shape=(means.shape[1],)), context)
        self.register_buffer("means", means)
        self.register_buffer("stds", stds)
        self.noise, self.sigma = noise, sigma

    def _log_prob(self, x: Tensor, context: Tensor | None, generator: Generator | None) -> Tensor:
        centred = x if context is None else x - context
        log_components = sum(
            SMOOTHED[self.noise](centred[:, i, None] - self.means[:, i], self.stds[:, i], sigma)
            for i, sigma in enumerate(self.sigma)
        )
        return torch.logsumexp(log_components, 1) - math.log(len(self.means))

    def _sample(self, num_samples: int, context: Tensor | None, generator: Generator | None) -> Tensor:
        raise NotImplementedError


class GaussianDensity(DensityModel):
    """N(mean, covariance)."""

    def __init__(self, mean: Tensor, covariance: Tensor, event: EventSpec | None = None) -> None:
        super().__init__(event or EventSpec(shape=(len(mean),)))
        self.register_buffer("mean", mean)
        self.register_buffer("covariance", covariance)

    def _log_prob(self, x: Tensor, context: Tensor | None, generator: Generator | None) -> Tensor:
        return log_normal(x - self.mean, self.covariance)

    def _sample(self, num_samples: int, context: Tensor | None, generator: Generator | None) -> Tensor:
        noise = torch.randn(num_samples, len(self.mean), dtype=self.mean.dtype, generator=generator)
        return self.mean + noise @ torch.linalg.cholesky(self.covariance).T


class GaussianPosterior(Inverter):
    """p(x | x_tilde) of Gaussian data N(mean, covariance) under Gaussian noise of standard deviation sigma.

    shift and inflation make it wrong on purpose: they are added to its mean and multiply its covariance.
    Source: Bishop, Pattern Recognition and Machine Learning, Eq. 2.116.
    """

    has_density = True

    def __init__(
        self, mean: Tensor, covariance: Tensor, sigma: float, shift: float = 0.0, inflation: float = 1.0
    ) -> None:
        super().__init__(EventSpec(shape=(len(mean),)))
        self.mean = mean
        noisy = covariance + sigma**2 * torch.eye(len(mean), dtype=mean.dtype)
        self.gain = torch.linalg.solve(noisy, covariance).T
        self.exact_covariance = covariance - self.gain @ covariance
        self.shift, self.inflation = shift, inflation

    @property
    def divergence(self) -> float:
        """KL(exact posterior || this one): the same for every x_tilde, nats."""
        mahalanobis = self.shift**2 * torch.linalg.inv(self.exact_covariance).sum().item() / self.inflation
        return 0.5 * (mahalanobis + len(self.mean) * (1.0 / self.inflation - 1.0 + math.log(self.inflation)))

    def _mean(self, x_tilde: Tensor) -> Tensor:
        return self.mean + (x_tilde - self.mean) @ self.gain.T + self.shift

    def invert(
        self,
        x_tilde: Tensor,
        smoothed: DensityModel,
        kernel: NoiseKernel,
        *,
        context: Tensor | None = None,
        generator: Generator | None = None,
    ) -> Tensor:
        noise = torch.randn(x_tilde.shape, dtype=x_tilde.dtype, generator=generator)
        return self._mean(x_tilde) + noise @ torch.linalg.cholesky(self.inflation * self.exact_covariance).T

    def log_prob(
        self, x: Tensor, x_tilde: Tensor, *, context: Tensor | None = None, generator: Generator | None = None
    ) -> Tensor:
        return log_normal(x - self._mean(x_tilde), self.inflation * self.exact_covariance)


def log_normal(centred: Tensor, covariance: Tensor) -> Tensor:
    """log N(centred; 0, covariance): (batch, D) -> (batch,)."""
    mahalanobis = (centred * torch.linalg.solve(covariance, centred.T).T).sum(1)
    return -0.5 * mahalanobis - 0.5 * torch.linalg.slogdet(2.0 * math.pi * covariance)[1]
