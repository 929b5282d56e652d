"""The fixed frame around the flow: each coordinate's zero and unit, and what the couplings see of the context."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from smoothgen.event import ContextSpec
from smoothgen_realnvp.coupling import INPUT_BOUND, Conditions, waves

DEFAULT_PERIOD = 8.0


class Frame(nn.Module):
    """x <-> r = (x - anchor) / unit, the flow's coordinates.

    Anchored, that is where the context is a noisy copy of known noise: anchor = x_tilde and unit = the noise's
    standard deviation. Otherwise the mean and standard deviation of the training data. Everything measured on data
    is a buffer that `initialize` sets.
    """

    loc: Tensor
    unit: Tensor
    period: Tensor
    context_loc: Tensor
    context_scale: Tensor
    octaves: Tensor

    def __init__(
        self, dimensions: int, spec: ContextSpec | None, anchored: bool, fourier: int, period: float | None
    ) -> None:
        super().__init__()
        self.spec = spec
        self.anchored = anchored
        self.fourier = fourier
        self.fixed_period = period
        unit = torch.tensor(spec.noise_std) if spec is not None and anchored else torch.ones(dimensions)
        size = spec.dimensions if spec is not None else 0
        self.register_buffer("loc", torch.zeros(dimensions))
        self.register_buffer("unit", unit)
        self.register_buffer("period", torch.full((dimensions,), period or DEFAULT_PERIOD))
        self.register_buffer("context_loc", torch.zeros(size))
        self.register_buffer("context_scale", torch.ones(size))
        self.register_buffer("octaves", 2.0 * math.pi * 2.0 ** torch.arange(fourier))

    @property
    def features(self) -> int:
        """C, how many numbers the couplings see of the context."""
        if self.spec is None:
            return 0
        return self.spec.dimensions + (2 * self.fourier * len(self.loc) if self.spec.noisy_copy is not None else 0)

    def anchor(self, context: Tensor | None) -> Tensor:
        """Where r = 0 lies: (batch, D) or (D,), in units of x."""
        if not self.anchored or self.spec is None or context is None:
            return self.loc
        noisy_copy, _ = self.spec.split(context)
        return self.loc if noisy_copy is None else noisy_copy

    def log_unit(self) -> Tensor:
        """log |dx / dr|: (), nats."""
        return self.unit.log().sum()

    def conditions(self, context: Tensor | None) -> Conditions:
        """What the couplings see: the standardised context, waves of its noisy copy, and the phase of their own."""
        features = None
        if context is not None and self.spec is not None:
            standard = (context.flatten(1) - self.context_loc) / self.context_scale
            parts = [standard.clamp(-INPUT_BOUND, INPUT_BOUND)]
            noisy_copy, _ = self.spec.split(context)
            if noisy_copy is not None and self.fourier:
                parts += waves(noisy_copy / self.period, self.octaves)
            features = torch.cat(parts, 1)
        if not self.fourier:
            return Conditions(features)
        return Conditions(features, self.anchor(context) / self.period, self.unit / self.period)

    def initialize(self, x: Tensor, context: Tensor | None) -> None:
        """Measures the batch; the longest wave is a quarter longer than the range of its coordinate."""
        if not self.anchored:
            self.loc.copy_(x.mean(0))
            self.unit.copy_(_spread(x))
        if self.fixed_period is None:
            extent = x.amax(0) - x.amin(0)
            self.period.copy_(1.25 * torch.where(extent > 0, extent, torch.ones_like(extent)))
        if context is not None:
            flat = context.flatten(1)
            self.context_loc.copy_(flat.mean(0))
            self.context_scale.copy_(_spread(flat))


def _spread(x: Tensor) -> Tensor:
    """Standard deviation of every column, 1 for constant ones. x (n, D) -> (D,)."""
    std = x.std(0, correction=0)
    return torch.where(std > 1e-6 * (1.0 + x.abs().amax(0)), std, torch.ones_like(std))
