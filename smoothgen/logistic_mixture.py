"""Mixtures of logistics: log density, log mass over levels, and sampling by the inverse CDF.

In every function the components are the last axis of `logits`, `loc` and `log_scale`; x has the other axes.
A head for any autoregressive density; float32 or wider, never under autocast.
Source: Salimans et al. 2017 (arXiv 1701.05517), section 2.1, with the differences noted where they are made.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from smoothgen.array_operations import Operations, arrays, tensor
from smoothgen.event import EventSpec
from smoothgen.mixture_density import mixture_log_density
from smoothgen.mixture_gradient import mixture_gradient


def log_density(x: Tensor, logits: Tensor, loc: Tensor, log_scale: Tensor) -> Tensor:
    """log sum_k pi_k f((x - loc_k) / s_k) / s_k, f the standard logistic density. x (...) -> (...), nats."""
    return mixture_log_density("logistic", _LogDensity.apply, x, logits, loc, log_scale)


class _LogDensity(torch.autograd.Function):
    """The log density with its gradient written out: half the operations that autograd would record.

    A logistic's slope -d log f / d z is tanh(z / 2). The backward pass starts from the inputs, so that it can be
    differentiated in turn.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, logits: Tensor, loc: Tensor, log_scale: Tensor) -> Tensor:
        _, joint = _joint(x, logits, loc, log_scale, torch.exp(-log_scale))
        return torch.logsumexp(joint, -1) - torch.logsumexp(logits, -1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        x, logits, loc, log_scale = ctx.saved_tensors
        inverse_scale = torch.exp(-log_scale)
        z, joint = _joint(x, logits, loc, log_scale, inverse_scale)
        return mixture_gradient(gradient, z, torch.tanh(0.5 * z), joint, inverse_scale, logits, loc, log_scale)


def _joint(x: Tensor, logits: Tensor, loc: Tensor, log_scale: Tensor, inverse_scale: Tensor) -> tuple[Tensor, Tensor]:
    """z and logits + log density of every component; log f(z) = 2 log sigmoid(z) - z."""
    z = (x.unsqueeze(-1) - loc) * inverse_scale
    return z, torch.add(logits - log_scale - z, F.logsigmoid(z), alpha=2.0)


def log_density_of_components(x: Tensor, loc: Tensor, log_scale: Tensor) -> Tensor:
    """log f((x - loc_k) / s_k) / s_k of every component: x (...) -> (..., K), nats."""
    z = (x.unsqueeze(-1) - loc) * torch.exp(-log_scale)
    return torch.add(-log_scale - z, F.logsigmoid(z), alpha=2.0)


def log_mass(x: Tensor, logits: Tensor, loc: Tensor, log_scale: Tensor, event: EventSpec) -> Tensor:
    """log probability of the level of x: the mixture's mass between the two neighbouring midpoints.

    The first level takes everything below, the last everything above, so that the masses sum to 1. x (...) -> (...),
    nats.
    """
    components = log_mass_of_components(x, loc, log_scale, event)
    return torch.logsumexp(logits + components, -1) - torch.logsumexp(logits, -1)


def log_mass_of_components(x: Tensor, loc: Tensor, log_scale: Tensor, event: EventSpec) -> Tensor:
    """log mass that every component gives the level of x: x (...) -> (..., K), nats.

    Neighbouring bins share the same floating-point edge, and log(sigmoid(a) - sigmoid(b)) is computed as
    log sigmoid(a) + log sigmoid(-b) + log(1 - exp(b - a)), exact in both tails; the reference implementation
    switches to an approximation there and misses by nats.
    """
    assert event.levels is not None and event.low is not None
    level = event.levels_of(x).to(x.dtype)
    inverse_scale = torch.exp(-log_scale)
    upper = (event.low + (level + 0.5) * event.bin_width).unsqueeze(-1)
    lower = (event.low + (level - 0.5) * event.bin_width).unsqueeze(-1)
    a = (upper - loc) * inverse_scale
    b = (lower - loc) * inverse_scale
    first, last = (level == 0).unsqueeze(-1), (level == event.levels - 1).unsqueeze(-1)
    zero = a.new_zeros(())
    width = torch.where(first | last, torch.ones_like(a), a - b)  # 1 keeps the unused branch finite
    return (
        torch.where(last, zero, F.logsigmoid(a))
        + torch.where(first, zero, F.logsigmoid(-b))
        + torch.where(first | last, zero, torch.log(-torch.expm1(-width)))
    )


def logit_uniform(shape: tuple[int, ...], like: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """log u - log(1 - u) for u uniform on (0, 1), both ends excluded at the resolution of the dtype."""
    resolution = torch.finfo(like.dtype).eps
    u = torch.rand(shape, dtype=like.dtype, device=like.device, generator=generator)
    u = u * (1.0 - resolution) + 0.5 * resolution
    return torch.log(u) - torch.log1p(-u)


GRID = (-9.0, -5.5, -3.5, -2.2, -1.2, -0.4, 0.4, 1.2, 2.2, 3.5, 5.5, 9.0)
"""Where, in units of every component's scale, the inverse CDF looks first."""


def inverse_cdf(logit_u: Tensor, logits: Tensor, loc: Tensor, log_scale: Tensor) -> Tensor:
    """The x with logit F(x) = logit_u: (...) -> (...). Monotone in u, so that equal uniforms give equal samples.

    The quantile lies between the least and the greatest of the components' own quantiles, which are closed form: an
    exact bracket at any depth of the tail. A grid around every component narrows it until no component changes much
    inside, and a fixed number of Newton steps on the log of the smaller tail finishes, so that no digits cancel and
    no row depends on the others; a row that has not settled is bisected. Not differentiable.
    """
    xp, parts = arrays(logit_u, logits, loc, log_scale)
    return tensor(quantile(xp, *parts))


def quantile(xp: Operations, logit_u: Any, logits: Any, loc: Any, log_scale: Any) -> Any:
    """`inverse_cdf` on arrays of numpy or torch."""
    with np.errstate(all="ignore"):  # overflow to infinity and 0 / 0 mean "not settled"
        weight, inverse = _softmax(xp, logits), xp.exp(-log_scale)
        scale = 1.0 / inverse
        quantiles = loc + logit_u[..., None] * scale
        low, high = xp.amin(quantiles), xp.amax(quantiles)
        bottom = logit_u <= 0
        log_tail = -abs(logit_u)  # of the smaller tail t of u: log t = log sigmoid(-|logit u|)
        log_tail = log_tail - xp.log1p(xp.exp(log_tail))
        slope = xp.where(bottom[..., None], inverse, -inverse)
        points = loc[..., None] + xp.constant(GRID, loc) * scale[..., None]
        points = points.reshape(*loc.shape[:-1], 1, loc.shape[-1] * len(GRID))
        tails = _sigmoid(xp, (points - loc[..., None]) * slope[..., None])
        tails = (weight[..., None, :] @ tails)[..., 0, :]
        over = (tails > xp.exp(log_tail)[..., None]) == bottom[..., None]
        points = points[..., 0, :]
        narrow_low = xp.maximum(xp.amax(xp.where(over, low[..., None], points)), low)
        narrow_high = xp.minimum(xp.amin(xp.where(over, points, high[..., None])), high)
        return _newton(xp, log_tail, weight, loc, slope, narrow_low, narrow_high)


def _newton(xp: Operations, log_tail: Any, weight: Any, loc: Any, slope: Any, low: Any, high: Any) -> Any:
    x = 0.5 * (low + high)
    step = scale = x
    weighted, eps = weight * slope, xp.eps(x)
    for _ in range(4 if eps > 1e-10 else 6):
        below = _sigmoid(xp, (x[..., None] - loc) * slope)
        tail = xp.vecdot(weight, below)
        scale = tail / xp.vecdot(weighted, below - below * below)
        moved = xp.minimum(xp.maximum(x - (xp.log(tail) - log_tail) * scale, low), high)
        step = moved - x
        x = moved
    settled = abs(step) <= 8.0 * eps * (abs(low) + abs(high) + 8.0 * abs(scale))
    return x if settled.all() else xp.where(settled, x, _bisected(xp, log_tail, weight, loc, slope, low, high))


def _bisected(xp: Operations, log_tail: Any, weight: Any, loc: Any, slope: Any, low: Any, high: Any) -> Any:
    bottom, wanted = slope[..., 0] > 0, xp.exp(log_tail)
    for _ in range(2 - int(math.log2(xp.eps(loc)))):
        x = 0.5 * (low + high)
        over = (xp.vecdot(weight, _sigmoid(xp, (x[..., None] - loc) * slope)) > wanted) == bottom
        low, high = xp.where(over, low, x), xp.where(over, x, high)
    return 0.5 * (low + high)


def quantile_level(
    xp: Operations, logit_u: Any, logits: Any, loc: Any, log_scale: Any, midpoints: tuple[float, ...]
) -> Any:
    """The least level whose cumulative mass reaches u, on arrays: (...) -> (...), integers. Monotone in u.

    midpoints: those between neighbouring levels, which are looked at all at once.
    """
    edges = xp.constant(midpoints, loc)
    with np.errstate(over="ignore"):
        inverse = xp.exp(-log_scale)
        z = edges * inverse[..., None] - (loc * inverse)[..., None]
        cumulative = (_softmax(xp, logits)[..., None, :] @ _sigmoid(xp, z))[..., 0, :]
        return (cumulative < _sigmoid(xp, logit_u)[..., None]).sum(-1)


def _softmax(xp: Operations, logits: Any) -> Any:
    weight = xp.exp(logits - xp.amax(logits)[..., None])
    return weight / weight.sum(-1)[..., None]


def _sigmoid(xp: Operations, z: Any) -> Any:
    return 1.0 / (1.0 + xp.exp(-z))
