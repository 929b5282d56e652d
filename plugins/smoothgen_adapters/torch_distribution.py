"""Distributions of torch with learned parameters, alone or mixed; a context decides the parameters by a network."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch import distributions as D
from torch.nn import functional as F

from smoothgen.density_model import DensityModel
from smoothgen.event import ContextSpec, EventSpec
from smoothgen_adapters.adapter import AdapterConfig, network
from smoothgen_adapters.arguments import COUNT, POSITIVE, Kind, checked

Name = Literal["Normal", "Laplace", "StudentT", "Cauchy", "Gumbel", "MultivariateNormal", "LowRankMultivariateNormal"]
SMALLEST_SCALE = 1e-3
"""Of any component, in standard deviations of the data: without it a mixture's likelihood has no maximum."""
ONE = 0.541324854612918
"""softplus(ONE) = 1."""
ARGUMENTS: dict[str, dict[str, Kind]] = {
    "StudentT": {"df": POSITIVE},
    "LowRankMultivariateNormal": {"rank": COUNT},
}
DEFAULTS: dict[str, Any] = {"df": 4.0, "rank": 2}
OURS = dict.fromkeys(("loc", "scale", "scale_tril", "cov_factor", "cov_diag"), "it is learned")


class LearnedDistribution(nn.Module):
    """context (batch, C), or None -> a torch distribution over vectors of D numbers.

    All parameters come from one vector: learned, or made of the context by a network. Scales are softplus plus a floor.
    """

    def __init__(
        self, name: Name, dimensions: int, components: int, features: int | None, hidden: tuple[int, ...], fixed: dict
    ) -> None:
        super().__init__()
        self.name, self.dimensions, self.components, self.fixed = name, dimensions, components, fixed
        self.sizes = _sizes(name, dimensions, fixed)
        per_component = sum(self.sizes)
        total = components * per_component + (components if components > 1 else 0)
        start = torch.zeros(components, per_component)
        if components > 1:
            start[:, :dimensions] = torch.randn(components, dimensions)  # apart, so that they can learn to differ
        if name == "LowRankMultivariateNormal":
            start[:, dimensions : dimensions + self.sizes[1]] = 0.1 * torch.randn(components, self.sizes[1])
        first = torch.zeros(total)
        first[: components * per_component] = start.flatten()
        self.constant = nn.Parameter(first)
        self.network = None if features is None else network(features, hidden, total)

    def forward(self, context: Tensor | None = None) -> D.Distribution:
        raw = self.constant if self.network is None or context is None else self.constant + self.network(context)
        per_component = sum(self.sizes)
        parts = raw[..., : self.components * per_component]
        parts = parts.reshape(*raw.shape[:-1], self.components, per_component)
        if self.components == 1:
            return self._component(parts.squeeze(-2))
        weights = D.Categorical(logits=raw[..., self.components * per_component :], validate_args=False)
        return D.MixtureSameFamily(weights, self._component(parts), validate_args=False)

    def _component(self, parts: Tensor) -> D.Distribution:
        """parts (..., numbers of one component)."""
        loc, *rest = parts.split(self.sizes, -1)
        if self.name == "MultivariateNormal":
            return D.MultivariateNormal(loc, scale_tril=self._triangle(rest[0]), validate_args=False)
        if self.name == "LowRankMultivariateNormal":
            factor = rest[0].reshape(*loc.shape, self.fixed["rank"])
            return D.LowRankMultivariateNormal(loc, factor, _positive(rest[1]).square(), validate_args=False)
        scale = _positive(rest[0])
        degrees = (loc.new_tensor(self.fixed["df"]),) if self.name == "StudentT" else ()
        each = getattr(D, self.name)(*degrees, loc, scale, validate_args=False)
        return D.Independent(each, 1, validate_args=False)

    def _triangle(self, entries: Tensor) -> Tensor:
        """(..., D (D + 1) / 2) -> a lower triangular matrix with a positive diagonal; the diagonal comes first."""
        diagonal, below = entries[..., : self.dimensions], entries[..., self.dimensions :]
        square = diagonal.new_zeros(*entries.shape[:-1], self.dimensions, self.dimensions)
        rows, columns = torch.tril_indices(self.dimensions, self.dimensions, -1, device=entries.device)
        square[..., rows, columns] = below
        return square + torch.diag_embed(_positive(diagonal))


def _sizes(name: Name, dimensions: int, fixed: dict[str, Any]) -> list[int]:
    """How many numbers each parameter of one component takes; the location comes first."""
    if name == "MultivariateNormal":
        return [dimensions, dimensions * (dimensions + 1) // 2]
    if name == "LowRankMultivariateNormal":
        return [dimensions, dimensions * fixed["rank"], dimensions]
    return [dimensions, dimensions]


def _positive(raw: Tensor) -> Tensor:
    """1 where raw is 0."""
    return F.softplus(raw + ONE) * (1.0 - SMALLEST_SCALE) + SMALLEST_SCALE


class TorchDistributionConfig(AdapterConfig):
    """One of torch.distributions, with learned location and scales, or a mixture of several.

    distribution: its class there; Normal, Laplace, StudentT, Cauchy and Gumbel are independent in every coordinate.
    components: of the mixture. hidden: widths of the network that makes all parameters of the context. arguments: what
    is not learned: df (4) of StudentT, rank (2) of LowRankMultivariateNormal. anchor, allow: as for every adapter.
    """

    type: Literal["torch"] = "torch"
    distribution: Name = "MultivariateNormal"
    components: PositiveInt = 1
    hidden: tuple[PositiveInt, ...] = (64, 64)

    def checked_arguments(self) -> dict[str, Any]:
        owner = f"torch's {self.distribution}"
        return checked(owner, self.arguments, ARGUMENTS.get(self.distribution, {}), OURS)

    def build(self, event: EventSpec, context: ContextSpec | None = None) -> DensityModel:
        fixed = {**DEFAULTS, **self.checked_arguments()}
        features = None if context is None else context.dimensions
        module = LearnedDistribution(self.distribution, event.dimensions, self.components, features, self.hidden, fixed)
        return self.wrapped(module, event, context)
