"""What is a bad step, and what a person can be told about it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from smoothgen.data_source import Split

WATCHED = 100
"""Steps whose gradient norms are seen before one can be called a spike."""
MEMORY = 0.02
"""Weight of the newest norm in the running mean of their logarithms: about the last fifty steps."""


def bad_step(loss_and_norm: Tensor, mean_log_norm: Tensor, seen: Tensor, spike_factor: float) -> Tensor:
    """Whether a step's loss or gradient norm, (2,), is not finite, or the norm a spike: bool, ().

    A spike is above `spike_factor` (0: never) times the geometric mean of the norms of the last steps.
    """
    bad = ~loss_and_norm.isfinite().all()
    if not spike_factor:
        return bad
    limit = mean_log_norm + math.log(spike_factor)
    return bad | ((seen >= WATCHED) & (loss_and_norm[1].log() > limit))


def remembered(norm: Tensor, bad: Tensor, mean_log_norm: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """The running mean of log norms, and how many it has seen, after a step; bad ones leave no trace."""
    value = norm.log().to(mean_log_norm.dtype)
    weight = torch.clamp(1.0 / (seen + 1.0), min=MEMORY).to(mean_log_norm.dtype)
    keep = bad | ~value.isfinite()
    mean = torch.where(keep, mean_log_norm, mean_log_norm + weight * (value - mean_log_norm))
    return mean, seen + (~keep).to(seen.dtype)


@dataclass
class UnreadSteps:
    """On an accelerator: the steps since the host last read what became of them; reading each would cost waiting."""

    steps: list[tuple[int, Tensor, Tensor]] = field(default_factory=list)
    failures: Any = 0
    """How many of them were bad: a tensor while in use."""

    def add(self, step: int, loss_and_norm: Tensor, bad: Tensor, allowed: int) -> Tensor:
        """Whether a step must leave no trace, bool (): a bad one, and any after more than `allowed` bad ones.

        So the state stays that before the bad step which ends the training, or sends it back, until the host reads.
        """
        self.steps.append((step, loss_and_norm.detach(), bad))
        self.failures = self.failures + bad
        return bad | (self.failures > allowed)

    def read(self) -> list[tuple[int, float, float]]:
        """The bad ones in order, each with its loss and gradient norm; none is unread then. Waits for the device."""
        steps, failures = self.steps, self.failures
        self.steps, self.failures = [], 0
        if not int(failures):
            return []
        bad = torch.stack([each for _, _, each in steps]).tolist()
        return [(step, *pair.tolist()) for (step, pair, _), it in zip(steps, bad, strict=True) if it]


def batch_report(shares: Iterable[tuple[Split, Tensor | None]]) -> str:
    """What a step's examples were, and which of their values are not finite, in a few words.

    shares: the examples of each micro-batch, and their rows in the training split where they have any.
    """
    rows: list[int] = []
    culprits: list[str] = []
    count = 0
    for split, which in shares:
        rows += [] if which is None else which.tolist()
        flat = split.x.reshape(len(split.x), -1)
        if split.context is not None:
            flat = torch.cat([flat, split.context.reshape(len(flat), -1).to(flat.dtype)], dim=1)
        bad = ~flat.isfinite()
        if bool(bad.any()):
            example = int(bad.any(1).nonzero()[0])
            place = f"example {count + example} of the step" if which is None else f"training row {int(which[example])}"
            culprits.append(f"{int(bad.sum())} values of the batch are not finite, the first in {place}")
        count += len(flat)
    if culprits:
        return culprits[0]
    shown = ", ".join(map(str, rows[:5])) + (", ..." if len(rows) > 5 else "")
    return f"the batch's own {count} examples are finite" + (f" (training rows {shown})" if rows else "")
