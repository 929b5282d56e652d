"""The affine coupling: one part of the vector moves, with a shift and scale that the other part and the context set."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import normflows as nf
import torch
from torch import Tensor, nn

from smoothgen.dense import dense
from smoothgen_realnvp.compiled_couplings import Conditions, GroupPlan, Plan, runs_compiled, to_noise

OUTPUT_GAIN = 0.1
"""How much smaller the last layer starts, so that the flow starts near the identity yet reacts to its context."""
INPUT_BOUND = 100.0
"""Networks see coordinates clamped to this many standard deviations: an outlier stays finite through any depth."""


class CouplingParameters(NamedTuple):
    """One coupling's share: weights (out, in) and biases (out,) of its layers, and gain (moved,)."""

    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]
    gain: Tensor


class Couplings(nn.Module):
    """Couplings that keep the same coordinates. Data to noise: moved' = (moved - t) exp(s), t and s functions of kept.

    s = gain + s_max tanh(raw / s_max). The gain, one free number per coordinate, and the bias of t are all that an
    ActNorm has, so `initialize` sets them as ActNorm's are and no separate layer is computed. (An ActNorm of the
    kept half would be absorbed by this network and by the next coupling, which moves that half.)

    The parameters of all `count` couplings are stacked along the first axis: an optimiser pays per tensor.
    Source: Dinh et al. 2017 (arXiv 1605.08803), Eq. 7; ActNorm: Kingma and Dhariwal 2018 (arXiv 1807.03039), 3.1.
    """

    coordinates: Tensor
    octaves: Tensor

    def __init__(
        self,
        count: int,
        kept: list[int],
        dimensions: int,
        features: int,
        *,
        hidden: tuple[int, ...],
        activation: str,
        max_log_scale: float,
        fourier: int,
    ) -> None:
        """kept: which of the event's D coordinates are kept. features: C, the context's share of the inputs."""
        super().__init__()
        self.count, self.features = count, features
        self.moved = dimensions - len(kept)
        self.max_log_scale = max_log_scale
        self.activation = activation
        widths = [len(kept) * (1 + 2 * fourier) + features, *hidden, 2 * self.moved]
        self.plan = GroupPlan(tuple(kept), self.moved, tuple(widths))
        layers = [[nn.Linear(wide, narrow) for _ in range(count)] for wide, narrow in itertools.pairwise(widths)]
        self.weights = nn.ParameterList([torch.stack([linear.weight.detach() for linear in row]) for row in layers])
        self.biases = nn.ParameterList([torch.stack([linear.bias.detach() for linear in row]) for row in layers])
        self.gain = nn.Parameter(torch.zeros(count, self.moved))
        self.register_buffer("coordinates", torch.tensor(kept))
        self.register_buffer("octaves", 2.0 * math.pi * 2.0 ** torch.arange(fourier))
        with torch.no_grad():
            self.weights[-1].mul_(OUTPUT_GAIN)
            self.biases[-1].zero_()

    def stacked(self) -> list[Tensor]:
        """Every layer's weights, every layer's biases, and the gain, of all couplings."""
        # the dictionaries themselves: a ParameterList looks every item up by its name, which a small flow feels
        return [*self.weights._parameters.values(), *self.biases._parameters.values(), self.gain]  # type: ignore[list-item]

    def unbind(self, stacked: Sequence[Tensor]) -> list[CouplingParameters]:
        """The parameters of each coupling, as views."""
        layers = len(self.weights)
        weights = zip(*(weight.unbind(0) for weight in stacked[:layers]), strict=True)
        biases = zip(*(bias.unbind(0) for bias in stacked[layers:-1]), strict=True)
        return list(map(CouplingParameters, weights, biases, stacked[-1].unbind(0)))

    def forward(self, kept: Tensor, conditions: Conditions, of: CouplingParameters) -> tuple[Tensor, Tensor]:
        """t and s, each (batch, moved), in the data's dtype also where autocast computes the network in another."""
        h = dense(self._inputs(kept, conditions), of.weights, of.biases, self.activation)
        shift, raw = h.to(kept.dtype).chunk(2, 1)
        return shift, torch.add(of.gain, torch.tanh(raw / self.max_log_scale), alpha=self.max_log_scale)

    def _inputs(self, kept: Tensor, conditions: Conditions) -> Tensor:
        bounded = kept.clamp(-INPUT_BOUND, INPUT_BOUND)
        parts = [bounded]
        if conditions.phase is not None and conditions.rate is not None:
            turns = conditions.phase[..., self.coordinates] + conditions.rate[self.coordinates] * bounded
            parts += waves(turns, self.octaves)
        if conditions.features is not None:
            parts.append(conditions.features)
        return torch.cat(parts, 1) if len(parts) > 1 else bounded

    @torch.no_grad()
    def initialize(self, of: CouplingParameters, kept: Tensor, moved: Tensor, conditions: Conditions) -> None:
        """Sets the bias of t and the gain so that this batch's moved half leaves with mean 0 and deviation 1."""
        shift, log_scale = self(kept, conditions, of)
        scale = log_scale.exp()
        offset = ((moved - shift) * scale).mean(0) / scale.mean(0)
        std = ((moved - shift - offset) * scale).square().mean(0).sqrt()
        of.biases[-1][: self.moved] += offset
        of.gain.sub_(torch.where(std > 1e-6, std, torch.ones_like(std)).log())


class CouplingStack(nf.flows.Flow):
    """`count` couplings that take turns: what one moves, the next keeps. (batch, D), the first columns kept first.

    The halves stay two tensors from the first coupling to the last and the log scales are summed once, which saves a
    fifth of the time of a small flow against one split, join and sum per coupling.

    In place of normflows' AffineCouplingBlock, which takes no context, bounds no exp scale and fails for odd D.
    `inverse` is data to noise, as in normflows; log-determinants have the dtype of z.
    """

    def __init__(self, count: int, halves: tuple[list[int], list[int]], make: Callable[[int, list[int]], Couplings]):
        """halves: the event's coordinates in the first and the last columns; make: couplings of a count and a half."""
        super().__init__()
        self.count = count
        self.first = make((count + 1) // 2, halves[0])
        self.second = make(count // 2, halves[1]) if count > 1 else None
        first = self.first
        groups = (first,) if self.second is None else (first, self.second)
        self.plan = Plan(
            count,
            first.activation,
            len(first.octaves),
            first.features,
            INPUT_BOUND,
            first.max_log_scale,
            tuple(group.plan for group in groups),
        )
        self.at_data = [len(halves[0]), len(halves[1])]
        self.at_noise = self.at_data if count % 2 == 0 else self.at_data[::-1]

    def inverse(self, z: Tensor, context: Conditions) -> tuple[Tensor, Tensor]:
        """Data to noise: (batch, D) -> (batch, D) and log |det|, (batch,)."""
        parameters = self._stacked()
        if runs_compiled(self.plan, z, context, parameters):
            plan, octaves = self.plan, self.first.octaves
            if len(octaves) and z.dtype == torch.float64:  # one made in float32 keeps its rounded octaves
                plan = plan._replace(longest=octaves[0].item())
            return to_noise(plan, z, context, parameters, self._in_torch)
        return self._in_torch(z, context, parameters)

    def _in_torch(self, z: Tensor, context: Conditions, parameters: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        kept, moved = z.split(self.at_data, 1)
        log_scales = []
        for couplings, of in self._sequence(parameters):
            shift, log_scale = couplings(kept, context, of)
            kept, moved = (moved - shift) * log_scale.exp(), kept
            log_scales.append(log_scale)
        return torch.cat([kept, moved], 1), torch.cat(log_scales, 1).sum(1)

    def forward(self, z: Tensor, context: Conditions) -> tuple[Tensor, Tensor]:
        """Noise to data: undoes `inverse`."""
        kept, moved = z.split(self.at_noise, 1)
        log_scales = []
        for couplings, of in reversed(self._sequence(self._stacked())):
            shift, log_scale = couplings(moved, context, of)
            kept, moved = moved, kept * (-log_scale).exp() + shift
            log_scales.append(log_scale)
        return torch.cat([kept, moved], 1), -torch.cat(log_scales, 1).sum(1)

    def initialize(self, z: Tensor, context: Conditions) -> None:
        """ActNorm's initialisation of every coupling in turn, from data to noise."""
        kept, moved = z.split(self.at_data, 1)
        for couplings, of in self._sequence(self._stacked()):
            couplings.initialize(of, kept, moved, context)
            shift, log_scale = couplings(kept, context, of)
            kept, moved = (moved - shift) * log_scale.exp(), kept

    def _stacked(self) -> list[Tensor]:
        """The parameters of the first couplings, then of the second."""
        return self.first.stacked() + ([] if self.second is None else self.second.stacked())

    def _sequence(self, parameters: Sequence[Tensor]) -> list[tuple[Couplings, CouplingParameters]]:
        """Every coupling from data to noise."""
        size = len(self.first.stacked())
        turns = [(self.first, self.first.unbind(parameters[:size]))]
        if self.second is not None:
            turns.append((self.second, self.second.unbind(parameters[size:])))
        return [(turns[index % 2][0], turns[index % 2][1][index // 2]) for index in range(self.count)]


def waves(turns: Tensor, octaves: Tensor) -> list[Tensor]:
    """sin and cos of every octave of a position given in turns: two of (batch, F * coordinates)."""
    angle = (octaves[:, None] * turns.unsqueeze(1)).flatten(1)
    return [angle.sin(), angle.cos()]
