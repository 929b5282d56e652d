"""What a conditional density may get wrong about its context."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Generator

from smoothgen.wrapping.faults import Fault
from smoothgen.wrapping.specimen import Specimen
from smoothgen.wrapping.wrapped_density import seeded

UNMOVED = 1e-7


def matters(specimen: Specimen) -> Iterator[Fault]:
    """log_prob must depend on the context, on each of its numbers; the anchor's part, which is ours, does not count."""
    model, context = specimen.model, specimen.context
    if context is None:
        return
    r = model.residual(specimen.x, context).detach()
    seen = model.frame.standardised(context)
    assert seen is not None
    seen = seen.detach().requires_grad_(True)
    with seeded(Generator().manual_seed(0), r):
        value = model.foreign.log_prob(r, seen)
        slope = torch.autograd.grad(value.sum(), seen, allow_unused=True)[0] if value.requires_grad else None
    felt = torch.zeros(seen.shape[1]) if slope is None else slope.abs().amax(0)
    ignored = (felt <= UNMOVED).nonzero().flatten().tolist()
    if len(ignored) == len(felt):
        yield Fault("context-ignored", "log_prob is the same for every context; build the flow with context features")
    elif ignored:
        yield Fault("context-partial", f"log_prob ignores numbers {ignored} of the context")


def reaches(specimen: Specimen) -> Iterator[Fault]:
    """Draws from the same random numbers, given one context and another."""
    context = specimen.context
    if context is None or any(True for _ in matters(specimen)):
        return
    one, other = context[:1].expand_as(context), context[1:2].expand_as(context)
    moved = specimen.draws(len(context), other) - specimen.draws(len(context), one)
    scale = moved.abs().max().item()
    blind = (moved.abs().amax(0) <= UNMOVED * max(1.0, scale)).nonzero().flatten().tolist()
    if blind:
        yield Fault(
            "context-reach",
            f"coordinates {blind} do not react to the context; give the base a context too, or another layer "
            "with the coordinates in another order",
        )
    elif bool((moved - moved.mean(0)).abs().max() <= 1e-6 * specimen.loose * max(1.0, scale)):
        yield Fault("context-location", "another context moves every draw by the same vector")
