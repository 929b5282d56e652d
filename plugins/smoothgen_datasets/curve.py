"""A closed curve in several dimensions, with Gaussian noise: a chain that no coordinate decides alone."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from pydantic import Field, PositiveInt
from torch import Generator, Tensor

from smoothgen.data_source import DataSource
from smoothgen.isotropic_mixture import IsotropicMixture
from smoothgen_datasets.toy import REACH, ToyConfig, ToySource, constant, normal, uniform

SMALLEST_NOISE = 0.005
NODES_PER_NOISE = 1.5
"""Where the curve is fastest."""
LEAST_NODES = 64
ENTROPY_ELEMENTS = 2**27
"""Quasi-random points times nodes, for what the entropy's closed form leaves out."""


class Curve(ToySource):
    """x_i = cos(k_i t + i) + N(0, noise^2), i = 0 .. D - 1, t uniform on [0, 2 pi).

    The density is an integral over t, by the trapezoid rule; for a periodic analytic function its error falls
    exponentially and is below rounding here. Every marginal and conditional is an integral over the same nodes.

    On the support: no farther from the curve than all but 0.0027 of the noise across it, a vector of D - 1 numbers:
    4.67 noises for the default D = 8.
    """

    def __init__(self, config: CurveConfig) -> None:
        super().__init__(config, dimensions=len(config.frequencies))
        self.frequencies, self.noise = config.frequencies, config.noise
        fastest = math.sqrt(sum(k**2 for k in self.frequencies))
        self.nodes = max(LEAST_NODES, math.ceil(NODES_PER_NOISE * 2.0 * math.pi * fastest / self.noise))
        t = torch.arange(self.nodes, dtype=torch.float64) * (2.0 * math.pi / self.nodes)
        log_weights = t.new_full((self.nodes,), -math.log(self.nodes))
        self._mixture = IsotropicMixture(self._angles(t).cos(), log_weights, self.noise)

    def as_mixture(self) -> IsotropicMixture:
        return self._mixture

    def _angles(self, t: Tensor) -> Tensor:
        """k_i t + i: (n,) -> (n, D)."""
        frequencies = constant(self.frequencies, t.dtype, t.device)
        return t[:, None] * frequencies + torch.arange(len(frequencies), dtype=t.dtype, device=t.device)

    def _sample(self, n: int, generator: Generator) -> Tensor:
        x = self._angles(uniform(n, generator) * (2.0 * math.pi)).cos()
        return x.add_(normal(tuple(x.shape), generator), alpha=self.noise)

    def _log_prob(self, x: Tensor) -> Tensor:
        return self._mixture.log_prob(x)

    def _smoothed_log_prob(self, x: Tensor, sigma: float) -> Tensor:
        return self._mixture.log_prob(x, sigma)

    def _compute_entropy(self) -> float:
        """The entropy of a straight line of noise, closed form, plus a quasi-random mean of the exact difference.

        Near a straight piece, -log p(x) = log(2 pi |c'(t)|) + (D - 1) / 2 log(2 pi v) + |noise across c'|^2 / (2 v).
        The rest (bends, and where the curve comes near itself) is averaged over t and the noise by Sobol points. The
        error is about 1e-4 nats for the defaults, the spread over scramblings.
        """
        size = self.event.dimensions
        count = 2 ** int(math.log2(ENTROPY_ELEMENTS / self.nodes))
        points = torch.quasirandom.SobolEngine(size + 1, scramble=True, seed=0).draw(count, dtype=torch.float64)
        t = 2.0 * math.pi * points[:, 0]
        noise = torch.special.ndtri(points[:, 1:].clamp(1e-12, 1.0 - 1e-12))
        angles = self._angles(t)
        velocity, log_speed = self._velocity(angles)
        along = (noise * velocity).sum(1)
        constant_part = math.log(2.0 * math.pi) + 0.5 * (size - 1) * math.log(2.0 * math.pi * self.noise**2)
        straight = constant_part + log_speed + 0.5 * (noise.square().sum(1) - along.square())
        rest = -self._log_prob(angles.cos() + self.noise * noise) - straight
        everywhere = torch.arange(self.nodes, dtype=torch.float64) * (2.0 * math.pi / self.nodes)
        mean_log_speed = self._velocity(self._angles(everywhere))[1].mean().item()
        return constant_part + mean_log_speed + 0.5 * (size - 1) + rest.mean().item()

    def _on_support(self, x: Tensor) -> Tensor:
        return self._mixture.distance(x) <= self.noise * reach_across(self.event.dimensions - 1)

    def _velocity(self, angles: Tensor) -> tuple[Tensor, Tensor]:
        """The curve's direction (n, D), and the log of its speed (n,)."""
        velocity = -constant(self.frequencies, angles.dtype, angles.device) * angles.sin()
        speed = torch.linalg.vector_norm(velocity, dim=1)
        return velocity / speed[:, None], speed.log()


def reach_across(dimensions: int) -> float:
    """The length that a standard normal vector exceeds as rarely as one number exceeds REACH: by bisection."""
    rate = math.erfc(REACH / math.sqrt(2.0))
    half = torch.tensor(0.5 * dimensions, dtype=torch.float64)
    low, high = 0.0, REACH + 4.0 * math.sqrt(dimensions)
    for _ in range(60):
        middle = 0.5 * (low + high)
        exceeded = torch.special.gammaincc(half, half.new_tensor(0.5 * middle**2)).item() > rate
        low, high = (middle, high) if exceeded else (low, middle)
    return high


class CurveConfig(ToyConfig):
    """A closed curve of cosines in several dimensions, with isotropic Gaussian noise: a chain of many conditionals.

    The default frequencies leave several values of t possible for most of the chain: their greatest common divisor
    falls from 8 over 4 and 2 to 1, and the values still possible are told apart by the coordinates that follow.

    frequencies: k_i of every coordinate x_i = cos(k_i t + i); as many as there are dimensions, at least two.
    noise: standard deviation of each coordinate's noise.
    """

    type: Literal["curve"] = "curve"
    frequencies: Annotated[tuple[PositiveInt, ...], Field(min_length=2)] = (8, 4, 6, 2, 5, 3, 7, 1)
    noise: Annotated[float, Field(ge=SMALLEST_NOISE)] = 0.02

    def build(self) -> DataSource:
        return Curve(self)
