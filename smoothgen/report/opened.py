"""A run with its model, its data and samples of each step: what the pictures of its page are made of."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from pydantic import ValidationError
from torch import Tensor

from smoothgen.config import ExperimentConfig
from smoothgen.data_source import DataSource
from smoothgen.density_model import DensityModel
from smoothgen.device import DevicePolicy
from smoothgen.errors import SmoothgenError
from smoothgen.evaluation.pictures import is_image_event, sample_panels
from smoothgen.experiment import load, load_baseline
from smoothgen.report.record import RunRecord
from smoothgen.smoothed_model import SmoothedModel

SMOOTHED = "x̃ ~ p(x̃)"
TWO_STEP, SINGLE_STEP = "two-step: x ~ p(x|x̃)", "single-step: E[x|x̃]"
DATA, PLAIN = "data", "plain model"
NAMES = {"smoothed x̃": SMOOTHED, "two-step p(x|x̃)": TWO_STEP, "single-step E[x|x̃]": SINGLE_STEP}
"""`sample_panels`' names -> the page's."""


@dataclass(frozen=True)
class Opened:
    """panels: (n, *event_shape) each, in data units; row i of every step comes from the same x_tilde."""

    config: ExperimentConfig
    model: SmoothedModel
    baseline: DensityModel | None
    data: DataSource | None
    panels: dict[str, Tensor]

    @property
    def is_image(self) -> bool:
        """Whether the examples are shown as images."""
        return is_image_event(self.model.event)

    def inverted(self) -> dict[str, Tensor]:
        """The sets that were made from the smoothed samples."""
        return {name: x for name, x in self.panels.items() if name not in (DATA, SMOOTHED, PLAIN)}


def open_run(run: RunRecord, policy: DevicePolicy, seed: int, images: int, points: int) -> tuple[Opened | None, str]:
    """The run with samples drawn, and why something of it is missing: "" where nothing is.

    images, points: how many examples of each set, by what the data are.
    """
    if not run.trained:
        return None, ""
    try:
        config = ExperimentConfig.model_validate(run.config | {"loggers": []})  # theirs may not be installed here
        model = load(run.path).to(policy.device)
        baseline = load_baseline(run.path)
    except (SmoothgenError, ValidationError) as error:
        return None, f"The model cannot be loaded: {_line(error)}"
    if baseline is not None:
        baseline = baseline.to(policy.device)
    data, problem = _data(config, model)
    if data is None and model.context_shape is not None:
        return None, f"{problem} This model's samples depend on a context of the data."
    count = images if is_image_event(model.event) else points
    panels = _panels(model, baseline, data, policy, seed, count)
    return Opened(config, model, baseline, data, panels), problem


def _data(config: ExperimentConfig, model: SmoothedModel) -> tuple[DataSource | None, str]:
    """The data the run was trained on, and why they are not there: "" where they are."""
    try:
        data = config.data.build()
        for name in ("train", "test"):
            data.split(name)
    except SmoothgenError as error:
        return None, f"The data cannot be read, so nothing is compared with them: {_line(error)}"
    if data.event.shape != model.event.shape:
        return None, f"The data have shape {data.event.shape} now, the model {model.event.shape}."
    return data, ""


def _panels(
    model: SmoothedModel,
    baseline: DensityModel | None,
    data: DataSource | None,
    policy: DevicePolicy,
    seed: int,
    count: int,
) -> dict[str, Tensor]:
    panels, context = {}, None
    if data is not None:
        test = data.split("test")
        if test.context is not None:
            context = policy.place(test.context[torch.arange(count) % len(test)])
        panels[DATA] = model.event.to_data(test.x[:count])
    drawn = sample_panels(model, count, context, policy, seed)
    panels |= {NAMES.get(name, name): x for name, x in drawn.items()}
    if baseline is not None:
        generator = policy.generator(seed, "pictures", "baseline")
        panels[PLAIN] = model.event.to_data(baseline.sample(count, context, generator=generator))
    return {name: x.detach().cpu() for name, x in panels.items()}


def _line(error: Exception) -> str:
    """The error in one line."""
    return " ".join(str(error).split())[:300]
