"""`kernel.sigma: auto`: the noise whose model reaches the best bound, by successive halving with shared noise."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from smoothgen.config import ExperimentConfig, StageOverrides, TrainerConfig
from smoothgen.data_source import DataSource, Split
from smoothgen.density_model import DensityModel
from smoothgen.device import DevicePolicy
from smoothgen.errors import ConfigError, Interrupted, NonFiniteError
from smoothgen.noise_kernel import median_sigma
from smoothgen.progress import Bar, Progress
from smoothgen.rounding import least_sigma
from smoothgen.row_order import SKETCH
from smoothgen.run_directory import RunDirectory
from smoothgen.smoothed_model import SmoothedModel
from smoothgen.stages import plan
from smoothgen.successive_halving import Rung, refined, successive_halving, winner
from smoothgen.trainer import trainer_of
from smoothgen.training_data import placed

Parts = tuple[ExperimentConfig, SmoothedModel, DensityModel | None]
Assemble = Callable[[ExperimentConfig, DataSource], Parts]
"""Fills in what depends on data, and builds the untrained model and baseline."""


class SigmaSearch:
    """Trains the experiment with several sigmas and keeps the one of the best bound (Eq. 3) on the validation split.

    Every candidate starts from the same weights and sees the same examples and the same standard noise at every step,
    in training and in scoring: all draws are pure functions of (seed, stage, step), whatever sigma scales them by. So
    their differences are those of sigma, and much less random than the bounds themselves. The baseline takes no part.

    A rung trains its candidates anew, with the whole schedule shortened to its steps: a bound after a learning rate
    that has come down to 0 says more about the end of a long training than one from the middle of a schedule.
    """

    def __init__(
        self,
        config: ExperimentConfig,
        data: DataSource,
        policy: DevicePolicy,
        assemble: Assemble,
        progress: Progress | None = None,
    ) -> None:
        self.config, self.data, self.policy, self.assemble = config, data, policy, assemble
        self.progress = progress or Progress(enabled=False)
        settings = config.trainer.sigma_search
        self.steps = settings.steps or max(1, config.trainer.max_steps // 20)
        train = data.examples("train").sketch(SKETCH).x
        self.median, self.least = median_sigma(train), least_sigma(train).max().item()
        self.candidates = _log_spaced(self.median * settings.low, self.median * settings.high, settings.candidates)

    def checked(self) -> Parts:
        """The experiment with its first candidate, untrained, once all that could be refused later is refused.

        Raises ConfigError; DataError where there is no validation split.
        """
        if self.candidates[0] < self.least:
            low = self.config.trainer.sigma_search.low
            raise ConfigError(
                f"{self.config.name}: trainer.sigma_search.low: {low:.3g} times the median rule's {self.median:.3g} is "
                "a sigma below what floating point can add to the data, where no bound holds; give "
                f"{1.05 * self.least / self.median:.2g} or more"
            )
        config, model, baseline = self.assemble(self.with_sigma(self.candidates[0]), self.data)
        if not model.inverter.has_density:
            raise ConfigError(
                f'{config.name}: kernel.sigma: "auto" needs a bound to compare, which inverter '
                f'"{config.inverter.type}" does not give; use inverter type: conditional, or give a number or "median"'
            )
        self.data.examples("validation")
        for stage in plan(config, model, baseline):
            stage.check_divisible(self.policy.world)
        return config, model, baseline

    def assembled(self, record: dict[str, Any]) -> Parts:
        """The experiment with the sigma that was found, untrained."""
        return self.assemble(self.with_sigma(record["sigma"]), self.data)

    def with_sigma(self, sigma: float) -> ExperimentConfig:
        """The experiment with that sigma."""
        return _with_sigma(self.config, sigma)

    def run(self, directory: RunDirectory | None = None) -> dict[str, Any]:
        """The record of the search as plain values: `sigma`, and for every rung what `Rung` holds.

        directory: the record is written to it after every rung, and rungs that it holds are not trained again.
        Raises NonFiniteError where every candidate's training failed; Interrupted.
        """
        done = self._done(directory)
        if done:
            self.progress.note(f"sigma: {len(done)} rungs of the search are done")
        rungs: list[Rung] = []
        record = self._record(rungs)
        for rung in successive_halving(self.candidates, self.steps, self._measure, done):
            rungs.append(rung)
            record = self._record(rungs)
            if directory is not None and self.policy.is_main and len(rungs) > len(done):
                directory.write_search(record)
        self.progress.note(summary(record))
        return record

    def _record(self, rungs: list[Rung]) -> dict[str, Any]:
        """sigma: found so far. median: what the rule of appendix C.1 gives, for comparison."""
        return {
            "sigma": refined(self.candidates, rungs),
            "finished": bool(rungs) and len(rungs[-1].survivors()) == 1,
            "winner": winner(self.candidates, rungs),
            "median": self.median,
            "candidates": list(self.candidates),
            "rungs": [asdict(rung) for rung in rungs],
        }

    def _done(self, directory: RunDirectory | None) -> list[Rung]:
        stored = None if directory is None else directory.search()
        if stored is None or tuple(stored["candidates"]) != self.candidates:
            return []
        return [Rung.restored(values) for values in stored["rungs"]]

    def _measure(self, candidates: tuple[float, ...], steps: int) -> Rung:
        """One rung. Every process has the numbers of the main one, so that all keep the same candidates."""
        start = time.monotonic()
        title = f"sigma, {len(candidates)} candidates of {steps} steps"
        with self.progress.stage(title, steps * len(candidates)) as bar:
            scores = [self._score(sigma, steps, i, bar) for i, sigma in enumerate(candidates)]
        rung = Rung.measured(steps, candidates, scores)
        shared = {name: tuple(map(self._of_main, getattr(rung, name))) for name in ("scores", "behind", "stderr")}
        seconds = self._of_main(time.monotonic() - start) or 0.0
        return Rung(steps, candidates, **shared, seconds=seconds)

    def _of_main(self, value: float | None) -> float | None:
        mine = math.nan if value is None else value
        shared = self.policy.sum(mine if self.policy.is_main else 0.0)
        return None if math.isnan(shared) else shared

    def _score(self, sigma: float, steps: int, number: int, bar: Bar) -> Tensor:
        """The bound of every validation example, (n,), nats, after so many steps; nan where training failed."""
        validation = self._validation()
        try:
            model = self._trained(sigma, steps)
        except NonFiniteError:
            return torch.full((len(validation),), math.nan, dtype=torch.float64)
        generator = self.policy.generator(self.config.seed, "sigma-search")
        bound = model.likelihood_at(validation.x, validation.context, generator=generator).per_example
        bar.update((number + 1) * steps, f"sigma {sigma:.3g}: bound {bound.mean().item():.4f} nats")
        return bound

    def _trained(self, sigma: float, steps: int) -> SmoothedModel:
        config = self.with_sigma(sigma).model_copy(update={"baseline": None})
        config, model, _ = self.assemble(config, self.data)
        trainer = config.trainer
        if model.kernel.learnable:  # candidates keep their sigma, and both stages the settings of the joint one
            model.kernel.requires_grad_(False)
            trainer = trainer.model_copy(update={"density": trainer.joint, "inverter": trainer.joint})
        config = config.model_copy(update={"trainer": shortened(trainer, steps)})
        try:
            trainer_of(config, model, None, self.data, self.policy).train()
        except Interrupted as stopped:
            raise Interrupted(
                f"stopped by signal {stopped.signum} in the search for sigma; finished rungs are in the run directory "
                "if there is one, continue with --resume",
                stopped.signum,
            ) from None
        return model

    def _validation(self) -> Split:
        return placed(self.data.examples("validation").first(self.config.trainer.validation_examples), self.policy)


def summary(record: dict[str, Any]) -> str:
    """What a search found, in one line, and whether its range was too narrow."""
    sigma, median, (first, *_, last) = record["sigma"], record["median"], record["candidates"]
    line = f"sigma: {sigma:.4g} found, {sigma / median:.2f} of the median rule's {median:.4g}"
    if sigma in (first, last):
        key = "low" if sigma == first else "high"
        line += f"; it lies at the end of the range, so widen trainer.sigma_search.{key}"
    return line


def with_found_sigma(config: ExperimentConfig, record: dict[str, Any] | None) -> ExperimentConfig:
    """The experiment with the sigma that a finished search found, where it asks for one; else as it is."""
    if record is None or not record["finished"] or not config.kernel.searches:
        return config
    return _with_sigma(config, record["sigma"])


def _with_sigma(config: ExperimentConfig, sigma: float) -> ExperimentConfig:
    return config.model_copy(update={"kernel": config.kernel.with_sigma(sigma)})


def shortened(trainer: TrainerConfig, steps: int) -> TrainerConfig:
    """The same schedule in `steps` instead of max_steps; stages of another length, and warm-ups, in proportion."""
    share = steps / trainer.max_steps

    def of_stage(changes: StageOverrides) -> StageOverrides:
        length, warmup = changes.max_steps, changes.warmup_steps
        return changes.model_copy(
            update={
                "max_steps": None if length is None else max(1, round(share * length)),
                "warmup_steps": None if warmup is None else round(share * warmup),
            }
        )

    stages = {name: of_stage(getattr(trainer, name)) for name in ("density", "inverter")}
    own = {"max_steps": steps, "warmup_steps": round(share * trainer.warmup_steps)}
    return trainer.model_copy(update=own | stages)


def _log_spaced(low: float, high: float, count: int) -> tuple[float, ...]:
    ratio = math.log(high / low)
    return tuple(low * math.exp(ratio * i / (count - 1)) for i in range(count))
