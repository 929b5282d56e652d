"""How the figures of the page look: colours that colour-blind people tell apart, readable at 900 pixels."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, Literal

from smoothgen.checkpoint import write_atomically

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Source: Okabe & Ito 2008, "Color universal design"."""
DASHES = ("-", "--", ":", "-.")
"""Lines differ by these too, so that a print without colours is readable."""
WIDTH = 9.0
"""Inches of a figure, at 110 dots each."""


def sheet(
    rows: int, columns: int, height: float, sharex: bool = False, sharey: bool | Literal["row"] = False
) -> tuple[Any, Any]:
    """A figure of that height in inches and its axes, an array (rows, columns); sharex, sharey as of matplotlib."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes: Any = figure.subplots(rows, columns, squeeze=False, sharex=sharex, sharey=sharey)
    for axis in axes.flat:
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def label(axis: Any, title: str, x: str = "", y: str = "") -> None:
    """Title and labels of one panel."""
    axis.set_title(title, fontsize=10)
    axis.set_xlabel(x, fontsize=9)
    axis.set_ylabel(y, fontsize=9)


def save(figure: Any, directory: Path, name: str, shows: str) -> str:
    """Writes DIRECTORY/NAME.png and returns the Markdown that shows it, with what it shows for those who cannot see."""
    write(figure, directory / f"{name}.png", 110)
    return f"![{shows}]({name}.png)"


def write(figure: Any, path: Path, dots_per_inch: int) -> None:
    """Writes a figure as PNG, whole or not at all."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dots_per_inch)
    write_atomically(path, buffer.getvalue())
