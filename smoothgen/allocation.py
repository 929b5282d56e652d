"""A model from elsewhere is built within what its weights file justifies, and refused before memory is taken."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from smoothgen.device import NOWHERE
from smoothgen.errors import CheckpointError, SmoothgenError
from smoothgen.event import EventSpec
from smoothgen.limits import BUILD_BYTES, BUILD_FACTOR, EVENT_DIMENSIONS

Built = TypeVar("Built")
OPERATIONS, OPERATIONS_PER_TENSOR = 20_000, 500
"""How many calls of torch building may take, and how many more for each tensor of the weights: the parts here take 2 to
11 for each."""
SMALL = 1 << 20
"""Operations that can only give fewer bytes than this are counted after they ran, the others before."""


class OverBudget(Exception):
    """More memory or more operations than the weights justify."""


class Budget(TorchFunctionMode):
    """Counts the bytes of every tensor made inside the block, and refuses one that would not fit before it is made.

    What is freed in between still counts, so the bytes bound the work too. Calls of torch's functions and methods are
    seen; `torch.Tensor(n)`, its old constructor, and what a plugin does outside of torch are not.
    """

    def __init__(self, most_bytes: int, most_operations: int) -> None:
        super().__init__()
        self.bytes, self.operations = most_bytes, most_operations

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self.operations -= 1
        if self.operations < 0:
            raise OverBudget("it takes far more operations than such weights need")
        inputs = tree_leaves((args, kwargs))
        if _could_be_large(inputs):
            self._spend(_predicted(func, args, kwargs, inputs))
            return func(*args, **kwargs)
        result = func(*args, **kwargs)
        self._spend(_made(result, inputs))
        return result

    def _spend(self, wanted: int) -> None:
        if wanted > self.bytes:
            raise OverBudget("it needs far more memory than such weights")
        self.bytes -= wanted


def _predicted(func: Any, args: Any, kwargs: Any, inputs: list[Any]) -> int:
    """Bytes of what a function would make, from the shapes alone."""
    args, placed = tree_map(_without_storage, (args, kwargs))
    if not any(isinstance(value, Tensor) for value in inputs):
        placed["device"] = NOWHERE
    try:
        return _made(func(*args, **placed), tree_leaves((args, placed)))
    except NotImplementedError:  # the size depends on values (nonzero): an index of every axis for each of them
        return sum(value.numel() * 8 * max(value.dim(), 1) for value in inputs if isinstance(value, Tensor))
    except TypeError:  # takes no device, so it makes no tensor by itself
        return 0


def _made(result: Any, inputs: list[Any]) -> int:
    """Bytes of a result's own memory: views, and what was changed in place, have none."""
    known = {value.untyped_storage()._cdata for value in inputs if isinstance(value, Tensor)}
    own = {
        storage._cdata: storage.nbytes()
        for storage in (value.untyped_storage() for value in tree_leaves(result) if isinstance(value, Tensor))
        if storage._cdata not in known
    }
    return sum(own.values())


def _without_storage(value: Any) -> Any:
    return value.to(NOWHERE) if isinstance(value, Tensor) else value


def _could_be_large(inputs: list[Any]) -> bool:
    """Whether sizes given as numbers, and tensors broadcast against each other, could make more than SMALL bytes."""
    most = 16
    for value in inputs:
        if isinstance(value, Tensor):
            most *= max(value.numel(), 1)
        elif isinstance(value, (int, float)) and math.isfinite(value):
            most *= max(math.ceil(abs(value)), 1)
        if most > SMALL:
            return True
    return False


def check_event(event: EventSpec, source: Path) -> None:
    """Raises CheckpointError for an example of more coordinates than are read."""
    if excess := EVENT_DIMENSIONS.excess(event.dimensions):
        raise CheckpointError(f"{source}: an example of shape {event.shape} has {event.dimensions} numbers, {excess}")


def build_within(weights: Mapping[str, Tensor], build: Callable[[], Built], source: Path) -> Built:
    """What `build` makes, as long as it needs no more memory and time than such weights can.

    Memory is counted before it is allocated: BUILD_FACTOR bytes for each byte of the weights and BUILD_BYTES besides.
    Raises CheckpointError naming the source where the budget is spent, or where nothing can be built.
    """
    given = sum(value.nbytes for value in weights.values())
    allowed = BUILD_BYTES.value + BUILD_FACTOR * given
    try:
        with Budget(allowed, OPERATIONS + OPERATIONS_PER_TENSOR * len(weights)):
            return build()
    except OverBudget as error:
        raise CheckpointError(
            f"{source} describes a model that its weights file, {len(weights)} tensors of {given} bytes, is not of: "
            f"{error}; if you trust its origin, set {BUILD_BYTES.variable} above {allowed}"
        ) from None
    except SmoothgenError as error:
        raise CheckpointError(f"{source} describes a model that cannot be built: {error}") from error
    except Exception as error:  # values that pass one by one but not together make torch and plugins raise anything
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise CheckpointError(f"{source} describes a model that cannot be built: {reason:.300}") from error
