"""The bound of Eq. 3 on a line: its gap to the exact density, its terms, and where the gap comes from."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator

from smoothgen.device import derived_seed
from smoothgen.reproduction.line import REACH, kernel_of, nodes_of_data, nodes_of_smoothed
from smoothgen.reproduction.training import Trained

DRAWS = 4
"""Noises of each test point for the bound; more points are worth more than more draws."""
IMPORTANCE = 100
TERMS = ("log_smoothed", "minus_log_kernel", "log_inverse")
"""What the bound is the sum of, in this order: E log p(x_tilde), -E log q, E log p(x | x_tilde)."""


def bounds(trained: Trained, kernel: str, seed: int, points: int, few: int, spacing: float) -> dict[str, Any]:
    """Plain numbers, nats: `nll` (-ELBO) and `gap`, `iw` and `iw_gap` (IW-100), `smooth_gap`, TERMS, sigma, effort.

    Every gap is the mean of log p_exact(x) - log p_model(x) over the same points, so that the points' own luck
    cancels; nll and iw are gap plus the exact entropy. smooth_gap is KL(data plus noise || p(x_tilde)) by quadrature
    of that spacing; the rest of the gap is the inverter's. points, few: test points of the bound and of IW-100.
    """
    model, sigma = trained.smoothed, trained.sigma
    assert model is not None and sigma is not None and trained.data.entropy is not None
    generator = Generator().manual_seed(derived_seed(seed, "bounds"))
    x = trained.data.split("test").x
    exact = trained.data.log_prob(x.double())
    bound = model.likelihood_at(x[:points], importance_samples=DRAWS, generator=generator)
    terms = [value.mean().item() for value in list(bound.terms.values())[: len(TERMS)]]
    gap = exact[:points].mean().item() - sum(terms)
    weighted = model.likelihood_at(x[:few], importance_samples=IMPORTANCE, generator=generator)
    iw_gap = (exact[:few] - weighted.per_example).mean().item()
    data, noise = nodes_of_data(trained.data, spacing), kernel_of(kernel, sigma)
    smoothed = nodes_of_smoothed(data, noise, REACH[kernel] * sigma, spacing)
    with torch.no_grad():
        learned = model.density.log_prob(smoothed.x[:, None].float()).double()
    return dict(zip(TERMS, terms, strict=True)) | {
        "entropy": trained.data.entropy,
        "gap": gap,
        "nll": trained.data.entropy + gap,
        "iw_gap": iw_gap,
        "iw": trained.data.entropy + iw_gap,
        "smooth_gap": smoothed.divergence(learned),
        "sigma": sigma,
        "cpu_seconds": trained.cpu_seconds,
        "steps": trained.steps,
    }
