"""The trainer of all stages: one loop, exact resume, and nothing that a kill can lose."""

from __future__ import annotations

import contextlib
import copy
import functools
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from smoothgen.board import Board
from smoothgen.checkpoint import FORMAT, load_weights, write_tensors
from smoothgen.checkpoint_metadata import check_metadata, refusing_misfits
from smoothgen.config import ExperimentConfig, StageName, TrainerConfig
from smoothgen.data_source import DataSource, Split
from smoothgen.density_model import DensityModel
from smoothgen.device import DevicePolicy, seed_everything
from smoothgen.diagnosis import bad_gradient, first_bad_output
from smoothgen.ema import ExponentialMovingAverage
from smoothgen.errors import CheckpointError, DataError, NonFiniteError
from smoothgen.fingerprint import check_fingerprint, fingerprint
from smoothgen.guards import bad_step, batch_report, remembered
from smoothgen.objectives import Objective
from smoothgen.progress import Progress
from smoothgen.recovery import newest_checkpoint
from smoothgen.run_directory import RunDirectory
from smoothgen.sharding import full_state, local_shard, whole
from smoothgen.smoothed_model import SmoothedModel
from smoothgen.stages import Stage, plan, schedule
from smoothgen.stopping import StopRequests
from smoothgen.training_data import TrainingData, placed
from smoothgen.training_state import Position, Training, section
from smoothgen.validation import validation_means

CHECKPOINT_KIND = "checkpoint"


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
        self.stop = StopRequests(policy, config.log_every, board)
        self.reports: dict[StageName, StageReport] = {}
        self.snapshot: tuple[dict[str, Tensor], dict[str, Any]] | None = None

    def train(self, resume: bool = False) -> None:
        """Runs the stages from the start, or from the checkpoint.

        Raises Interrupted after a signal, with the state saved; NonFiniteError; CheckpointError.
        """
        if self.run is not None:
            self.policy.barrier()  # the main process may still be writing experiment.yaml
            _ = self._fingerprint  # of the data as they are now: they may be gone when a state has to be saved
        saved = self._read_checkpoint() if resume and self.run and self.run.has_checkpoint else None
        first = 0 if saved is None else saved[1]["stage"]
        with self.stop.listening(), self.data.reading():
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
                try:
                    norm = self._advance(stage, training)
                except DataError:  # a batch that can be read no longer; the weights before it are whole
                    if self.policy.world > 1:
                        raise
                    if not self._went_back(stage, training):
                        self._save(index, training)
                        raise
                    norm = None
                if norm is None:  # the stage went back to its checkpoint
                    position = training.position
                    clock, clock_step = time.monotonic(), position.step
                    continue
                ended = position.step == settings.max_steps
                if position.step % self.config.log_every == 0 or ended:
                    rate = (position.step - clock_step) / max(time.monotonic() - clock, 1e-9)
                    clock, clock_step = time.monotonic(), position.step
                    mean = self._log(stage, position, {"gradient_norm": float(norm), "steps_per_second": rate})
                    best = f", best validation {position.best_loss:.4f}" if position.best_step else ""
                    bar.update(position.step, f"loss {mean:.4f}{best} nats{self._elsewhere(stage, position.step)}")
                if position.step % self.config.validate_every == 0 or ended:
                    self._validate(stage, training)
                    clock, clock_step = time.monotonic(), position.step
                if self.stop.due(position.step):
                    if not self._went_back(stage, training):
                        self._save(index, training)
                    raise self.stop.error(f"step {training.position.step} of stage {stage.name}")
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
            with refusing_misfits(self.run.checkpoint if self.run else None):
                training.restore(*saved, self.policy)
        elif self.config.on_bad_step == "rollback":
            self._save(self.stages.index(stage), training)
        return training

    def _rate(self, stage: Stage, position: Position, step: int) -> float:
        """The learning rate of a step."""
        factor = self.config.rollback_factor**position.rollbacks
        return stage.settings.learning_rate * schedule(stage.settings, step) * factor

    def _advance(self, stage: Stage, training: Training) -> float | Tensor | None:
        """`_step`, after which the position is one further and no bad step is unread where something is due."""
        norm = self._step(stage, training)
        if norm is None:
            return None
        training.position.step += 1
        config, step = self.config, training.position.step
        due = any(step % every == 0 for every in (config.log_every, config.validate_every, config.checkpoint_every))
        if (due or step == stage.settings.max_steps) and self._went_back(stage, training):
            return None
        return norm

    def _set_rate(self, stage: Stage, training: Training) -> None:
        """Gives the optimizer the learning rate of the step at hand."""
        for group in training.optimizer.param_groups:
            group["lr"] = self._rate(stage, training.position, training.position.step)

    def _step(self, stage: Stage, training: Training) -> float | Tensor | None:
        """One update. Returns the gradient's norm; None where the stage went back to its last checkpoint.

        A bad step changes no weight.
        """
        settings, position, step = stage.settings, training.position, training.position.step
        self._set_rate(stage, training)
        if not training.objective.training:
            training.objective.train()
        reduction, losses = training.reduction, []
        for k in range(settings.accumulate):
            x, context = self._micro_batch(stage, step, k, position.rollbacks)
            with self.policy.accumulating(training.wrapped, k == settings.accumulate - 1):
                with self.policy.autocast():
                    loss = training.wrapped(x, context) / reduction.parts(settings.accumulate)
                loss.backward()
            reduction.fold()
            losses.append(loss.detach())
        total = reduction.finish(losses)
        norm = _clip(training.parameters, settings.clip_norm, self.policy)
        loss_and_norm = torch.stack([total.to(norm.dtype), norm])
        left_out = self._left_out(training, loss_and_norm)
        if isinstance(left_out, bool):
            if left_out:
                return self._answer(stage, training, step, *loss_and_norm.tolist())
            loss, norm = loss_and_norm.tolist()
            position.loss_count += 1
        else:
            optimizer: Any = training.optimizer  # a fused one, which skips a step on the device itself
            optimizer.grad_scale, optimizer.found_inf = None, left_out.float()
            loss, norm = torch.where(left_out, 0.0, loss_and_norm[0].double()), loss_and_norm[1]
            position.loss_count = position.loss_count + ~left_out
        training.optimizer.step()
        for parameter in training.parameters:
            parameter.grad = None
        if settings.ema_decay:
            training.average.update(step, left_out if isinstance(left_out, Tensor) else None)
        position.loss_sum = position.loss_sum + loss
        return norm

    def _share(self, stage: Stage, k: int) -> tuple[int, int, int]:
        """Which micro-batch of a step this process computes k-th, its size, and how many there are."""
        micro_batches = stage.settings.accumulate * self.policy.world
        micro = k * self.policy.world + self.policy.rank
        return micro, stage.settings.batch_size // micro_batches, micro_batches

    def _micro_batch(self, stage: Stage, step: int, k: int, rollbacks: int = 0) -> tuple[Tensor, Tensor | None]:
        """This process's k-th share of a step's examples; afterwards every draw depends on that share alone."""
        micro, size, micro_batches = self._share(stage, k)
        batch = self.data.batch(stage.name, step, micro, size, micro_batches)
        again = ("rollback", rollbacks) if rollbacks else ()
        seed_everything(self.seed, stage.name, step, micro, *again)
        return batch.x, batch.context

    def _left_out(self, training: Training, loss_and_norm: Tensor) -> bool | Tensor:
        """Whether a step is bad in any process, so that it changes nothing.

        Where waiting for that would cost, a tensor; it is also set after a bad step that ends the training or sends it
        back, see `UnreadSteps`.
        """
        factor, position = self.config.spike_factor, training.position
        if self.policy.synchronous and not factor:
            return self.policy.any(not all(map(math.isfinite, loss_and_norm.tolist())))
        mean, seen = (loss_and_norm.new_tensor(0.0) + v for v in (position.mean_log_norm, position.norms_seen))
        left_out = self.policy.agreed(bad_step(loss_and_norm, mean, seen, factor))
        if not self.policy.synchronous:
            allowed = self.config.bad_steps - position.skipped if self.config.on_bad_step == "skip" else 0
            left_out = training.unread.add(position.step, loss_and_norm, left_out, allowed)
        if factor:
            position.mean_log_norm, position.norms_seen = remembered(loss_and_norm[1], left_out, mean, seen)
        return bool(left_out) if self.policy.synchronous else left_out

    def _went_back(self, stage: Stage, training: Training) -> bool:
        """Answers the bad steps that are unread, on an accelerator. Whether the stage went back to its checkpoint."""
        return any(self._answer(stage, training, *bad) is None for bad in training.unread.read())

    def _answer(self, stage: Stage, training: Training, step: int, loss: float, norm: float) -> float | None:
        """What the configuration says to a bad step: raise NonFiniteError, leave it out, or go back (None)."""
        position, action = training.position, self.config.on_bad_step
        done = position.rollbacks if action == "rollback" else position.skipped
        if action == "stop" or done >= self.config.bad_steps:
            self._diagnose(stage, training, step, loss, norm)
        what = f"{stage.name} step {step}: loss {loss:g}, gradient norm {norm:g}; {self._batch(stage, step)}"
        training.optimizer.zero_grad(set_to_none=True)
        record: dict[str, Any] = {"stage": stage.name, "step": step, "bad_step": action, "bad_loss": loss, "why": what}
        if action == "skip":
            position.skipped = done + 1
            self._note(record, f"{what}; left out ({done + 1} of at most {self.config.bad_steps})")
            return norm
        saved = self.snapshot if self.run is None else self._read_checkpoint()
        assert saved is not None
        training.restore(*saved, self.policy)
        training.position.rollbacks = done + 1
        rate = self.config.rollback_factor ** (done + 1)
        self._note(record, f"{what}; back to step {training.position.step}, learning rate times {rate:g}")
        self._save(self.stages.index(stage), training)
        return None

    def _note(self, record: dict[str, Any], text: str) -> None:
        self.progress.note(text)
        if self.run is not None and self.policy.is_main:
            self.run.log(record)

    def _batch(self, stage: Stage, step: int) -> str:
        """This process's examples of a step, and which are not finite."""
        shares = [self._share(stage, k) for k in range(stage.settings.accumulate)]
        requests = [(stage.name, step, micro, size, parts) for micro, size, parts in shares]
        return batch_report((self.data.batch(*request), self.data.which(*request)) for request in requests)

    def _diagnose(self, stage: Stage, training: Training, step: int, loss: float, norm: float) -> NoReturn:
        """Saves the last good state and raises NonFiniteError naming the batch and the first bad module."""
        training.position.step = step  # on an accelerator further steps may have been tried, which changed nothing
        self._set_rate(stage, training)
        bad = bad_gradient(training.objective)
        culprit = None
        if self.policy.world == 1:
            culprit = first_bad_output(training.objective, lambda: self._repeat_forward(stage, training, step))
        training.optimizer.zero_grad(set_to_none=True)
        if self.run is not None:
            self._save(self.stages.index(stage), training)
        finite = math.isfinite(loss) and math.isfinite(norm)
        where = "a spike above trainer.spike_factor" if finite else f"first not finite: {culprit or bad or 'the norm'}"
        again = f" after {self.config.bad_steps} bad steps" if self.config.on_bad_step != "stop" else ""
        raise NonFiniteError(
            f"stage {stage.name}, step {step}: loss {loss:g}, gradient norm {norm:g}; {where}; "
            f"{self._batch(stage, step)}{again}. The weights before this step are saved; look for outliers in the "
            "data, train in a new run directory with a lower trainer.learning_rate or clip_norm, or see "
            "trainer.on_bad_step"
        )

    def _repeat_forward(self, stage: Stage, training: Training, step: int) -> None:
        """The forward passes of a step once more, with the same examples and the same noise."""
        for k in range(stage.settings.accumulate):
            training.objective(*self._micro_batch(stage, step, k, training.position.rollbacks))

    def _log(self, stage: Stage, position: Position, more: dict[str, float]) -> float:
        """Logs the mean loss since the last line, over all processes, and returns it."""
        count = int(position.loss_count)
        loss = self.policy.mean(float(position.loss_sum) / count if count else math.nan)
        record = {
            "stage": stage.name,
            "step": position.step,
            "loss": loss,
            "learning_rate": self._rate(stage, position, position.step - 1),
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
            loss, terms = self._validation_means(stage, training.wrapped, training.objective)
            position, patience = training.position, stage.settings.patience
            if loss < position.best_loss:
                position.best_loss, position.best_step, position.without_improvement = loss, position.step, 0
                if patience:
                    training.best = full_state(training.objective)
            else:
                position.without_improvement += 1
        if self.run is not None and self.policy.is_main:
            self.run.log({"stage": stage.name, "step": position.step, "validation_loss": loss, **terms})
        self.progress.note(f"{stage.name} step {position.step}: validation loss {loss:.4f} nats")

    def validation_loss(self, stage: Stage, wrapped: nn.Module) -> float:
        """Mean loss over the validation split, nats; every call sees the same noise."""
        return self._validation_means(stage, wrapped, stage.objective)[0]

    def _validation_means(
        self, stage: Stage, wrapped: nn.Module, objective: Objective
    ) -> tuple[float, dict[str, float]]:
        """`validation_loss` and the means of its terms. objective: what `wrapped` wraps."""
        assert self.validation is not None
        return validation_means(self.validation, wrapped, objective, self.policy, (self.seed, stage.name))

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
            if training is not None and self.config.on_bad_step == "rollback":
                self.snapshot = training.state()
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
                "fingerprint": self._fingerprint,
            }
            write_tensors(self.run.checkpoint, tensors | own, metadata, self.run.former_checkpoint)
        self.policy.barrier()

    @property
    def _micro_batches(self) -> list[int]:
        """Of a step of each stage, over all processes."""
        return [self.policy.world * stage.settings.accumulate for stage in self.stages]

    def _read_checkpoint(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        assert self.run is not None
        tensors, metadata = newest_checkpoint(self.run, CHECKPOINT_KIND, self.policy)
        check_metadata(metadata, [stage.name for stage in self.stages], self.run.checkpoint)
        check_fingerprint(self.run.checkpoint, metadata.get("fingerprint"), self._fingerprint)
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

    @functools.cached_property
    def _fingerprint(self) -> dict[str, Any]:
        assert self.run is not None
        return fingerprint(self.run, self.data)

    def _validation_split(self, source: DataSource) -> Split | None:
        try:
            validation = source.examples("validation")
        except DataError:
            if any(stage.settings.patience for stage in self.stages):
                raise
            return None
        return placed(validation.first(self.config.validation_examples), self.policy)

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
