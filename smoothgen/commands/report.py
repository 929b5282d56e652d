"""report: runs as a page that one can look at."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from smoothgen.commands.arguments import DeviceOption, policy_of


def report(
    runs: Annotated[list[Path], typer.Argument(help="Directories of runs, finished or not.", metavar="RUN...")],
    out: Annotated[
        Path | None, typer.Option(help="HTML file to write; by default RUN/report.html of the first run.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of every draw; by default each run's own.", min=0)] = None,
    examples: Annotated[
        int | None, typer.Option(help="Examples of each set; by default 64 images or 2000 vectors.", min=1)
    ] = None,
    device: DeviceOption = "auto",
) -> None:
    """Put one run, or several side by side, into one HTML page: samples, densities, curves, likelihoods, settings."""
    from smoothgen.report.page import write_report

    path = out or runs[0] / "report.html"
    size = write_report(runs, path, policy_of(device), seed, examples)
    typer.echo(f"report in {path} ({size / 1e6:.1f} MB); open it in a browser, it needs no network")
