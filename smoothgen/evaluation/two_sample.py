"""Sets of points against fresh data: maximum mean discrepancy, share off the support, precision and recall."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Generator, Tensor

from smoothgen.data_source import DataSource
from smoothgen.errors import DataError, NoDensityError
from smoothgen.evaluation.mean_discrepancy import KernelPairs, mmd_squared, pairs_within
from smoothgen.evaluation.nearest import wide
from smoothgen.evaluation.precision_recall import precision_recall_with_errors

FRACTIONS = (0.03, 0.1, 0.3)
"""Default bandwidths in units of the median distance between two reference points: from the width of thin structures
to that of whole modes. For the rings they are about 0.075, 0.25 and 0.75, for standard normal data in the plane 0.05,
0.17 and 0.5."""
MEDIAN_POINTS = 1000
"""Reference points whose pairwise distances give the median."""
FEWEST = 20
"""Fewest points of a set: the error of recall leaves out each of ten groups of two."""


@torch.no_grad()
def two_sample(
    sets: Mapping[str, Tensor],
    reference: Tensor,
    data: DataSource,
    generator: Generator | None = None,
    bandwidths: Sequence[float] = (),
) -> dict[str, Any]:
    """Every set of points against the reference, as plain values, each with its standard error, n and method.

    sets: (n, *event.shape) each; reference (m, *event.shape): data that no set was made from. All in the model's
    coordinates. generator: chooses equally many of both, and the groups, for precision and recall; torch's own if None.
    bandwidths: of the Gaussian kernels, in the same coordinates; FRACTIONS of the reference's median distance if empty.

    Of each set, "MMD^2" (see `mmd_squared`), "off support" where `data.on_support` is defined, "precision" and
    "recall" of the 3-nearest-neighbour manifold, coordinates divided by the reference's standard deviations. Neither of
    the last two is 1 for perfect samples: another set of data in `sets` shows what is. All sets share the reference, so
    that their errors are not independent of each other. Context is not compared, only the marginal of x.

    Raises DataError for fewer than 20 points, points that are not finite, and a reference without spread.
    """
    real = _points("reference", reference)
    widths = tuple(bandwidths) or tuple(fraction * median_distance(real) for fraction in FRACTIONS)
    own = pairs_within(real, widths)
    return {
        "reference": len(real),
        "bandwidths": list(widths),
        "sets": {name: _of_set(_points(name, x), x, real, own, data, generator, widths) for name, x in sets.items()},
    }


def median_distance(points: Tensor) -> float:
    """The median distance between two of the first 1000 points (n, F). Raises DataError where it is 0."""
    median = torch.pdist(points[:MEDIAN_POINTS]).median().item()
    if not median > 0.0:
        raise DataError("two-sample measures: half of all pairs of the reference coincide; give bandwidths")
    return median


def _of_set(
    fake: Tensor,
    x: Tensor,
    real: Tensor,
    own: KernelPairs,
    data: DataSource,
    generator: Generator | None,
    widths: tuple[float, ...],
) -> dict[str, dict[str, Any]]:
    std = real.std(0)
    std = torch.where(std > 0.0, std, 1.0)  # a constant coordinate stays as it is
    return {
        "MMD^2": mmd_squared(fake, real, widths, own),
        **_off_support(x, data),
        **precision_recall_with_errors(real / std, fake / std, generator),
    }


def _off_support(x: Tensor, data: DataSource) -> dict[str, dict[str, Any]]:
    """The share of x that no data can be, with the binomial standard error, 0 where the share is: then it is below
    3 / n with 95 % confidence. Nothing where the data source defines no support."""
    try:
        share = 1.0 - data.on_support(wide(x)).double().mean().item()
    except NoDensityError:
        return {}
    error = math.sqrt(share * (1.0 - share) / len(x))
    return {"off support": {"value": share, "stderr": error, "error_from": "binomial", "n_fake": len(x)}}


def _points(name: str, x: Tensor) -> Tensor:
    """(n, *event.shape) -> (n, D), float64. Raises DataError."""
    if len(x) < FEWEST:
        raise DataError(f"two-sample measures: {name} has {len(x)} points; at least {FEWEST} are needed")
    if not bool(x.isfinite().all()):
        raise DataError(f"{name}: {int((~x.isfinite()).sum())} of {x.numel()} values are not finite; mend the model")
    return wide(x).flatten(1)
