"""What an objective comes to on the validation split, over all processes."""

from __future__ import annotations

import torch
from torch import nn

from smoothgen.data_source import Split
from smoothgen.device import DevicePolicy, seed_everything
from smoothgen.objectives import Objective

ROWS = 512
"""Examples of a chunk at most; each chunk has noise of its own."""


@torch.no_grad()
def validation_means(
    split: Split, wrapped: nn.Module, objective: Objective, policy: DevicePolicy, key: tuple[int | str, ...]
) -> tuple[float, dict[str, float]]:
    """The mean loss, nats, and the means of its terms, over the examples of a split that all processes hold.

    wrapped: what the training loop calls; objective: what it wraps. key: what the noise depends on, besides the place
    of a chunk in the split: every call sees the same.
    """
    wrapped.eval()
    size = min(ROWS, objective.rows_at_once)
    shares: list[dict[str, float]] = []
    for start in range(0, len(split), size * policy.world):
        first = start + policy.rank * size
        # every process takes part in every forward pass; an empty share counts for nothing
        rows, weight = (slice(first, first + size), 1) if first < len(split) else (slice(0, 1), 0)
        x = split.x[rows]
        context = None if split.context is None else split.context[rows]
        seed_everything(*key, first, 0, "validate")
        with policy.autocast():
            loss = float(wrapped(x, context))
        terms = {name: float(value) for name, value in objective.terms.items()}
        shares.append({"loss": loss, "count": float(weight * len(x))} | terms)
    columns = {name: policy.in_order([share[name] for share in shares]) for name in shares[0]}
    counts = columns.pop("count")
    means = {
        name: sum(value * n for value, n in zip(values, counts, strict=True)) / sum(counts)
        for name, values in columns.items()
    }
    return means.pop("loss"), means
