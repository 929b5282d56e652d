"""evaluate: a trained model measured."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from smoothgen.commands.arguments import DeviceOption, RunArgument, SeedOption, policy_of
from smoothgen.commands.tables import show

if TYPE_CHECKING:
    from smoothgen.config import ExperimentConfig
    from smoothgen.data_source import DataSource
    from smoothgen.smoothed_model import SmoothedModel


def evaluate(
    run: RunArgument,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="evaluate.features=classifier and the like.", metavar="[KEY=VALUE]..."),
    ] = None,
    importance_samples: Annotated[
        list[int] | None, typer.Option("-k", help="Draws K of a bound; repeatable.", min=1)
    ] = None,
    max_examples: Annotated[int | None, typer.Option(help="Test examples for the bound.", min=2)] = None,
    out: Annotated[Path | None, typer.Option(help="JSON file for the numbers.")] = None,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
) -> None:
    """Measure a trained model: bounds with units on the test split, and samples against data."""
    from smoothgen.checkpoint import check_writable, write_json
    from smoothgen.errors import NoDensityError
    from smoothgen.evaluation.measure import measure
    from smoothgen.experiment import load, load_baseline
    from smoothgen.progress import Progress
    from smoothgen.run_directory import RunDirectory

    policy = policy_of(device)
    if out is not None:
        check_writable(out)
    config = _with_overrides(RunDirectory(run).stored_config(), overrides or [])
    model = load(run).to(policy.device)
    data = config.data.build()
    metrics = _measurable(config, model, data)
    if not metrics:
        raise NoDensityError(
            f'{run}: inverter "{config.inverter.type}" has no density, so there is no bound to measure; for sample '
            "quality give evaluate.features, or evaluate.metrics=[two-sample]"
        )
    changes: dict[str, object] = {"metrics": metrics}
    if importance_samples:
        changes["importance_samples"] = tuple(importance_samples)
    if max_examples:
        changes |= {"max_examples": max_examples, "importance_examples": max_examples}
    settings = config.evaluate.model_copy(update=changes)
    config = config.model_copy(update={"evaluate": settings, "seed": seed})
    baseline = load_baseline(run)
    if baseline is not None:
        baseline = baseline.to(policy.device)
    with policy.processes():
        measured = measure(config, model, baseline, data, policy, Progress(enabled=False))
    if not measured:
        return  # another process of the same command reports
    show(measured)
    if out is not None:
        write_json(out, measured)


def _measurable(config: ExperimentConfig, model: SmoothedModel, data: DataSource) -> tuple[str, ...]:
    """What `evaluate` measures, whatever evaluate.metrics says: likelihoods, and what compares samples with data."""
    from smoothgen.evaluation.measure import compares_points

    metrics: tuple[str, ...] = ("elbo",) if model.inverter.has_density or model.event.levels is not None else ()
    if config.evaluate.features is not None:
        metrics += ("quality", "neighbours")
    by_default = config.evaluate.model_copy(update={"metrics": None})
    named = "two-sample" in (config.evaluate.metrics or ())
    if named or compares_points(config.model_copy(update={"evaluate": by_default}), data):
        metrics += ("two-sample",)
    return metrics


def _with_overrides(config: ExperimentConfig, overrides: list[str]) -> ExperimentConfig:
    """What and how to measure can change after training; the model and its data cannot."""
    from smoothgen.config import load_config
    from smoothgen.errors import ConfigError

    for override in overrides:
        if not override.startswith("evaluate."):
            raise ConfigError(f'override "{override}": only keys below evaluate can change after training')
    return load_config(config, overrides)
