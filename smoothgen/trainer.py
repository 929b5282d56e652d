"""The trainer of all stages: one loop, exact resume, and nothing that a kill can lose."""

from __future__ import annotations

import contextlib
import copy
import math
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from smoothgen.board import Board
from smoothgen.checkpoint import FORMAT, load_weights, read_tensors, write_tensors
from smoothgen.config import ExperimentConfig, StageName, TrainerConfig
from smoothgen.data_source import DataSource, Split
from smoothgen.density_model import DensityModel
from smoothgen.device import DevicePolicy, seed_everything
from smoothgen.diagnosis import bad_gradient, first_bad_output
from smoothgen.ema import ExponentialMovingAverage
from smoothgen.errors import (
    CheckpointError,
    DataError,
    DistributedError,
    Interrupted,
    NonFiniteError,
    SmoothgenError,
)
from smoothgen.progress import Progress
from smoothgen.run_directory import RunDirectory
from smoothgen.sharding import full_state, local_shard, whole
from smoothgen.signals import StopSignals
from smoothgen.smoothed_model import SmoothedModel
from smoothgen.stages import Stage, plan, schedule
from smoothgen.training_data import TrainingData
from smoothgen.training_state import Position, Training, section

CHECKPOINT_KIND = "checkpoint"
STOP_EVERY = 10
"""Steps after which several processes agree, at the latest, that one got a signal."""


@dataclass(frozen=True)
class StageReport:
    """What a stage took in this process: steps (those before a resume included) and seconds of its processor."""

    steps: int
    cpu_seconds: float


class Trainer:
    """Trains stages in order; the modules in them end with the averaged weights.

    trainees: the modules whose weights a checkpoint holds, by name; the stages' objectives are made of them.
    reports: what each finished stage took. board: of the stages that other processes train at the same time.
    """

    def __init__(
        self,
        config: TrainerConfig,
        seed: int,
        trainees: Mapping[str, nn.Module],
        stages: Sequence[Stage],
        source: DataSource,
        policy: DevicePolicy,
        run: RunDirectory | None = None,
        progress: Progress | None = None,
        board: Board | None = None,
    ) -> None:
        self.board = board
        self.config, self.seed, self.policy, self.run, self.source = config, seed, policy, run, source
        self.stages = list(stages)
        self.progress = progress or Progress(enabled=False)
        self.trainees = nn.ModuleDict(trainees)
        self.trainees.to(policy.device)
        for stage in self.stages:
            stage.check_divisible(policy.world)
        self.data = TrainingData(source, policy, seed)
        self.validation = self._validation_split(source)
        self.stop = StopSignals()
        self.trouble: SmoothgenError | None = None
        self.reports: dict[StageName, StageReport] = {}

    def train(self, resume: bool = False) -> None:
        """Runs the stages from the start, or from the checkpoint.

        Raises Interrupted after a signal, with the state saved; NonFiniteError; CheckpointError.
        """
        saved = self._read_checkpoint() if resume and self.run and self.run.checkpoint.exists() else None
        first = 0 if saved is None else saved[1]["stage"]
        with self.stop.listening():
            for index, stage in enumerate(self.stages[first:], start=first):
                self._train_stage(index, stage, saved if index == first else None)
        self.trainees.eval()

    def _train_stage(self, index: int, stage: Stage, saved: tuple[dict[str, Tensor], dict[str, Any]] | None) -> None:
        cpu = time.process_time()
        training = self._start(stage, saved)
        settings, position = stage.settings, training.position
        title = f"{stage.name} ({index + 1}/{len(self.stages)})"
        with self.progress.stage(title, settings.max_steps, position.step) as bar:
            clock, clock_step = time.monotonic(), position.step
            while position.step < settings.max_steps and not position.out_of_patience(settings.patience):
                loss, norm = self._step(stage, training)
                position.loss_sum = position.loss_sum + loss
                position.loss_count += 1
                position.step += 1
                ended = position.step == settings.max_steps
                if position.step % self.config.log_every == 0 or ended:
                    rate = (position.step - clock_step) / max(time.monotonic() - clock, 1e-9)
                    clock, clock_step = time.monotonic(), position.step
                    self._check_finite(stage, training)
                    mean = self._log(stage, position, {"gradient_norm": float(norm), "steps_per_second": rate})
                    best = f", best validation {position.best_loss:.4f}" if position.best_step else ""
                    bar.update(position.step, f"loss {mean:.4f}{best} nats{self._elsewhere(stage, position.step)}")
                if position.step % self.config.validate_every == 0 or ended:
                    self._validate(stage, training)
                    clock, clock_step = time.monotonic(), position.step
                if self._stopping(position.step):
                    self._save(index, training)
                    raise self._stopped(stage, position.step)
                if position.step % self.config.checkpoint_every == 0:
                    self._save(index, training)
        self._finish(stage, training)
        self.reports[stage.name] = StageReport(position.step, time.process_time() - cpu)
        self._save(index + 1, None)

    def _start(self, stage: Stage, saved: tuple[dict[str, Tensor], dict[str, Any]] | None) -> Training:
        """The stage's own copy of the objective, initialised from data or restored, placed and wrapped."""
        objective = copy.deepcopy(stage.objective)
        restored = saved is not None and bool(saved[1]["position"])
        if not restored:
            seed_everything(self.seed, stage.name, "initialize")
            examples = self.data.sample()
            objective.initialize(examples.x, examples.context)
        wrapped = self.policy.wrap(objective)
        parameters = [parameter for parameter in objective.parameters() if parameter.requires_grad]
        settings = stage.settings
        optimizer = torch.optim.AdamW(
            parameters,
            settings.learning_rate,
            betas=settings.betas,
            weight_decay=settings.weight_decay,
            **self.policy.optimizer_options,
        )
        average = ExponentialMovingAverage(parameters, settings.ema_decay)
        reduction = self.policy.reduction(wrapped, parameters)
        training = Training(objective, wrapped, optimizer, average, parameters, reduction)
        if restored and saved is not None:
            training.restore(*saved, self.policy)
        return training

    def _step(self, stage: Stage, training: Training) -> tuple[float | Tensor, float | Tensor]:
        """One update. Returns the loss and the gradient's norm; a step that is not finite changes no weight."""
        settings, step = stage.settings, training.position.step
        for group in training.optimizer.param_groups:
            group["lr"] = settings.learning_rate * schedule(settings, step)
        if not training.objective.training:
            training.objective.train()
        reduction, losses = training.reduction, []
        for k in range(settings.accumulate):
            x, context = self._micro_batch(stage, step, k)
            with self.policy.accumulating(training.wrapped, k == settings.accumulate - 1):
                with self.policy.autocast():
                    loss = training.wrapped(x, context) / reduction.parts(settings.accumulate)
                loss.backward()
            reduction.fold()
            losses.append(loss.detach())
        total = reduction.finish(losses)
        norm = _clip(training.parameters, settings.clip_norm, self.policy)
        loss_and_norm = torch.stack([total.to(norm.dtype), norm])
        if self.policy.synchronous:
            loss, norm = loss_and_norm.tolist()
            if not (math.isfinite(loss) and math.isfinite(norm)):
                self._diagnose(stage, training, step, loss, norm)
        else:
            loss, norm = loss_and_norm.unbind()
            self._skip_if_bad(training, loss_and_norm, step)
        training.optimizer.step()
        for parameter in training.parameters:
            parameter.grad = None
        if settings.ema_decay:
            training.average.update(step)
        return loss, norm

    def _micro_batch(self, stage: Stage, step: int, k: int) -> tuple[Tensor, Tensor | None]:
        """This process's k-th share of a step's examples; afterwards every draw depends on that share alone."""
        micro_batches = stage.settings.accumulate * self.policy.world
        micro = k * self.policy.world + self.policy.rank
        size = stage.settings.batch_size // micro_batches
        batch = self.data.batch(stage.name, step, micro, size, micro_batches)
        seed_everything(self.seed, stage.name, step, micro)
        return batch.x, batch.context

    def _skip_if_bad(self, training: Training, loss_and_norm: Tensor, step: int) -> None:
        """Lets the fused optimizer skip a bad step on the device itself, without waiting for it."""
        bad = ~loss_and_norm.isfinite().all()
        if training.failed_at is None:
            training.failed_at = torch.full((), -1, device=bad.device)
        training.failed_at = torch.where(bad & (training.failed_at < 0), step, training.failed_at)
        optimizer: Any = training.optimizer
        optimizer.grad_scale, optimizer.found_inf = None, bad.float()

    def _check_finite(self, stage: Stage, training: Training) -> None:
        if training.failed_at is not None and int(training.failed_at) >= 0:
            self._diagnose(stage, training, int(training.failed_at), math.nan, math.nan)

    def _diagnose(self, stage: Stage, training: Training, step: int, loss: float, norm: float) -> None:
        """Saves the last good state and raises NonFiniteError naming the batch and the first bad module."""
        bad = bad_gradient(training.objective)
        culprit = None
        if self.policy.world == 1:
            culprit = first_bad_output(training.objective, lambda: self._repeat_forward(stage, training, step))
        training.optimizer.zero_grad(set_to_none=True)
        if self.run is not None:
            self._save(self.stages.index(stage), training)
        raise NonFiniteError(
            f"stage {stage.name}, step {step}: loss {loss:g}, gradient norm {norm:g}; first not finite: "
            f"{culprit or bad or 'the norm of the gradient'}. The weights before this step are saved; look "
            "for outliers in the data, or train in a new run directory with a lower trainer.learning_rate or clip_norm"
        )

    def _repeat_forward(self, stage: Stage, training: Training, step: int) -> None:
        """The forward passes of a step once more, with the same examples and the same noise."""
        for k in range(stage.settings.accumulate):
            training.objective(*self._micro_batch(stage, step, k))

    def _log(self, stage: Stage, position: Position, more: dict[str, float]) -> float:
        """Logs the mean loss since the last line, over all processes, and returns it."""
        loss = self.policy.mean(float(position.loss_sum) / max(position.loss_count, 1))
        record = {
            "stage": stage.name,
            "step": position.step,
            "loss": loss,
            "learning_rate": stage.settings.learning_rate * schedule(stage.settings, position.step - 1),
            **more,
        }
        position.loss_sum, position.loss_count = 0.0, 0
        if self.run is not None and self.policy.is_main:
            self.run.log(record)
        return loss

    def _validate(self, stage: Stage, training: Training) -> None:
        """Measures the averaged weights on the validation split, and keeps the best where there is patience."""
        if self.validation is None:
            return
        with self._averaged(stage, training):
            loss = self.validation_loss(stage, training.wrapped)
            position, patience = training.position, stage.settings.patience
            if loss < position.best_loss:
                position.best_loss, position.best_step, position.without_improvement = loss, position.step, 0
                if patience:
                    training.best = full_state(training.objective)
            else:
                position.without_improvement += 1
        if self.run is not None and self.policy.is_main:
            self.run.log({"stage": stage.name, "step": position.step, "validation_loss": loss})
        self.progress.note(f"{stage.name} step {position.step}: validation loss {loss:.4f} nats")

    @torch.no_grad()
    def validation_loss(self, stage: Stage, wrapped: nn.Module) -> float:
        """Mean loss over the validation split, nats; every call sees the same noise."""
        assert self.validation is not None
        wrapped.eval()
        size = min(512, stage.objective.rows_at_once)
        shares: list[tuple[float, float]] = []
        for start in range(0, len(self.validation), size * self.policy.world):
            first = start + self.policy.rank * size
            # every process takes part in every forward pass; an empty share counts for nothing
            rows, weight = (slice(first, first + size), 1) if first < len(self.validation) else (slice(0, 1), 0)
            x = self.validation.x[rows]
            context = None if self.validation.context is None else self.validation.context[rows]
            seed_everything(self.seed, stage.name, first, 0, "validate")
            with self.policy.autocast():
                shares.append((float(wrapped(x, context)), float(weight * len(x))))
        losses, counts = (self.policy.in_order(list(values)) for values in zip(*shares, strict=True))
        return sum(loss * n for loss, n in zip(losses, counts, strict=True)) / sum(counts)

    @contextlib.contextmanager
    def _averaged(self, stage: Stage, training: Training) -> Iterator[None]:
        if stage.settings.ema_decay:
            with training.average.applied():
                yield
        else:
            yield

    def _finish(self, stage: Stage, training: Training) -> None:
        """Copies the best or the last averaged weights into the model itself."""
        with self._averaged(stage, training):
            state = training.best or full_state(training.objective)
        stage.objective.load_state_dict(state)
        stage.objective.eval()

    def _save(self, index: int, training: Training | None) -> None:
        """Writes the checkpoint: finished stages' weights, and the state of the stage in progress."""
        if self.run is None:
            return
        tensors = {f"trainees/{name}": value for name, value in self.trainees.state_dict().items()}
        if training is not None:
            training.position.loss_sum = self.policy.mean(float(training.position.loss_sum))
        own, values = ({}, {"position": {}, "optimizer_groups": []}) if training is None else training.state()
        if self.policy.is_main:
            metadata = {
                "kind": CHECKPOINT_KIND,
                "format": FORMAT,
                "stage": index,
                "stages": [stage.name for stage in self.stages],
                **values,
                "records": self.run.records,
                "micro_batches": self._micro_batches,
            }
            write_tensors(self.run.checkpoint, tensors | own, metadata)
        self.policy.barrier()

    @property
    def _micro_batches(self) -> list[int]:
        """Of a step of each stage, over all processes."""
        return [self.policy.world * stage.settings.accumulate for stage in self.stages]

    def _read_checkpoint(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        assert self.run is not None
        tensors, metadata = read_tensors(self.run.checkpoint, CHECKPOINT_KIND)
        if metadata["stages"] != [stage.name for stage in self.stages]:
            raise CheckpointError(f"{self.run.checkpoint} has the stages {metadata['stages']}, this run others")
        then, now = metadata["micro_batches"], self._micro_batches
        for stage, before, parts in list(zip(self.stages, then, now, strict=True))[metadata["stage"] :]:
            if before != parts:
                raise CheckpointError(
                    f"{self.run.checkpoint} was written with {before} micro-batches a step of stage {stage.name} "
                    f"(accumulate x processes), this run has {parts}; continue with the same product"
                )
        load_weights(self.trainees, section(tensors, "trainees"), self.run.checkpoint)
        if self.policy.is_main:
            self.run.rewind(metadata["records"])
        return tensors, metadata

    def _validation_split(self, source: DataSource) -> Split | None:
        try:
            split = source.split("validation")
        except DataError:
            if any(stage.settings.patience for stage in self.stages):
                raise
            return None
        most = self.config.validation_examples
        context = None if split.context is None else self.policy.place(split.context[:most])
        return Split(self.policy.place(split.x[:most]), context)

    def _stopping(self, step: int) -> bool:
        """Whether a signal came, or another stage failed; several processes agree on it every few steps."""
        if self.policy.world == 1:
            return self._asked_to_stop()
        return step % min(self.config.log_every, STOP_EVERY) == 0 and self.policy.any(self._asked_to_stop())

    def _asked_to_stop(self) -> bool:
        if self.board is not None and self.trouble is None:
            self.trouble = self.board.trouble()
        return self.stop.signum is not None or self.trouble is not None

    def _stopped(self, stage: Stage, step: int) -> SmoothgenError:
        where = f"step {step} of stage {stage.name}; the state is saved, continue with --resume"
        if self.trouble is None or self.stop.signum is not None:
            message = f"stopped by signal {self.stop.signum or signal.SIGTERM} at {where}"
            return Interrupted(message, self.stop.signum or signal.SIGTERM)
        if isinstance(self.trouble, Interrupted):
            return Interrupted(f"stopped at {where} ({self.trouble})", self.trouble.signum)
        return DistributedError(f"{self.trouble}; stopped at {where}")

    def _elsewhere(self, stage: Stage, step: int) -> str:
        """Tells the other stages where this one is, and says where they are."""
        if self.board is None:
            return ""
        self.board.tell(step, stage.settings.max_steps)
        return self.board.status()

    def save_finished(self) -> None:
        """Writes the checkpoint of a run whose stages are all trained, if elsewhere."""
        self._save(len(self.stages), None)


def trainer_of(
    config: ExperimentConfig,
    model: SmoothedModel,
    baseline: DensityModel | None,
    source: DataSource,
    policy: DevicePolicy,
    run: RunDirectory | None = None,
    progress: Progress | None = None,
) -> Trainer:
    """The trainer of an assembled experiment."""
    trainees: dict[str, DensityModel] = {"model": model}
    if baseline is not None:
        trainees["baseline"] = baseline
    stages = plan(config, model, baseline)
    return Trainer(config.trainer, config.seed, trainees, stages, source, policy, run, progress)


@torch.no_grad()
def _clip(parameters: list[nn.Parameter], limit: float, policy: DevicePolicy) -> Tensor:
    """The norm of all gradients together, (), after scaling them down to `limit` (0 for none); NaN stays NaN.

    Where reading the norm costs nothing, gradients within the limit are not scaled by 1. A reproducible norm is that
    of whole gradients, however they are sharded.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    measured = [whole(gradient) for gradient in gradients] if policy.config.reproducible else gradients
    norm = whole(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(measured))))
    if limit and not (policy.synchronous and float(norm) <= limit):
        factor = limit / torch.clamp(norm, min=limit)
        torch._foreach_mul_([local_shard(gradient) for gradient in gradients], factor)
    return norm
