"""What laws are judged on: events, contexts, and data whose coordinates cannot be mistaken for each other."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from smoothgen.event import ContextSpec, EventSpec

LINE = EventSpec(shape=(1,))
PLANE = EventSpec(shape=(2,))
PICTURE = EventSpec(shape=(1, 2, 2))
LEVELS = EventSpec(shape=(2,), low=-2.0, high=2.0, levels=6)
EVENTS = (LINE, PLANE, PICTURE, LEVELS)
NOISE_STD = 0.5
CONTEXTS = ("no context", "features", "noisy copy", "noisy copy + features")


def event_name(event: EventSpec) -> str:
    """As it is called in reports."""
    shape = "x".join(map(str, event.shape))
    return shape if event.levels is None else f"{shape} of {event.levels} levels"


def context_spec(kind: str, event: EventSpec) -> ContextSpec | None:
    """One of CONTEXTS for this event."""
    return {
        "no context": None,
        "features": ContextSpec(features=2),
        "noisy copy": ContextSpec(noisy_copy=event.shape),
        "noisy copy + features": ContextSpec(event.shape, (NOISE_STD,) * event.dimensions, features=1),
    }[kind]


def lopsided(
    event: EventSpec, n: int, dtype: torch.dtype = torch.float64, generator: Generator | None = None
) -> Tensor:
    """Data whose coordinates differ in place and spread, (n, *event.shape), on the levels if there are any."""
    raw = torch.randn(n, event.dimensions, dtype=torch.float64, generator=generator)
    place = torch.linspace(-0.3, 0.5, event.dimensions, dtype=torch.float64)
    x = (place + (0.8 + place) * raw + 0.2 * raw[:, :1]).reshape(n, *event.shape)
    return (x if event.levels is None else event.quantize(x)).to(dtype)


def contexts_of(context: ContextSpec | None, x: Tensor, generator: Generator | None = None) -> Tensor | None:
    """A context for each row of x: x with noise, or random numbers, or both."""
    if context is None:
        return None
    noise = torch.randn(x.shape, dtype=torch.float64, generator=generator).to(x)
    features = torch.randn(len(x), context.features, dtype=torch.float64, generator=generator).to(x)
    if context.noisy_copy is None:
        return features
    return context.join(x + NOISE_STD * noise, features if context.features else None)
