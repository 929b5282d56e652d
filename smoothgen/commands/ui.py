"""ui: a page on this machine to draw, denoise and fill."""

from __future__ import annotations

from typing import Annotated

import typer

from smoothgen.commands.arguments import DeviceOption, RunArgument, policy_of


def ui(
    run: RunArgument,
    port: Annotated[
        int | None, typer.Option(help="Port; by default the first free one from 7860.", min=1, max=65535)
    ] = None,
    browser: Annotated[bool, typer.Option(help="Open it in a browser.")] = True,
    device: DeviceOption = "auto",
) -> None:
    """Open a page on this machine: draw samples, take noise off, paint a hole and see it filled.

    It listens on 127.0.0.1 alone: nobody else can reach it. Needs the extra `ui`. Ctrl-C ends it.
    """
    from smoothgen.ui.page import gradio, serve
    from smoothgen.ui.workbench import open_run

    gradio()
    workbench = open_run(run, policy_of(device))
    typer.echo(f"{run}: opening the page; Ctrl-C ends it", err=True)
    serve(workbench, run.name, port, browser)
