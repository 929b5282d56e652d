"""The gated residual block, and what passes between blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smoothgen_pixelcnnpp.convolutions import NormedConv, crop, pointwise


class Activation(NamedTuple):
    """What a block gives: its value, and that value through `concat_elu`, which several others read."""

    value: Tensor
    activated: Tensor


def concat_elu(x: Tensor) -> Tensor:
    """elu of x and of -x, twice the channels. Source: Shang et al. 2016 (arXiv 1603.05201)."""
    return F.elu(torch.cat([x, -x], dim=1))


def activate(value: Tensor) -> Activation:
    """A value with its activation."""
    return Activation(value, concat_elu(value))


class GatedBlock(nn.Module):
    """x + a sigmoid(b), where (a, b) come from two convolutions of x and of what skips in.

    skips: how many activations (each of `filters` channels before concat_elu) skip in by 1 x 1 convolutions.
    Source: Salimans et al. 2017 (arXiv 1701.05517), section 2.3, and their code's `gated_resnet`.
    """

    def __init__(self, filters: int, conv_in: NormedConv, conv_out: NormedConv, skips: int, dropout: float) -> None:
        super().__init__()
        self.conv_in, self.conv_out = conv_in, conv_out
        self.skips = nn.ModuleList(pointwise(2 * filters, filters) for _ in range(skips))
        self.dropout = dropout

    def forward(
        self,
        x: Activation,
        skips: Sequence[Tensor] = (),
        added: Tensor | None = None,
        shifted: Tensor | None = None,
    ) -> tuple[Activation, Tensor]:
        """The block's activation, and that of its hidden layer.

        skips: activated, as many as the block was built for. added: (batch, filters, height, width), what a context
        says at every place. shifted: (batch, 2 filters, 1, 1), what it says everywhere.
        """
        height, width = x.value.shape[2:]
        h = crop(self.conv_in(x.activated), height, width)
        for convolution, skip in zip(self.skips, skips, strict=True):
            h = h + convolution(skip)
        if added is not None:
            h = h + added
        hidden = concat_elu(h)
        dropped = F.dropout(hidden, self.dropout, self.training) if self.dropout else hidden
        out = crop(self.conv_out(dropped), height, width)
        if shifted is not None:
            out = out + shifted
        return activate(x.value + F.glu(out, dim=1)), hidden
