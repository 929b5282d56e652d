"""doctor: what is installed, and what is wrong with it."""

from __future__ import annotations

from typing import Annotated

import typer


def doctor(
    json: Annotated[bool, typer.Option("--json", help="For programs: one JSON document.")] = False,
) -> None:
    """Print versions, devices, plugins and settings, and what is wrong with them; exit code 2 if anything is."""
    from smoothgen.doctor import as_json, examine, text

    findings = examine()
    typer.echo(as_json(findings) if json else text(findings))
    if any(finding.level == "wrong" for finding in findings):
        raise typer.Exit(2)
