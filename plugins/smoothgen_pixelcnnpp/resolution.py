"""One resolution of the cached sampler: folded weights, and fixed buffers for one row of both streams."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from smoothgen_pixelcnnpp.blocks import GatedBlock
from smoothgen_pixelcnnpp.network import Network


class FoldedStream:
    """One stream of one resolution: every block's weights as matrices, stacked; and the row that is being computed.

    A row buffer is (slots, batch, width + 2, 2 filters), column j at place j + 1, so that the taps of a convolution are
    shifts of one flat matrix (batch (width + 2), 2 filters), without copies. The last two rows of every flat result
    mix neighbouring images and are never read.

    A convolution of two rows is split: what the row above gives to all blocks, `above`, is one batched product at the
    end of that row; what the row itself gives is added while the row is computed.
    twice: values are kept as (v, -v), so that a whole concat_elu is one elu: fewer, larger operations, which pays for
    few images.
    """

    def __init__(self, blocks: Sequence[GatedBlock], batch: int, width: int, slots: int, taps: int, twice: bool) -> None:
        first = blocks[0].conv_in
        self.filters = filters = first.weight.shape[0]
        self.batch, self.width, self.taps, self.twice = batch, width, taps, twice
        self.rows = batch * (width + 2) - 2
        like = first.weight
        self.inputs = like.new_zeros(slots, batch, width + 2, 2 * filters)
        self.hidden = like.new_zeros(len(blocks), batch, width + 2, 2 * filters)
        into = torch.stack([_signed(block.conv_in.weight, 0, twice) for block in blocks])
        out = torch.stack([_gates(block.conv_out.weight, twice) for block in blocks])
        # (blocks, out, in, row, tap) -> for each tap, (blocks, in, out)
        self.into_above, self.into_here = ([w.mT.contiguous() for w in into[:, :, :, r].unbind(-1)] for r in (0, 1))
        self.out_above, self.out_here = ([w.mT.contiguous() for w in out[:, :, :, r].unbind(-1)] for r in (0, 1))
        self.skips = [
            [_signed(skip.weight, 0, twice)[:, :, 0, 0].T.contiguous() for skip in block.skips]  # type: ignore[operator,union-attr]
            for block in blocks
        ]
        bias = torch.stack([_signed(sum_of_biases(block), 0, twice) for block in blocks])
        out_bias = torch.stack([_gates(block.conv_out.bias, twice) for block in blocks])
        flat = batch * (width + 2)
        self.into_start = bias[:, None].expand(-1, flat, -1).contiguous()
        self.out_start = out_bias[:, None].expand(-1, flat, -1).contiguous()
        self.into, self.out = self.into_start.clone(), self.out_start.clone()

    def shift_by(self, terms: Sequence[Tensor]) -> None:
        """Adds what a context says everywhere: for every block (batch, 2 filters, 1, 1)."""
        stacked = torch.stack([_gates(term.flatten(1), self.twice, dim=1) for term in terms])
        self.grid(self.out_start).add_(stacked[:, :, None])

    def grid(self, flat: Tensor) -> Tensor:
        """(blocks, batch (width + 2), k) as (blocks, batch, width + 2, k)."""
        return flat.unflatten(1, (self.batch, self.width + 2))

    def columns(self, flat: Tensor) -> Tensor:
        """The columns of one block's flat result: (batch, width, k), a view."""
        return flat.unflatten(0, (self.batch, self.width + 2))[:, : self.width]

    def begin(self) -> None:
        """Before the first row: there is nothing above."""
        self.into.copy_(self.into_start)
        self.out.copy_(self.out_start)

    def end_row(self) -> None:
        """What the finished row gives to the row below, for all blocks."""
        self.into.copy_(self.into_start)
        self.out.copy_(self.out_start)
        for tap in range(self.taps):
            window = slice(tap, tap + self.rows)
            for blocks, slots in self.runs:
                inputs = self.inputs[slots].flatten(1, 2)[:, window]
                self.into[blocks, : self.rows].baddbmm_(inputs, self.into_above[tap][blocks])
            self.out[:, : self.rows].baddbmm_(self.hidden.flatten(1, 2)[:, window], self.out_above[tap])

    def arrange(self, ups: int, downs: int, first_down: int) -> None:
        """Which slots the blocks read: up blocks 0 .. ups - 1, the others from `first_down` on."""
        self.runs = [(slice(0, ups), slice(0, ups))]
        if downs:
            self.runs.append((slice(ups, ups + downs), slice(first_down, first_down + downs)))

    def convolve_row(self, target: Tensor, source: Tensor, weights: list[Tensor], index: int) -> None:
        """Adds a whole row's own taps to a flat result."""
        flat = source.flatten(0, 1)
        for tap in range(self.taps):
            target[: self.rows].addmm_(flat[tap : tap + self.rows], weights[tap][index])

    def put(self, place: Tensor, value: Tensor) -> None:
        """Writes concat_elu of `value` (..., filters), or of (v, -v) (..., 2 filters), to `place` (..., 2 filters)."""
        if value.shape[-1] == place.shape[-1]:
            elu(value, place)
            return
        positive, negative = place[..., : self.filters], place[..., self.filters :]
        elu(value, positive)
        torch.neg(value, out=negative)
        F.elu_(negative)


def elu(value: Tensor, out: Tensor) -> None:
    """elu of `value`, written to `out`."""
    torch._C._nn.elu(value, 1.0, 1.0, 1.0, out=out)


def sum_of_biases(block: GatedBlock) -> Tensor:
    """What a block's hidden layer gets from biases alone."""
    total = block.conv_in.bias
    for skip in block.skips:
        total = total + skip.bias  # type: ignore[operator]
    return total


def _signed(weight: Tensor, dim: int, twice: bool) -> Tensor:
    return torch.cat([weight, -weight], dim) if twice else weight


def _gates(weight: Tensor, twice: bool, dim: int = 0) -> Tensor:
    """(a, b) as (a, -a, b, b), so that the gated linear unit gives (g, -g)."""
    if not twice:
        return weight
    a, b = weight.chunk(2, dim)
    return torch.cat([a, -a, b, b], dim)


def folded(network: Network, level: int, batch: int, width: int, twice: bool) -> tuple[FoldedStream, FoldedStream]:
    """Both streams of a resolution; the vertical one never keeps values twice."""
    ups, downs = network.counts[level]
    deepest = level == network.resolutions - 1
    first_down = ups if deepest else ups + 1
    slots = first_down + downs + 1
    streams = []
    for stream, taps, doubled in ((network.u[level], 3, False), (network.h[level], 2, twice)):
        blocks: list[GatedBlock] = [*stream.up, *stream.down]  # type: ignore[misc,list-item]
        result = FoldedStream(blocks, batch, width, slots, taps, doubled)
        result.arrange(ups, downs, first_down)
        streams.append(result)
    return streams[0], streams[1]
