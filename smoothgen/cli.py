"""The command line: its commands by name, and one way to report what went wrong."""

from __future__ import annotations

import sys
import warnings
from typing import Annotated

import typer

from smoothgen import __version__
from smoothgen.commands import doctor, evaluate, listings, new_plugin, report, reproduce, train, ui, use

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"smoothgen {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Generative models of data whose density is too sharp to model: smooth, model, invert."""


COMMANDS = (
    train.train,
    use.sample,
    evaluate.evaluate,
    report.report,
    train.compare,
    reproduce.reproduce,
    use.denoise,
    use.inpaint,
    ui.ui,
    listings.plugins,
    listings.recipes,
    listings.schema,
    doctor.doctor,
    new_plugin.new_plugin,
)
for command in COMMANDS:
    app.command()(command)


def main() -> None:
    """Runs the command line; what a user can mend is one line on standard error and exit code 2."""
    from smoothgen.errors import Interrupted, SmoothgenError
    from smoothgen.signals import one_line_for_signals

    warnings.formatwarning = lambda message, category, *rest: f"warning: {message}\n"
    try:
        with one_line_for_signals():
            app()
    except Interrupted as error:
        print(f"{error}", file=sys.stderr)
        sys.exit(128 + error.signum)
    except SmoothgenError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
