"""Linear layers whose weights are masked by the degrees of their units."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MaskedLinear(nn.Linear):
    """A linear layer in which output unit o sees input unit i only where `sees[o, i]`.

    sees: (out, in), bool. Masked weights stay at zero gradient; they are initialised like the others.
    """

    mask: Tensor

    def __init__(self, sees: Tensor) -> None:
        super().__init__(sees.shape[1], sees.shape[0])
        self.register_buffer("mask", sees.to(torch.get_default_dtype()), persistent=False)
        fan_in = sees.sum(1).clamp(min=1).to(self.weight.dtype)
        with torch.no_grad():  # the variance that a dense layer of each unit's true fan-in would have
            self.weight.mul_(sees.shape[1] ** 0.5).div_(fan_in.sqrt()[:, None])

    @property
    def masked_weight(self) -> Tensor:
        """(out, in), zero where nothing is seen."""
        return self.weight * self.mask

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.masked_weight, self.bias)

    def rows(self, input: Tensor, first: int, last: int) -> Tensor:
        """Output units first .. last - 1 alone."""
        return F.linear(input, self.weight[first:last] * self.mask[first:last], self.bias[first:last])


def hidden_degrees(width: int, coordinates: int, conditional: bool) -> Tensor:
    """Degrees of a hidden layer: -1 (context alone) or 0 up to coordinates - 2, all equally often.

    A unit of degree d sees the context and the coordinates of rank 0 .. d. Without a context, degree -1 would be
    blind and is left out where another degree exists. A layer with fewer units than degrees spreads them evenly, the
    highest included, so that the last coordinates still see most of those before them.
    """
    lowest = -1 if conditional or coordinates == 1 else 0
    count = coordinates - 1 - lowest
    if 1 < width < count:
        return torch.linspace(lowest, coordinates - 2, width).round().long()
    return torch.arange(width) % count + lowest
