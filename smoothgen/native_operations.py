"""What operations in C share: the tensors they take, how they are loaded and called, and their twins in torch."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from smoothgen.native import NativeError, library

MOST_THREADS = 2
"""With more threads torch's own operations share the work, and win over C code on one."""
PLAIN = (Tensor, torch.nn.Parameter)
DTYPES: dict[torch.dtype, tuple[str, ...]] = {torch.float32: (), torch.float64: ("DOUBLE",)}
"""Those that C code computes in, each with the macros that choose it."""
Signature = Sequence[Any]
"""What a C function returns, then what it takes: ctypes."""


class Operations:
    """The functions of one C file, compiled for float32 and for float64 when they are first wanted.

    structures: what is shared with C, in the order in which its `structure_sizes` counts them.
    """

    def __init__(
        self,
        directory: Path,
        source: str,
        functions: Mapping[str, Signature],
        structures: Sequence[type[ctypes.Structure]] = (),
    ) -> None:
        self.directory, self.source = directory, source
        self.functions, self.structures = dict(functions), structures
        self._found: dict[torch.dtype, ctypes.CDLL | NativeError] = {}

    def of(self, dtype: torch.dtype) -> ctypes.CDLL:
        """The functions for a dtype. Raises NativeError where there can be none."""
        if dtype not in self._found:
            try:
                self._found[dtype] = self._load(dtype)
            except NativeError as error:
                self._found[dtype] = error
        found = self._found[dtype]
        if isinstance(found, NativeError):
            raise found
        return found

    def exist_for(self, dtype: torch.dtype) -> bool:
        """Whether `of` has an answer."""
        try:
            self.of(dtype)
        except NativeError:
            return False
        return True

    def _load(self, dtype: torch.dtype) -> ctypes.CDLL:
        if dtype not in DTYPES:
            raise NativeError(f"compiled code computes in float32 and float64, not {dtype}")
        native = library(self.directory, self.source, DTYPES[dtype])
        for name, (returned, *taken) in self.functions.items():
            function = getattr(native, name)
            function.restype, function.argtypes = returned, taken
        for which, structure in enumerate(self.structures):
            size = native.structure_sizes(ctypes.c_long(which))
            if size != ctypes.sizeof(structure):
                raise NativeError(f"{self.source}: {structure.__name__} has {size} bytes in C, and others in Python")
        return native


def runs_in_c(*tensors: Tensor) -> bool:
    """Whether C code may take these tensors in an operation of its own: on the CPU, in one dtype, in plain eager mode.

    Not where torch compiles, autocast chooses the dtype, or inside a functional transform.
    """
    if torch.compiler.is_compiling():  # first: the compiler can trace this question and none of the next
        return False
    if (
        torch.get_num_threads() > MOST_THREADS
        or torch.is_autocast_enabled("cpu")
        or torch._C._are_functorch_transforms_active()
    ):
        return False
    functorch, dtype = torch._C._functorch, tensors[0].dtype
    for tensor in tensors:  # at every step of training, hence no generators
        if (
            type(tensor) not in PLAIN
            or not tensor.is_cpu
            or tensor.dtype != dtype
            or functorch.is_legacy_batchedtensor(tensor)
            or functorch.is_functorch_wrapped_tensor(tensor)
        ):
            return False
    return True


def must_stay_in_torch(*gradients: Tensor | None) -> bool:
    """Of a backward pass: whether the gradient is itself differentiated, or many are taken at once by vmap."""
    return torch.is_grad_enabled() or not runs_in_c(*(g for g in gradients if g is not None))


def gradients_in_torch(
    function: Callable[..., Any],
    inputs: Sequence[Tensor | None],
    needed: Sequence[bool],
    gradients: Tensor | Sequence[Tensor],
) -> list[Tensor | None]:
    """Gradients of the inputs that are needed, by computing function(*inputs), the twin in torch, again."""
    wanted = [need and value is not None for need, value in zip(needed, inputs, strict=True)]
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        outputs = function(*inputs)
        asked = [value for value, want in zip(inputs, wanted, strict=True) if want and value is not None]
        found = iter(torch.autograd.grad(outputs, asked, gradients, create_graph=again, allow_unused=True))
    return [next(found) if want else None for want in wanted]


def address(tensor: Tensor | None) -> int | None:
    """Where a tensor's numbers lie."""
    return None if tensor is None else tensor.data_ptr()


def called(failed: int, what: str) -> None:
    """After a C function that returns whether it found no memory. Raises MemoryError."""
    if failed:
        raise MemoryError(f"no memory for {what}")
