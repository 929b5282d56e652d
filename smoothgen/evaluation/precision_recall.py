"""Precision and recall of samples by the k-nearest-neighbour manifold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Generator, Tensor

from smoothgen.errors import DataError
from smoothgen.evaluation.nearest import ROWS, l2_distances, wide
from smoothgen.evaluation.subsets import JACKKNIFE, from_groups, groups_of
from smoothgen.likelihood import standard_error

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


def precision_recall_with_errors(real: Tensor, fake: Tensor, generator: Generator | None) -> dict[str, dict[str, Any]]:
    """`precision_recall` with standard errors, as plain values: of as many reals (m, F) as fakes (n, F).

    Where there are more of one they are chosen at random, for the values depend on both numbers. generator: also for
    the groups of the jackknife; torch's own if None. Raises DataError for fewer than 20 of either.
    """
    n = min(len(real), len(fake))
    real, fake = centred(_choice(real, n, generator), _choice(fake, n, generator))
    covered = inside(fake, real, manifold_radii(real)).double()
    recalled = from_groups(*recall_without(real, fake, groups_of(n, generator)))
    common = {"n_real": n, "n_fake": n, "neighbours": NEIGHBOURS}
    precision = {"value": covered.mean().item(), "stderr": standard_error(covered)}
    return {
        "precision": precision | {"error_from": "the samples' independent draws, the reference held fixed"} | common,
        "recall": {"value": recalled.value, "stderr": recalled.stderr, "error_from": JACKKNIFE} | common,
    }


def _choice(rows: Tensor, n: int, generator: Generator | None) -> Tensor:
    """n of the rows, at random without repetition; all of them as they are where there are no more."""
    if n == len(rows):
        return rows
    device = generator.device if generator is not None else None
    return rows[torch.randperm(len(rows), generator=generator, device=device)[:n].to(rows.device)]


@torch.no_grad()
def recall_without(
    real: Tensor, fake: Tensor, groups: Sequence[Tensor], k: int = NEIGHBOURS, rows: int = ROWS
) -> tuple[float, list[float]]:
    """The recall of all fakes, and without each group of a partition of them (indices); every distance is taken once.

    real (n, F), fake (m, F). The nearest of all but one group are among the nearest in each of the other groups.
    """
    radii = torch.cat([_radii_without(l2_distances(block, fake), groups, k) for block in fake.split(rows)])
    for column, group in enumerate(groups, start=1):
        radii[group, column] = -1.0  # the members of a group left out cover nothing
    hits = torch.zeros(radii.shape[1], dtype=torch.float64)
    for block in real.split(rows):
        distances = l2_distances(block, fake)
        hits += torch.stack([(distances <= column).any(1).sum() for column in radii.unbind(1)]).cpu()
    whole, *without = (hits / len(real)).tolist()
    return whole, without


def _radii_without(distances: Tensor, groups: Sequence[Tensor], k: int) -> Tensor:
    """(b, m) distances to all, one's own among them -> (b, 1 + groups): to the k-th other, of all and without each."""
    near = [
        distances[:, group.to(distances.device)].topk(min(k + 1, len(group)), largest=False).values for group in groups
    ]
    sets = [near, *(near[:i] + near[i + 1 :] for i in range(len(near)))]
    return torch.stack([torch.cat(each, 1).kthvalue(k + 1, dim=1).values for each in sets], 1)


def centred(real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    """Both in float64 minus the mean of the reals, so that distances by products lose no digits."""
    real, fake = wide(real), wide(fake)
    mean = real.mean(0)
    return real - mean, fake - mean
