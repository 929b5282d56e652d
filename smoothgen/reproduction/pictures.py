"""Pictures of studies of the plane: scattered samples side by side, and curves with error bars."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smoothgen.evaluation.pictures import COLOURS
from smoothgen.reproduction.drawing import write

DOTS_PER_INCH = 90

Points = NDArray[np.floating[Any]]
Curve = Sequence[tuple[float, float, float]]
"""(x, y, error of y) of every point."""


def save_scatters(path: Path, panels: Mapping[str, Points], columns: int = 4) -> None:
    """Points (n, 2) of every panel, all on one scale, equal in both directions, that shows 99 % of each panel's."""
    from matplotlib.figure import Figure

    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    low, high = (
        edge([np.quantile(points, share, axis=0) for points in panels.values()], axis=0)
        for edge, share in ((np.min, 0.005), (np.max, 0.995))
    )
    margin = 0.1 * (high - low)
    low, high = low - margin, high + margin
    height = 2.3 * float(np.clip((high[1] - low[1]) / (high[0] - low[0]), 0.3, 2.0)) + 0.45
    figure = Figure(figsize=(2.5 * columns, height * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flatten()
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    for axis, (title, points) in zip(axes, panels.items(), strict=False):
        axis.plot(points[:, 0], points[:, 1], ".", markersize=1.0, alpha=0.5, color=COLOURS[0])
        axis.set_title(textwrap.fill(title, 30), fontsize=8)
        axis.tick_params(labelsize=6)
        axis.set_aspect("equal")
    axes[0].set_xlim(low[0], high[0])
    axes[0].set_ylim(low[1], high[1])
    write(figure, path, DOTS_PER_INCH)


def save_curves(
    path: Path,
    panels: Mapping[str, Mapping[str, Curve]],
    x_label: str,
    y_label: str,
    lines: Mapping[str, float] | None = None,
    log_x: bool = False,
    log_y: bool = False,
    share_y: bool = True,
) -> None:
    """A panel of named curves with error bars each; lines: horizontal ones, such as an entropy, in every panel.

    A logarithmic x has its ticks where the curves have their points.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(panels), 3.4), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False, sharey=share_y)[0]
    for axis, (title, curves) in zip(axes, panels.items(), strict=True):
        for (name, curve), colour in zip(curves.items(), COLOURS * len(curves), strict=False):
            x, y, error = (np.array(values, dtype=float) for values in zip(*curve, strict=True))
            style = "o-" if len(curve) > 1 else "D"
            error = np.where(np.isfinite(error), error, 0.0)  # a single seed has none
            axis.errorbar(x, y, error, fmt=style, label=name, color=colour, capsize=2)
        for name, level in (lines or {}).items():
            axis.axhline(level, linestyle="--", linewidth=1.0, color="grey", label=name)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel(x_label)
        if log_x:
            axis.set_xscale("log")
            ticks = sorted({point[0] for curve in curves.values() if len(curve) > 1 for point in curve})
            axis.set_xticks(ticks, [f"{tick:,g}" for tick in ticks])
            axis.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)
        if log_y:
            axis.set_yscale("log")
    axes[0].set_ylabel(y_label)
    axes[0].legend(fontsize=7)
    write(figure, path, DOTS_PER_INCH)
