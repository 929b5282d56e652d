"""Mixtures of Gaussians on a line, and the named ones of the paper."""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, PositiveFloat, model_validator
from torch import Generator, Tensor

from smoothgen.data_source import DataSource
from smoothgen_datasets.quadrature import panels
from smoothgen_datasets.toy import REACH, ToyConfig, ToySource, constant, normal, uniform


class Mixture1D(ToySource):
    """sum_k w_k N(m_k, s_k^2) on a line; x has shape (batch, 1). The weights are normalised.

    On the support: at most 3 s_k from some m_k. Exact rate of true data off it: erfc(3 / sqrt 2) = 0.00270 where the
    components are as far apart as in six_modes and ten_modes; less where one catches another's tail: half of it,
    0.00135, for two_gaussians, whose intervals touch.
    """

    def __init__(
        self, config: ToyConfig, means: tuple[float, ...], stds: tuple[float, ...], weights: tuple[float, ...] = ()
    ) -> None:
        super().__init__(config, dimensions=1)
        total = math.fsum(weights) if weights else float(len(means))
        self.means, self.stds = means, stds
        self.weights = tuple(weight / total for weight in weights or (1.0,) * len(means))
        edges = [math.fsum(self.weights[: k + 1]) for k in range(len(means) - 1)]
        self.cumulative = tuple(edges)

    def _sample(self, n: int, generator: Generator) -> Tensor:
        which = torch.searchsorted(
            constant(self.cumulative, torch.float32, generator.device), uniform(n, generator), right=True
        )
        means = constant(self.means, torch.float32, generator.device)[which]
        stds = constant(self.stds, torch.float32, generator.device)[which]
        return torch.addcmul(means, stds, normal((n,), generator))[:, None]

    def _log_prob(self, x: Tensor) -> Tensor:
        return self._smoothed_log_prob(x, 0.0)

    def _smoothed_log_prob(self, x: Tensor, sigma: float) -> Tensor:
        means, stds, weights = (constant(v, x.dtype, x.device) for v in (self.means, self.stds, self.weights))
        variance = stds.square() + sigma**2
        log_components = -0.5 * (x - means).square() / variance - 0.5 * (2.0 * math.pi * variance).log()
        return torch.logsumexp(log_components + weights.log(), 1)

    def _on_support(self, x: Tensor) -> Tensor:
        means, stds = (constant(v, x.dtype, x.device) for v in (self.means, self.stds))
        return ((x - means).abs() <= REACH * stds).any(1)

    def _compute_entropy(self) -> float:
        """By Gauss-Legendre between all points m_k + j s_k, |j| <= 12: panels as narrow as the bump they cover."""
        steps = torch.arange(-12, 13, dtype=torch.float64)
        means, stds = (torch.tensor(v, dtype=torch.float64) for v in (self.means, self.stds))
        edges = (means[:, None] + stds[:, None] * steps).flatten().unique()
        points, weights = panels(edges)
        log_p = self._log_prob(points[:, None])
        return -(weights * torch.special.xlogy(log_p.exp(), log_p.exp())).sum().item()


class Mixture1DConfig(ToyConfig):
    """A mixture of Gaussians on a line.

    means, stds: one each per component. weights: positive, normalised to one; empty for equal weights.
    """

    type: Literal["mixture_1d"] = "mixture_1d"
    means: Annotated[tuple[float, ...], Field(min_length=1)] = (-1.0, 1.0)
    stds: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = (0.2, 0.2)
    weights: tuple[PositiveFloat, ...] = ()

    @model_validator(mode="after")
    def _equally_long(self) -> Self:
        if len(self.stds) != len(self.means) or (self.weights and len(self.weights) != len(self.means)):
            raise ValueError(
                f"means, stds and weights must be equally long, got {len(self.means)}, {len(self.stds)} and "
                f"{len(self.weights)}"
            )
        return self

    def build(self) -> DataSource:
        return Mixture1D(self, self.means, self.stds, self.weights)


class SixModesConfig(ToyConfig):
    """Equal Gaussians of standard deviation 0.15 at -5, -3, -1, 1, 3, 5: entropy 1.3136 nats.

    Source: the data of arXiv 2103.15089, section 4.1, as read from its figures.
    """

    type: Literal["six_modes"] = "six_modes"

    def build(self) -> DataSource:
        return Mixture1D(self, (-5.0, -3.0, -1.0, 1.0, 3.0, 5.0), (0.15,) * 6)


class TenModesConfig(ToyConfig):
    """Equal Gaussians of standard deviation 0.05 at -4.5, -3.5, ..., 4.5: entropy 0.7258 nats.

    Source: after arXiv 2103.15089, Figure 3, whose parameters are not stated.
    """

    type: Literal["ten_modes"] = "ten_modes"

    def build(self) -> DataSource:
        return Mixture1D(self, tuple(k - 4.5 for k in range(10)), (0.05,) * 10)


class TwoGaussiansConfig(ToyConfig):
    """0.5 N(-0.3, 0.1^2) + 0.5 N(0.3, 0.1^2): entropy -0.1943 nats. Source: arXiv 2103.15089, Appendix B.1."""

    type: Literal["two_gaussians"] = "two_gaussians"

    def build(self) -> DataSource:
        return Mixture1D(self, (-0.3, 0.3), (0.1, 0.1))
