"""Compounding errors: how wrong a chain's conditionals are after prefixes from data, and after prefixes of its own."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from smoothgen.evaluation.chains import ModelChain
from smoothgen.isotropic_mixture import IsotropicMixture

ELEMENTS_AT_ONCE = 8_000_000
TRIMMED = 0.05
"""Share of the prefixes that a trimmed mean leaves out at either end."""


class Position(NamedTuple):
    """z_position given the component a: N(slope z_parent + means_a, std^2)."""

    means: Tensor
    std: float
    parent: int
    slope: float


class ExactChain:
    """The same chain under the truth, sum_a w_a N(m_a, v I), with noise N(0, sigma^2 I) where the chain has x~.

    Given a, x~_i ~ N(m_ai, t) with t = v + sigma^2, and x_i ~ N((v x~_i + sigma^2 m_ai) / t, v sigma^2 / t), each i
    apart: every conditional is a mixture of Gaussians whose weights the prefix sets. They are computed in logarithms
    and normalised after every coordinate, so that a prefix far from the data has conditionals as well.
    """

    def __init__(self, mixture: IsotropicMixture, order: tuple[int, ...], sigma: float | None = None) -> None:
        """order: the coordinate of every position, as `ModelChain.order`."""
        self.mixture, self.order, self.sigma = mixture, order, sigma
        self.size = size = mixture.means.shape[1]
        variance = mixture.std**2
        total = variance + (sigma or 0.0) ** 2
        self.positions = [Position(mixture.means[:, i], math.sqrt(total), 0, 0.0) for i in order[:size]]
        if sigma is not None:
            share, std = sigma**2 / total, math.sqrt(variance * sigma**2 / total)
            for i in order[size:]:
                parent = order[:size].index(i)
                self.positions.append(Position(share * mixture.means[:, i], std, parent, 1.0 - share))

    def weights(self, n: int) -> Tensor:
        """The components' log weights before the first coordinate: (n, components)."""
        return self.mixture.log_weights.expand(n, -1)

    def advance(self, log_weights: Tensor, z: Tensor, position: int) -> Tensor:
        """The log weights once z_position is known too. z (n, length)."""
        means, std, parent, slope = self.positions[position]
        residual = z[:, position] - slope * z[:, parent]
        return torch.log_softmax(log_weights - 0.5 * ((residual[:, None] - means) / std).square(), 1)

    def draw(self, log_weights: Tensor, z: Tensor, position: int, draws: int, generator: Generator) -> Tensor:
        """z_position given the prefix, `draws` times: (n, draws).

        Stratified: a component from every `draws`-th of the cumulated weights, a noise from every `draws`-th of the
        normal law, paired at random. Each value follows the conditional exactly; means over them vary less.
        """
        means, std, parent, slope = self.positions[position]
        strata = torch.arange(draws, dtype=z.dtype, device=z.device)
        uniform = torch.rand((2, len(z), draws), dtype=z.dtype, device=z.device, generator=generator)
        place, height = (strata + uniform) / draws
        shuffled = torch.rand((len(z), draws), device=z.device, generator=generator).argsort(1)
        cumulated = log_weights.exp().cumsum(1)
        component = torch.searchsorted(cumulated, place * cumulated[:, -1:]).clamp_max_(len(means) - 1)
        noise = torch.special.ndtri(height.gather(1, shuffled).clamp(1e-15, 1.0 - 1e-15))
        return slope * z[:, parent : parent + 1] + means[component] + std * noise

    def log_prob(self, log_weights: Tensor, z: Tensor, position: int, values: Tensor) -> Tensor:
        """log p(value | prefix): values (n, draws) -> (n, draws), nats."""
        means, std, parent, slope = self.positions[position]
        residual = values - slope * z[:, parent : parent + 1]
        exponent = -0.5 * ((residual[:, :, None] - means) / std).square()
        return torch.logsumexp(exponent + log_weights[:, None], 2) - math.log(math.sqrt(2.0 * math.pi) * std)

    def of_data(self, x: Tensor, generator: Generator) -> Tensor:
        """Data x (n, D) as rows of the chain, with fresh noise where the chain has x~: (n, length), float64."""
        z = x.double()[:, list(self.order[-self.size :])]
        if self.sigma is None:
            return z
        noise = torch.randn(x.shape, dtype=z.dtype, device=z.device, generator=generator)
        return torch.cat([(x + self.sigma * noise)[:, list(self.order[: self.size])], z], 1)


@dataclass(frozen=True)
class Prefixes:
    """Of one kind: by position, (length,), nats. error: of the mean, over the prefixes."""

    mean: Tensor
    error: Tensor
    median: Tensor
    trimmed: Tensor

    @classmethod
    def of(cls, divergences: Tensor) -> Prefixes:
        """From KL estimates for every prefix, (n, length)."""
        n = len(divergences)
        cut = int(TRIMMED * n)
        inner = divergences.sort(0).values[cut : n - cut]
        error = divergences.std(0) / math.sqrt(n)
        return cls(divergences.mean(0), error, divergences.median(0).values, inner.mean(0))


@torch.no_grad()
def divergences(truth: ExactChain, model: ModelChain, z: Tensor, draws: int, generator: Generator) -> Tensor:
    """KL( true(z_i | z_<i) || model(z_i | z_<i) ) of every prefix of every row of z: (n, length), nats.

    Unbiased estimates from `draws` values of the true conditional for each prefix. Their mean over rows is
    E_{z_<i ~ P} KL_i, where P is what z was drawn from. For P = data its sum over i is the gap of the negative
    log-likelihood to the entropy (of the bound, for a smoothed model), by the chain rule; for P = model it is what the
    sampler meets. The difference is what the model's own errors add.
    """
    parts = []
    for rows in z.split(max(1, ELEMENTS_AT_ONCE // (draws * len(truth.mixture.means)))):
        log_weights, columns = truth.weights(len(rows)), []
        for position in range(model.length):
            values = truth.draw(log_weights, rows, position, draws, generator)
            exact = truth.log_prob(log_weights, rows, position, values)
            repeated = rows.repeat_interleave(draws, 0)
            repeated[:, position] = values.flatten()
            learned = model.log_conditional(repeated, position).double().reshape(values.shape)
            columns.append((exact - learned).mean(1))
            log_weights = truth.advance(log_weights, rows, position)
        parts.append(torch.stack(columns, 1))
    return torch.cat(parts)


def continuations(model: ModelChain, z: Tensor, generator: Generator) -> Tensor:
    """What becomes of chains z (n, length) that the model goes on with: x, (length, n, D).

    Entry k: z's first k positions are kept, the model draws the rest. Entry 0 are the model's own samples.
    """
    return torch.stack([model.event(model.complete(z, known, generator)) for known in range(model.length)])
