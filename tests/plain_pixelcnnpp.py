"""A plain PixelCNN++ of the public PyTorch kind, with the weights of ours: a second opinion, and a baseline to time.

Pads by copies, normalises weights in every forward, permutes to a Linear for 1 x 1 convolutions, computes concat-ELU
wherever it is read, and samples by running everything again for every pixel. Written from Salimans et al. 2017
(arXiv 1701.05517) and the structure of their TensorFlow code; not optimised, not slowed.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smoothgen_pixelcnnpp.blocks import GatedBlock
from smoothgen_pixelcnnpp.convolutions import NormedConv
from smoothgen_pixelcnnpp.network import Network


def concat_elu(x: Tensor) -> Tensor:
    return F.elu(torch.cat([x, -x], dim=1))


def down_shift(x: Tensor) -> Tensor:
    return F.pad(x, (0, 0, 1, 0))[:, :, :-1]


def right_shift(x: Tensor) -> Tensor:
    return F.pad(x, (1, 0))[:, :, :, :-1]


class Conv(nn.Module):
    """A weight-normalised convolution with padding above and at the sides."""

    def __init__(self, ours: NormedConv, pad: tuple[int, int, int, int], stride: int = 1) -> None:
        super().__init__()
        self.v, self.g, self.b = (nn.Parameter(p.detach().clone()) for p in (ours.direction, ours.gain, ours.bias))
        self.pad, self.stride = pad, stride

    def forward(self, x: Tensor) -> Tensor:
        weight = self.v * (self.g[:, None, None, None] / torch.linalg.vector_norm(self.v, dim=(1, 2, 3), keepdim=True))
        return F.conv2d(F.pad(x, self.pad), weight, self.b, self.stride)


class Deconv(nn.Module):
    """A weight-normalised transposed convolution, cropped to twice the size."""

    def __init__(self, ours: NormedConv) -> None:
        super().__init__()
        self.v, self.g, self.b = (nn.Parameter(p.detach().clone()) for p in (ours.direction, ours.gain, ours.bias))

    def forward(self, x: Tensor) -> Tensor:
        norm = torch.linalg.vector_norm(self.v, dim=(0, 2, 3), keepdim=True)
        weight = self.v * (self.g[None, :, None, None] / norm)
        y = F.conv_transpose2d(x, weight, self.b, 2, output_padding=1)
        left = (self.v.shape[3] - 1) // 2
        return y[:, :, : 2 * x.shape[2], left : left + 2 * x.shape[3]].contiguous()


class NiN(nn.Module):
    """1 x 1 by a Linear over the channels last."""

    def __init__(self, *parts: NormedConv) -> None:
        super().__init__()
        # each of ours reads (e, -e) of one input; the plain network concatenates first: (e1, e2, -e1, -e2)
        halves = [part.direction.detach()[:, :, 0, 0].chunk(2, dim=1) for part in parts]
        self.v = nn.ParameterList(nn.Parameter(torch.cat([a, b], 1)) for a, b in halves)
        self.g = nn.ParameterList(nn.Parameter(part.gain.detach().clone()) for part in parts)
        self.b = nn.Parameter(sum(part.bias.detach() for part in parts))

    def forward(self, x: Tensor) -> Tensor:
        weights = [v * (g[:, None] / v.norm(dim=1, keepdim=True)) for v, g in zip(self.v, self.g, strict=True)]
        pairs = [weight.chunk(2, dim=1) for weight in weights]
        weight = torch.cat([a for a, _ in pairs] + [b for _, b in pairs], dim=1)
        return F.linear(x.permute(0, 2, 3, 1).contiguous(), weight, self.b).permute(0, 3, 1, 2).contiguous()


class GatedResnet(nn.Module):
    def __init__(self, ours: GatedBlock, pad: tuple[int, int, int, int]) -> None:
        super().__init__()
        self.conv_in, self.conv_out = Conv(ours.conv_in, pad), Conv(ours.conv_out, pad)
        self.nin = NiN(*ours.skips) if len(ours.skips) else None

    def forward(self, x: Tensor, a: Tensor | None = None) -> Tensor:
        c = self.conv_in(concat_elu(x))
        if a is not None:
            c = c + self.nin(concat_elu(a))
        out = self.conv_out(concat_elu(c))
        first, second = out.chunk(2, dim=1)
        return x + first * torch.sigmoid(second)


DOWN, DOWN_RIGHT = (1, 1, 1, 0), (1, 0, 1, 0)


class PlainPixelCNNPP(nn.Module):
    """The same function as `Network`, for heights and widths that the resolutions divide."""

    def __init__(self, ours: Network) -> None:
        super().__init__()
        self.blocks, self.resolutions = ours.blocks, ours.resolutions
        self.u_init = Conv(ours.u_first, DOWN)
        self.ul_init = nn.ModuleList([Conv(ours.h_above, (1, 1, 0, 0)), Conv(ours.h_left, (0, 0, 1, 0))])
        self.u_up = nn.ModuleList(nn.ModuleList(GatedResnet(b, DOWN) for b in s.up) for s in ours.u)
        self.ul_up = nn.ModuleList(nn.ModuleList(GatedResnet(b, DOWN_RIGHT) for b in s.up) for s in ours.h)
        self.u_down = nn.ModuleList(nn.ModuleList(GatedResnet(b, DOWN) for b in s.down) for s in ours.u)
        self.ul_down = nn.ModuleList(nn.ModuleList(GatedResnet(b, DOWN_RIGHT) for b in s.down) for s in ours.h)
        self.u_halve = nn.ModuleList(Conv(c, DOWN, 2) for c in ours.u_halve)
        self.ul_halve = nn.ModuleList(Conv(c, DOWN_RIGHT, 2) for c in ours.h_halve)
        self.u_double = nn.ModuleList(Deconv(c) for c in ours.u_double)
        self.ul_double = nn.ModuleList(Deconv(c) for c in ours.h_double)
        self.out_v = nn.Parameter(ours.out.direction.detach()[:, :, 0, 0].clone())
        self.out_g, self.out_b = (nn.Parameter(p.detach().clone()) for p in (ours.out.gain, ours.out.bias))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([x, torch.ones_like(x[:, :1])], dim=1)
        us = [down_shift(self.u_init(x))]
        uls = [down_shift(self.ul_init[0](x)) + right_shift(self.ul_init[1](x))]
        for level in range(self.resolutions):
            for u_block, ul_block in zip(self.u_up[level], self.ul_up[level], strict=True):
                us.append(u_block(us[-1]))
                uls.append(ul_block(uls[-1], us[-1]))
            if level < self.resolutions - 1:
                us.append(self.u_halve[level](us[-1]))
                uls.append(self.ul_halve[level](uls[-1]))
        u, ul = us.pop(), uls.pop()
        for level in reversed(range(self.resolutions)):
            for u_block, ul_block in zip(self.u_down[level], self.ul_down[level], strict=True):
                u = u_block(u, us.pop())
                ul = ul_block(ul, torch.cat([u, uls.pop()], dim=1))
            if level:
                u, ul = self.u_double[level - 1](u), self.ul_double[level - 1](ul)
        weight = self.out_v * (self.out_g[:, None] / self.out_v.norm(dim=1, keepdim=True))
        return F.linear(F.elu(ul).permute(0, 2, 3, 1).contiguous(), weight, self.out_b)
