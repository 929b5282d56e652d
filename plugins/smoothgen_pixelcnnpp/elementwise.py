"""What a gated block does between its convolutions: in C on the CPU where it can be, in torch elsewhere.

Of a training step, a fifth goes to these functions when every one of them is an operation of its own: each reads and
writes all activations, and gradients of cropped convolutions are copied into zeros. Here they are one pass each.
"""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import POINTER, Structure, byref, c_int, c_long, c_void_p
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from smoothgen.native_operations import Operations, address, called, must_stay_in_torch, runs_in_c

DIRECTORY = Path(__file__).parent / "native"
MOST_TERMS = 8


class _Strided(Structure):
    _fields_ = (("at", c_void_p), ("image", c_long), ("row", c_long), ("column", c_long))


class _Shape(Structure):
    _fields_ = (("channels", c_long), ("images", c_long), ("rows", c_long), ("columns", c_long))


OPERATIONS = Operations(
    DIRECTORY,
    "elementwise.c",
    {
        "activate": (c_int, POINTER(_Shape), c_long, POINTER(_Strided), c_void_p),
        "activate_back": (None, POINTER(_Shape), *[c_void_p] * 4, c_long, c_long),
        "gate": (c_int, POINTER(_Shape), c_void_p, POINTER(_Strided), *[c_void_p] * 3),
        "gate_back": (c_int, POINTER(_Shape), POINTER(_Strided), *[c_void_p] * 6, c_long, c_long),
    },
)
WHAT = "a row of channels"


def concat_elu(x: Tensor) -> Tensor:
    """elu of x and of -x, twice the channels. Source: Shang et al. 2016 (arXiv 1603.05201)."""
    return F.elu(torch.cat([x, -x], dim=1))


def crop(x: Tensor, height: int, width: int, left: int = 0) -> Tensor:
    """The first rows, and the columns from `left` on: a view (batch, channels, height, width)."""
    return x[:, :, :height, left : left + width]


def activate_sum(terms: Sequence[Tensor], height: int, width: int) -> Tensor:
    """concat_elu of the sum of terms (batch, n, height or more, width or more): (batch, 2 n, height, width)."""
    if _fused(*terms) and len(terms) <= MOST_TERMS:
        return _ActivateSum.apply(height, width, *terms)
    total = crop(terms[0], height, width)
    for term in terms[1:]:
        total = total + crop(term, height, width)
    return concat_elu(total)


def gate(value: Tensor, gates: Tensor, shift: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """value + a sigmoid(b), where (a, b) = gates + shift, and concat_elu of that.

    value (batch, n, H, W); gates (batch, 2 n, H or more, W or more); shift (batch, 2 n, 1, 1).
    """
    if _fused(value, gates):
        return _Gate.apply(value, gates, shift)
    out = _gated(value, gates, shift)
    return out, concat_elu(out)


def _gated(value: Tensor, gates: Tensor, shift: Tensor | None) -> Tensor:
    gates = crop(gates, *value.shape[2:])
    return value + F.glu(gates if shift is None else gates + shift, dim=1)


def _fused(*tensors: Tensor) -> bool:
    """Whether C takes these: on the CPU, of one dtype that it knows, channels dense, in plain eager mode."""
    return (
        all((t.stride(1) == 1 or t.shape[1] == 1) and t.numel() > 0 for t in tensors)
        and runs_in_c(*tensors)
        and OPERATIONS.exist_for(tensors[0].dtype)
    )


def _strided(tensor: Tensor) -> _Strided:
    image, _, row, column = tensor.stride()
    return _Strided(tensor.data_ptr(), image, row, column)


def _dense(like: Tensor, channels: int, height: int, width: int) -> Tensor:
    """Uninitialised, channels last: (batch, channels, height, width)."""
    return like.new_empty(like.shape[0], height, width, channels).movedim(-1, 1)


def _as_dense(tensor: Tensor) -> Tensor:
    """The same values, channels last."""
    return tensor.movedim(1, -1).contiguous().movedim(-1, 1)


class _ActivateSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, height: int, width: int, *terms: Tensor) -> Tensor:
        batch, channels = terms[0].shape[:2]
        activated = _dense(terms[0], 2 * channels, height, width)
        strided = (_Strided * len(terms))(*map(_strided, terms))
        shape = _Shape(channels, batch, height, width)
        native = OPERATIONS.of(activated.dtype)
        called(native.activate(byref(shape), len(terms), strided, address(activated)), WHAT)
        ctx.save_for_backward(activated)
        ctx.shape, ctx.sizes = shape, [tuple(term.shape[2:]) for term in terms]
        return activated

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        (activated,) = ctx.saved_tensors
        shape, inner = ctx.shape, (ctx.shape.rows, ctx.shape.columns)
        outer = max(ctx.sizes, key=lambda size: size[0] * size[1])
        if must_stay_in_torch(gradient) or any(size not in (inner, outer) for size in ctx.sizes):
            total = _activated_back(activated, gradient)
            return (None, None, *(_padded(total, size) for size in ctx.sizes))
        gradient = _as_dense(gradient)
        padded = None if outer == inner else _dense(activated, shape.channels, *outer)
        dense = _dense(activated, shape.channels, *inner) if inner in ctx.sizes else None
        OPERATIONS.of(activated.dtype).activate_back(
            byref(shape), address(activated), address(gradient), address(dense), address(padded), *outer
        )
        return (None, None, *(dense if size == inner else padded for size in ctx.sizes))


class _Gate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, gates: Tensor, shift: Tensor | None) -> tuple[Tensor, Tensor]:
        batch, channels, height, width = value.shape
        value, shift = _as_dense(value), None if shift is None else shift.contiguous()
        out, activated = (_dense(value, n, height, width) for n in (channels, 2 * channels))
        shape = _Shape(channels, batch, height, width)
        read, written = (address(value), byref(_strided(gates)), address(shift)), (address(out), address(activated))
        called(OPERATIONS.of(value.dtype).gate(byref(shape), *read, *written), WHAT)
        ctx.save_for_backward(gates, shift, activated)
        ctx.shape = shape
        ctx.set_materialize_grads(False)
        return out, activated

    @staticmethod
    def backward(
        ctx: Any, gradient: Tensor | None, activated_gradient: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        if gradient is None and activated_gradient is None:
            return None, None, None
        gates, shift, activated = ctx.saved_tensors
        shape = ctx.shape
        if must_stay_in_torch(gradient, activated_gradient):
            total = 0.0 if activated_gradient is None else _activated_back(activated, activated_gradient)
            total = total if gradient is None else total + gradient
            assert isinstance(total, Tensor)
            a, b = _shifted(crop(gates, shape.rows, shape.columns), shift).chunk(2, dim=1)
            opened = torch.sigmoid(b)
            to_gates = torch.cat([total * opened, total * a * opened * (1 - opened)], dim=1)
            to_shift = None if shift is None else to_gates.sum((2, 3), keepdim=True)
            return total, _padded(to_gates, tuple(gates.shape[2:])), to_shift
        up, activated_up = (None if g is None else _as_dense(g) for g in (gradient, activated_gradient))
        to_value = _dense(gates, shape.channels, shape.rows, shape.columns)
        to_gates = _dense(gates, 2 * shape.channels, *gates.shape[2:])
        tensors = map(address, (shift, activated, up, activated_up, to_value, to_gates))
        native = OPERATIONS.of(gates.dtype)
        called(native.gate_back(byref(shape), byref(_strided(gates)), *tensors, *gates.shape[2:]), WHAT)
        return to_value, to_gates, None if shift is None else to_gates.sum((2, 3), keepdim=True)


def _shifted(gates: Tensor, shift: Tensor | None) -> Tensor:
    return gates if shift is None else gates + shift


def _activated_back(activated: Tensor, gradient: Tensor) -> Tensor:
    """The gradient through concat_elu, in operations that can be differentiated again."""
    positive, negative = activated.chunk(2, dim=1)
    up, down = gradient.chunk(2, dim=1)
    slope = torch.minimum(positive, negative) + 1.0
    return torch.where(positive > 0, up - down * slope, up * slope - down)


def _padded(gradient: Tensor, size: tuple[int, ...]) -> Tensor:
    height, width = gradient.shape[2:]
    return F.pad(gradient, (0, size[1] - width, 0, size[0] - height))
