"""Equal mixtures of circles with isotropic Gaussian noise: the density that rings and olympics share."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from smoothgen.isotropic_mixture import IsotropicMixture
from smoothgen_datasets.quadrature import around
from smoothgen_datasets.toy import REACH, ToyConfig, ToySource, category, constant, normal, uniform

NODES_PER_NOISE = 1.5
"""Along a circle, where its density becomes a mixture."""
LEAST_NODES = 16


def log_circle(distance: Tensor, radius: Tensor, variance: float) -> Tensor:
    """Log density in the plane, at a distance from the centre, of a uniform circle plus N(0, variance I): nats.

    -log(2 pi v) - (rho - r)^2 / (2 v) + log i0e(rho r / v), where i0e(z) = exp(-z) I_0(z).
    Source: the integral of a Gaussian over the circle's angle (Abramowitz & Stegun, 9.6.16).
    """
    bessel = torch.special.i0e(distance * (radius / variance)).log()
    return bessel - (distance - radius).square() / (2.0 * variance) - math.log(2.0 * math.pi * variance)


class CircleMixture(ToySource):
    """(1/K) sum_k circle(centre_k, radius_k) + N(0, noise^2 I), in the plane.

    Gaussian noise of standard deviation sigma only turns noise^2 into noise^2 + sigma^2.

    On the support: at most 3 noise from the nearest circle, along the radius. The distance from one's own centre
    follows a Rice law, which exceeds 3 noise at a rate of about erfc(3 / sqrt 2) = 0.0027; circles that cross or touch
    catch some of each other's. Exact rates of true data off it, by quadrature: rings 0.00269, olympics 0.00257.
    """

    def __init__(
        self, config: ToyConfig, centres: tuple[tuple[float, float], ...], radii: tuple[float, ...], noise: float
    ) -> None:
        super().__init__(config, dimensions=2)
        self.centres, self.radii, self.noise = centres, radii, noise

    def _sample(self, n: int, generator: Generator) -> Tensor:
        which = category(n, len(self.radii), generator)
        angle = uniform(n, generator) * (2.0 * math.pi)
        radius = constant(self.radii, torch.float32, generator.device)[which]
        circle = torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1)
        if any(centre != (0.0, 0.0) for centre in self.centres):
            circle = circle + constant(self.centres, torch.float32, generator.device)[which]
        return circle.add_(normal((n, 2), generator), alpha=self.noise)

    def _log_prob(self, x: Tensor) -> Tensor:
        return self._smoothed_log_prob(x, 0.0)

    def _smoothed_log_prob(self, x: Tensor, sigma: float) -> Tensor:
        distance, radii = self._distances(x)
        log_components = log_circle(distance, radii, self.noise**2 + sigma**2)
        return torch.logsumexp(log_components, 1) - math.log(len(self.radii))

    def as_mixture(self) -> IsotropicMixture:
        """The trapezoid rule around every circle, with NODES_PER_NOISE nodes per noise."""
        means, log_weights = [], []
        for centre, radius in zip(self.centres, self.radii, strict=True):
            count = max(LEAST_NODES, math.ceil(NODES_PER_NOISE * 2.0 * math.pi * radius / self.noise))
            angle = torch.arange(count, dtype=torch.float64) * (2.0 * math.pi / count)
            circle = radius * torch.stack([angle.cos(), angle.sin()], dim=1)
            means.append(circle + torch.tensor(centre, dtype=torch.float64))
            log_weights.append(circle.new_full((count,), -math.log(count * len(self.radii))))
        return IsotropicMixture(torch.cat(means), torch.cat(log_weights), self.noise)

    def _on_support(self, x: Tensor) -> Tensor:
        distance, radii = self._distances(x)
        return ((distance - radii).abs() <= REACH * self.noise).any(1)

    def _distances(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, K) from every centre, and (K,) the radii."""
        centred = x[:, None] - constant(self.centres, x.dtype, x.device)
        return torch.linalg.vector_norm(centred, dim=2), constant(self.radii, x.dtype, x.device)

    def _compute_entropy(self) -> float:
        """-(1/K) sum_k of the integral of q_k log p, each in polar coordinates around centre k.

        Along the radius: Gauss-Legendre panels of one noise. Along the angle: the trapezoid rule with four points per
        noise, whose error for a periodic analytic function falls exponentially; one point where all circles share
        their centre. Below 1e-8 nats for the shipped sets.
        """
        total = 0.0
        for centre, radius in zip(self.centres, self.radii, strict=True):
            distance, weights = around(radius, self.noise, lowest=0.0)
            own = log_circle(distance, torch.tensor(radius, dtype=torch.float64), self.noise**2).exp()
            ring = 2.0 * math.pi * weights * distance * own
            angles = 1 if len(set(self.centres)) == 1 else math.ceil(8.0 * math.pi * radius / self.noise)
            angle = torch.arange(angles, dtype=torch.float64) * (2.0 * math.pi / angles)
            direction = torch.stack([angle.cos(), angle.sin()], dim=1)
            for rows in direction.split(500):
                x = distance[:, None] * rows[:, None] + torch.tensor(centre, dtype=torch.float64)
                log_p = self._log_prob(x.reshape(-1, 2)).reshape(len(rows), len(distance))
                total -= (log_p @ ring).sum().item() / angles
        return total / len(self.radii)
