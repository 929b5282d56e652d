"""What a mixture of few logistics can reach at best, without a network: the floor of a bound for its capacity."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from smoothgen.logistic_mixture import log_density
from smoothgen.noise_kernel import NoiseKernel
from smoothgen.reproduction.line import Nodes, nodes_of_smoothed, posterior

PAIRS = ((0.25, 0.75), (0.03, 0.5), (0.5, 0.97))
"""Quantiles between which the components start: even, and with one of them in either tail."""
STEPS = 150
RATE = 0.1
NEGLIGIBLE = 1e-6
"""Share of p(x_tilde) in a cell below which its loss is not looked for; the cells left out hold 1e-4 at most."""


class Capacity(NamedTuple):
    """Nats that the best mixtures still lose: of p(x_tilde), and of p(x | x_tilde) averaged over x_tilde."""

    smooth: float
    conditional: float

    @property
    def gap(self) -> float:
        """What -ELBO exceeds the entropy by, at best."""
        return self.smooth + self.conditional


def capacity(data: Nodes, kernel: NoiseKernel, components: int, reach: float, spacing: float = 0.1) -> Capacity:
    """The least gap of Eq. 3 when both parts are mixtures of so many logistics, each x_tilde having its own.

    reach: how far the noise goes, in units of x. spacing: between the x_tilde that are looked at.
    """
    smoothed = nodes_of_smoothed(data, kernel, reach, data.spacing)
    smooth = best_cross_entropy(smoothed.x, smoothed.probability[None], components, data.spacing)[0].item()
    smooth -= smoothed.entropy
    smoothed = nodes_of_smoothed(data, kernel, reach, spacing)
    seen = smoothed.probability > NEGLIGIBLE
    rows = posterior(data, kernel, smoothed.x[seen])
    entropy = -torch.special.xlogy(rows, rows / data.spacing).sum(1)
    loss = best_cross_entropy(data.x, rows, components, data.spacing) - entropy
    return Capacity(smooth, (smoothed.probability[seen] @ loss).item())


def best_cross_entropy(x: Tensor, probability: Tensor, components: int, spacing: float) -> Tensor:
    """min over mixtures of -sum_j P_j log mixture(x_j), for every row: x (n,), probability (m, n) -> (m,), nats.

    spacing: between the x. No logistic may be narrower than two thirds of it, or it would fit a single point.
    Several starts, then the neighbours' solutions as further starts: rows are taken to change slowly.
    """
    mean = probability @ x
    std = (probability @ x.square() - mean.square()).clamp_min(1e-12).sqrt()
    z = ((x - mean[:, None]) / std[:, None]).float()
    narrowest, probability = (spacing / 1.5 / std).log().float()[:, None, None], probability.float()
    best, parameters = _descend(z, probability, narrowest, _start(z, probability, components, PAIRS[0]))
    starts = [_start(z, probability, components, pair) for pair in PAIRS[1:]]
    for index in range(len(starts) + 2):
        start = starts[index] if index < len(starts) else _neighbour(parameters, 1 if index == len(starts) else -1)
        loss, found = _descend(z, probability, narrowest, start)
        better = loss < best
        best = torch.where(better, loss, best)
        parameters = torch.where(better[:, None, None], found, parameters)
    return best.double() + std.log()


def _neighbour(parameters: Tensor, shift: int) -> Tensor:
    return parameters.roll(shift, 0)


def _start(z: Tensor, probability: Tensor, components: int, pair: tuple[float, float]) -> Tensor:
    """(m, 3, K): logits, loc and log scale, spread evenly between two quantiles of every row."""
    levels = torch.linspace(*pair, components, dtype=z.dtype)
    cumulative = probability.cumsum(1).contiguous()
    index = torch.searchsorted(cumulative, levels.expand(len(z), -1).contiguous()).clamp_max(z.shape[1] - 1)
    loc = z.gather(1, index)
    gap = (loc[:, -1:] - loc[:, :1]) / max(components - 1, 1)
    log_scale = (0.3 * gap).clamp_min(0.05).log().expand_as(loc)
    return torch.stack([torch.zeros_like(loc), loc, log_scale], 1)


def _descend(z: Tensor, probability: Tensor, narrowest: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    """Adam on every row at once: it acts on each number alone, so that no row disturbs another."""
    parameters = start.clone().requires_grad_(True)
    optimizer = torch.optim.Adam([parameters], RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for _ in range(STEPS):
        optimizer.zero_grad()
        _loss(z, probability, narrowest, parameters).sum().backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        return _loss(z, probability, narrowest, parameters), parameters.detach()


def _loss(z: Tensor, probability: Tensor, narrowest: Tensor, parameters: Tensor) -> Tensor:
    logits, loc, log_scale = (value[:, None] for value in parameters.unbind(1))
    return -(probability * log_density(z, logits, loc, torch.maximum(log_scale, narrowest))).sum(1)
