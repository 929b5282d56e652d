"""A ring whose radius is a narrow Gaussian: almost a one-dimensional manifold in the plane."""

from __future__ import annotations

import math
from typing import Literal, Self

import numpy as np
import torch
from pydantic import PositiveFloat, model_validator
from torch import Generator, Tensor

from smoothgen.data_source import DataSource
from smoothgen_datasets.quadrature import around
from smoothgen_datasets.toy import REACH, ToyConfig, ToySource, normal, uniform

HERMITE_NODES = 40


class ThinRing(ToySource):
    """x = R (cos t, sin t), R ~ N(radius, noise^2), t uniform: p(x) = [N(rho) + N(-rho)] / (2 pi rho), rho = |x|.

    On the support: |rho - radius| <= 3 noise. Exact rate of true data off it: erfc(3 / sqrt 2) = 0.00270.
    """

    def __init__(self, config: ThinRingConfig) -> None:
        super().__init__(config, dimensions=2)
        self.radius, self.noise = config.radius, config.noise

    def _sample(self, n: int, generator: Generator) -> Tensor:
        angle = uniform(n, generator) * (2.0 * math.pi)
        radius = self.radius + self.noise * normal((n,), generator)
        return torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1)

    def _log_prob(self, x: Tensor) -> Tensor:
        """Grows like -log rho at the origin, where it is infinite; cut off there at the smallest normal number."""
        distance = torch.linalg.vector_norm(x, dim=1).clamp_min(torch.finfo(x.dtype).tiny)
        return self._log_radial(distance) - distance.log() - math.log(2.0 * math.pi)

    def _log_radial(self, distance: Tensor) -> Tensor:
        """Log density of |R|, nats."""
        sides = [-0.5 * ((distance - sign * self.radius) / self.noise).square() for sign in (1.0, -1.0)]
        return torch.logaddexp(*sides) - 0.5 * math.log(2.0 * math.pi * self.noise**2)

    def _smoothed_log_prob(self, x: Tensor, sigma: float) -> Tensor:
        """The circle's smoothed density averaged over R given rho, by Gauss-Hermite quadrature.

        N(R; radius, noise^2) exp(-(rho - R)^2 / (2 sigma^2)) is a Gaussian in R times a Gaussian in rho, so only
        i0e(rho R / sigma^2), which is smooth in R, is left to average. Negative R, below one in 10^6, are reflected.
        """
        distance = torch.linalg.vector_norm(x, dim=1)
        total = self.noise**2 + sigma**2
        std = self.noise * sigma / math.sqrt(total)
        mean = (self.radius * sigma**2 + distance * self.noise**2) / total
        nodes, weights = (torch.from_numpy(value).to(x) for value in np.polynomial.hermite_e.hermegauss(HERMITE_NODES))
        radius = (mean[:, None] + std * nodes).abs()
        log_bessel = torch.special.i0e(distance[:, None] * radius / sigma**2).log()
        averaged = torch.logsumexp(log_bessel + (weights / math.sqrt(2.0 * math.pi)).log(), 1)
        marginal = -0.5 * (distance - self.radius).square() / total - math.log(2.0 * math.pi * sigma * math.sqrt(total))
        return averaged + marginal

    def _on_support(self, x: Tensor) -> Tensor:
        return (torch.linalg.vector_norm(x, dim=1) - self.radius).abs() <= REACH * self.noise

    def _compute_entropy(self) -> float:
        """The integral over rho of -|R|'s density times log p, by Gauss-Legendre panels of one noise."""
        distance, weights = around(self.radius, self.noise, reach=12.0, lowest=0.0)
        log_radial = self._log_radial(distance)
        log_p = log_radial - distance.log() - math.log(2.0 * math.pi)
        return -(weights * log_radial.exp() * log_p).sum().item()


class ThinRingConfig(ToyConfig):
    """A Gaussian radius, rotated around the origin: N(1, 0.01^2) in the paper.

    Source: arXiv 2103.15089, Figure 2 (the manifold hypothesis).

    radius, noise: mean and standard deviation of the distance from the origin; noise is at most a fifth of radius.
    """

    type: Literal["thin_ring"] = "thin_ring"
    radius: PositiveFloat = 1.0
    noise: PositiveFloat = 0.01

    @model_validator(mode="after")
    def _thin(self) -> Self:
        if self.noise > self.radius / 5.0:
            raise ValueError(f"noise {self.noise} is above a fifth of radius {self.radius}; that is no thin ring")
        return self

    def build(self) -> DataSource:
        return ThinRing(self)
