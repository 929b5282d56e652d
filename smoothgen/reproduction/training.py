"""Trainings for studies: a smoothed model or a plain density, with what it took, on one thread of the CPU."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from smoothgen.config import load_config
from smoothgen.data_source import DataSource
from smoothgen.density_fit import fit_density
from smoothgen.density_model import DensityModel
from smoothgen.experiment import fit
from smoothgen.smoothed_model import SmoothedModel

CPU = {"device": "cpu", "threads": 1}
TEST_SEED = 2021
"""Data of the reproduction come from seeds from here on; every setting was chosen on data of seed 0."""


@dataclass(frozen=True)
class Trained:
    """A trained model of either kind, in evaluation mode, and what training took.

    model: the density of x that is measured. smoothed: the same where it is a smoothed model, else None.
    data: its source. cpu_seconds: of training alone, search for sigma included. steps: of all stages together.
    parameters: trainable numbers. sigma: the noise's standard deviation where it is one number, else None.
    kernel: the type of its noise, or None.
    """

    model: DensityModel
    smoothed: SmoothedModel | None
    data: DataSource
    cpu_seconds: float
    steps: int
    parameters: int
    sigma: float | None = None
    kernel: str | None = None


def unseen(data: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """The configuration of a toy set with examples that no setting was chosen on, others for every seed.

    The same for all rows of a seed, so that rows are compared on the same points.
    """
    return {**data, "seed": TEST_SEED + seed}


def train_smoothed(config: Mapping[str, Any], seed: int) -> Trained:
    """Trains an experiment without a baseline. config: its `data`, `kernel`, `density`, `inverter`, `trainer`."""
    loaded = load_config({**config, "seed": seed, "device": CPU, "evaluate": {"metrics": []}})
    start = time.process_time()
    result = fit(loaded)
    cpu_seconds = time.process_time() - start
    model, sigma = result.model, result.model.kernel.sigma.detach().flatten()
    return Trained(
        model=model,
        smoothed=model,
        data=result.config.data.build(),
        cpu_seconds=cpu_seconds,
        steps=sum(report.steps for report in result.training.values()),
        parameters=count_parameters(model),
        sigma=sigma[0].item() if bool((sigma == sigma[0]).all()) else None,
        kernel=result.config.kernel.tag(),
    )


def train_plain(
    density: Mapping[str, Any], data: Mapping[str, Any], trainer: Mapping[str, Any] | None, seed: int
) -> Trained:
    """Trains one plain density by maximum likelihood."""
    start = time.process_time()
    fitted = fit_density(dict(density), dict(data), trainer=dict(trainer or {}), seed=seed, device=CPU)
    cpu_seconds = time.process_time() - start
    return Trained(
        model=fitted.density,
        smoothed=None,
        data=fitted.source,
        cpu_seconds=cpu_seconds,
        steps=fitted.training.steps,
        parameters=count_parameters(fitted.density),
    )


def count_parameters(module: nn.Module) -> int:
    """Trainable numbers. A kernel's fixed sigma is none."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
