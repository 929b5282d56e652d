"""A density along curves as many equal Gaussians: its conditionals, of x and of the chain (x_tilde, x), are exact."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

ELEMENTS_AT_ONCE = 4_000_000


@dataclass(frozen=True)
class IsotropicMixture:
    """sum_a w_a N(m_a, std^2 I). means (N, D), log_weights (N,), float64; the weights sum to one.

    The trapezoid rule along a closed curve makes a mixture that differs from the integral by a factor of
    1 +- 2 exp(-2 pi^2 (std / step)^2): nothing, for a step below the std. Source: Poisson's summation formula.
    """

    means: Tensor
    log_weights: Tensor
    std: float

    def log_prob(self, x: Tensor, sigma: float = 0.0) -> Tensor:
        """The log density at x (batch, D) after noise N(0, sigma^2 I): (batch,), nats. Computed in float64."""
        variance = self.std**2 + sigma**2
        constant = self.log_weights - 0.5 * self.means.shape[1] * math.log(2.0 * math.pi * variance)
        means, constant = self.means.to(x.device), constant.to(x.device)
        parts = []
        for rows in x.double().split(max(1, ELEMENTS_AT_ONCE // len(means))):
            nearest = (rows.square().sum(1, keepdim=True) + means.square().sum(1)).addmm(rows, means.T, alpha=-2.0)
            parts.append(torch.logsumexp(constant - nearest / (2.0 * variance), 1))
        return torch.cat(parts).to(x.dtype) if parts else x.new_zeros(0)

    def distance(self, x: Tensor) -> Tensor:
        """From x (batch, D) to the nearest mean: (batch,), in units of x."""
        parts = [
            torch.cdist(rows.double(), self.means).amin(1)
            for rows in x.split(max(1, ELEMENTS_AT_ONCE // len(self.means)))
        ]
        return torch.cat(parts) if parts else x.new_zeros(0)
