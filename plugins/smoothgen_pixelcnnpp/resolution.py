"""One resolution of the cached sampler: both streams, and what passes between resolutions."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from smoothgen_pixelcnnpp.network import Network
from smoothgen_pixelcnnpp.streams import HorizontalStream, VerticalStream


class BlockAtPixel(NamedTuple):
    """The views that one block of the horizontal stream works on at one column."""

    hidden: Tensor
    window: Tensor
    into: Tensor
    skip: Tensor | None
    skip_weight: Tensor | None
    hidden_place: Tensor
    gates: Tensor
    hidden_window: Tensor
    out: Tensor
    place: Tensor


class Resolution:
    """What one resolution keeps besides the buffers of its two streams."""

    def __init__(self, network: Network, level: int, batch: int, width: int, twice: bool) -> None:
        self.ups, self.downs = network.counts[level]
        self.deepest = level == network.resolutions - 1
        self.width = width
        self.first_down = self.ups if self.deepest else self.ups + 1
        slots = self.first_down + self.downs + 1
        u_blocks, h_blocks = (network.streams(stream)[level].blocks for stream in (network.u, network.h))
        self.u = VerticalStream(u_blocks, batch, width, slots)
        self.h = HorizontalStream(h_blocks, batch, width, slots, twice)
        n, like = network.filters, network.out.gain
        kept = 2 * n if twice else n
        self.u_raw, self.u_raw_above, self.h_raw, self.h_raw_above = (
            like.new_zeros(batch, width + 2, n) for _ in range(4)
        )
        self.u_held = like.new_zeros(batch, width, n)
        self.entry = like.new_zeros(batch, width, kept)
        even = width + width % 2
        self.doubled = like.new_zeros(batch, 2, even, kept)
        self.doubled_active = like.new_zeros(batch, 2, even, 2 * n)
        self.context: tuple[Tensor, Tensor] | None = None
        self.columns = self._columns()

    def as_row(self, buffer: Tensor) -> Tensor:
        """A row of the vertical stream, (batch, width or width + 2, n), as (batch, n, 1, width): a view."""
        start = (buffer.shape[1] - self.width) // 2
        return buffer[:, None, start : start + self.width].movedim(-1, 1)

    def up_skip(self, block: int) -> int | None:
        """The slot whose activation skips to a block on the way back up in resolution."""
        return None if block < self.ups else 2 * self.ups - block - int(self.deepest)

    def slots(self, block: int) -> tuple[int, int]:
        """Where a block reads and where it writes."""
        first = block if block < self.ups else self.first_down + block - self.ups
        return first, first + 1

    @property
    def sources(self) -> list[int]:
        """Where every block reads."""
        return [self.slots(block)[0] for block in range(self.ups + self.downs)]

    def _columns(self) -> list[list[BlockAtPixel]]:
        """For every column, the views of all blocks."""
        s = self.h
        pixels = [slot[:, 1 : self.width + 1].unbind(1) for slot in s.inputs]
        windows = [self._windows(slot) for slot in s.inputs]
        by_block = []
        for block in range(self.ups + self.downs):
            source, target = self.slots(block)
            skip = self.up_skip(block)
            hidden, hidden_windows = s.hidden[block], self._windows(s.hidden[block])
            places = hidden[:, 1 : self.width + 1].unbind(1)
            into, out = s.into[block].unbind(1), s.out[block].unbind(1)
            by_block.append(
                [
                    BlockAtPixel(
                        into[j],
                        windows[source][j],
                        s.into_here[block],
                        None if skip is None else pixels[skip][j],
                        s.own_skip_here[block],
                        places[j],
                        out[j],
                        hidden_windows[j],
                        s.out_here[block],
                        pixels[target][j],
                    )
                    for j in range(self.width)
                ]
            )
        return [list(column) for column in zip(*by_block, strict=True)]

    def _windows(self, buffer: Tensor) -> tuple[Tensor, ...]:
        """Columns j - 1 and j of a buffer as (batch, 4 filters), for every j."""
        pair = 2 * buffer.shape[-1]
        return buffer.flatten(1).unfold(1, pair, buffer.shape[-1])[:, : self.width].unbind(1)

    def buffers(self) -> list[tuple[Tensor, int]]:
        """Everything that carries a batch, with the axis of the batch, for `ActivationCache.reindex`."""
        found = [(t, 0) for t in (self.u_raw, self.u_raw_above, self.u_held, self.h_raw, self.h_raw_above)]
        found += [(t, 0) for t in (self.entry, self.doubled, self.doubled_active)]
        found += [(t, 1) for t in (self.u.inputs, self.u.hidden, self.h.inputs, self.h.hidden, self.h.into, self.h.out)]
        found += [(t, 0) for t in (*self.u.shifts, *self.h.shifts) if t is not None]
        return found + [(t, 2) for t in self.context or ()]
