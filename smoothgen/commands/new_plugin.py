"""new-plugin: the beginning of a package of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def new_plugin(
    name: Annotated[str, typer.Argument(help="The package's name, as in my-flow.", metavar="NAME")],
    kind: Annotated[str, typer.Option(help="What it adds: density, kernel, inverter or data.")] = "density",
    out: Annotated[Path | None, typer.Option(help="Folder to make; by default NAME here.")] = None,
) -> None:
    """Write a package for a part of your own: code that works, tests that pass, ready to install."""
    from smoothgen.templates import write_package

    folder = out or Path(name)
    for path in write_package(name, kind, folder):
        typer.echo(f"  {path}")
    typer.echo(f"next: cd {folder} && pip install -e '.[test]' && pytest")
