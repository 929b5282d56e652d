"""new-plugin: the package of a part of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from smoothgen.new_plugin import Kind, License


def new_plugin(
    name: Annotated[str, typer.Argument(help="Of the package: my-density is imported as my_density.", metavar="NAME")],
    kind: Annotated[Kind, typer.Option(help="Which interface its part fills.")],
    out: Annotated[Path | None, typer.Option(help="The folder to make; by default NAME.")] = None,
    license: Annotated[License, typer.Option(help="Of the package.")] = "MIT",
    description: Annotated[str, typer.Option(help="One sentence for README.md and pyproject.toml.")] = "",
    author: Annotated[str, typer.Option(help="Named in LICENSE and pyproject.toml.")] = "",
) -> None:
    """Write an installable plugin package: a working part, its tests, an experiment, and what a package needs."""
    from smoothgen.new_plugin import PluginName, write_plugin

    folder = write_plugin(name, kind, out, license=license, author=author, description=description)
    module = PluginName(name).module
    part = "data source" if kind == "data" else kind
    typer.echo(
        f"{folder} holds a working {part}, type: {PluginName(name).tag}\n\n"
        f"  cd {folder}\n"
        '  pip install -e ".[test]"\n'
        "  pytest\n"
        "  smoothgen train experiment.yaml\n\n"
        f"Then make src/{module}/{kind}.py your own."
    )
