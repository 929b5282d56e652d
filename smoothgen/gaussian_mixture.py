"""Mixtures of Gaussians: log density, and sampling by the inverse CDF.

The counterpart of `logistic_mixture`, with the same conventions: the components are the last axis of `logits`, `loc`
and `log_scale`; x has the other axes; float32 or wider, never under autocast. A head for continuous data only.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from smoothgen.mixture_density import mixture_log_density
from smoothgen.mixture_gradient import mixture_gradient

HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)


def log_density(x: Tensor, logits: Tensor, loc: Tensor, log_scale: Tensor) -> Tensor:
    """log sum_k pi_k N(x; loc_k, s_k^2). x (...) -> (...), nats."""
    return mixture_log_density("gaussian", _LogDensity.apply, x, logits, loc, log_scale)


class _LogDensity(torch.autograd.Function):
    """The log density with its gradient written out, as for logistics.

    A Gaussian's slope -d log f / d z is z. The backward pass starts from the inputs, so that it can be differentiated
    in turn.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, logits: Tensor, loc: Tensor, log_scale: Tensor) -> Tensor:
        _, joint = _joint(x, logits, loc, log_scale, torch.exp(-log_scale))
        return torch.logsumexp(joint, -1) - torch.logsumexp(logits, -1) - HALF_LOG_2PI

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        x, logits, loc, log_scale = ctx.saved_tensors
        inverse_scale = torch.exp(-log_scale)
        z, joint = _joint(x, logits, loc, log_scale, inverse_scale)
        return mixture_gradient(gradient, z, z, joint, inverse_scale, logits, loc, log_scale)


def _joint(x: Tensor, logits: Tensor, loc: Tensor, log_scale: Tensor, inverse_scale: Tensor) -> tuple[Tensor, Tensor]:
    """z and logits + log density of every component, but for the constant."""
    z = (x.unsqueeze(-1) - loc) * inverse_scale
    return z, torch.addcmul(logits - log_scale, z, z, value=-0.5)


@torch.no_grad()
def inverse_cdf(logit_u: Tensor, logits: Tensor, loc: Tensor, log_scale: Tensor) -> Tensor:
    """The x with logit F(x) = logit_u: (...) -> (...). Monotone in u, so that equal uniforms give equal samples.

    The quantile lies between the least and the greatest of the components' own quantiles; that bracket is bisected to
    the last bit on the log of the smaller tail, where no digits cancel. Not differentiable.
    """
    mirrored = logit_u > 0.0  # F(x) = u of a mixture is 1 - F(-x) = 1 - u of the mirrored one
    sign = torch.where(mirrored, -1.0, 1.0).to(logit_u)
    log_tail = F.logsigmoid(-logit_u.abs())
    loc = loc * sign.unsqueeze(-1)
    scale = log_scale.exp()
    quantiles = loc + scale * _normal_quantile(log_tail).unsqueeze(-1)
    low, high = quantiles.amin(-1), quantiles.amax(-1)
    log_weight = F.log_softmax(logits, -1)
    for _ in range(2 - int(math.log2(torch.finfo(logit_u.dtype).eps))):
        x = 0.5 * (low + high)
        log_cdf = torch.logsumexp(log_weight + torch.special.log_ndtr((x.unsqueeze(-1) - loc) / scale), -1)
        over = log_cdf > log_tail
        low, high = torch.where(over, low, x), torch.where(over, x, high)
    return sign * 0.5 * (low + high)


def _normal_quantile(log_u: Tensor) -> Tensor:
    """The standard normal quantile of u <= 1/2, given as log u."""
    return torch.special.ndtri(log_u.double().exp()).to(log_u.dtype)
