"""The two streams at one resolution for the cached sampler: folded weights, and fixed buffers for their rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from smoothgen_pixelcnnpp.blocks import GatedBlock
from smoothgen_pixelcnnpp.convolutions import NormedConv

_native: Any = torch._C._nn  # torch.nn.functional's own elu and glu, which there take no `out`


class VerticalStream:
    """The vertical stream of one resolution: folded weights, and two rows of every activation.

    Buffers are (batch, row, width + 2, channels), column j at place j + 1: channels last, as fast convolutions want
    them. Rows alternate between the two places, and so do the rows of the weights: nothing moves.
    """

    def __init__(self, blocks: Sequence[GatedBlock], batch: int, width: int, slots: int) -> None:
        like = blocks[0].conv_in.gain
        self.filters, self.width = like.numel(), width
        self.inputs = like.new_zeros(slots, batch, 2, width + 2, 2 * self.filters)
        self.hidden = like.new_zeros(len(blocks), batch, 2, width + 2, 2 * self.filters)
        self.into, self.out = ([_both_orders(getattr(b, n).weight) for b in blocks] for n in ("conv_in", "conv_out"))
        self.skips = [[_fast(skip.weight) for skip in skips_of(block)] for block in blocks]
        self.biases = [(sum_of_biases(block), block.conv_out.bias) for block in blocks]
        self.shifts: Sequence[Tensor | None] = [None] * len(blocks)
        self.place = 0

    def shift_by(self, terms: Sequence[Tensor]) -> None:
        """Adds what a context says everywhere: for every block (batch, 2 filters, 1, 1)."""
        self.shifts = [term.clone() for term in terms]

    def row(self, slot: int) -> Tensor:
        """The activation in a slot, of the row being computed: (batch, 2 filters, 1, width), a view."""
        return self.inputs[slot][:, self.place : self.place + 1, 1 : self.width + 1].movedim(-1, 1)

    def put(self, buffer: Tensor, value: Tensor) -> None:
        """Writes concat_elu of (batch, filters, 1, width) to the current row of a buffer."""
        concat_elu_to(buffer[:, self.place, 1 : self.width + 1], value.squeeze(2).mT)

    def block(
        self, index: int, source: int, target: int, value: Tensor, skip: int | None, added: Tensor | None
    ) -> Tensor:
        """One gated block on the current row: value (batch, filters, 1, width) -> the same. added: of a context."""
        bias, out_bias = self.biases[index]
        hidden = F.conv2d(self.inputs[source].movedim(-1, 1), self.into[index][self.place], bias)
        if skip is not None:
            hidden = hidden + F.conv2d(self.row(skip), self.skips[index][0])
        if added is not None:
            hidden = hidden + added
        self.put(self.hidden[index], hidden)
        gates = F.conv2d(self.hidden[index].movedim(-1, 1), self.out[index][self.place], out_bias)
        shift = self.shifts[index]
        value = value + F.glu(gates if shift is None else gates + shift, 1)
        self.put(self.inputs[target], value)
        return value

    def end_row(self) -> None:
        """The current row becomes the one above."""
        self.place = 1 - self.place


class HorizontalStream:
    """The horizontal stream of one resolution: folded weights, and fixed buffers for the row being computed.

    Activations are (slots, batch, width + 2, 2 filters), column j at place j + 1, so that the two columns a convolution
    sees at a pixel are one contiguous row of a matrix. What the row above gives to all pixels of all blocks, `into` and
    `out` (blocks, batch, width, k), is convolved once that row is finished; a pixel adds its own two columns.
    twice: values are kept as (v, -v), so that a whole concat_elu is one elu: fewer, larger operations, which pays for
    few images.
    """

    def __init__(self, blocks: Sequence[GatedBlock], batch: int, width: int, slots: int, twice: bool) -> None:
        like, kept = blocks[0].conv_in.gain, 2 if twice else 1
        self.filters, self.width, self.twice = like.numel(), width, twice
        self.inputs = like.new_zeros(slots, batch, width + 2, 2 * self.filters)
        self.hidden = like.new_zeros(len(blocks), batch, width + 2, 2 * self.filters)
        self.into = like.new_zeros(len(blocks), batch, width, kept * self.filters)
        self.out = like.new_zeros(len(blocks), batch, width, 2 * kept * self.filters)
        into = [_signed(block.conv_in.weight, 0, twice) for block in blocks]
        out = [_gates(block.conv_out.weight, twice) for block in blocks]
        self.into_above, self.out_above = ([_fast(w[:, :, :1]) for w in weights] for weights in (into, out))
        self.into_row, self.out_row = ([_fast(w[:, :, 1:]) for w in weights] for weights in (into, out))
        # (out, in, tap) -> (tap in, out): one matrix for the two columns
        self.into_here, self.out_here = (
            [w[:, :, 1].permute(2, 1, 0).flatten(0, 1).contiguous() for w in weights] for weights in (into, out)
        )
        skips = [[_signed(skip.weight, 0, twice) for skip in skips_of(block)] for block in blocks]
        self.skip_of_u = [_fast(weights[0]) for weights in skips]
        self.own_skip_here = [w[1][:, :, 0, 0].T.contiguous() if len(w) > 1 else None for w in skips]
        self.biases = [
            (_signed(sum_of_biases(block), 0, twice), _gates(block.conv_out.bias, twice)) for block in blocks
        ]
        self.shifts: Sequence[Tensor | None] = [None] * len(blocks)

    def shift_by(self, terms: Sequence[Tensor]) -> None:
        """Adds what a context says everywhere: for every block (batch, 2 filters, 1, 1)."""
        self.shifts = [_gates(term.flatten(1), self.twice, dim=1)[:, None].clone() for term in terms]

    def begin(self) -> None:
        """Before the first row: there is nothing above."""
        for index, (bias, out_bias) in enumerate(self.biases):
            self.into[index] = bias
            self._set_out(index, out_bias)

    def end_row(self, sources: Sequence[int]) -> None:
        """What the finished row gives to the row below; `sources`: the slot that each block reads."""
        for index, source in enumerate(sources):
            bias, out_bias = self.biases[index]
            above = F.conv2d(self.window(self.inputs[source]), self.into_above[index], bias)
            self.into[index] = above.squeeze(2).mT
            self._set_out(
                index, F.conv2d(self.window(self.hidden[index]), self.out_above[index], out_bias).squeeze(2).mT
            )

    def _set_out(self, index: int, value: Tensor) -> None:
        shift = self.shifts[index]
        self.out[index] = value if shift is None else value + shift

    def window(self, buffer: Tensor) -> Tensor:
        """A row of a buffer as a convolution over (j - 1, j) wants it: (batch, 2 filters, 1, width + 1), a view."""
        return buffer[:, None, : self.width + 1].movedim(-1, 1)

    def put(self, place: Tensor, value: Tensor) -> None:
        """Writes concat_elu of `value` (..., filters), or of (v, -v) (..., 2 filters), to `place` (..., 2 filters)."""
        if self.twice:
            elu(value, place)
        else:
            concat_elu_to(place, value)


def concat_elu_to(place: Tensor, value: Tensor) -> None:
    """Writes concat_elu of (..., filters) to (..., 2 filters)."""
    filters = value.shape[-1]
    elu(value, place[..., :filters])
    negative = place[..., filters:]
    torch.neg(value, out=negative)
    F.elu_(negative)


def elu(value: Tensor, out: Tensor) -> None:
    """elu of `value`, written to `out`."""
    _native.elu(value, 1.0, 1.0, 1.0, out=out)


def glu(value: Tensor, out: Tensor) -> None:
    """The gated linear unit of (batch, 2 k), written to `out` (batch, k)."""
    _native.glu(value, 1, out=out)


def sum_of_biases(block: GatedBlock) -> Tensor:
    """What a block's hidden layer gets from biases alone."""
    return torch.stack([block.conv_in.bias, *(skip.bias for skip in skips_of(block))]).sum(0)


def skips_of(block: GatedBlock) -> list[NormedConv]:
    """The 1 x 1 convolutions of what skips into a block."""
    return [cast(NormedConv, skip) for skip in block.skips]


def _signed(weight: Tensor, dim: int, twice: bool) -> Tensor:
    return torch.cat([weight, -weight], dim) if twice else weight


def _gates(weight: Tensor, twice: bool, dim: int = 0) -> Tensor:
    """(a, b) as (a, -a, b, b), so that the gated linear unit gives (g, -g)."""
    if not twice:
        return weight
    a, b = weight.chunk(2, dim)
    return torch.cat([a, -a, b, b], dim)


def _fast(weight: Tensor) -> Tensor:
    return weight.contiguous(memory_format=torch.channels_last)


def _both_orders(weight: Tensor) -> tuple[Tensor, Tensor]:
    """For the current row at place 0 (the row above at 1), and the other way round."""
    return _fast(weight.flip(2)), _fast(weight)
