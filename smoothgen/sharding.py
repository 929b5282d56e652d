"""Whole tensors from and into modules and optimizers, sharded or not."""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

OPTIONS = StateDictOptions(full_state_dict=True)
HOW = ("lr", "initial_lr", "fused", "foreach", "capturable")
"""Settings of an optimizer that the trainer sets anew at each step, or that the device asks for."""


def full_state(module: nn.Module) -> dict[str, Tensor]:
    """A copy of the module's whole state, in every process."""
    state: dict[str, Any] = get_model_state_dict(module, options=OPTIONS)
    return {name: value.detach().clone() for name, value in state.items()}


def load_full_state(module: nn.Module, state: dict[str, Tensor]) -> None:
    """Sets the module's state, sharded or not, from whole tensors."""
    set_model_state_dict(module, dict(state), options=OPTIONS)


def full_optimizer_state(
    module: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """The optimizer's tensors by "parameter name/quantity", and its settings as plain values."""
    whole: dict[str, Any] = get_optimizer_state_dict(module, optimizer, options=OPTIONS)
    tensors = {
        f"{name}/{key}": torch.as_tensor(value).detach().clone()
        for name, state in whole["state"].items()
        for key, value in state.items()
    }
    return tensors, json.loads(json.dumps(whole["param_groups"]))


def load_full_optimizer_state(
    module: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], groups: list[dict[str, Any]]
) -> None:
    """The inverse of `full_optimizer_state`. How the optimizer computes is its own choice, not the stored one's."""
    state: dict[str, dict[str, Tensor]] = {}
    for path, value in tensors.items():
        name, _, key = path.rpartition("/")
        state.setdefault(name, {})[key] = value
    own = [{key: group[key] for key in HOW if key in group} for group in optimizer.param_groups]
    whole: dict[str, Any] = {
        "state": state,
        "param_groups": [given | how for given, how in zip(groups, own, strict=True)],
    }
    set_optimizer_state_dict(module, optimizer, whole, options=OPTIONS)


def local_shard(tensor: Tensor) -> Tensor:
    """This process's share of a sharded tensor; other tensors as they are."""
    to_local = getattr(tensor, "to_local", None)
    return tensor if to_local is None else to_local()


def whole(tensor: Tensor) -> Tensor:
    """The whole of a tensor that may be sharded."""
    full_tensor = getattr(tensor, "full_tensor", None)
    return tensor if full_tensor is None else full_tensor()
