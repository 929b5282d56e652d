"""plugins, recipes, schema: what is installed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from smoothgen.commands.arguments import console_of_output


def plugins() -> None:
    """List the plugins and their parts, and what is wrong with those that did not load."""
    from rich.table import Table

    from smoothgen.registry import installed

    console = console_of_output()
    table = Table("interface", "type", "plugin", "version", "class")
    for plugin in installed().plugins:
        for cls in plugin.components:
            table.add_row(cls.interface, cls.tag(), plugin.name, plugin.version, f"{cls.__module__}.{cls.__name__}")
    console.print(table)
    for broken in installed().broken:
        console.print(f"[bold red]not loaded:[/] {broken.name} ({broken.module}): {broken.error}", highlight=False)
        console.print(broken.traceback, markup=False, highlight=False)


def recipes() -> None:
    """List the shipped configurations."""
    from rich.table import Table

    from smoothgen.config import read_yaml
    from smoothgen.config import recipes as shipped

    table = Table("recipe", "what it trains")
    for name, path in shipped().items():
        table.add_row(name, str(read_yaml(path).get("description", "")))
    console_of_output().print(table)


def schema(
    out: Annotated[Path | None, typer.Option(help="File to write instead of printing.")] = None,
) -> None:
    """Print the JSON schema of configurations, with every installed plugin's keys."""
    import json

    from smoothgen.checkpoint import write_atomically
    from smoothgen.config import ExperimentConfig
    from smoothgen.registry import json_schema

    text = json.dumps(json_schema(ExperimentConfig), indent=2) + "\n"
    if out is None:
        typer.echo(text, nl=False)
    else:
        write_atomically(out, text.encode())
        typer.echo(f"schema in {out}; name it in the first line of a YAML file: # yaml-language-server: $schema={out}")
