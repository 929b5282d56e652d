"""Composite Gauss-Legendre quadrature: how the entropies are computed."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

NODES = 10
"""Nodes per panel: exact for polynomials up to degree 19 on every panel."""


def panels(edges: Tensor, nodes: int = NODES) -> tuple[Tensor, Tensor]:
    """Points and weights, ((len(edges) - 1) * nodes,), float64, of the integral over consecutive intervals.

    edges: (panels + 1,), ascending.
    """
    standard, weights = (torch.from_numpy(value) for value in np.polynomial.legendre.leggauss(nodes))
    edges = edges.double()
    half = (edges[1:] - edges[:-1])[:, None] / 2.0
    middle = (edges[1:] + edges[:-1])[:, None] / 2.0
    return (middle + half * standard).flatten(), (half * weights).flatten()


def around(
    centre: float, std: float, reach: float = 8.0, lowest: float = -math.inf, width: float | None = None
) -> tuple[Tensor, Tensor]:
    """Points and weights of the integral over centre +- reach * std, cut at `lowest`.

    width: of the panels; one std if not given. Beyond eight standard deviations lies 1e-15 of a normal distribution.
    """
    low, high = max(centre - reach * std, lowest), centre + reach * std
    return panels(torch.linspace(low, high, math.ceil((high - low) / (width or std)) + 1, dtype=torch.float64))
