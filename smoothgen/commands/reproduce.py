"""reproduce: the paper's tables and figures."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from smoothgen.commands.arguments import console_of_output, refuse_processes, seed_numbers


def reproduce(
    name: Annotated[str | None, typer.Argument(help="A study's name, or all.", metavar="NAME|all")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="The same code paths with a fraction of the steps.")] = False,
    seeds: Annotated[
        str | None, typer.Option(help="Seeds, with commas between; by default 0,1,2, and 0,1 with --quick.")
    ] = None,
    jobs: Annotated[int | None, typer.Option(help="Processes; by default one for each core.", min=1)] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of outcomes, page and pictures.")] = None,
    page_only: Annotated[bool, typer.Option("--page-only", help="Make the page of what is there already.")] = False,
) -> None:
    """Run the paper's tables and figures in one and two dimensions again, beside exact entropies, and write a page.

    Without a name, lists the studies. A stopped command goes on where it was.
    """
    from smoothgen.reproduction.runner import reproduce as run_studies
    from smoothgen.reproduction.studies import chosen
    from smoothgen.signals import hint

    if name is None:
        from rich.table import Table

        table = Table("study", "what it is", "source")
        for study in chosen("all"):
            table.add_row(study.name, study.title, study.source)
        console_of_output().print(table)
        return
    refuse_processes("reproduce")
    directory = out or Path("runs") / ("reproduction-quick" if quick else "reproduction")
    command = ["smoothgen", *(argument for argument in sys.argv[1:] if argument != "--page-only")]
    numbers = seed_numbers(seeds or ("0,1" if quick else "0,1,2"))
    with hint("what is finished is kept, the same command goes on from there"):
        page = run_studies(
            chosen(name),
            directory,
            seeds=numbers,
            quick=quick,
            workers=jobs,
            command=command,
            progress=True,
            compute=not page_only,
        )
    typer.echo(f"the page is {page}")
