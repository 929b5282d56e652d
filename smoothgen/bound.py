"""A bound on log p(x) from several draws for each example, in passes that fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from smoothgen.errors import ConfigError, ShapeError
from smoothgen.event import EventSpec
from smoothgen.likelihood import Likelihood, Measure
from smoothgen.objectives import importance_weighted

Terms = Callable[[Tensor, Tensor | None], Iterable[Tensor]]
"""One draw of a bound's terms for every row of x (batch, *event_shape), given its context: (batch,) each, nats."""


def bound(
    terms: Terms,
    names: Sequence[str],
    x: Tensor,
    context: Tensor | None,
    event: EventSpec,
    measure: Measure,
    draws: int,
    rows_at_once: int,
) -> Likelihood:
    """log (1/K) sum_k exp(terms' sum) of every example, K = `draws`, per unit of the data.

    x (n, *event_shape) in the model's coordinates; names: of the terms, in their order.
    Raises ConfigError for draws below 1, ShapeError for no examples.
    """
    if draws < 1:
        raise ConfigError(f"importance_samples must be at least 1, got {draws}")
    if not len(x):
        raise ShapeError("likelihood: x holds no examples")
    examples = max(1, rows_at_once // draws)
    parts = []
    for start in range(0, len(x), examples):
        given = None if context is None else context[start : start + examples]
        drawn = _drawn(terms, x[start : start + examples], given, draws, rows_at_once)
        parts.append(_joined(drawn, names, event, measure))
    return Likelihood.join(parts)


def _drawn(terms: Terms, x: Tensor, context: Tensor | None, draws: int, rows_at_once: int) -> Tensor:
    """(terms, draws, batch); the draws of an example are split over passes of at most `rows_at_once` rows."""
    at_once = max(1, min(draws, rows_at_once // len(x)))
    parts = []
    for start in range(0, draws, at_once):
        count = min(at_once, draws - start)
        rows = x.repeat(count, *[1] * (x.dim() - 1))
        contexts = None if context is None else context.repeat(count, *[1] * (context.dim() - 1))
        found = torch.stack(list(terms(rows, contexts))).cpu().double()
        parts.append(found.reshape(len(found), count, len(x)))
    return torch.cat(parts, dim=1)


def _joined(drawn: Tensor, names: Sequence[str], event: EventSpec, measure: Measure) -> Likelihood:
    draws = drawn.shape[1]
    log_mean, effective = importance_weighted(drawn.sum(0))
    means = drawn.mean(1)
    terms = dict(zip(names, means, strict=True))
    if draws > 1:
        terms["importance weighting"] = log_mean - means.sum(0)
    if event.scale and event.levels is None:
        terms["units of the data"] = torch.full_like(log_mean, -event.log_scale)
    return Likelihood(
        per_example=log_mean - event.log_scale,
        dimensions=event.dimensions,
        measure=measure,
        kind="lower bound",
        terms=terms,
        draws=draws,
        effective_sample_size=effective if draws > 1 else None,
    )
