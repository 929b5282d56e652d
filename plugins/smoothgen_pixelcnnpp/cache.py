"""The network row by row and pixel by pixel: every activation computed once, in buffers that stay where they are."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from smoothgen_pixelcnnpp.network import Network, Tape
from smoothgen_pixelcnnpp.resolution import BlockAtPixel, Resolution
from smoothgen_pixelcnnpp.streams import HorizontalStream, concat_elu_to, elu, glu

TWICE_UP_TO = 8
"""Batches up to this size keep values as (v, -v): a pixel then costs fewer operations, which is what counts."""


class ActivationCache:
    """The state of sampling a batch of images of one width, between two pixels.

    `begin_row`, then for every column `pixel` and `put` (or `row` and `put_row` as often as wanted), then `end_row`.
    Each activation is computed once: the vertical stream once a row; of the horizontal stream, what comes from the row
    above and from the vertical stream in batched products; and for a pixel one small product per convolution.
    Halved resolutions work only on rows and columns that they have. Without gradients.
    """

    def __init__(self, network: Network, batch: int, width: int, twice: bool | None = None) -> None:
        self.network, self.batch, self.width = network, batch, width
        self.twice = batch <= TWICE_UP_TO if twice is None else twice
        like = network.out.gain
        widths = [width]
        while len(widths) < network.resolutions:
            widths.append((widths[-1] + 1) // 2)
        self.resolutions = [Resolution(network, level, batch, w, self.twice) for level, w in enumerate(widths)]
        n, channels = network.filters, network.channels
        self.seen = like.new_zeros(batch, channels + 1, 3, width + 2)  # rows i-2, i-1, i; the last channel says "pixel"
        self.seen[:, channels, 2, 1 : width + 1] = 1.0
        self.u_first, self.h_above, self.h_left = (
            (layer.weight.contiguous(), layer.bias) for layer in (network.u_first, network.h_above, network.h_left)
        )
        self.left = self._kept(self.h_left[0][:, :channels, 1, 0], 0).T.contiguous()
        self.u_halve = [(layer.weight.contiguous(), layer.bias) for layer in network.convolutions(network.u_halve)]
        self.u_double = [(layer.weight.contiguous(), layer.bias) for layer in network.convolutions(network.u_double)]
        halve = [self._kept(layer.weight, 0) for layer in network.convolutions(network.h_halve)]
        self.h_halve_above = [[w[:, :, 0, t].T.contiguous() for t in (0, 1)] for w in halve]
        self.h_halve_here = [w[:, :, 1].permute(2, 1, 0).flatten(0, 1).contiguous() for w in halve]
        self.h_halve_bias = [self._kept(layer.bias, 0) for layer in network.convolutions(network.h_halve)]
        self.h_double = [
            self._kept(w.weight, 1).permute(0, 2, 3, 1).flatten(1).contiguous()
            for w in network.convolutions(network.h_double)
        ]
        self.h_double_bias = [self._kept(layer.bias, 0).repeat(4) for layer in network.convolutions(network.h_double)]
        self.out, self.out_bias = network.out.weight[:, :, 0, 0].T.contiguous(), network.out.bias
        self.gate = like.new_zeros(batch, self._kept(self.out_bias.new_zeros(n), 0).numel())
        self.row_index = 0
        self.active = 0

    def _kept(self, weight: Tensor, dim: int) -> Tensor:
        return torch.cat([weight, -weight], dim) if self.twice else weight

    def set_context(self, added: Sequence[Sequence[Tensor]] | None, shifted: Sequence[Sequence[Tensor]] | None) -> None:
        """What the context adds to the blocks, as for `Network.forward`, copied; then starts at the first row."""
        for level, resolution in enumerate(self.resolutions):
            blocks = resolution.ups + resolution.downs
            if shifted is not None:
                resolution.u.shift_by(shifted[level][:blocks])
                resolution.h.shift_by(shifted[level][blocks:])
            if added is not None:
                # (H, blocks, batch, W, n): one row is one slice
                u_rows, h_rows = (
                    torch.stack(list(terms)).permute(3, 0, 1, 4, 2)
                    for terms in (added[level][:blocks], added[level][blocks:])
                )
                resolution.context = (u_rows.contiguous(), self._kept(h_rows, -1).contiguous())
            resolution.h.begin()

    def begin_row(self) -> None:
        """Everything of the next row that does not depend on its own pixels."""
        channels = self.network.channels
        self.seen[:, :channels, 2] = 0.0
        self.enter_row()
        self._vertical()
        for level in range(self.active + 1):
            self._from_vertical(level)
            self._entry(level)
        bottom = self.resolutions[self.active]
        if not bottom.deepest:  # an odd row there: what the resolution below left for it
            bottom.doubled[:, 0].copy_(bottom.doubled[:, 1])
            bottom.h.inputs[bottom.first_down][:, 1 : bottom.width + 1] = bottom.doubled_active[:, 1, : bottom.width]

    def enter_row(self) -> None:
        """Notes which resolutions have the row."""
        self.active = max(level for level in range(self.network.resolutions) if self.row_index % (1 << level) == 0)

    def leave_row(self) -> None:
        """The row becomes the one above."""
        for resolution in self.resolutions[: self.active + 1]:
            resolution.u.end_row()
        self.row_index += 1

    def _vertical(self) -> None:
        """The vertical stream of the row, at every active resolution, down and back up."""
        value = F.conv2d(self.seen[:, :, :2], *self.u_first)
        if self.row_index == 0:
            value = torch.zeros_like(value)
        for level in range(self.active + 1):
            r = self.resolutions[level]
            if level:
                finer = self.resolutions[level - 1]
                pair = torch.cat([finer.as_row(finer.u_raw_above), finer.as_row(finer.u_raw)], dim=2)
                value = F.conv2d(pair, *self.u_halve[level - 1], stride=2, padding=(0, 1))[..., : r.width]
            r.u.put(r.u.inputs[0], value)
            for block in range(r.ups):
                value = self._vertical_block(level, block, value)
            r.as_row(r.u_raw).copy_(value)
        doubled = value
        for level in reversed(range(self.active + 1)):
            r = self.resolutions[level]
            if not r.deepest:
                value = r.as_row(r.u_held) if level == self.active else doubled[:, :, :1]
                r.u.put(r.u.inputs[r.first_down], value)
                if level < self.active:
                    r.as_row(r.u_held).copy_(doubled[:, :, 1:])
            for block in range(r.ups, r.ups + r.downs):
                value = self._vertical_block(level, block, value)
            if level:
                width = self.resolutions[level - 1].width
                doubled = F.conv_transpose2d(value, *self.u_double[level - 1], stride=2)[..., 1 : 1 + width]

    def _vertical_block(self, level: int, block: int, value: Tensor) -> Tensor:
        r = self.resolutions[level]
        added = None if r.context is None else r.as_row(r.context[0][self.row_index >> level, block])
        return r.u.block(block, *r.slots(block), value, r.up_skip(block), added)

    def _row_block(self, r: Resolution, block: int, value: Tensor) -> Tensor:
        """One horizontal block on a whole row: (batch, width, kept) -> the same; what came from above stays."""
        s = r.h
        source, target = r.slots(block)
        hidden = s.into[block] + F.conv2d(s.window(s.inputs[source]), s.into_row[block]).squeeze(2).mT
        skip = r.up_skip(block)
        weight = s.own_skip_here[block]
        if skip is not None and weight is not None:
            hidden = hidden + s.inputs[skip][:, 1 : s.width + 1] @ weight
        s.put(s.hidden[block][:, 1 : s.width + 1], hidden)
        gates = s.out[block] + F.conv2d(s.window(s.hidden[block]), s.out_row[block]).squeeze(2).mT
        value = value + F.glu(gates, -1)
        self._place(s, target, value)
        return value

    def _place(self, s: HorizontalStream, slot: int, value: Tensor) -> None:
        s.put(s.inputs[slot][:, 1 : s.width + 1], value)

    def _from_vertical(self, level: int) -> None:
        """What the horizontal blocks get from the vertical ones, which stand one slot further, and from the context."""
        r = self.resolutions[level]
        for block in range(r.ups + r.downs):
            row = r.u.row(r.slots(block)[1])
            r.h.into[block].add_(F.conv2d(row, r.h.skip_of_u[block]).squeeze(2).mT)
        if r.context is not None:
            r.h.into.add_(r.context[1][self.row_index >> level])

    def _entry(self, level: int) -> None:
        """What the horizontal stream's first value of every pixel gets from the row above."""
        r = self.resolutions[level]
        if level == 0:
            above = F.conv2d(self.seen[:, :, 1:2], *self.h_above)[:, :, 0].mT
            left = F.conv2d(self.seen[:, :, 1:, 1 : self.width + 1], *self.h_left)[:, :, 0].mT
            r.entry.copy_(self._kept(above if self.row_index else torch.zeros_like(above), -1))
            r.entry[:, 1:].add_(self._kept(left[:, :-1], -1))
            return
        finer = self.resolutions[level - 1].h_raw_above
        weights, end = self.h_halve_above[level - 1], 2 * r.width
        r.entry.copy_(finer[:, 0:end:2] @ weights[0] + finer[:, 1:end:2] @ weights[1] + self.h_halve_bias[level - 1])

    def row(self) -> Tensor:
        """Raw parameters of the whole row's mixtures, from all its pixels as last put: (batch, W, size)."""
        n = self.network.filters
        for level in range(self.active + 1):
            r = self.resolutions[level]
            if level:
                raw, end = self.resolutions[level - 1].h_raw, 2 * r.width
                weight = self.h_halve_here[level - 1]
                value = r.entry + raw[:, 0:end:2] @ weight[:n] + raw[:, 1:end:2] @ weight[n:]
            else:
                value = r.entry + self.seen[:, : self.network.channels, 2, : self.width].mT @ self.left
            self._place(r.h, 0, value)
            for block in range(r.ups):
                value = self._row_block(r, block, value)
            if not r.deepest:
                r.h_raw[:, 1 : r.width + 1] = value[..., :n]
        for level in reversed(range(self.active + 1)):
            r = self.resolutions[level]
            if not r.deepest:
                value = r.doubled[:, 0, : r.width]
                if level < self.active:
                    r.h.inputs[r.first_down][:, 1 : r.width + 1] = r.doubled_active[:, 0, : r.width]
            for block in range(r.ups, r.ups + r.downs):
                value = self._row_block(r, block, value)
            if level:
                finer = self.resolutions[level - 1]
                four = value[..., :n] @ self.h_double[level - 1] + self.h_double_bias[level - 1]
                four = four.unflatten(-1, (2, 2, -1)).movedim(2, 1).flatten(2, 3)
                finer.doubled[:, :, : four.shape[2]] = four
                finer.h.put(finer.doubled_active[:, :, : four.shape[2]], four)
        return self._last(self.resolutions[0])[:, 1 : self.width + 1] @ self.out + self.out_bias

    def put_row(self, y: Tensor) -> None:
        """Sets every pixel of the row: y (batch, C, W), standardised."""
        self.seen[:, : self.network.channels, 2, 1 : self.width + 1] = y

    def pixel(self, j: int) -> Tensor:
        """Raw parameters of column j's mixture: (batch, size). Columns before it have been `put`."""
        levels = 0
        while levels < self.active and j % (2 << levels) == 0:
            levels += 1
        for level in range(levels + 1):
            r, place = self.resolutions[level], j >> level
            value = r.entry[:, place]
            if level:
                finer, n = self.resolutions[level - 1], self.network.filters
                window = finer.h_raw.flatten(1)[:, 2 * place * n : (2 * place + 2) * n]
                value.addmm_(window, self.h_halve_here[level - 1])
            elif j:
                value.addmm_(self.seen[:, : self.network.channels, 2, j], self.left)
            r.h.put(r.h.inputs[0][:, place + 1], value)
            column = r.columns[place]
            for block in column[: r.ups]:
                self._block(r.h, block, value)
            if not r.deepest:
                r.h_raw[:, place + 1].copy_(value[:, : self.network.filters])
        for level in reversed(range(levels + 1)):
            r, place = self.resolutions[level], j >> level
            if not r.deepest:
                value = r.doubled[:, 0, place]
            column = r.columns[place]
            for block in column[r.ups :]:
                self._block(r.h, block, value)
            if level:
                self._double(level, place, value)
        return torch.addmm(self.out_bias, self._last(self.resolutions[0])[:, j + 1], self.out)

    def _last(self, r: Resolution) -> Tensor:
        """elu of the horizontal stream's last value, by column: half of its concat_elu."""
        return r.h.inputs[r.first_down + r.downs][..., : self.network.filters]

    def _block(self, s: HorizontalStream, b: BlockAtPixel, value: Tensor) -> None:
        """One gated block at one pixel; `value` is updated in place."""
        b.hidden.addmm_(b.window, b.into)
        if b.skip is not None and b.skip_weight is not None:
            b.hidden.addmm_(b.skip, b.skip_weight)
        if self.twice:
            elu(b.hidden, b.hidden_place)
        else:
            s.put(b.hidden_place, b.hidden)
        b.gates.addmm_(b.hidden_window, b.out)
        glu(b.gates, self.gate)
        value.add_(self.gate)
        if self.twice:
            elu(value, b.place)
        else:
            s.put(b.place, value)

    def _double(self, level: int, place: int, value: Tensor) -> None:
        """Spreads a pixel's last value at this resolution over the four pixels of the finer one."""
        n, finer = self.network.filters, self.resolutions[level - 1]
        four = torch.addmm(self.h_double_bias[level - 1], value[:, :n], self.h_double[level - 1])
        four = four.unflatten(1, (2, 2, -1))
        columns = slice(2 * place, 2 * place + 2)
        finer.doubled[:, :, columns] = four
        active = finer.doubled_active[:, :, columns]
        finer.h.put(active, four)
        here = finer.h.inputs[finer.first_down][:, 2 * place + 1 : min(2 * place + 3, finer.width + 1)]
        here.copy_(active[:, 0, : here.shape[1]])

    def put(self, j: int, y: Tensor) -> None:
        """Sets the pixel of column j: y (batch, C), standardised."""
        self.seen[:, : self.network.channels, 2, j + 1] = y

    def end_row(self) -> None:
        """Hands the finished row on to the row below."""
        for resolution in self.resolutions[: self.active + 1]:
            resolution.h.end_row(resolution.sources)
            resolution.u_raw_above.copy_(resolution.u_raw)
            resolution.h_raw_above.copy_(resolution.h_raw)
        self.seen[:, :, 0] = self.seen[:, :, 1]
        self.seen[:, :, 1] = self.seen[:, :, 2]
        self.leave_row()

    def prime(self, kept: Tape, rows: int) -> None:
        """Continues below `rows` rows of a forward pass, whose activations `kept` holds.

        The pass may have more rows; their number must be a multiple of the coarsest pixel's height.
        """
        for level, r in enumerate(self.resolutions):
            last = -(-rows >> level) - 1
            place = slice(1, r.width + 1)

            def take(stream: str, name: str, row: int, level: int = level) -> Tensor:
                return kept.tensors[f"{stream}.{level}.{name}"][:, :, row : row + 1]

            def as_row(stream: str, name: str, row: int) -> Tensor:
                return take(stream, name, row).squeeze(2).mT

            for stream, inputs, hidden in (
                ("u", r.u.inputs[:, :, r.u.place, place], r.u.hidden[:, :, r.u.place, place]),
                ("h", r.h.inputs[:, :, place], r.h.hidden[:, :, place]),
            ):
                inputs[0] = as_row(stream, "entry", last)
                for block in range(r.ups + r.downs):
                    inputs[r.slots(block)[1]] = as_row(stream, f"{block}.out", last)
                    hidden[block] = as_row(stream, f"{block}.hidden", last)
                if not r.deepest:
                    concat_elu_to(inputs[r.first_down], as_row(stream, "doubled", last))
            r.as_row(r.u_raw).copy_(take("u", "raw", last))
            r.h_raw[:, place] = as_row("h", "raw", last)
            if not r.deepest and last % 2 == 0:  # the next row of this resolution was computed together with the last
                r.as_row(r.u_held).copy_(take("u", "doubled", last + 1))
                held = self._kept(as_row("h", "doubled", last + 1), -1)
                r.doubled[:, 1, : r.width] = held
                r.h.put(r.doubled_active[:, 1, : r.width], held)
        self.seen[:, :, 1:, 1 : self.width + 1] = F.pad(kept.tensors["x"], (0, 0, 1, 0))[:, :, rows - 1 : rows + 1]
        self.active, self.row_index = self.network.resolutions - 1, rows - 1
        self.end_row()

    def reindex(self, rows: Tensor) -> None:
        """Continues with images `rows` (batch,) in place of 0 .. batch - 1."""
        for tensor, axis in [(self.seen, 0), *(item for r in self.resolutions for item in r.buffers())]:
            tensor.copy_(tensor.index_select(axis, rows))
