"""KL by position: a panel for each set, a colour for each model, solid after data's prefixes and dashed after own."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from smoothgen.checkpoint import write_atomically
from smoothgen.evaluation.pictures import COLOURS
from smoothgen.reproduction.pictures import DOTS_PER_INCH, Curve

STYLES = {"data": "-", "own": "--"}
SMALLEST = 1e-4
"""Nats; what the logarithmic axis shows of less, or of estimates below zero."""


def save_positions(path: Path, panels: Mapping[str, Mapping[str, Mapping[str, Curve]]]) -> None:
    """panels: set -> model -> kind of prefix ("data", "own") -> curve over the positions."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(panels), 3.6), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, (title, models) in zip(axes, panels.items(), strict=True):
        for (model, kinds), colour in zip(models.items(), COLOURS * len(models), strict=False):
            for kind, curve in kinds.items():
                x, y, error = (np.array(values, dtype=float) for values in zip(*curve, strict=True))
                error = np.where(np.isfinite(error), error, 0.0)  # a single seed has none
                label = f"{model}, {'data' if kind == 'data' else 'own'} prefixes"
                shown = np.maximum(y, SMALLEST)
                axis.errorbar(
                    x, shown, error, fmt=f"o{STYLES[kind]}", markersize=3, color=colour, label=label, capsize=2
                )
        axis.set_yscale("log")
        axis.set_xticks(range(1, 1 + max(len(c) for kinds in models.values() for c in kinds.values())))
        axis.tick_params(labelsize=7)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("position in the chain")
    axes[0].set_ylabel("KL, nats")
    axes[0].legend(fontsize=6)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DOTS_PER_INCH)
    write_atomically(path, buffer.getvalue())
