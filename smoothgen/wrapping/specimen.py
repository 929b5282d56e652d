"""A copy of a wrapped density to be looked at: in float64, with every parameter moved, and rows to try it on."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from smoothgen.event import ContextSpec
from smoothgen.wrapping.faults import Fault
from smoothgen.wrapping.wrapped_density import WrappedDensity, seeded

ROWS = 24
NOISE = (0.3, 0.1, 0.03, 0.0)
"""How far weights are moved, in standard deviations of a layer's output; the first that leaves all finite counts."""


@dataclass
class Specimen:
    """model: evaluating, moved; its draws and weights are nobody's. x (ROWS, *event), context (ROWS, *context)."""

    model: WrappedDensity
    x: Tensor
    context: Tensor | None

    @property
    def loose(self) -> float:
        """By how much tolerances grow where nothing but float32 can be had."""
        return 1.0 if self.x.dtype == torch.float64 else 100.0

    def values(self, x: Tensor, context: Tensor | None, seed: int = 0) -> Tensor:
        """log_prob without gradients; whatever is random in it draws the same at every call."""
        with torch.no_grad(), seeded(Generator().manual_seed(seed), x):
            return self.model.log_prob(x, context)

    def draws(self, num_samples: int, context: Tensor | None, seed: int = 0) -> Tensor:
        """(num_samples, D), in units of r, from the same random numbers at every call."""
        drawn = self.model.raw_draw(num_samples, context, Generator().manual_seed(seed))
        return drawn.to(self.x.dtype).reshape(num_samples, -1)


def specimen_of(model: WrappedDensity) -> tuple[Specimen | None, list[Fault]]:
    """The copy, in the widest dtype that works. None where it cannot be copied. Raises what log_prob raises."""
    try:
        twin = copy.deepcopy(model)
    except Exception as error:  # a stranger may fail in any way
        return None, [Fault("copy", f"copy.deepcopy fails: {one_line(error)}")]
    try:
        return prepared(copy.deepcopy(twin).double()), []
    except Exception as error:
        try:
            return prepared(twin), [Fault("dtype", f"in float64 it fails: {one_line(error)}")]
        except Exception as narrow:
            raise narrow from None


def prepared(twin: WrappedDensity) -> Specimen:
    """Its layout found, its frame and its first batch measured, its parameters moved."""
    generator = Generator().manual_seed(5)
    x, context = rows_for(twin, 256, generator)
    _find_layout(twin, x, context)
    twin.initialize(x, context)
    if not twin.standardize:
        x = _own_rows(twin, x, context)
    twin.eval()
    kept = {name: value.detach().clone() for name, value in twin.named_parameters()}
    specimen = Specimen(twin, x[:ROWS], None if context is None else context[:ROWS])
    for noise in NOISE:
        _move(twin, kept, noise)
        with torch.no_grad(), seeded(Generator().manual_seed(0), x):
            if bool(torch.isfinite(twin.raw_log_prob(x, context)).all()):
                break
    return specimen


def rows_for(model: WrappedDensity, n: int, generator: Generator) -> tuple[Tensor, Tensor | None]:
    """Correlated rows whose coordinates differ in place and spread, and contexts: x with noise, then random numbers."""
    size, like = model.event.dimensions, model.frame.unit
    place = torch.linspace(-0.3, 0.5, size, dtype=torch.float64)
    raw = torch.randn(n, size, dtype=torch.float64, generator=generator)
    flat = place + (0.8 + place) * raw + 0.2 * raw[:, :1]
    x = flat.reshape(n, *model.event_shape).to(like)
    return x, _contexts_for(model.context, flat, generator, like)


def _contexts_for(spec: ContextSpec | None, flat: Tensor, generator: Generator, like: Tensor) -> Tensor | None:
    if spec is None:
        return None
    features = torch.randn(len(flat), spec.features, dtype=torch.float64, generator=generator).to(like)
    if spec.noisy_copy is None:
        return features
    std = torch.tensor(spec.noise_std or (0.5,), dtype=torch.float64)
    noisy = flat + std * torch.randn(flat.shape, dtype=torch.float64, generator=generator)
    return spec.join(noisy.reshape(-1, *spec.noisy_copy).to(like), features if spec.features else None)


def _find_layout(twin: WrappedDensity, x: Tensor, context: Tensor | None) -> None:
    """Most libraries take vectors; one of images says so, or fails on them."""
    if len(twin.event_shape) == 1:
        return
    declared = twin.foreign.event_shape(twin.frame.standardised(context))
    if declared is not None:
        twin.flat = len(declared) < 2
        return
    try:
        with torch.no_grad():
            twin.raw_log_prob(x, context)
    except Exception as error:
        twin.flat = False
        try:
            with torch.no_grad():
                twin.raw_log_prob(x, context)
        except Exception:
            raise error from None


def _own_rows(twin: WrappedDensity, x: Tensor, context: Tensor | None) -> Tensor:
    """A density that came trained is at home where it draws, if it can draw."""
    try:
        drawn = twin.sample(len(x), context, generator=Generator().manual_seed(1))
    except Exception:  # said later, by its name
        return x
    return drawn if drawn.shape == x.shape and bool(drawn.isfinite().all()) else x


@torch.no_grad()
def _move(twin: WrappedDensity, kept: dict[str, Tensor], noise: float) -> None:
    """Adds noise to every trained parameter, so that nothing is symmetric and no layer is an identity."""
    generator = Generator().manual_seed(9)
    for name, parameter in twin.named_parameters():
        if parameter.requires_grad:
            fan_in = parameter[0].numel() if parameter.dim() > 1 else 4
            step = torch.randn(parameter.shape, dtype=torch.float64, generator=generator).to(parameter)
            parameter.copy_(kept[name] + noise / math.sqrt(max(1, fan_in)) * step)


def one_line(error: BaseException) -> str:
    """An error as one short line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__
