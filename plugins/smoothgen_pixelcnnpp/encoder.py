"""What the noisy copy says, at every place and resolution: an unmasked network over x_tilde."""

from __future__ import annotations

from torch import Tensor, nn

from smoothgen_pixelcnnpp.blocks import Activation, GatedBlock, activate
from smoothgen_pixelcnnpp.convolutions import NormedConv, pointwise, with_ones
from smoothgen_pixelcnnpp.elementwise import crop
from smoothgen_pixelcnnpp.network import OUT_GAIN


def _centred(inputs: int, outputs: int, *, stride: int = 1, gain: float = 1.0) -> NormedConv:
    return NormedConv(inputs, outputs, (3, 3), stride=stride, padding=(1, 1), gain=gain)


def _block(filters: int, skips: int, dropout: float) -> GatedBlock:
    conv_out = _centred(2 * filters, 2 * filters, gain=OUT_GAIN)
    return GatedBlock(filters, _centred(2 * filters, filters), conv_out, skips, dropout)


class Encoder(nn.Module):
    """x_tilde (batch, C, H, W) -> for every resolution, what each block of the pixel network adds at every place.

    A U-net that may look everywhere, since x_tilde is given; 1 x 1 convolutions turn its activations into the terms of
    the blocks (u's, then h's, each up, then down). So the pixel x_i meets x_tilde_i, and all around it, where it
    stands, instead of H rows away as when x_tilde is stacked above x.
    """

    def __init__(
        self, channels: int, filters: int, *, blocks: int, counts: list[tuple[int, int]], target: int, dropout: float
    ) -> None:
        super().__init__()
        self.target = target
        self.first = _centred(channels + 1, filters)
        self.up = nn.ModuleList(nn.ModuleList(_block(filters, 0, dropout) for _ in range(blocks)) for _ in counts)
        self.halve = nn.ModuleList(_centred(filters, filters, stride=2) for _ in counts[1:])
        self.enlarge = nn.ModuleList(
            NormedConv(filters, filters, (2, 2), stride=2, transposed=True) for _ in counts[1:]
        )
        self.down = nn.ModuleList(nn.ModuleList(_block(filters, 1, dropout) for _ in range(blocks)) for _ in counts[1:])
        self.inject = nn.ModuleList(
            pointwise(2 * filters, 2 * (ups + downs) * target, gain=OUT_GAIN) for ups, downs in counts
        )

    def forward(self, x_tilde: Tensor) -> list[tuple[Tensor, ...]]:
        h = activate(self.first(with_ones(x_tilde)))
        levels: list[Activation] = []
        for level, blocks in enumerate(self.up):
            if level:
                height, width = ((size + 1) // 2 for size in h.value.shape[2:])
                h = activate(crop(self.halve[level - 1](h.value), height, width))
            for block in blocks:  # type: ignore[attr-defined]
                h, _ = block(h)
            levels.append(h)
        for level in reversed(range(len(self.down))):
            height, width = levels[level].value.shape[2:]
            h = activate(crop(self.enlarge[level](h.value), height, width))
            for block in self.down[level]:  # type: ignore[attr-defined]
                h, _ = block(h, (levels[level].activated,))
            levels[level] = h
        return [inject(h.activated).split(self.target, dim=1) for inject, h in zip(self.inject, levels, strict=True)]
