"""Log densities of one-dimensional mixtures as one operation: in C on the CPU where it can be, in torch elsewhere.

For two coordinates and a few components, the dozen operations of a mixture cost more to start than to compute.
"""

from __future__ import annotations

from collections.abc import Callable
from ctypes import POINTER, Structure, byref, c_int, c_long, c_void_p
from typing import Any, Literal

import torch
from torch import Tensor

from smoothgen.native import SHARED
from smoothgen.native_operations import Operations, called, gradients_in_torch, runs_in_c

Family = Literal["logistic", "gaussian"]
InTorch = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""The log density from x (...) and logits, loc, log_scale (..., K), in operations of torch."""
FAMILIES: dict[Family, int] = {"logistic": 0, "gaussian": 1}


class _Rows(Structure):
    _fields_ = (("at", c_void_p), ("step", c_long))


OPERATIONS = Operations(
    SHARED,
    "mixture_density.c",
    {"log_density": (c_int, c_long, c_long, c_long, c_void_p, *[POINTER(_Rows)] * 3, *[c_void_p] * 5)},
)


def mixture_log_density(
    family: Family, in_torch: InTorch, x: Tensor, logits: Tensor, loc: Tensor, log_scale: Tensor
) -> Tensor:
    """log sum_k pi_k f((x - loc_k) / s_k) / s_k: x (...), the others (..., K) -> (...), nats."""
    if _fits(x, logits, loc, log_scale):
        return _LogDensity.apply(FAMILIES[family], in_torch, x, logits, loc, log_scale)
    return in_torch(x, logits, loc, log_scale)


def _fits(x: Tensor, *parameters: Tensor) -> bool:
    return (
        x.numel() > 0
        and all(p.shape[:-1] == x.shape and p.shape == parameters[0].shape for p in parameters)
        and runs_in_c(x, *parameters)
        and OPERATIONS.exist_for(x.dtype)
    )


def _rows(parameter: Tensor) -> tuple[Tensor, _Rows]:
    """(..., K) as rows, copied only where they do not lie evenly; the first answer keeps the memory."""
    flat = parameter.reshape(-1, parameter.shape[-1])
    if flat.stride(1) != 1 and flat.shape[1] > 1:
        flat = flat.contiguous()
    return flat, _Rows(flat.data_ptr(), flat.stride(0))


class _LogDensity(torch.autograd.Function):
    """The derivatives come with the value: the backward pass multiplies them by the gradient."""

    @staticmethod
    def forward(ctx: Any, family: int, in_torch: InTorch, x: Tensor, *parameters: Tensor) -> Tensor:
        rows, count = x.numel(), parameters[0].shape[-1]
        dense_x = x.contiguous()
        flat = [_rows(parameter) for parameter in parameters]
        out = torch.empty_like(dense_x)
        derivatives: list[Tensor] = []
        if any(ctx.needs_input_grad):
            derivatives = [torch.empty_like(dense_x), *(dense_x.new_empty(parameters[0].shape) for _ in range(3))]
        pointers: list[int | None] = [d.data_ptr() for d in derivatives]
        steps = [byref(row) for _, row in flat]
        called(
            OPERATIONS.of(x.dtype).log_density(
                rows, count, family, dense_x.data_ptr(), *steps, out.data_ptr(), *(pointers or [None] * 4)
            ),
            "a mixture's components",
        )
        ctx.save_for_backward(x, *parameters, *derivatives)
        ctx.in_torch = in_torch
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        *inputs, d_x, d_logits, d_loc, d_log_scale = ctx.saved_tensors
        wanted = ctx.needs_input_grad[2:]
        if torch.is_grad_enabled():  # a batch of gradients is no matter: what follows is torch's
            return (None, None, *gradients_in_torch(ctx.in_torch, inputs, wanted, gradient))
        of_components = gradient.unsqueeze(-1)
        return (
            None,
            None,
            gradient * d_x if wanted[0] else None,
            *(
                of_components * d if needed else None
                for d, needed in zip((d_logits, d_loc, d_log_scale), wanted[1:], strict=True)
            ),
        )
