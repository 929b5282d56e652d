"""The two streams, down three resolutions and up again: what every pixel's distribution is computed from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from smoothgen_pixelcnnpp.blocks import Activation, GatedBlock, activate
from smoothgen_pixelcnnpp.convolutions import NormedConv, down_right_shifted, down_shifted, pointwise, with_ones
from smoothgen_pixelcnnpp.elementwise import crop

OUT_GAIN = 0.1
"""Starting spread of a block's update, and of the network's output: every block begins near the identity."""


class Tape:
    """Every activation of a forward pass, by name: where a sampler that starts in the middle takes them from."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}

    def __call__(self, name: str, value: Tensor) -> None:
        self.tensors[name] = value


def _nowhere(name: str, value: Tensor) -> None:
    """Where activations go that nobody keeps."""


class Stream(nn.Module):
    """The blocks of one stream at one resolution: `up` on the way down in resolution, `down` on the way back."""

    def __init__(
        self,
        shifted: Callable[..., NormedConv],
        filters: int,
        ups: int,
        downs: int,
        skips: tuple[int, int],
        drop: float,
    ) -> None:
        super().__init__()

        def block(count: int) -> GatedBlock:
            conv_out = shifted(2 * filters, 2 * filters, gain=OUT_GAIN)
            return GatedBlock(filters, shifted(2 * filters, filters), conv_out, count, drop)

        self.up = nn.ModuleList(block(skips[0]) for _ in range(ups))
        self.down = nn.ModuleList(block(skips[1]) for _ in range(downs))

    def block(self, place: int) -> GatedBlock:
        """The block at a place among all, up first."""
        ups = len(self.up)
        return cast(GatedBlock, self.up[place] if place < ups else self.down[place - ups])

    @property
    def blocks(self) -> list[GatedBlock]:
        """All blocks, up first."""
        return [cast(GatedBlock, block) for block in (*self.up, *self.down)]


class Network(nn.Module):
    """x (batch, C, H, W) -> parameters (batch, outputs, H, W); those of a pixel see the pixels before it alone.

    The vertical stream u sees every row above, the horizontal stream h the pixels to the left and, through u, what is
    above. Halving keeps ceil(H / 2) rows and doubling crops to the rows that were there, so that any size works
    without padding pixels.
    Source: Salimans et al. 2017 (arXiv 1701.05517), sections 2.3 and 2.4; van den Oord et al. 2016 (arXiv 1606.05328).
    """

    def __init__(
        self, channels: int, filters: int, outputs: int, *, blocks: int, resolutions: int, dropout: float
    ) -> None:
        super().__init__()
        self.channels, self.filters, self.blocks, self.resolutions = channels, filters, blocks, resolutions
        downs = [blocks + 1] * (resolutions - 1) + [blocks]
        self.u_first = NormedConv(channels + 1, filters, (2, 3))
        self.h_above = NormedConv(channels + 1, filters, (1, 3))
        self.h_left = NormedConv(channels + 1, filters, (2, 1))
        self.u = nn.ModuleList(Stream(down_shifted, filters, blocks, n, (0, 1), dropout) for n in downs)
        self.h = nn.ModuleList(Stream(down_right_shifted, filters, blocks, n, (1, 2), dropout) for n in downs)
        halvings = range(resolutions - 1)
        self.u_halve = nn.ModuleList(down_shifted(filters, filters, stride=2) for _ in halvings)
        self.h_halve = nn.ModuleList(down_right_shifted(filters, filters, stride=2) for _ in halvings)
        self.u_double = nn.ModuleList(NormedConv(filters, filters, (2, 3), stride=2, transposed=True) for _ in halvings)
        self.h_double = nn.ModuleList(NormedConv(filters, filters, (2, 2), stride=2, transposed=True) for _ in halvings)
        self.out = pointwise(filters, outputs, gain=OUT_GAIN)

    @property
    def counts(self) -> list[tuple[int, int]]:
        """For every resolution, how many blocks each stream has on the way down and on the way back."""
        return [(len(stream.up), len(stream.down)) for stream in self.streams(self.u)]

    def streams(self, of: nn.ModuleList) -> list[Stream]:
        """The streams `u` or `h`, one for each resolution."""
        return [cast(Stream, stream) for stream in of]

    def convolutions(self, of: nn.ModuleList) -> list[NormedConv]:
        """The convolutions between resolutions, `u_halve` and the like."""
        return [cast(NormedConv, convolution) for convolution in of]

    def forward(
        self,
        x: Tensor,
        added: Sequence[Sequence[Tensor]] | None = None,
        shifted: Sequence[Sequence[Tensor]] | None = None,
        keep: Callable[[str, Tensor], None] = _nowhere,
    ) -> Tensor:
        """added, shifted: for every resolution, what `GatedBlock` adds, for the blocks of u, then those of h, each
        in the order up, down. keep: receives every activation by name.
        """
        context = _BlockContext(self.counts, added, shifted)
        u, h = self._first(x, keep)
        us, hs = [u], [h]
        for level in range(self.resolutions):
            keep(f"u.{level}.entry", u.activated)
            keep(f"h.{level}.entry", h.activated)
            for place in range(self.blocks):
                u = self._run("u", level, place, u, (), context, keep)
                h = self._run("h", level, place, h, (u.activated,), context, keep)
                us.append(u)
                hs.append(h)
            keep(f"u.{level}.raw", u.value)
            keep(f"h.{level}.raw", h.value)
            if level < self.resolutions - 1:
                height, width = ((size + 1) // 2 for size in u.value.shape[2:])
                u = activate(crop(self.u_halve[level](u.value), height, width))
                h = activate(crop(self.h_halve[level](h.value), height, width))
                us.append(u)
                hs.append(h)
        return self.out(self._back(us, hs, context, keep).activated[:, : self.filters])

    def _run(
        self,
        stream: str,
        level: int,
        place: int,
        x: Activation,
        skips: tuple[Tensor, ...],
        context: _BlockContext,
        keep: Callable[[str, Tensor], None],
    ) -> Activation:
        """One block of a stream, by its place among the stream's blocks at this resolution."""
        block = cast(Stream, (self.u if stream == "u" else self.h)[level]).block(place)
        result, hidden = block(x, skips, *context.of(stream, level, place))
        keep(f"{stream}.{level}.{place}.hidden", hidden)
        keep(f"{stream}.{level}.{place}.out", result.activated)
        return result

    def _first(self, x: Tensor, keep: Callable[[str, Tensor], None]) -> tuple[Activation, Activation]:
        """The first layer, shifted down and right."""
        height, width = x.shape[2:]
        x = with_ones(x)
        keep("x", x)
        u = F.pad(crop(self.u_first(F.pad(x, (1, 1, 1, 0))), height - 1, width), (0, 0, 1, 0))
        above = F.pad(crop(self.h_above(F.pad(x, (1, 1, 0, 0))), height - 1, width), (0, 0, 1, 0))
        left = F.pad(crop(self.h_left(F.pad(x, (0, 0, 1, 0))), height, width - 1), (1, 0))
        return activate(u), activate(above + left)

    def _back(
        self, us: list[Activation], hs: list[Activation], context: _BlockContext, keep: Callable[[str, Tensor], None]
    ) -> Activation:
        """The way back up in resolution, through the skip connections."""
        u, h = us.pop(), hs.pop()
        for level in reversed(range(self.resolutions)):
            for place in range(self.blocks, sum(self.counts[level])):
                u = self._run("u", level, place, u, (us.pop().activated,), context, keep)
                h = self._run("h", level, place, h, (u.activated, hs.pop().activated), context, keep)
            if level:
                height, width = us[-1].value.shape[2:]
                u = activate(crop(self.u_double[level - 1](u.value), height, width, 1))
                h = activate(crop(self.h_double[level - 1](h.value), height, width))
                keep(f"u.{level - 1}.doubled", u.value)
                keep(f"h.{level - 1}.doubled", h.value)
        return h


class _BlockContext:
    """What the context adds to a block, looked up by stream, resolution and place (up blocks first)."""

    def __init__(
        self,
        counts: list[tuple[int, int]],
        added: Sequence[Sequence[Tensor]] | None,
        shifted: Sequence[Sequence[Tensor]] | None,
    ) -> None:
        self.counts, self.added, self.shifted = counts, added, shifted

    def of(self, stream: str, level: int, place: int) -> tuple[Tensor | None, Tensor | None]:
        index = place + (sum(self.counts[level]) if stream == "h" else 0)
        return (
            None if self.added is None else self.added[level][index],
            None if self.shifted is None else self.shifted[level][index],
        )
