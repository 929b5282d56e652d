"""Mixtures of logistics: log density, log mass over levels, and sampling by the inverse CDF.

In every function the components are the last axis of `logits`, `loc` and `log_scale`; x has the other axes.
A head for any autoregressive density; float32 or wider, never under autocast.
Source: Salimans et al. 2017 (arXiv 1701.05517), section 2.1, with the differences noted where they are made.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from smoothgen.event import EventSpec


def log_density(x: Tensor, logits: Tensor, loc: Tensor, log_scale: Tensor) -> Tensor:
    """log sum_k pi_k f((x - loc_k) / s_k) / s_k, f the standard logistic density. x (...) -> (...), nats."""
    return _LogDensity.apply(x, logits, loc, log_scale)


class _LogDensity(torch.autograd.Function):
    """The log density with its gradient written out: half the operations that autograd would record.

    With responsibilities r, weights pi and t = tanh(z / 2) = -d log f / d z:
    d/d logits = r - pi, d/d loc = r t / s, d/d log_scale = r (z t - 1), d/d x = -sum_k r t / s.
    The backward pass starts from the inputs, so that it can be differentiated in turn.
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
        gradient = gradient.unsqueeze(-1)
        weighted = gradient * torch.softmax(joint, -1)
        pulled = weighted * torch.tanh(0.5 * z)
        d_loc = pulled * inverse_scale
        d_logits = weighted - gradient * torch.softmax(logits, -1)
        return (
            -d_loc.sum(-1),
            d_logits.sum_to_size(logits.shape),
            d_loc.sum_to_size(loc.shape),
            (pulled * z - weighted).sum_to_size(log_scale.shape),
        )


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


def inverse_cdf(logit_u: Tensor, logits: Tensor, loc: Tensor, log_scale: Tensor) -> Tensor:
    """The x with logit F(x) = logit_u: (...) -> (...). Monotone in u, so that equal uniforms give equal samples.

    The quantile lies between the least and the greatest of the components' own quantiles, which are closed form:
    an exact bracket at any depth of the tail. Inside it, Newton's method on logit F (exact for one component),
    replaced by a bisection whenever it does not halve the step. The smaller tail is the one that is summed, so that
    none of its digits cancel.
    """
    weight = torch.softmax(logits, -1)
    inverse = torch.exp(-log_scale)
    quantiles = loc + logit_u.unsqueeze(-1) / inverse
    low, high = quantiles.amin(-1), quantiles.amax(-1)
    sign = torch.where(logit_u <= 0, 1.0, -1.0).to(loc.dtype)
    target = -logit_u.abs()
    slope = sign.unsqueeze(-1) * inverse
    weighted = weight * inverse
    x = torch.linalg.vecdot(weight, quantiles).clamp(low, high)
    step = high - low
    eps = torch.finfo(x.dtype).eps
    floor = eps * torch.maximum(low.abs(), high.abs())
    synchronises = x.device.type != "cpu"  # reading a flag would stall an accelerator; there, all iterations run
    for _ in range(4 * (2 + int(-math.log2(eps)))):
        below = torch.sigmoid((x.unsqueeze(-1) - loc) * slope)
        tail = torch.linalg.vecdot(weight, below)
        density = torch.linalg.vecdot(weighted, below - below * below)
        excess = sign * (torch.logit(tail) - target)
        high = torch.where(excess > 0, x, high)
        low = torch.where(excess > 0, low, x)
        newton = x - excess * (tail - tail * tail) / density
        keep = (newton - x).abs() <= 0.5 * step.abs()
        candidate = torch.where(keep, newton, torch.lerp(low, high, 0.5)).clamp(low, high)
        step = candidate - x
        x = candidate
        if not synchronises and bool((step.abs() <= floor).all()):
            break
    return x


def quantile_level(logit_u: Tensor, logits: Tensor, loc: Tensor, log_scale: Tensor, event: EventSpec) -> Tensor:
    """The least level whose cumulative mass reaches u: (...) -> (...), integers. Monotone in u.

    All midpoints between levels are looked at, at once.
    """
    assert event.levels is not None and event.low is not None
    edges = torch.arange(event.levels - 1, dtype=loc.dtype, device=loc.device)
    edges = event.low + (edges + 0.5) * event.bin_width
    inverse = torch.exp(-log_scale)
    z = torch.addcmul(-(loc * inverse).unsqueeze(-1), edges, inverse.unsqueeze(-1))
    cumulative = (torch.softmax(logits, -1).unsqueeze(-2) @ z.sigmoid_()).squeeze(-2)
    return (cumulative < torch.sigmoid(logit_u).unsqueeze(-1)).sum(-1)
