"""Precision and recall of samples by the k-nearest-neighbour manifold."""

from __future__ import annotations

import torch
from torch import Tensor

from smoothgen.errors import DataError
from smoothgen.evaluation.nearest import ROWS, l2_distances, wide

NEIGHBOURS = 3
"""k of the paper."""


@torch.no_grad()
def manifold_radii(points: Tensor, k: int = NEIGHBOURS, rows: int = ROWS) -> Tensor:
    """(n,): the distance of each point (n, F) to its k-th nearest other point, in blocks of `rows`."""
    if len(points) <= k:
        raise DataError(f"precision and recall need more than {k} examples, got {len(points)}")
    # the k + 1 smallest distances include the one to itself
    blocks = [l2_distances(block, points).topk(k + 1, largest=False).values[:, -1] for block in points.split(rows)]
    return torch.cat(blocks)


@torch.no_grad()
def inside(points: Tensor, centres: Tensor, radii: Tensor, rows: int = ROWS) -> Tensor:
    """(n,): whether each point (n, F) lies in a ball around any of the centres (m, F) with radii (m,)."""
    return torch.cat([(l2_distances(block, centres) <= radii).any(1) for block in points.split(rows)])


def precision_recall(real: Tensor, fake: Tensor, k: int = NEIGHBOURS) -> tuple[float, float]:
    """The share of fakes within the reals' manifold (precision), of reals within the fakes' (recall).

    real (n, F), fake (m, F); compare results of equal n and m only. The manifold of a set is the union of the balls
    around its points that reach to their k-th nearest other point. Source: Kynkaanniemi et al. 2019, arXiv 1904.06991,
    Eq. 1 and 2.
    """
    real, fake = centred(real, fake)
    precision = inside(fake, real, manifold_radii(real, k)).double().mean().item()
    return precision, inside(real, fake, manifold_radii(fake, k)).double().mean().item()


def centred(real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    """Both in float64 minus the mean of the reals, so that distances by products lose no digits."""
    real, fake = wide(real), wide(fake)
    mean = real.mean(0)
    return real - mean, fake - mean
