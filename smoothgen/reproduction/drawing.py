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
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    write_atomically(directory / f"{name}.png", buffer.getvalue())
    return f"![{shows}]({name}.png)"
