"""fit_density: one plain density trained by maximum likelihood, without any smoothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError

from smoothgen.component import describe
from smoothgen.config import TrainerConfig
from smoothgen.data_source import AnyDataSource, DataSource, DataSourceConfig
from smoothgen.density_model import AnyDensityModel, DensityModel, DensityModelConfig
from smoothgen.dequantization import build_density
from smoothgen.device import DeviceConfig, DevicePolicy, derived_seed
from smoothgen.errors import ConfigError
from smoothgen.event import ContextSpec
from smoothgen.progress import Progress
from smoothgen.row_order import SKETCH
from smoothgen.stages import plan_plain
from smoothgen.trainer import StageReport, Trainer


@dataclass(frozen=True)
class DensityFit:
    """A trained density and what training it took.

    density: in evaluation mode; of x in the model's coordinates, `source.event.to_model(data)`. training: steps and
    CPU seconds; zeros where the density has nothing to learn.
    """

    density: DensityModel
    source: DataSource
    training: StageReport


def fit_density(
    density: DensityModelConfig | dict[str, Any] | str,
    data: DataSourceConfig | dict[str, Any] | str | DataSource,
    *,
    trainer: TrainerConfig | dict[str, Any] | None = None,
    seed: int = 0,
    device: DeviceConfig | dict[str, Any] | None = None,
    progress: bool = False,
) -> DensityFit:
    """Trains one density of x by maximum likelihood: what smoothing is compared with.

    density, data: a configuration, its dict, or its type's name alone; data may also be a source that is already open.
    trainer, device: as in an experiment, whose `baseline` this is; so is the stage's name. seed decides all.
    Raises ConfigError, DataError, DeviceError, NonFiniteError, Interrupted.
    """
    source = data if isinstance(data, DataSource) else _validated(AnyDataSource, data, "data").build()
    settings = _validated(TrainerConfig, trainer or {}, "trainer")
    policy = DevicePolicy(_validated(DeviceConfig, device or {}, "device"))
    train = source.examples("train").sketch(SKETCH).x
    config: DensityModelConfig = _validated(AnyDensityModel, density, "density").resolve(train)
    context = ContextSpec(features=source.features) if source.features else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(seed, "build"))
        model = build_density(config, source.event.standard(), context)
    with policy.processes():
        bars = Progress(enabled=progress and policy.is_main)
        run = Trainer(settings, seed, {"density": model}, plan_plain(settings, model), source, policy, None, bars)
        run.train()
    return DensityFit(model, source, run.reports.get("baseline", StageReport(0, 0.0)))


def _validated(kind: Any, value: Any, name: str) -> Any:
    """A value as what it is to be. Raises ConfigError in one line."""
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        raise ConfigError(f"{name}: {describe(error)}") from error
