"""Small dense networks as one operation: in C on the CPU where it can be, layer by layer in torch elsewhere.

A network of a hundred units on a few hundred rows spends more time on starting a layer's operations, and on the record
that autograd keeps of them, than on arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from ctypes import POINTER, Structure, c_int, c_long, c_void_p
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from smoothgen.native import SHARED
from smoothgen.native_operations import (
    Operations,
    address,
    called,
    gradients_in_torch,
    must_stay_in_torch,
    runs_in_c,
)

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


_NETWORK = (c_long, c_long, POINTER(_Layer))
OPERATIONS = Operations(
    SHARED,
    "dense.c",
    {
        "kept_size": (c_long, *_NETWORK),
        "forward": (c_int, *_NETWORK, c_long, c_void_p, c_long, c_void_p, c_void_p),
        "backward": (c_int, *_NETWORK, c_long, c_void_p, c_void_p, c_void_p),
    },
)
WHAT = "the layers of a dense network"


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
    if _fits(x, weights, biases):
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
        and OPERATIONS.exist_for(x.dtype)
    )


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
            weight.shape[1], weight.shape[0], adds, address(weight), address(bias), address(to_weight), address(to_bias)
        )
    return layers


class _Dense(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, activation: str, residual: bool, count: int, *parameters: Any) -> Tensor:
        weights, biases = parameters[:count], parameters[count:]
        native = OPERATIONS.of(x.dtype)
        layers = _layers(weights, biases, residual)
        kept = x.new_empty(native.kept_size(len(x), count, layers))
        out = x.new_empty(len(x), weights[-1].shape[0])
        network = len(x), count, layers, KINDS[activation]
        called(native.forward(*network, address(x), x.stride(0), address(kept), address(out)), WHAT)
        ctx.save_for_backward(x, kept, *parameters)
        ctx.activation, ctx.residual, ctx.count = activation, residual, count
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        x, kept, *parameters = ctx.saved_tensors
        count = ctx.count
        weights, biases = parameters[:count], parameters[count:]
        wanted = ctx.needs_input_grad
        if must_stay_in_torch(gradient):
            to_x, *rest = gradients_in_torch(
                lambda x, *rest: _in_torch(x, rest[:count], rest[count:], ctx.activation, ctx.residual),
                [x, *parameters],
                [wanted[0], *wanted[4:]],
                gradient,
            )
            return (to_x, None, None, None, *rest)
        gradient = gradient.contiguous()
        to_weights = [torch.empty_like(w) if wanted[4 + i] else None for i, w in enumerate(weights)]
        to_biases = [
            torch.empty_like(b) if b is not None and wanted[4 + count + i] else None for i, b in enumerate(biases)
        ]
        to_x = x.new_empty(x.shape) if wanted[0] else None
        native = OPERATIONS.of(x.dtype)
        layers = _layers(weights, biases, ctx.residual, list(zip(to_weights, to_biases, strict=True)))
        network = len(x), count, layers, KINDS[ctx.activation]
        called(native.backward(*network, address(kept), address(gradient), address(to_x)), WHAT)
        return (to_x, None, None, None, *to_weights, *to_biases)
