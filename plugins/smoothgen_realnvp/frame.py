"""The fixed frame around the flow, with what the couplings see of the context and of their own coordinates: waves."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from smoothgen import frame
from smoothgen.event import ContextSpec
from smoothgen_realnvp.compiled_couplings import Conditions
from smoothgen_realnvp.coupling import waves

DEFAULT_PERIOD = 8.0


class Frame(frame.Frame):
    """The frame, and sines and cosines of `fourier` octaves of a longest period, of x and of a noisy copy."""

    period: Tensor
    octaves: Tensor

    def __init__(
        self, dimensions: int, spec: ContextSpec | None, anchor: bool, fourier: int, period: float | None
    ) -> None:
        super().__init__(dimensions, spec, anchor)
        self.fourier = fourier
        self.fixed_period = period
        self.register_buffer("period", torch.full((dimensions,), period or DEFAULT_PERIOD))
        self.register_buffer("octaves", 2.0 * math.pi * 2.0 ** torch.arange(fourier))

    @property
    def features(self) -> int:
        """C, how many numbers the couplings see of the context."""
        if self.spec is None:
            return 0
        return self.spec.dimensions + (2 * self.fourier * len(self.loc) if self.spec.noisy_copy is not None else 0)

    def conditions(self, context: Tensor | None) -> Conditions:
        """What the couplings see: the standardised context, waves of its noisy copy, and the phase of their own."""
        features = self.standardised(context)
        if features is not None and context is not None and self.spec is not None and self.fourier:
            noisy_copy, _ = self.spec.split(context)
            if noisy_copy is not None:
                features = torch.cat([features, *waves(noisy_copy / self.period, self.octaves)], 1)
        if not self.fourier:
            return Conditions(features)
        return Conditions(features, self.anchor(context) / self.period, self.unit / self.period)

    def initialize(self, x: Tensor, context: Tensor | None) -> None:
        """Measures the batch; the longest wave is a quarter longer than the range of its coordinate."""
        super().initialize(x, context)
        if self.fixed_period is None:
            extent = x.amax(0) - x.amin(0)
            self.period.copy_(1.25 * torch.where(extent > 0, extent, torch.ones_like(extent)))
