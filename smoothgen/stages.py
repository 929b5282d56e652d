"""The stages of an experiment, in order, and how their learning rate runs."""

from __future__ import annotations

import math
from dataclasses import dataclass

from smoothgen.config import ExperimentConfig, StageConfig, StageName, TrainerConfig
from smoothgen.density_model import DensityModel
from smoothgen.errors import ConfigError
from smoothgen.objectives import InversionObjective, JointObjective, MaximumLikelihood, Objective, SmoothingObjective
from smoothgen.smoothed_model import SmoothedModel


@dataclass(frozen=True)
class Stage:
    """One optimisation: what is minimised, and how."""

    name: StageName
    objective: Objective
    settings: StageConfig

    def check_divisible(self, processes: int) -> None:
        """Raises ConfigError where the batch cannot be split evenly over micro-batches and processes."""
        batch_size, accumulate = self.settings.batch_size, self.settings.accumulate
        if batch_size % (accumulate * processes):
            raise ConfigError(
                f"trainer.batch_size {batch_size} (stage {self.name}) is not a multiple of accumulate x processes = "
                f"{accumulate} x {processes}"
            )


def plan(config: ExperimentConfig, model: SmoothedModel, baseline: DensityModel | None) -> list[Stage]:
    """The stages in order: p(x_tilde), then p(x | x_tilde) if it learns; or both jointly where sigma is learned.

    Raises ConfigError where sigma is learnable but the inverter has no density, so that nothing would bound it.
    """
    kernel, density, inverter = model.kernel, model.density, model.inverter
    objectives: dict[StageName, Objective] = {}
    if kernel.learnable:
        if not inverter.has_density:
            raise ConfigError(
                f'kernel.learnable needs a bound to learn from, which inverter "{config.inverter.type}" does not give; '
                "use inverter type: conditional, or a fixed sigma"
            )
        objectives["joint"] = JointObjective(kernel, density, inverter)
    else:
        objectives["density"] = SmoothingObjective(kernel, density)
        if any(parameter.requires_grad for parameter in inverter.parameters()):
            objectives["inverter"] = InversionObjective(kernel, inverter)
    if baseline is not None:
        objectives["baseline"] = MaximumLikelihood(baseline)
    return _learning(objectives, config.trainer)


def plan_plain(trainer: TrainerConfig, density: DensityModel) -> list[Stage]:
    """The one stage of a plain density: maximum likelihood, as the baseline of an experiment is trained."""
    return _learning({"baseline": MaximumLikelihood(density)}, trainer)


def _learning(objectives: dict[StageName, Objective], trainer: TrainerConfig) -> list[Stage]:
    """A stage for each objective that has something to learn."""
    return [
        Stage(name, objective, trainer.stage(name))
        for name, objective in objectives.items()
        if any(parameter.requires_grad for parameter in objective.parameters())
    ]


def schedule(settings: StageConfig, step: int) -> float:
    """The factor of the learning rate at a step (from 0): linear warm-up, then the decay."""
    if step < settings.warmup_steps:
        return (step + 1) / settings.warmup_steps
    past = step - settings.warmup_steps
    if settings.decay == "constant":
        return 1.0
    if settings.decay == "exponential":
        return settings.decay_rate**past
    remaining = max(settings.max_steps - settings.warmup_steps, 1)
    return 0.5 * (1.0 + math.cos(math.pi * min(past / remaining, 1.0)))
