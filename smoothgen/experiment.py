"""build, fit, load: from a configuration to a model, trained or not."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from smoothgen.apart import ApartTrainer, check_apart, check_continued
from smoothgen.checkpoint import load_model, save_model
from smoothgen.config import ExperimentConfig, StageName, load_config
from smoothgen.data_source import DataSource
from smoothgen.density_model import DensityModel
from smoothgen.dequantization import build_density
from smoothgen.device import DevicePolicy, derived_seed
from smoothgen.errors import ConfigError, SmoothgenError
from smoothgen.evaluation.measure import check_measurable, measure
from smoothgen.evaluation.pictures import draw_pictures
from smoothgen.event import ContextSpec
from smoothgen.fingerprint import FREE
from smoothgen.logger import build_loggers
from smoothgen.model_card import write_card
from smoothgen.noise_kernel import NoiseKernel
from smoothgen.progress import Progress
from smoothgen.rounding import check_resolved
from smoothgen.row_order import SKETCH
from smoothgen.run_directory import EXPERIMENT, RunDirectory, versions
from smoothgen.sigma_search import SigmaSearch, with_found_sigma
from smoothgen.smoothed_model import SmoothedModel
from smoothgen.trainer import StageReport, Trainer, trainer_of

Source = str | Path | dict[str, Any] | ExperimentConfig


@dataclass(frozen=True)
class Result:
    """What training leaves: the model, the plain baseline if one was asked for, and the numbers.

    baseline: unlike the model, in the model's coordinates: `model.event.to_data(baseline.sample(n))` are data units,
    and its log_prob less `model.event.log_scale` is per unit of data.
    metrics: what evaluation measured on the test split, as plain values. run_dir: where everything lies, or None.
    training: what each stage took that was trained in this process.
    """

    model: SmoothedModel
    baseline: DensityModel | None
    metrics: dict[str, Any]
    config: ExperimentConfig
    run_dir: Path | None
    training: dict[StageName, StageReport] = field(default_factory=dict)


def build(source: Source, overrides: Sequence[str] = ()) -> SmoothedModel:
    """The smoothed model that a recipe name, YAML path, dict or ExperimentConfig describes, untrained.

    Weights depend on the configuration's seed alone. The data source is opened for the event's shape and range, and
    for values of the kernel that come from the data. Raises ConfigError and DataError.
    """
    config = load_config(source, overrides)
    return assemble(config, config.data.build())[1]


def assemble(
    config: ExperimentConfig, source: DataSource
) -> tuple[ExperimentConfig, SmoothedModel, DensityModel | None]:
    """The configuration with its data-dependent values filled in, and the untrained modules it describes."""
    train = _sketch(source)
    config = _resolved(config, train)
    context = ContextSpec(features=source.features) if source.features else None
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived_seed(config.seed, "build"))
            model = config.model().build(source.event, context)
            check(config, model)
            for name, module in model.named_modules():
                if isinstance(module, NoiseKernel):
                    check_resolved(module, train, name)
            baseline = None
            if config.baseline is not None:
                baseline = build_density(config.baseline, source.event.standard(), context)
    except SmoothgenError as error:
        raise type(error)(f"{config.name}: {error}") from error
    return config, model, baseline


def resolved(config: ExperimentConfig, source: DataSource) -> ExperimentConfig:
    """The configuration with its data-dependent values filled in; what only training finds stays as it is."""
    return _resolved(config, _sketch(source))


def _sketch(source: DataSource) -> Tensor:
    """Examples from which values of a configuration come, and by which they are judged."""
    return source.examples("train").sketch(SKETCH).x


def _resolved(config: ExperimentConfig, train: Tensor) -> ExperimentConfig:
    smoothed = config.model().resolve(train)
    plain = None if config.baseline is None else config.baseline.resolve(train)
    parts = {"kernel": smoothed.kernel, "density": smoothed.density, "inverter": smoothed.inverter, "baseline": plain}
    return config.model_copy(update=parts)


def check(config: ExperimentConfig, model: SmoothedModel) -> None:
    """Refuses a measurement that the model's parts cannot give. Raises ConfigError."""
    if "elbo" in (config.evaluate.metrics or ()) and not model.inverter.has_density:
        raise ConfigError(
            f'inverter "{config.inverter.type}" has no density, so the ELBO is undefined; choose "conditional", '
            "or drop elbo from evaluate.metrics"
        )


def fit(
    source: Source,
    run_dir: str | Path | None = None,
    *,
    overrides: Sequence[str] = (),
    resume: bool = False,
    progress: bool = False,
) -> Result:
    """Trains both stages (and the baseline), measures them on the test split, and keeps everything in `run_dir`.

    A kernel with `sigma: auto` is searched for first; the run's configuration then holds the number that was found.
    resume: continue the run that lies in `run_dir` from its last checkpoint, with the same configuration; the weights
    end exactly as if it had never stopped. Without a run_dir nothing is written.
    Raises ConfigError, DataError, DeviceError, RunDirectoryError, CheckpointError, NonFiniteError, Interrupted.
    """
    config = load_config(source, overrides)
    policy = DevicePolicy(config.device)
    if run_dir is None and resume:
        raise ConfigError("resume needs the run_dir of the run to continue")
    if run_dir is None and config.loggers:
        raise ConfigError(f"{config.name}: loggers follow a run in its directory; give a run_dir, or loggers=[]")
    loggers = build_loggers(config.loggers)
    bars = Progress(enabled=progress and policy.is_main)
    data = config.data.build()
    search = SigmaSearch(config, data, policy, assemble, bars) if config.kernel.searches else None
    parts = assemble(config, data) if search is None else search.checked()
    check_measurable(parts[0], data)
    apart = policy.config.stages == "apart"
    if apart:
        check_apart(*parts, policy)
    with policy.processes():
        policy.agree("configuration or version", json.dumps([config.model_dump(mode="json"), versions()]))
        if run_dir is None:
            record = None
            if search is not None:
                record = search.run()
                parts = search.assembled(record)
            return _train(_trainer(parts, data, policy, None, bars, progress), *parts, False, record)
        run = RunDirectory(Path(run_dir), loggers if policy.is_main else {})
        with run.writing(resume) if policy.is_main else contextlib.nullcontext(), run.logging():
            policy.barrier()
            from_checkpoint = resume and run.has_checkpoint
            if resume:
                check_continued(policy, run)
            if resume and run.exists:
                check_same(resolved(config, data), run)
            elif policy.is_main:
                run.write_search(None)
            policy.barrier()
            if policy.is_main and not from_checkpoint:
                run.rewind(0)
            if search is not None:
                if policy.is_main and not from_checkpoint:
                    run.describe(resolved(config, data))
                parts = search.assembled(search.run(run))
            trainer = _trainer(parts, data, policy, run, bars, progress)
            if policy.is_main and not (from_checkpoint and run.exists):
                run.describe(parts[0])
            return _train(trainer, *parts, resume if apart else from_checkpoint, run.search())


def _trainer(
    parts: tuple[ExperimentConfig, SmoothedModel, DensityModel | None],
    data: DataSource,
    policy: DevicePolicy,
    run: RunDirectory | None,
    bars: Progress,
    progress: bool,
) -> Trainer | ApartTrainer:
    """What trains the parts, as `device.stages` says; processes with stages of their own have bars of their own."""
    if policy.config.stages == "apart":
        return ApartTrainer(*parts, data, policy, run, progress)
    return trainer_of(*parts, data, policy, run, bars)


def _train(
    trainer: Trainer | ApartTrainer,
    config: ExperimentConfig,
    model: SmoothedModel,
    baseline: DensityModel | None,
    resume: bool,
    search: dict[str, Any] | None,
) -> Result:
    """Trains and measures in all processes, saves and draws in the main one. search: how sigma was found."""
    trainer.train(resume)
    run, policy, data = trainer.run, trainer.policy, trainer.source
    if policy.is_main and run is not None:
        model.save_pretrained(run.path)
        if baseline is not None:
            save_model(baseline, config.baseline, run.path / "baseline")
    directory = None if run is None else run.path
    metrics = measure(config, model, baseline, data, policy, trainer.progress, directory)
    if policy.is_main:
        metrics |= {} if search is None else {"sigma_search": search}
        if run is not None:
            run.write_metrics(metrics)
            if config.evaluate.metrics is None or "samples" in config.evaluate.metrics:
                draw_pictures(run.path, config, model, baseline, data, policy)
            write_card(run.path)
            run.publish(metrics)
    return Result(model, baseline, metrics, config, None if run is None else run.path, trainer.reports)


def check_same(config: ExperimentConfig, run: RunDirectory) -> None:
    """Raises ConfigError where a resumed run would train something else than it began with.

    config: `resolved`. A sigma that was to be found is the one that the run's search found, if it has ended.
    """
    both = (with_found_sigma(each, run.search()) for each in (config, run.stored_config()))
    now, then = (_without_accumulate(each.model_dump(mode="json")) for each in both)
    changed = [key for key in now if key not in FREE and now[key] != then[key]]
    if changed:
        raise ConfigError(
            f"{run.path} was started with another {', '.join(changed)}; resume with its own {EXPERIMENT}, "
            "or train in a new run directory"
        )


def _without_accumulate(document: dict[str, Any]) -> dict[str, Any]:
    """What counts is its product with the number of processes, which the checkpoint knows."""
    trainer = {key: value for key, value in document["trainer"].items() if key != "accumulate"}
    stages = get_args(StageName)
    trainer |= {name: {key: v for key, v in trainer[name].items() if key != "accumulate"} for name in stages}
    return document | {"trainer": trainer}


def load(run_dir: str | Path) -> SmoothedModel:
    """The trained model of a run, of `save_pretrained`, or at `hf://owner/name`, on the CPU, in evaluation mode.

    Raises CheckpointError; DependencyError for a model on the hub without the extra `hub`.
    """
    return SmoothedModel.from_pretrained(run_dir)


def load_baseline(run_dir: str | Path) -> DensityModel | None:
    """The plain density trained beside the model, or None. It works in the model's coordinates, see `Result`."""
    directory = Path(run_dir) / "baseline"
    return load_model(directory) if directory.is_dir() else None
