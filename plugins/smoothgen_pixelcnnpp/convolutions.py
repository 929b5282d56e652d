"""Convolutions that see only what comes before, weight-normalised per output channel."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEAST_SPREAD = 1e-2
"""Data-dependent initialisation leaves the scale of a channel that varies less: it says nothing to scale by."""


class NormedConv(nn.Module):
    """A convolution whose weight is gain * direction / |direction|, one gain for each output channel.

    transposed: a stride-2 transposed convolution, normalised per output channel too (the paper's release, through
    torch's default, normalises per input channel there).
    Source: Salimans & Kingma 2016 (arXiv 1602.07868), Eq. 2; data-dependent initialisation: section 3.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: tuple[int, int],
        *,
        stride: int = 1,
        padding: tuple[int, int] = (0, 0),
        transposed: bool = False,
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        self.stride, self.padding, self.transposed = stride, padding, transposed
        self.starting_gain = gain
        shape = (inputs, outputs, *kernel) if transposed else (outputs, inputs, *kernel)
        self.direction = nn.Parameter(torch.randn(shape) / math.sqrt(inputs * math.prod(kernel)))
        self.gain = nn.Parameter(torch.full((outputs,), gain))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.initializing = False

    @property
    def weight(self) -> Tensor:
        """The weight that the convolution uses: (out, in, kh, kw), or (in, out, kh, kw) when transposed."""
        rest = (0, 2, 3) if self.transposed else (1, 2, 3)
        shape = (1, -1, 1, 1) if self.transposed else (-1, 1, 1, 1)
        norm = self.direction.square().sum(rest).sqrt()
        return self.direction * (self.gain / norm).reshape(shape)

    def forward(self, x: Tensor) -> Tensor:
        if self.initializing:
            self._initialize(x)
        return self._convolve(x, self.bias)

    def _convolve(self, x: Tensor, bias: Tensor | None) -> Tensor:
        if self.transposed:
            return F.conv_transpose2d(x, self.weight, bias, self.stride, self.padding)
        return F.conv2d(x, self.weight, bias, self.stride, self.padding)

    @torch.no_grad()
    def _initialize(self, x: Tensor) -> None:
        """Gain and bias that make every output channel of this batch have mean 0 and spread `starting_gain`."""
        self.gain.fill_(1.0)
        y = self._convolve(x, None)
        spread = y.std((0, 2, 3), correction=0)
        scale = self.starting_gain / torch.where(spread > LEAST_SPREAD, spread, torch.ones_like(spread))
        self.gain.copy_(scale)
        self.bias.copy_(-y.mean((0, 2, 3)) * scale)


def down_shifted(inputs: int, outputs: int, *, stride: int = 1, gain: float = 1.0) -> NormedConv:
    """2 x 3: row i sees rows i-1 and i. One row too many comes out; `crop` removes it."""
    return NormedConv(inputs, outputs, (2, 3), stride=stride, padding=(1, 1), gain=gain)


def down_right_shifted(inputs: int, outputs: int, *, stride: int = 1, gain: float = 1.0) -> NormedConv:
    """2 x 2: pixel (i, j) sees rows i-1 and i, columns j-1 and j. `crop` removes the row and column too many."""
    return NormedConv(inputs, outputs, (2, 2), stride=stride, padding=(1, 1), gain=gain)


def pointwise(inputs: int, outputs: int, *, gain: float = 1.0) -> NormedConv:
    """1 x 1."""
    return NormedConv(inputs, outputs, (1, 1), gain=gain)


def with_ones(x: Tensor) -> Tensor:
    """x and a channel of ones, which tells pixels from padding, laid out channels last for fast convolutions.

    Laid out here: torch cannot tell the layout of a single channel, so what comes in may have lost it.
    """
    return torch.cat([x, torch.ones_like(x[:, :1])], dim=1).contiguous(memory_format=torch.channels_last)
