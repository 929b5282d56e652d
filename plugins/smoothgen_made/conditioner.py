"""The networks: from x and the context to the parameters of every conditional."""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from typing import cast

import torch
from torch import Tensor, nn

from smoothgen.dense import dense
from smoothgen.event import ContextSpec
from smoothgen_made.masked_linear import MaskedLinear, hidden_degrees

OUTPUT_GAIN = 0.1
"""How much smaller the last layer starts, so that the starting spread of the components is that of the data."""
ACTIVATIONS: dict[str, type[nn.Module]] = {"silu": nn.SiLU, "relu": nn.ReLU, "tanh": nn.Tanh}


class Features(nn.Module):
    """What the network sees of x and of the context, each number with the degree of its coordinate.

    Every coordinate standardised; sines and cosines of `fourier` octaves of it; and, with a noisy copy of known
    noise, the residual (x - x_tilde) / std. Means, scales and periods are buffers that `initialize` sets.
    """

    loc: Tensor
    scale: Tensor
    period: Tensor
    context_loc: Tensor
    context_scale: Tensor
    noise_std: Tensor
    octaves: Tensor

    def __init__(self, coordinates: int, context: ContextSpec | None, fourier: int, period: float | None) -> None:
        super().__init__()
        self.coordinates = coordinates
        self.spec = context
        self.fourier = fourier
        self.fixed_period = period
        self.anchored = context is not None and bool(context.noise_std)
        self.register_buffer("loc", torch.zeros(coordinates))
        self.register_buffer("scale", torch.ones(coordinates))
        self.register_buffer("period", torch.full((coordinates,), period or 8.0))
        self.register_buffer("octaves", 2.0 * math.pi * 2.0 ** torch.arange(fourier), persistent=False)
        size = context.dimensions if context else 0
        self.register_buffer("context_loc", torch.zeros(size))
        self.register_buffer("context_scale", torch.ones(size))
        self.register_buffer("noise_std", torch.tensor(context.noise_std if context else ()), persistent=False)

    def degrees(self, rank: Tensor) -> Tensor:
        """The degree of every feature, in the order of `forward`; -1 for those of the context."""
        copies = 1 + 2 * self.fourier + int(self.anchored)
        of_context = 0
        if self.spec is not None:
            waves = self.coordinates if self.spec.noisy_copy is not None else 0
            of_context = self.spec.dimensions + 2 * self.fourier * waves
        return torch.cat([rank.repeat(copies), torch.full((of_context,), -1)])

    def forward(self, x: Tensor, context: Tensor | None) -> Tensor:
        """x (batch, D), context (batch, *context_shape) or None -> (batch, features)."""
        parts = [(x - self.loc) / self.scale, *self._waves(x)]
        if self.spec is not None and context is not None:
            noisy_copy, _ = self.spec.split(context)
            if self.anchored and noisy_copy is not None:
                parts.append((x - noisy_copy) / self.noise_std)
            parts.append((context.flatten(1) - self.context_loc) / self.context_scale)
            if noisy_copy is not None:
                parts += self._waves(noisy_copy)
        return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]

    def _waves(self, x: Tensor) -> list[Tensor]:
        """sin and cos of every octave, octave by octave."""
        if not self.fourier:
            return []
        angle = (self.octaves[:, None] * (x / self.period).unsqueeze(1)).flatten(1)
        return [angle.sin(), angle.cos()]

    def initialize(self, x: Tensor, context: Tensor | None) -> None:
        """Standardises by the batch; a period is a quarter longer than the range of its coordinate."""
        self.loc.copy_(x.mean(0))
        self.scale.copy_(spread(x))
        if self.fixed_period is None:
            extent = x.amax(0) - x.amin(0)
            self.period.copy_(1.25 * torch.where(extent > 0, extent, torch.ones_like(extent)))
        if context is not None:
            flat = context.flatten(1)
            self.context_loc.copy_(flat.mean(0))
            self.context_scale.copy_(spread(flat))


def spread(x: Tensor) -> Tensor:
    """Standard deviation of every column, 1 for constant ones. x (n, D) -> (D,)."""
    std = x.std(0) if len(x) > 1 else torch.zeros_like(x[0])
    return torch.where(std > 1e-6 * (1.0 + x.abs().amax(0)), std, torch.ones_like(std))


class Conditioner(nn.Module, ABC):
    """(batch, features) -> the parameters of every coordinate's conditional, in an order of the coordinates.

    The outputs of the coordinate of rank r depend on the features of degree below r and on no others.
    """

    @abstractmethod
    def forward(self, features: Tensor) -> Tensor:
        """(batch, D, outputs)."""

    @abstractmethod
    def of_coordinate(self, features: Tensor, index: int) -> Tensor:
        """The parameters of one coordinate's conditional: (batch, outputs)."""

    @abstractmethod
    def set_bias(self, bias: Tensor) -> None:
        """Sets what every conditional's parameters start around: (D, outputs)."""


class MaskedConditioner(Conditioner):
    """One masked network with residual blocks for all coordinates.

    Source: Germain et al. 2015 (arXiv 1502.03509); degrees from -1, so that the first conditional sees the context.
    """

    def __init__(
        self,
        feature_degrees: Tensor,
        rank: Tensor,
        hidden: tuple[int, ...],
        outputs: int,
        activation: str,
        conditional: bool,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.outputs = outputs
        layers = []
        degrees = feature_degrees
        for width in hidden:
            following = hidden_degrees(width, len(rank), conditional)
            layers.append(MaskedLinear(following[:, None] >= degrees[None, :]))
            degrees = following
        self.layers = nn.ModuleList(layers)
        self.kind, self.activation = activation, ACTIVATIONS[activation]()
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.last = MaskedLinear(rank.repeat_interleave(outputs)[:, None] > degrees[None, :])
        with torch.no_grad():
            self.last.weight.mul_(OUTPUT_GAIN)

    def trunk(self, features: Tensor) -> Tensor:
        """The last hidden layer: (batch, hidden)."""
        return residual(self.layers, features, self.activation, self.dropout)

    def forward(self, features: Tensor) -> Tensor:
        if drops(self):
            return self.last(self.trunk(features)).unflatten(1, (-1, self.outputs))
        layers = [cast(MaskedLinear, layer) for layer in (*self.layers, self.last)]
        weights, biases = [layer.masked_weight for layer in layers], [layer.bias for layer in layers]
        return dense(features, weights, biases, self.kind, residual=True).unflatten(1, (-1, self.outputs))

    def of_coordinate(self, features: Tensor, index: int) -> Tensor:
        return self.last.rows(self.trunk(features), index * self.outputs, (index + 1) * self.outputs)

    def set_bias(self, bias: Tensor) -> None:
        self.last.bias.copy_(bias.flatten())


class SeparateConditioner(Conditioner):
    """A residual network of its own for every coordinate: no weight is masked away, and each has the widths it needs.

    Masks leave about two thirds of a small network's weights in use, and split its units evenly over coordinates that
    are not equally hard. Worth it for few coordinates; the cost grows with their number.
    """

    def __init__(
        self,
        feature_degrees: Tensor,
        rank: Tensor,
        hidden: tuple[tuple[int, ...], ...],
        outputs: int,
        activation: str,
        dropout: float = 0.0,
    ) -> None:
        """hidden: the widths of each coordinate's layers, in the event's order."""
        super().__init__()
        networks = []
        for coordinate, widths in enumerate(hidden):
            columns = (feature_degrees < rank[coordinate]).nonzero().flatten()
            networks.append(CoordinateNetwork(columns, widths, outputs, activation, dropout))
        self.networks = nn.ModuleList(networks)

    def forward(self, features: Tensor) -> Tensor:
        return torch.stack([network(features) for network in self.networks], dim=1)

    def of_coordinate(self, features: Tensor, index: int) -> Tensor:
        return self.networks[index](features)

    def set_bias(self, bias: Tensor) -> None:
        for parameter, row in zip((network.bias for network in self.networks), bias, strict=True):
            assert isinstance(parameter, nn.Parameter)
            parameter.copy_(row)


class CoordinateNetwork(nn.Module):
    """(batch, features) -> (batch, outputs) from some of the features; where there are none, a constant."""

    columns: Tensor

    def __init__(self, columns: Tensor, widths: tuple[int, ...], outputs: int, activation: str, dropout: float) -> None:
        super().__init__()
        self.register_buffer("columns", columns, persistent=False)
        sizes = [len(columns), *widths] if len(columns) else []
        self.layers = nn.ModuleList([nn.Linear(wide, narrow) for wide, narrow in itertools.pairwise(sizes)])
        self.last = nn.Linear(sizes[-1], outputs, bias=False) if sizes else None
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.kind, self.activation = activation, ACTIVATIONS[activation]()
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        if self.last is not None:
            with torch.no_grad():
                self.last.weight.mul_(OUTPUT_GAIN)

    def forward(self, features: Tensor) -> Tensor:
        if self.last is None:
            return self.bias.expand(len(features), -1)
        inputs = features.index_select(1, self.columns)
        if not drops(self):
            layers = [cast(nn.Linear, layer) for layer in self.layers]
            weights, biases = [layer.weight for layer in layers], [layer.bias for layer in layers]
            return dense(inputs, [*weights, self.last.weight], [*biases, self.bias], self.kind, residual=True)
        h = residual(self.layers, inputs, self.activation, self.dropout)
        return torch.nn.functional.linear(h, self.last.weight, self.bias)


def drops(network: MaskedConditioner | CoordinateNetwork) -> bool:
    """Whether some units are dropped now."""
    return network.training and isinstance(network.dropout, nn.Dropout)


def residual(layers: nn.ModuleList, features: Tensor, activation: nn.Module, dropout: nn.Module) -> Tensor:
    """The last hidden layer, activated: (batch, hidden). Equal neighbours are joined by residual connections."""
    first, *others = layers
    h = first(features)
    for layer in others:
        update = layer(dropout(activation(h)))
        h = h + update if update.shape == h.shape else update
    return dropout(activation(h))
