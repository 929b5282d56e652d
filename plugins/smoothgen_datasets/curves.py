"""A curve in the plane and its reflection in a point, with Gaussian noise: p is an integral along the curve."""

from __future__ import annotations

import math
from abc import abstractmethod
from functools import cached_property

import torch
from torch import Generator, Tensor

from smoothgen_datasets.quadrature import panels
from smoothgen_datasets.toy import ToyConfig, ToySource, category, constant, normal, uniform

SMALLEST_NOISE = 0.02
"""The least noise a configuration may ask for: nodes grow like 1 / noise, the entropy's grid like 1 / noise^2."""
PANEL = 1.5
"""Length of a quadrature panel along the curve, in noises."""
ELEMENTS_AT_ONCE = 4_000_000


class CurvePair(ToySource):
    """x = c(u) or its reflection 2 centre - c(u), equally likely, plus N(0, noise^2 I), u uniform on [0, 1].

    p(x) = the integral over u of N(x; c(u), noise^2 I), by composite Gauss-Legendre in sqrt(u), on which a spiral
    depends smoothly, in panels of 1.5 noises along the curve with ten nodes each. The error of log p is below 1e-5 nats
    within 10 noises of the curve, where log p is about -50, and below 1e-2 at 40, where it is about -800.
    """

    def __init__(self, config: ToyConfig, centre: tuple[float, float], noise: float) -> None:
        super().__init__(config, dimensions=2)
        self.centre, self.noise = centre, noise

    @abstractmethod
    def _curve(self, u: Tensor) -> Tensor:
        """(n,) on [0, 1] -> (n, 2)."""

    @cached_property
    def _nodes(self) -> tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]:
        """Both coordinates of the quadrature nodes on the two curves, and their weights, which sum to one."""
        root = torch.linspace(0.0, 1.0, 20_001, dtype=torch.float64)
        steps = torch.linalg.vector_norm(self._curve(root.square()).diff(dim=0), dim=1)
        length = torch.cat([steps.new_zeros(1), steps.cumsum(0)])
        total = length[-1].item()
        wanted = torch.linspace(0.0, total, math.ceil(total / (PANEL * self.noise)) + 1, dtype=length.dtype)
        edges = root[torch.searchsorted(length, wanted).clamp_max(len(root) - 1)]
        points, weights = panels(edges.unique())
        weights = 2.0 * points * weights
        curve = self._curve(points.square())
        both = torch.cat([curve, 2.0 * torch.tensor(self.centre, dtype=curve.dtype) - curve])
        return tuple(both[:, 0].tolist()), tuple(both[:, 1].tolist()), tuple((0.5 * weights).repeat(2).tolist())

    def _sample(self, n: int, generator: Generator) -> Tensor:
        curve = self._curve(uniform(n, generator))
        centre = constant(self.centre, torch.float32, generator.device)
        reflected = category(n, 2, generator)[:, None].bool()
        return torch.where(reflected, 2.0 * centre - curve, curve).add_(normal((n, 2), generator), alpha=self.noise)

    def _log_prob(self, x: Tensor) -> Tensor:
        return self._smoothed_log_prob(x, 0.0)

    def _smoothed_log_prob(self, x: Tensor, sigma: float) -> Tensor:
        variance = self.noise**2 + sigma**2
        first, second, weights = (constant(values, x.dtype, x.device) for values in self._nodes)
        log_weights = weights.log() - math.log(2.0 * math.pi * variance)
        parts = []
        for rows in x.split(max(1, ELEMENTS_AT_ONCE // len(weights))):
            distances = (rows[:, :1] - first).square() + (rows[:, 1:] - second).square()
            parts.append(torch.logsumexp(log_weights - distances / (2.0 * variance), 1))
        return torch.cat(parts) if parts else x.new_zeros(0)

    def _compute_entropy(self) -> float:
        """The trapezoid rule on a grid of noise / 4, where p is a product of matrices (a Gaussian separates).

        p is smooth on the scale of the noise, so the rule's error falls exponentially: below 1e-8 nats.
        """
        first, second, weights = (torch.tensor(values, dtype=torch.float64) for values in self._nodes)
        step = self.noise / 4.0
        along_first, along_second = (self._profile(values, step) for values in (first, second))
        density = (along_first * weights) @ along_second.T
        return -torch.special.xlogy(density, density).sum().item() * step**2

    def _profile(self, nodes: Tensor, step: float) -> Tensor:
        """(grid, nodes): N(point; node, noise^2) in one coordinate, on a grid reaching 9 noises beyond the nodes."""
        low, high = nodes.min().item() - 9.0 * self.noise, nodes.max().item() + 9.0 * self.noise
        grid = low + step * torch.arange(math.ceil((high - low) / step) + 1, dtype=nodes.dtype)
        exponent = -0.5 * ((grid[:, None] - nodes) / self.noise).square()
        return exponent.exp() / (self.noise * math.sqrt(2.0 * math.pi))
