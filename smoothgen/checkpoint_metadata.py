"""What a checkpoint says of itself besides tensors, checked before anything of it is used."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, ValidationError, model_validator
from torch import Tensor, nn

from smoothgen.component import describe
from smoothgen.errors import CheckpointError
from smoothgen.sharding import HOW

Count = Annotated[int, Field(ge=0, lt=1 << 63)]
FREE = (*HOW, "params")
"""Settings of an optimizer that need not be those stored."""


class StoredPosition(BaseModel):
    """`Position` as it was written. best_loss is infinite before the first validation."""

    model_config = ConfigDict(extra="forbid", strict=True)

    step: Count
    best_loss: float
    best_step: Count
    without_improvement: Count
    loss_sum: float
    loss_count: Count
    skipped: Count
    rollbacks: Count
    mean_log_norm: float
    norms_seen: float

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if math.isnan(self.best_loss) or self.best_step > self.step:
            raise ValueError(f"best_step {self.best_step} and best_loss {self.best_loss} are not of step {self.step}")
        return self


class OptimizerGroup(BaseModel):
    """The settings of one group of parameters, and their names."""

    model_config = ConfigDict(extra="allow", strict=True)

    params: list[str]


class StoredFingerprint(BaseModel):
    """`smoothgen.fingerprint.fingerprint` as it was written."""

    model_config = ConfigDict(extra="forbid", strict=True)

    config: dict[str, str]
    data: str


class CheckpointMetadata(BaseModel):
    """stages: the run's; stage: the index of the one in progress; position, optimizer_groups: its state, empty where
    none is. records: lines of metrics.jsonl. micro_batches: of a step of each stage, over all processes. Further keys
    are kept.
    """

    model_config = ConfigDict(extra="allow", strict=True)

    stage: NonNegativeInt
    stages: list[str]
    position: StoredPosition | Annotated[dict[str, Any], Field(max_length=0)]
    optimizer_groups: list[OptimizerGroup]
    records: Count
    micro_batches: list[PositiveInt]
    fingerprint: StoredFingerprint | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.stage > len(self.stages) or (self.position and self.stage == len(self.stages)):
            raise ValueError(f"stage {self.stage} is none of the {len(self.stages)} stages")
        if len(self.micro_batches) != len(self.stages):
            raise ValueError(f"{len(self.stages)} stages need as many counts of micro-batches")
        return self


def check_metadata(metadata: Mapping[str, Any], stages: Sequence[str], source: Path) -> None:
    """Raises CheckpointError where the metadata are not of a checkpoint of these stages."""
    try:
        found = CheckpointMetadata.model_validate(metadata)
    except ValidationError as error:
        raise CheckpointError(
            f"{source} is damaged: {describe(error)}; restore it from a copy, or train again"
        ) from error
    if found.stages != list(stages):
        names = ", ".join(found.stages)
        raise CheckpointError(f"{source} has the stages {names:.200}, this run {', '.join(stages)}")


def check_weights(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Raises ValueError where a stored state lacks a tensor of the module, or has another one or another shape. torch's
    loader of whole states keeps what is missing as it is, without a word.
    """
    own = module.state_dict()
    for name in (*(own.keys() - tensors.keys()), *(tensors.keys() - own.keys())):
        raise ValueError(f"{name:.80} is in the stored weights or in the model, but not in both")
    for name, value in own.items():
        if value.shape != tensors[name].shape:
            raise ValueError(f"{name} has shape {tuple(tensors[name].shape)}, this model {tuple(value.shape)}")


def check_optimizer(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    tensors: Mapping[str, Tensor],
    groups: Sequence[Mapping[str, Any]],
) -> None:
    """Raises ValueError where the stored state is not of this module's optimizer: tensors "name/quantity" of other
    parameters, types or shapes, or other settings. An optimizer itself would take them and fail, or worse, at a step.
    """
    own = {name: value for name, value in module.named_parameters() if value.requires_grad}
    quantities: dict[str, set[str]] = {name: set() for name in own}
    for path, value in tensors.items():
        name, _, quantity = path.rpartition("/")
        if name not in own:
            raise ValueError(f"optimizer state {path:.80} is of no parameter of this model")
        if not value.is_floating_point() or value.shape not in (own[name].shape, torch.Size()):
            raise ValueError(f"optimizer state {path:.80} has shape {tuple(value.shape)}, not {tuple(own[name].shape)}")
        quantities[name].add(quantity)
    if len({frozenset(found) for found in quantities.values()}) > 1:
        raise ValueError("optimizer state is there for some parameters and not for others")
    if len(groups) != len(optimizer.param_groups):
        raise ValueError(f"optimizer has {len(groups)} groups of parameters, this run's {len(optimizer.param_groups)}")
    for mine, given in zip(optimizer.param_groups, groups, strict=True):
        if sorted(given["params"]) != sorted(own) or mine.keys() - given.keys():
            raise ValueError("optimizer groups hold other parameters or settings than this run's")
        for key in given.keys() - mine.keys():
            raise ValueError(f"optimizer setting {key:.40} is unknown")
        for key in mine.keys() - set(FREE):
            if not _same(mine[key], given[key]):
                raise ValueError(f"optimizer setting {key} is {given[key]!r:.40}, this run's {mine[key]!r}")


def _same(mine: Any, given: Any) -> bool:
    """Whether a setting is the same, to its type: 0 is not False, and torch's optimizers take no number for a flag."""
    if isinstance(mine, (list, tuple)) and isinstance(given, (list, tuple)):
        return len(mine) == len(given) and all(map(_same, mine, given))
    return type(mine) is type(given) and bool(mine == given)


@contextmanager
def refusing_misfits(source: Path | None) -> Iterator[None]:
    """Turns what torch raises when it restores the state of something else into one line that names the file."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:  # torch's loaders raise anything for tensors that do not fit
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CheckpointError(f"{source} does not fit this run: {reason:.300}; train in a new run directory") from error
