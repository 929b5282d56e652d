"""Maps of p(x̃), p(x) and the data's density over the plane."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from smoothgen.device import DevicePolicy
from smoothgen.errors import NoDensityError
from smoothgen.report.figures import data_uri
from smoothgen.report.opened import Opened

SIDE = 120
"""Points of a map along each axis."""
DRAWS = 16
"""Draws of the importance-weighted bound at each point."""
DEPTH = 9.0
"""A logarithmic map shows densities down to so many nats below its brightest value."""
COLOURS = "magma"


@dataclass(frozen=True)
class Field:
    """A density at the points of the grid. group: maps of the same group share their colours."""

    name: str
    kind: str
    log_density: np.ndarray
    group: str


def density_maps(opened: Opened, axes: list[dict[str, Any]], policy: DevicePolicy, seed: int) -> list[dict[str, Any]]:
    """Every density that is known, over the range of the axes: name, kind, and a picture on either scale.

    Nothing where the data are not continuous points of the plane, or the densities depend on a context.
    """
    event = opened.model.event
    if event.dimensions != 2 or event.levels is not None or opened.model.context_shape is not None:
        return []
    xs, ys = (np.linspace(axis["low"], axis["high"], SIDE) for axis in axes)
    grid = torch.tensor(np.stack(np.meshgrid(xs, ys), -1).reshape(-1, *event.shape))
    with torch.no_grad():
        fields = _fields(opened, grid, policy, seed)
    cell = float((xs[1] - xs[0]) * (ys[1] - ys[0]))
    return [_drawn(field, fields, cell) for field in fields]


def _fields(opened: Opened, grid: Tensor, policy: DevicePolicy, seed: int) -> list[Field]:
    model, event = opened.model, opened.model.event
    placed = policy.place(event.to_model(grid).float())
    fields = [Field("smoothed density p(x̃)", _kind(model.density.exact), _of(model.density, placed, event), "x̃")]
    if model.inverter.has_density:
        generator = policy.generator(seed, "report", "density")
        found = model.likelihood_at(placed, importance_samples=DRAWS, generator=generator).per_example
        kind = f"importance-weighted lower bound, {DRAWS} draws"
        fields.append(Field("model p(x)", kind, found.numpy(), "x"))
    if opened.baseline is not None:
        kind = _kind(opened.baseline.exact)
        fields.append(Field("plain model p(x)", kind, _of(opened.baseline, placed, event), "x"))
    if opened.data is not None:
        fields.append(_of_data(opened, grid))
    return fields


def _kind(exact: bool) -> str:
    return "exact for the model" if exact else "lower bound, one draw"


def _of(density: Any, points: Tensor, event: Any) -> np.ndarray:
    """log p per unit of the data, (n,)."""
    parts = [density.log_prob(rows).double().cpu() for rows in points.split(min(4096, density.rows_at_once))]
    return (torch.cat(parts) - event.log_scale).numpy()


def _of_data(opened: Opened, grid: Tensor) -> Field:
    """The exact density where it is known, else a histogram of the training examples."""
    assert opened.data is not None
    try:
        return Field("data", "exact density", opened.data.log_prob(grid).double().numpy(), "x")
    except NoDensityError:
        train = opened.model.event.to_data(opened.data.split("train").x).flatten(1).double().numpy()
    points = grid.flatten(1).numpy()
    low, high = points.min(0), points.max(0)
    bins = max(10, min(SIDE, round(math.sqrt(len(train)))))
    counts, _, _ = np.histogram2d(train[:, 0], train[:, 1], bins, np.stack([low, high], 1).tolist())
    density = counts / (len(train) * float(np.prod((high - low) / bins)))
    cells = np.clip(((points - low) / (high - low) * bins).astype(int), 0, bins - 1)
    with np.errstate(divide="ignore"):
        log_density = np.log(density[cells[:, 0], cells[:, 1]])
    return Field("data", f"histogram of {len(train):,} training examples", log_density, "x")


def _drawn(field: Field, fields: list[Field], cell: float) -> dict[str, Any]:
    peers = np.concatenate([_density(other) for other in fields if other.group == field.group])
    finite = peers[np.isfinite(peers)]
    top = float(np.quantile(finite, 0.998)) if len(finite) else 0.0
    top = top if top > 0.0 else 1.0
    density = _density(field)
    with np.errstate(divide="ignore"):
        depth = 1.0 + (np.log(density) - math.log(top)) / DEPTH
    return {
        "name": field.name,
        "kind": field.kind,
        "linear": _coloured(density / top),
        "log": _coloured(depth),
        "top": top,
        "mass": float(density[np.isfinite(density)].sum() * cell),
    }


def _density(field: Field) -> np.ndarray:
    with np.errstate(over="ignore"):
        return np.exp(np.where(np.isnan(field.log_density), -np.inf, field.log_density))


def _coloured(unit: np.ndarray) -> str:
    """Values from 0 to 1 over the grid, its first row at the bottom, as a picture."""
    from matplotlib import colormaps

    levels = np.clip(np.where(np.isfinite(unit), unit, np.where(unit > 0.0, 1.0, 0.0)), 0.0, 1.0)
    pixels = colormaps[COLOURS](levels.reshape(SIDE, SIDE)[::-1], bytes=True)[..., :3]
    return data_uri(pixels)


def colour_ramp(stops: int = 9) -> str:
    """The colours of the maps from 0 to 1, as a CSS gradient."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return ", ".join(to_hex(colormaps[COLOURS](i / (stops - 1))) for i in range(stops))
