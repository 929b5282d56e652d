"""The state of a stage in progress, as tensors and plain values and back."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from smoothgen.checkpoint_metadata import check_optimizer, check_weights
from smoothgen.device import DevicePolicy
from smoothgen.ema import ExponentialMovingAverage
from smoothgen.guards import UnreadSteps
from smoothgen.objectives import Objective
from smoothgen.reduction import Reduction
from smoothgen.sharding import full_optimizer_state, full_state, load_full_optimizer_state, load_full_state


@dataclass
class Position:
    """How far a stage is: everything of its state that is not a tensor."""

    step: int = 0
    best_loss: float = math.inf
    best_step: int = 0
    without_improvement: int = 0
    loss_sum: Any = 0.0
    """Sum of the losses since the last log line: a tensor while it is on an accelerator."""
    loss_count: Any = 0
    skipped: int = 0
    """Bad steps left out so far."""
    rollbacks: int = 0
    """How often the stage went back to its last checkpoint."""
    mean_log_norm: Any = 0.0
    """Running mean of the gradient norms' logarithms, and below how many it has seen: tensors while in use."""
    norms_seen: Any = 0.0

    def out_of_patience(self, patience: int) -> bool:
        """Whether so many validations (0: any number) went by without a new best that the stage ends."""
        return 0 < patience <= self.without_improvement


@dataclass
class Training:
    """The state of the stage in progress."""

    objective: Objective
    wrapped: nn.Module
    optimizer: torch.optim.Optimizer
    average: ExponentialMovingAverage
    parameters: list[nn.Parameter]
    reduction: Reduction
    position: Position = field(default_factory=Position)
    best: dict[str, Tensor] = field(default_factory=dict)
    unread: UnreadSteps = field(default_factory=UnreadSteps)
    """On an accelerator: read before anything is logged, measured or saved, so that no state depends on it."""

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All of the state: whole tensors, by "section/name", and plain values. Every process takes part."""
        tensors = {f"weights/{name}": value for name, value in full_state(self.objective).items()}
        with self.average.applied():
            tensors |= {f"average/{name}": value for name, value in full_state(self.objective).items()}
        tensors |= {f"best/{name}": value for name, value in self.best.items()}
        states, groups = full_optimizer_state(self.objective, self.optimizer)
        tensors |= {f"optimizer/{name}": value for name, value in states.items()}
        position = {name: _plain(value) for name, value in vars(self.position).items()}
        return tensors, {"position": position, "optimizer_groups": groups}

    def restore(self, tensors: dict[str, Tensor], values: dict[str, Any], policy: DevicePolicy) -> None:
        """The inverse of `state`. Raises ValueError and more where the state is not of this stage."""
        for part in ("weights", "average", *(("best",) if section(tensors, "best") else ())):
            check_weights(self.objective, section(tensors, part))
        check_optimizer(self.objective, self.optimizer, section(tensors, "optimizer"), values["optimizer_groups"])
        self.position = Position(**values["position"])
        self.best = {name: policy.place(value) for name, value in section(tensors, "best").items()}
        load_full_state(self.objective, section(tensors, "average"))
        self.average.average = [tensor.detach().clone() for tensor in self.average.live]
        load_full_state(self.objective, section(tensors, "weights"))
        load_full_optimizer_state(
            self.objective, self.optimizer, section(tensors, "optimizer"), values["optimizer_groups"]
        )


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, Tensor) else value


def section(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """The tensors of one section, without its name."""
    prefix = f"{name}/"
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
