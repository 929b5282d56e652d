"""A model from elsewhere is built within what its weights file justifies, and refused before memory is taken."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from smoothgen.errors import CheckpointError, SmoothgenError
from smoothgen.event import EventSpec
from smoothgen.limits import BUILD_BYTES, BUILD_FACTOR, EVENT_DIMENSIONS

Built = TypeVar("Built")
OPERATIONS, OPERATIONS_PER_TENSOR = 20_000, 500
"""How many tensor operations building may take, and how many more for each tensor of the weights: the parts here take
20 to 100 for each."""
SMALL = 1 << 20
"""Operations that can only give fewer bytes than this are counted after they ran, the others before."""


class OverBudget(Exception):
    """More memory or more operations than the weights justify."""


class Budget(TorchDispatchMode):
    """Counts the bytes of every tensor made inside the block, and refuses one that would not fit before it is made.

    What is freed in between still counts, so the bytes bound the work too.
    """

    def __init__(self, most_bytes: int, most_operations: int) -> None:
        super().__init__()
        self.bytes, self.operations = most_bytes, most_operations

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self.operations -= 1
        if self.operations < 0:
            raise OverBudget("it takes far more operations than such weights need")
        inputs = tree_leaves((args, kwargs))
        if _most_bytes(inputs) > SMALL:
            self._refuse(self._predicted(func, args, kwargs, inputs), func)
        result = func(*args, **kwargs)
        self.bytes -= self._made(result, inputs)
        self._refuse(0, func)
        return result

    def _refuse(self, wanted: int, func: Any) -> None:
        if wanted > self.bytes:
            raise OverBudget(f"it needs far more memory than such weights ({func.name()} for {max(wanted, 0)} bytes)")

    def _predicted(self, func: Any, args: Any, kwargs: Any, inputs: list[Any]) -> int:
        """Bytes of what the operation would make, from the shapes alone."""
        placed = {key: _without_storage(value) for key, value in kwargs.items()}
        if not any(isinstance(value, Tensor) for value in inputs):
            placed["device"] = "meta"
        try:
            result = func(*tree_map(_without_storage, args), **placed)
        except NotImplementedError:  # the size depends on the values (nonzero): no larger than the inputs many times
            return sum(value.numel() * 8 * max(value.dim(), 1) for value in inputs if isinstance(value, Tensor))
        return self._made(result, [])

    @staticmethod
    def _made(result: Any, inputs: list[Any]) -> int:
        """Bytes of the result, views and what was changed in place left out."""
        storages = {
            id(value) if value.is_meta else value.untyped_storage().data_ptr()
            for value in inputs
            if isinstance(value, Tensor)
        }
        made = [value for value in tree_leaves(result) if isinstance(value, Tensor)]
        return sum(
            value.untyped_storage().nbytes()
            for value in made
            if value.is_meta or value.untyped_storage().data_ptr() not in storages
        )


def _without_storage(value: Any) -> Any:
    return value.to(device="meta") if isinstance(value, Tensor) else value


def _most_bytes(inputs: list[Any]) -> int:
    """No operation on these gives more bytes: sizes given as numbers, and tensors broadcast against each other."""
    most = 16
    for value in inputs:
        if isinstance(value, Tensor):
            most *= max(value.numel(), 1)
        elif isinstance(value, int) and not isinstance(value, bool):
            most *= max(abs(value), 1)
        elif isinstance(value, float) and abs(value) > 1:
            most *= math.ceil(abs(value)) if math.isfinite(value) else 1
    return most


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
