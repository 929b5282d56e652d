"""train and compare: from a configuration to runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from smoothgen.commands.arguments import (
    ConfigArgument,
    OverridesArgument,
    free_directory,
    refuse_processes,
    seed_numbers,
)
from smoothgen.commands.tables import show


def train(
    config: ConfigArgument,
    overrides: OverridesArgument = None,
    run_dir: Annotated[
        Path | None, typer.Option(help="Where everything is kept; by default runs/NAME, numbered if taken.")
    ] = None,
    resume: Annotated[bool, typer.Option(help="Continue the run in --run-dir from its last checkpoint.")] = False,
) -> None:
    """Train a model: both stages, evaluation and pictures."""
    from smoothgen.config import load_config
    from smoothgen.errors import ConfigError
    from smoothgen.experiment import fit
    from smoothgen.launch import Launch
    from smoothgen.signals import hint

    loaded = load_config(config, overrides or [])
    if resume and run_dir is None:
        raise ConfigError("--resume needs --run-dir, the directory of the run to continue")
    if run_dir is None and Launch.from_environment().world > 1:
        raise ConfigError("several processes need --run-dir, one directory that all of them see")
    directory = run_dir or free_directory(Path("runs") / loaded.name)
    typer.echo(f"run directory: {directory}", err=True)
    with hint(f"what was saved is in {directory}, continue with --run-dir {directory} --resume"):
        result = fit(loaded, directory, resume=resume, progress=True)
    if not result.metrics:
        return  # another process of the same run reports
    show(result.metrics)
    typer.echo(f"everything is in {directory}; look at {directory / 'samples.png'}")
    typer.echo(f"for one page with all of it: smoothgen report {directory}")


def compare(
    config: ConfigArgument,
    overrides: OverridesArgument = None,
    seeds: Annotated[str, typer.Option(help="Seeds, with commas between.")] = "0,1,2",
    out: Annotated[Path | None, typer.Option(help="Folder of the runs and the comparison.")] = None,
    again: Annotated[bool, typer.Option(help="Measure finished runs again.")] = False,
) -> None:
    """Train an experiment once for every seed, and compare its models: a table with errors, and a picture."""
    from smoothgen.comparison import compare as compare_seeds
    from smoothgen.comparison import markdown
    from smoothgen.config import load_config
    from smoothgen.errors import Interrupted
    from smoothgen.signals import hint

    refuse_processes("compare")
    numbers = seed_numbers(seeds)
    loaded = load_config(config, overrides or [])
    directory = out or Path("runs") / f"{loaded.name}-comparison"
    go_on = f"what was saved is in {directory}, the same command goes on from there"
    try:
        with hint(go_on):
            result = compare_seeds(loaded, numbers, directory, measure_again=again, progress=True)
    except Interrupted as stop:
        raise Interrupted(f"stopped by signal {stop.signum}; {go_on}", stop.signum) from None
    typer.echo(markdown(result))
    typer.echo(f"everything is in {directory}; look at {directory / 'comparison.png'}")
