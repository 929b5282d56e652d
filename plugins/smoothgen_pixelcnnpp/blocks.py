"""The gated residual block, and what passes between blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from smoothgen_pixelcnnpp.convolutions import NormedConv, pointwise
from smoothgen_pixelcnnpp.elementwise import activate_sum, gate


class Activation(NamedTuple):
    """What a block gives: its value, and that value through `concat_elu`, which several others read."""

    value: Tensor
    activated: Tensor


def activate(value: Tensor) -> Activation:
    """A value with its activation."""
    return Activation(value, activate_sum([value], *value.shape[2:]))


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
        terms = [self.conv_in(x.activated)]
        terms += [convolution(skip) for convolution, skip in zip(self.skips, skips, strict=True)]
        if added is not None:
            terms.append(added)
        hidden = activate_sum(terms, height, width)
        dropped = F.dropout(hidden, self.dropout, self.training) if self.dropout else hidden
        return Activation(*gate(x.value, self.conv_out(dropped), shifted)), hidden
