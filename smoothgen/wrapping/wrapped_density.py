"""A foreign density behind the interface of our own: the event flattened, standardised, anchored at a noisy copy."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Generator, Tensor

from smoothgen.density_model import DensityModel
from smoothgen.errors import WrapError
from smoothgen.event import ContextSpec, EventSpec
from smoothgen.frame import Frame
from smoothgen.wrapping.foreign import Foreign


class WrappedDensity(DensityModel):
    """p(x) or p(x | context) by a density of another library.

    The library sees r = (x - anchor) / unit and the standardised context, as our own flows do: see `Frame`. It computes
    in the model's dtype: autocast is off inside, as the library's likelihood would be narrow too.
    """

    def __init__(
        self, foreign: Foreign, event: EventSpec, context: ContextSpec | None, anchor: bool, standardize: bool
    ) -> None:
        super().__init__(event, context)
        self.foreign = foreign
        self.standardize = standardize
        self.frame = Frame(event.dimensions, context, anchor)
        self.flat = True
        """Whether the library takes r flattened, or in the event's shape."""
        self.evaluation: Literal["whole", "rows"] = "whole"
        """Whether the library evaluates a batch at once, or has to be given one row after the other."""
        self.sampler: str | None = None
        """Why there is no sampling; None where there is."""
        like = next((t for t in [*foreign.parameters(), *foreign.buffers()] if t.is_floating_point()), None)
        if like is not None:
            self.frame.to(dtype=like.dtype, device=like.device)

    def residual(self, x: Tensor, context: Tensor | None) -> Tensor:
        """What the library is given for x: (batch, D), or the event's shape."""
        r = (x.flatten(1) - self.frame.anchor(context)) / self.frame.unit
        return r if self.flat else r.reshape(len(x), *self.event_shape)

    def raw_log_prob(self, x: Tensor, context: Tensor | None) -> Tensor:
        """What the library answers, of whatever shape, per unit of r."""
        with _full_precision(x):
            return self.foreign.log_prob(self.residual(x, context), self.frame.standardised(context))

    def raw_draw(self, num_samples: int, context: Tensor | None, generator: Generator | None) -> Tensor:
        """The library's samples, of whatever shape, in units of r."""
        with torch.no_grad(), _full_precision(self.frame.unit), seeded(generator, self.frame.unit):
            return self.foreign.draw(num_samples, self.frame.standardised(context))

    def _log_prob(self, x: Tensor, context: Tensor | None, generator: Generator | None) -> Tensor:
        if self.evaluation == "rows":
            rows = [slice(i, i + 1) for i in range(len(x))]
            values = [self.raw_log_prob(x[i], None if context is None else context[i]).sum() for i in rows]
            return (torch.stack(values) if values else x.new_zeros(0)) - self.frame.log_unit()
        value = self.raw_log_prob(x, context)
        return (value if value.dim() == 1 else value.reshape(len(x), -1).sum(1)) - self.frame.log_unit()

    def _sample(self, num_samples: int, context: Tensor | None, generator: Generator | None) -> Tensor:
        if self.sampler is not None:
            raise WrapError(f"the wrapped density cannot sample: {self.sampler}; it was accepted as it is")
        if num_samples == 0:
            return self.frame.unit.new_zeros(0, *self.event_shape)
        r = self.raw_draw(num_samples, context, generator).to(self.frame.unit.dtype)
        x = self.frame.anchor(context) + self.frame.unit * r.reshape(num_samples, -1)
        return x.reshape(num_samples, *self.event_shape)

    def _initialize(self, x: Tensor, context: Tensor | None) -> None:
        """Measures the frame; one pass in training mode, for layers that measure their first batch (ActNorm)."""
        if self.standardize:
            self.frame.initialize(x.flatten(1), context)
        training = self.foreign.training
        self.foreign.train()
        self.raw_log_prob(x, context)
        self.foreign.train(training)

    def _placement(self) -> Tensor | None:
        """Of the frame, as a foreign density may have no parameters."""
        return self.frame.unit


@contextlib.contextmanager
def seeded(generator: Generator | None, like: Tensor) -> Iterator[None]:
    """What torch's global generators give inside is decided by the generator; afterwards they are as before.

    Without a generator they run on.
    """
    if generator is None or like.is_meta:
        yield
        return
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device).item())
    accelerated = like.device.type != "cpu"
    with torch.random.fork_rng([like.device] if accelerated else [], device_type=like.device.type):
        torch.default_generator.manual_seed(seed)
        if accelerated:
            module = torch.get_device_module(like.device)
            with module.device(like.device):
                module.manual_seed(seed)
        yield


def _full_precision(like: Tensor) -> contextlib.AbstractContextManager[object]:
    if like.is_meta or not torch.is_autocast_enabled(like.device.type):
        return contextlib.nullcontext()
    return torch.autocast(like.device.type, enabled=False)
