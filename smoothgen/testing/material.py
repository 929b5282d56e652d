"""What laws are judged on and by: events, contexts, lopsided data, parts with moved parameters, pairs of draws."""

from __future__ import annotations

from collections.abc import Callable

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Generator, Tensor, nn

from smoothgen.event import ContextSpec, EventSpec
from smoothgen.testing.law import require

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


@torch.no_grad()
def move_parameters(module: nn.Module, noise: float) -> None:
    """Adds noise to every parameter, from the global generator: nothing is symmetric, nothing where it started."""
    for parameter in module.parameters():
        parameter.add_(noise * torch.randn_like(parameter))


def load_state_of(module: nn.Module, into: nn.Module) -> None:
    """One module's state dict, through safetensors, into another."""
    file = save_tensors({name: value.contiguous() for name, value in module.state_dict().items()})
    into.load_state_dict(load_tensors(file))


def without_gradient(module: nn.Module) -> list[str]:
    """Names of trained parameters that have no finite gradient."""
    trained = [(name, p.grad) for name, p in module.named_parameters() if p.requires_grad]
    return [name for name, slope in trained if slope is None or not slope.isfinite().all()]


def generator_alone_decides(draw: Callable[[int], Tensor], what: str, random: bool = True) -> None:
    """draw: given the seed of a generator. random: whether another seed has to give something else."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        first = draw(1)
        torch.manual_seed(2)
        again = draw(1)
        other = draw(2)
    require(torch.equal(first, again), f"the same generator gives other {what}: something draws without it")
    require(not random or not torch.equal(first, other), f"another generator gives the same {what}")
