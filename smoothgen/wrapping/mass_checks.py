"""Whether log_prob is normalised, and whether draws follow it: by quadrature, or by ratios in many coordinates."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Generator, Tensor

from smoothgen.testing.quadrature import Grid, surprise
from smoothgen.wrapping.faults import Fault
from smoothgen.wrapping.specimen import Specimen, rows_for
from smoothgen.wrapping.wrapped_density import seeded

CELLS = {1: 2000, 2: 150}
FINER = 3
"""How much finer the grid is by which a suspicion is confirmed."""
MUCH = 1.5
"""A mass that no grid finds below this is not resolution: the density does not fall, or is periodic."""
DRAWS = 4000
SURPRISING = 6.0
"""Standard deviations, twice in a row and independently: by chance, never."""
COORDINATES = 3
"""How many of them are moved one at a time, in many dimensions."""


def mass_and_samples(specimen: Specimen) -> Iterator[Fault]:
    """Draws are judged only where log_prob is a density; for two contexts in turn, each by its own: a row given
    another's context is seen. Where a finer grid does not agree with itself, nothing is said."""
    in_plane = specimen.model.event.dimensions in CELLS
    rows = _rows(specimen, 1)
    if in_plane:
        total = _masses(specimen, rows, 1)[1].sum().item()
        if not abs(total - 1.0) < 0.01:
            finer = [_masses(specimen, rows, factor)[1].sum().item() for factor in (2, FINER)]
            agree = abs(finer[1] - total) < 0.2 * abs(finer[1] - 1.0) and abs(finer[1] - 1.0) > 0.01
            if agree or min(total, *finer) > MUCH:
                yield Fault("mass", f"exp(log_prob) integrates to {finer[1]:.4g}, not 1")
            return
    if specimen.model.sampler is not None:
        return
    judged = _by_quadrature if in_plane else _by_ratios
    first = judged(specimen, 1, 1)
    if first > SURPRISING:
        again = judged(specimen, 2, 4 if in_plane else 1)
        lasting = not in_plane or again > 0.5 * judged(specimen, 2, 2)  # what a spike between the points causes fades
        if again > SURPRISING and lasting:
            yield Fault("samples", f"draws do not follow log_prob: {min(first, again):.0f} standard deviations off")


def _by_quadrature(specimen: Specimen, seed: int, finer: int) -> float:
    rows = _rows(specimen, 2)
    kinds = 1 if rows is None else 2
    given = None if rows is None else rows.repeat(DRAWS, *[1] * (rows.dim() - 1))
    drawn = _samples(specimen, DRAWS * kinds, given, seed)
    worst = 0.0
    for kind in range(kinds):
        row = None if rows is None else rows[kind : kind + 1]
        frame, masses = _masses(specimen, row, finer)
        grid, loc, scale = frame
        cells = grid.cell_of((drawn[kind::kinds] - loc) / scale)
        worst = max(worst, surprise(masses[None], cells, bins=20 if len(loc) == 1 else 7))
    return worst


def _masses(specimen: Specimen, row: Tensor | None, finer: int) -> tuple[tuple[Grid, Tensor, Tensor], Tensor]:
    """Masses on a grid about where the draws are, (cells,) * D, with the grid, its centre and its unit."""
    dimensions = specimen.model.event.dimensions
    grid = Grid(dimensions, CELLS[dimensions] * finer)
    loc, scale = _whereabouts(specimen, row)

    def log_density(u: Tensor) -> Tensor:
        x = (loc + scale * u).reshape(-1, *specimen.model.event_shape)
        given = None if row is None else row.expand(len(x), *row.shape[1:])
        value = specimen.values(x, given) + scale.log().sum()
        return torch.where(value.isnan(), -math.inf, value)  # far out, some exponentials overflow: no mass is there

    return (grid, loc, scale), grid.masses(log_density, specimen.x, rows_at_once=50_000).double()


def _whereabouts(specimen: Specimen, row: Tensor | None) -> tuple[Tensor, Tensor]:
    """A centre and a unit for every coordinate, (D,) each: of the draws if there are any, else of the rows."""
    if specimen.model.sampler is None:
        flat = _samples(specimen, 400, None if row is None else row.expand(400, *row.shape[1:]), 3)
    else:
        flat = specimen.x.flatten(1)
    low, loc, high = flat.quantile(torch.tensor([0.16, 0.5, 0.84]).to(flat), dim=0)
    spread = 0.5 * (high - low)
    return loc, torch.where(spread > 0, spread, torch.ones_like(spread))


def _by_ratios(specimen: Specimen, seed: int, finer: int) -> float:
    """How many standard errors E[p(g(x)) |det g'| / p(x)] is from 1, x drawn, for shifts and stretches g.

    It is 1 for every bijection g if the draws follow p, wherever p is positive. Stretches go away from the middle, so
    that the ratio stays bounded. One that a few draws decide, or that is off by little, says nothing.
    """
    rows = _rows(specimen, 2)
    kinds = 1 if rows is None else 2
    given = None if rows is None else rows.repeat(DRAWS // kinds, *[1] * (rows.dim() - 1))
    flat = _samples(specimen, DRAWS, given, seed)
    value, worst = _log_density(specimen, flat, given), 0.0
    for moved, log_volume in _bijections(flat, kinds, seed):
        ratio = (_log_density(specimen, moved, given) + log_volume - value).exp()
        error, off = ratio.std().item() / math.sqrt(DRAWS), abs(ratio.mean().item() - 1.0)
        told_by_few = ratio.max().item() > 0.02 * ratio.sum().item()
        if off > 0.04 and not told_by_few:
            worst = max(worst, off / max(error, 1e-12))
    return worst


def _bijections(flat: Tensor, kinds: int, seed: int) -> Iterator[tuple[Tensor, float]]:
    """Images of the draws with log |det|: shifts and stretches of some coordinates, and a stretch of all of them.

    Rows of several contexts take turns; each has a middle of its own.
    """
    size, draw = flat.shape[1], Generator().manual_seed(seed)
    middle = torch.stack([flat[kind::kinds].median(0).values for kind in range(kinds)])
    spread = torch.stack([flat[kind::kinds].std(0) for kind in range(kinds)]).amin(0)
    middle = middle.repeat(len(flat) // kinds, 1)
    for i in torch.randint(size, (COORDINATES,), generator=draw).tolist():
        one = torch.zeros(size).to(flat)
        one[i] = 1.0
        yield flat + 0.3 * spread * one, 0.0
        yield flat + 0.5 * one * (flat - middle), math.log(1.5)
    squared = 1.0 + 1.0 / math.sqrt(size)
    yield middle + math.sqrt(squared) * (flat - middle), 0.5 * size * math.log(squared)


def _log_density(specimen: Specimen, flat: Tensor, context: Tensor | None) -> Tensor:
    return specimen.values(flat.reshape(-1, *specimen.model.event_shape), context)


def _samples(specimen: Specimen, n: int, context: Tensor | None, seed: int) -> Tensor:
    """(n, D), in units of x."""
    with seeded(None, specimen.x):
        return specimen.model.sample(n, context, generator=Generator().manual_seed(seed)).flatten(1)


def _rows(specimen: Specimen, n: int) -> Tensor | None:
    return rows_for(specimen.model, n, Generator().manual_seed(8))[1]
