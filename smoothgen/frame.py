"""The fixed frame around a flow: each coordinate's zero and unit, and the standardised context. For any plugin."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from smoothgen.event import ContextSpec

CONTEXT_BOUND = 100.0
"""Networks see the context clamped to this many standard deviations, so that an outlier stays finite."""


class Frame(nn.Module):
    """x <-> r = (x - anchor) / unit.

    Where the context is a noisy copy of known noise, anchor = x_tilde and unit = the noise's standard deviation;
    otherwise the mean and standard deviation of the training data. What is measured on data is a buffer.
    """

    loc: Tensor
    unit: Tensor
    context_loc: Tensor
    context_scale: Tensor

    def __init__(self, dimensions: int, spec: ContextSpec | None, anchor: bool) -> None:
        super().__init__()
        self.spec = spec
        self.anchored = anchor and spec is not None and spec.noisy_copy is not None and bool(spec.noise_std)
        size = 0 if spec is None else spec.dimensions
        unit = torch.tensor(spec.noise_std) if spec is not None and self.anchored else torch.ones(dimensions)
        self.register_buffer("loc", torch.zeros(dimensions))
        self.register_buffer("unit", unit)
        self.register_buffer("context_loc", torch.zeros(size))
        self.register_buffer("context_scale", torch.ones(size))

    def anchor(self, context: Tensor | None) -> Tensor:
        """Where r = 0 lies: (batch, D) or (D,), in units of x."""
        if not self.anchored or self.spec is None or context is None:
            return self.loc
        noisy_copy, _ = self.spec.split(context)
        return self.loc if noisy_copy is None else noisy_copy

    def log_unit(self) -> Tensor:
        """log |dx / dr|: (), nats."""
        return self.unit.log().sum()

    def standardised(self, context: Tensor | None) -> Tensor | None:
        """The context in units of its spread: (batch, its dimensions), bounded."""
        if context is None:
            return None
        standard = (context.flatten(1) - self.context_loc) / self.context_scale
        return standard.clamp(-CONTEXT_BOUND, CONTEXT_BOUND)

    def initialize(self, x: Tensor, context: Tensor | None) -> None:
        """Measures a batch of training data, x (n, D)."""
        if not self.anchored:
            self.loc.copy_(x.mean(0))
            self.unit.copy_(_spread(x))
        if context is not None:
            flat = context.flatten(1)
            self.context_loc.copy_(flat.mean(0))
            self.context_scale.copy_(_spread(flat))


def _spread(x: Tensor) -> Tensor:
    """Standard deviation of every column, 1 for constant ones. x (n, D) -> (D,)."""
    std = x.std(0, correction=0)
    return torch.where(std > 1e-6 * (1.0 + x.abs().amax(0)), std, torch.ones_like(std))
