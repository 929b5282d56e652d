"""Small dense networks as one operation: in C on the CPU where it can be, layer by layer in torch elsewhere.

A network of a hundred units on a few hundred rows spends more time on starting a layer's operations, and on the record
that autograd keeps of them, than on arithmetic.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from ctypes import POINTER, Structure, c_int, c_long, c_void_p
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from smoothgen.native import SHARED, NativeError, library, runs_in_c

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"silu": F.silu, "relu": torch.relu, "tanh": torch.tanh}
KINDS = {name: index for index, name in enumerate(ACTIVATIONS)}
LARGEST = 512 * 512
"""Weights in a layer up to which the C code is the faster one: it has no blocks for the cache."""


class _Layer(Structure):
    _fields_ = (
        ("inputs", c_long),
        ("outputs", c_long),
        ("residual", c_long),
        ("weight", c_void_p),
        ("bias", c_void_p),
        ("weight_gradient", c_void_p),
        ("bias_gradient", c_void_p),
    )


def dense(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    activation: str,
    residual: bool = False,
) -> Tensor:
    """h_0 = W_0 x + b_0, h_l = W_l f(h_(l-1)) + b_l; the last h. x (batch, in), W_l (out, in), b_l (out,) or none.

    activation: f, "silu", "relu" or "tanh". residual: h_(l-1) is added where a hidden h_l has its width.
    """
    if not torch.compiler.is_compiling() and _fits(x, weights, biases):
        return _Dense.apply(x, activation, residual, len(weights), *weights, *biases)
    return _in_torch(x, weights, biases, activation, residual)


def joined(weights: Sequence[Tensor], residual: bool) -> list[bool]:
    """Which layers add what they are given: hidden ones, as wide as the one before."""
    last = len(weights) - 1
    return [residual and 0 < index < last and w.shape[0] == w.shape[1] for index, w in enumerate(weights)]


def _in_torch(
    x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor | None], activation: str, residual: bool
) -> Tensor:
    function = ACTIVATIONS[activation]
    h = F.linear(x, weights[0], biases[0])
    for weight, bias, adds in zip(weights[1:], biases[1:], joined(weights, residual)[1:], strict=True):
        update = F.linear(function(h), weight, bias)
        h = h + update if adds else update
    return h


def _fits(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor | None]) -> bool:
    return (
        x.dim() == 2
        and x.numel() > 0
        and (x.stride(1) == 1 or x.shape[1] == 1)
        and len(weights) > 1
        and all(w.numel() <= LARGEST and w.is_contiguous() for w in weights)
        and all(b is None or b.is_contiguous() for b in biases)
        and runs_in_c(x, *weights)
        and _native(x.dtype) is not None
    )


@lru_cache(maxsize=8)
def _native(dtype: torch.dtype) -> ctypes.CDLL | None:
    if dtype not in (torch.float32, torch.float64):
        return None
    try:
        native = library(SHARED, "dense.c", ("DOUBLE",) if dtype == torch.float64 else ())
    except NativeError:
        return None
    native.kept_size.argtypes, native.kept_size.restype = [c_long, c_long, POINTER(_Layer)], c_long
    before: list[Any] = [c_long, c_long, POINTER(_Layer), c_long]
    native.forward.argtypes, native.forward.restype = [*before, c_void_p, c_long, c_void_p, c_void_p], c_int
    native.backward.argtypes, native.backward.restype = [*before, c_void_p, c_void_p, c_void_p], c_int
    return native


def _layers(
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    residual: bool,
    gradients: Sequence[tuple[Tensor | None, Tensor | None]] | None = None,
) -> Any:
    layers = (_Layer * len(weights))()
    for index, (weight, bias, adds) in enumerate(zip(weights, biases, joined(weights, residual), strict=True)):
        to_weight, to_bias = (None, None) if gradients is None else gradients[index]
        layers[index] = _Layer(
            weight.shape[1], weight.shape[0], adds, _at(weight), _at(bias), _at(to_weight), _at(to_bias)
        )
    return layers


def _at(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _called(failed: int) -> None:
    if failed:
        raise MemoryError("no memory for the layers of a dense network")


class _Dense(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, activation: str, residual: bool, count: int, *parameters: Any) -> Tensor:
        weights, biases = parameters[:count], parameters[count:]
        native = _native(x.dtype)
        assert native is not None
        layers = _layers(weights, biases, residual)
        kept = x.new_empty(native.kept_size(len(x), count, layers))
        out = x.new_empty(len(x), weights[-1].shape[0])
        _called(native.forward(len(x), count, layers, KINDS[activation], _at(x), x.stride(0), _at(kept), _at(out)))
        ctx.save_for_backward(x, kept, *parameters)
        ctx.activation, ctx.residual, ctx.count = activation, residual, count
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        x, kept, *parameters = ctx.saved_tensors
        count = ctx.count
        weights, biases = parameters[:count], parameters[count:]
        wanted = ctx.needs_input_grad
        if torch.is_grad_enabled() or not runs_in_c(gradient):
            return _back_in_torch(ctx, gradient, x, weights, biases)
        gradient = gradient.contiguous()
        to_weights = [torch.empty_like(w) if wanted[4 + i] else None for i, w in enumerate(weights)]
        to_biases = [
            torch.empty_like(b) if b is not None and wanted[4 + count + i] else None for i, b in enumerate(biases)
        ]
        to_x = x.new_empty(x.shape) if wanted[0] else None
        native = _native(x.dtype)
        assert native is not None
        layers = _layers(weights, biases, ctx.residual, list(zip(to_weights, to_biases, strict=True)))
        kind = KINDS[ctx.activation]
        _called(native.backward(len(x), count, layers, kind, _at(kept), _at(gradient), _at(to_x)))
        return (to_x, None, None, None, *to_weights, *to_biases)


def _back_in_torch(
    ctx: Any, gradient: Tensor, x: Tensor, weights: list[Tensor], biases: list[Tensor | None]
) -> tuple[Any, ...]:
    """The same, in operations that can be differentiated again, or run on many gradients at once."""
    parameters = [x, *weights, *biases]
    wanted = [
        needed and p is not None
        for needed, p in zip([ctx.needs_input_grad[0], *ctx.needs_input_grad[4:]], parameters, strict=True)
    ]
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        out = _in_torch(x, weights, biases, ctx.activation, ctx.residual)
        asked = [p for p, needed in zip(parameters, wanted, strict=True) if needed and p is not None]
        found = iter(torch.autograd.grad(out, asked, gradient, create_graph=again, allow_unused=True))
    answers = [next(found) if needed else None for needed in wanted]
    return (answers[0], None, None, None, *answers[1:])
