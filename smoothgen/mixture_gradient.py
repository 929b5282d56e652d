"""The gradient of a mixture's log density, whatever the shape of its components."""

from __future__ import annotations

import torch
from torch import Tensor


def mixture_gradient(
    gradient: Tensor,
    z: Tensor,
    slope: Tensor,
    joint: Tensor,
    inverse_scale: Tensor,
    logits: Tensor,
    loc: Tensor,
    log_scale: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients with respect to x, logits, loc and log_scale of log sum_k pi_k f(z_k) / s_k, z = (x - loc) / s.

    gradient: of the log density, (...). slope: -d log f / d z at z, and joint: logits + log (f / s) up to a constant,
    both (..., K). With responsibilities r and weights pi:
    d/d logits = r - pi, d/d loc = r slope / s, d/d log_scale = r (z slope - 1), d/d x = -sum_k r slope / s.
    """
    gradient = gradient.unsqueeze(-1)
    weighted = gradient * torch.softmax(joint, -1)
    pulled = weighted * slope
    d_loc = pulled * inverse_scale
    d_logits = weighted - gradient * torch.softmax(logits, -1)
    return (
        -d_loc.sum(-1),
        d_logits.sum_to_size(logits.shape),
        d_loc.sum_to_size(loc.shape),
        (pulled * z - weighted).sum_to_size(log_scale.shape),
    )
