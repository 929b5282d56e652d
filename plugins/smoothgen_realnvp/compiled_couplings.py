"""All couplings of a stack as one operation in C: a small flow spends most of its time between its operations."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from ctypes import POINTER, Structure, byref, c_double, c_int, c_long, c_void_p
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from smoothgen.dense import KINDS, LARGEST
from smoothgen.native_operations import (
    Operations,
    address,
    called,
    gradients_in_torch,
    must_stay_in_torch,
    runs_in_c,
)

DIRECTORY = Path(__file__).parent / "native"
MOST_LAYERS = 16
AnyTensor = TypeVar("AnyTensor", Tensor, Tensor | None)


class _Group(Structure):
    _fields_ = (
        ("kept", c_long),
        ("moved", c_long),
        ("layers", c_long),
        ("widths", POINTER(c_long)),
        ("coordinates", POINTER(c_long)),
        ("weights", POINTER(c_void_p)),
        ("biases", POINTER(c_void_p)),
        ("gain", c_void_p),
        ("weight_gradients", POINTER(c_void_p)),
        ("bias_gradients", POINTER(c_void_p)),
        ("gain_gradient", c_void_p),
    )


class _Stack(Structure):
    _fields_ = (
        *((name, c_long) for name in ["batch", "count", "kind", "octaves", "features", "features_step", "phase_step"]),
        ("bound", c_double),
        ("max_log_scale", c_double),
        ("longest", c_double),
        *((name, c_void_p) for name in ["feature", "phase", "rate", "feature_gradient", "phase_gradient"]),
        ("group", _Group * 2),
    )


OPERATIONS = Operations(
    DIRECTORY,
    "couplings.c",
    {
        "structure_sizes": (c_long, c_long),
        "kept_size": (c_long, POINTER(_Stack)),
        "to_noise": (c_int, POINTER(_Stack), c_void_p, c_long, *[c_void_p] * 3),
        "to_noise_back": (c_int, POINTER(_Stack), *[c_void_p] * 4),
    },
    (_Group, _Stack),
)
WHAT = "the couplings of a flow"


class Conditions(NamedTuple):
    """What every coupling is told beside its own input.

    features: (batch, C), the standardised context, or None. phase: (batch, D) or (D,), and rate: (D,), the Fourier
    features' units: coordinate i of a latent z stands at phase_i + rate_i z_i turns of the longest wave, or None.
    """

    features: Tensor | None = None
    phase: Tensor | None = None
    rate: Tensor | None = None


class GroupPlan(NamedTuple):
    """Couplings that keep the same coordinates: which, how many they move, and the widths of their networks."""

    kept: tuple[int, ...]
    moved: int
    widths: tuple[int, ...]


class Plan(NamedTuple):
    """What a stack of couplings is, but for its parameters.

    features: columns of the context's share of the inputs. longest: the angle of one turn of the longest wave.
    """

    couplings: int
    activation: str
    octaves: int
    features: int
    bound: float
    max_log_scale: float
    groups: tuple[GroupPlan, ...]
    longest: float = 2.0 * math.pi


InTorch = Callable[[Tensor, Conditions, Sequence[Tensor]], tuple[Tensor, Tensor]]
"""The same function of z, the conditions and the parameters, in torch."""


def runs_compiled(plan: Plan, z: Tensor, conditions: Conditions, parameters: Sequence[Tensor]) -> bool:
    """Whether `to_noise` takes this."""
    given = [t for t in conditions if t is not None]
    return (
        z.numel() > 0
        and (plan.octaves > 0) == (conditions.phase is not None)
        and (plan.features > 0) == (conditions.features is not None)
        and all(len(group.widths) <= MOST_LAYERS for group in plan.groups)
        and all(p.is_contiguous() and p.numel() <= LARGEST * plan.couplings for p in parameters)
        and runs_in_c(z, *given, *parameters)
        and OPERATIONS.exist_for(z.dtype)
    )


def to_noise(
    plan: Plan, z: Tensor, conditions: Conditions, parameters: Sequence[Tensor], in_torch: InTorch
) -> tuple[Tensor, Tensor]:
    """Data to noise: (batch, D) and log |det| (batch,).

    parameters: of every group in turn the stacked weights, biases, and the gain. in_torch: for gradients that C does
    not compute.
    """
    return _ToNoise.apply(plan, in_torch, z, *conditions, *parameters)


def _pointers(tensors: Sequence[Tensor | None]) -> Any:
    return (c_void_p * len(tensors))(*map(address, tensors))


def _stack_of(
    plan: Plan,
    batch: int,
    conditions: Sequence[Tensor | None],
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor | None] | None = None,
    to_conditions: Sequence[Tensor | None] = (None, None),
) -> _Stack:
    features, phase, rate = conditions
    stack = _Stack(
        batch=batch,
        count=plan.couplings,
        kind=KINDS[plan.activation],
        octaves=plan.octaves,
        features=plan.features,
        features_step=0 if features is None else features.stride(0),
        phase_step=0 if phase is None or phase.dim() == 1 else phase.stride(0),
        bound=plan.bound,
        max_log_scale=plan.max_log_scale,
        longest=plan.longest,
        feature=address(features),
        phase=address(phase),
        rate=address(rate),
        feature_gradient=address(to_conditions[0]),
        phase_gradient=address(to_conditions[1]),
    )
    start = 0
    for index, (kept, moved, widths) in enumerate(plan.groups):
        layers = len(widths) - 1
        own = parameters[start : start + 2 * layers + 1]
        group = stack.group[index]
        group.kept, group.moved, group.layers = len(kept), moved, layers
        group.widths = (c_long * (layers + 1))(*widths)
        group.coordinates = (c_long * len(kept))(*kept)
        group.weights, group.biases = _pointers(own[:layers]), _pointers(own[layers : 2 * layers])
        group.gain = address(own[-1])
        if gradients is not None:
            to = gradients[start : start + 2 * layers + 1]
            group.weight_gradients, group.bias_gradients = _pointers(to[:layers]), _pointers(to[layers : 2 * layers])
            group.gain_gradient = address(to[-1])
        start += 2 * layers + 1
    return stack


def _rows_dense(tensor: AnyTensor) -> AnyTensor:
    return tensor if tensor is None or tensor.dim() == 1 or tensor.stride(1) == 1 else tensor.contiguous()


def _as_twin(in_torch: InTorch) -> Callable[..., tuple[Tensor, Tensor]]:
    """in_torch as a function of what `_ToNoise` takes, one tensor after the other."""
    return lambda z, features, phase, rate, *parameters: in_torch(z, Conditions(features, phase, rate), parameters)


class _ToNoise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        plan: Plan,
        in_torch: InTorch,
        z: Tensor,
        features: Tensor | None,
        phase: Tensor | None,
        rate: Tensor | None,
        *parameters: Tensor,
    ) -> tuple[Tensor, Tensor]:
        native = OPERATIONS.of(z.dtype)
        z, features, phase = _rows_dense(z), _rows_dense(features), _rows_dense(phase)
        stack = _stack_of(plan, len(z), (features, phase, rate), parameters)
        kept, out, log_det = z.new_empty(native.kept_size(byref(stack))), z.new_empty(z.shape), z.new_empty(len(z))
        written = map(address, (kept, out, log_det))
        called(native.to_noise(byref(stack), address(z), z.stride(0), *written), WHAT)
        ctx.save_for_backward(z, features, phase, rate, kept, *parameters)
        ctx.plan, ctx.in_torch = plan, in_torch
        return out, log_det

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, log_det_gradient: Tensor) -> tuple[Any, ...]:
        z, features, phase, rate, kept, *parameters = ctx.saved_tensors
        plan, wanted = ctx.plan, ctx.needs_input_grad
        if must_stay_in_torch(gradient, log_det_gradient):
            inputs = [z, features, phase, rate, *parameters]
            ups = (gradient, log_det_gradient)
            return (None, None, *gradients_in_torch(_as_twin(ctx.in_torch), inputs, wanted[2:], ups))
        to_features = z.new_zeros(len(z), plan.features) if wanted[3] and features is not None else None
        to_phase = z.new_zeros(z.shape) if wanted[4] and phase is not None else None
        gradients = [torch.empty_like(p) if needed else None for p, needed in zip(parameters, wanted[6:], strict=True)]
        stack = _stack_of(plan, len(z), (features, phase, rate), parameters, gradients, (to_features, to_phase))
        to_z = z.new_empty(z.shape)
        native = OPERATIONS.of(z.dtype)
        up, log_det_up = gradient.contiguous(), log_det_gradient.contiguous()
        called(native.to_noise_back(byref(stack), *map(address, (kept, up, log_det_up, to_z))), WHAT)
        if to_phase is not None and phase is not None and phase.dim() == 1:
            to_phase = to_phase.sum(0)
        return (None, None, to_z, to_features, to_phase, None, *gradients)
