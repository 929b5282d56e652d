"""The command line: its commands by name, and one way to report what went wrong."""

from __future__ import annotations

import sys
import warnings

import typer

from smoothgen.commands import evaluate, listings, new_plugin, report, reproduce, train, ui, use

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Generative models of data whose density is too sharp to model: smooth, model, invert.",
)

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
    new_plugin.new_plugin,
    listings.plugins,
    listings.recipes,
    listings.schema,
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
