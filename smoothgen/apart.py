"""Stages that do not need each other, trained at the same time, each by processes of its own.

p(x_tilde), p(x | x_tilde) and the plain baseline depend on the kernel and the data alone, so that each ends with the
very weights it would have after the others: what counts is how many micro-batches a step has.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from datetime import timedelta
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist

from smoothgen.board import PERIOD, Board
from smoothgen.checkpoint import write_atomically
from smoothgen.config import ExperimentConfig, StageName
from smoothgen.data_source import DataSource
from smoothgen.density_model import DensityModel
from smoothgen.device import DevicePolicy
from smoothgen.errors import CheckpointError, ConfigError
from smoothgen.progress import Progress
from smoothgen.run_directory import METRICS, RunDirectory
from smoothgen.smoothed_model import SmoothedModel
from smoothgen.stages import Stage, plan
from smoothgen.trainer import StageReport, Trainer

DIRECTORY = "stages"


def check_apart(
    config: ExperimentConfig, model: SmoothedModel, baseline: DensityModel | None, policy: DevicePolicy
) -> list[Stage]:
    """The stages to train apart. Raises ConfigError where they cannot be, with the reason."""
    if model.kernel.learnable:
        raise ConfigError(
            f"{config.name}: device.stages: apart trains p(x_tilde) and p(x | x_tilde) independently, but the kernel's "
            "sigma is learned from both; use stages: together, or a fixed sigma"
        )
    stages = plan(config, model, baseline)
    if len(stages) < 2:
        raise ConfigError(
            f'{config.name}: device.stages: apart has a single stage to train, "{stages[0].name}": inverter '
            f'"{config.inverter.type}" learns nothing; use stages: together'
        )
    if policy.world < len(stages):
        names = ", ".join(stage.name for stage in stages)
        raise ConfigError(
            f"{config.name}: device.stages: apart needs a process for each of {len(stages)} stages ({names}), got "
            f"{policy.world}; start with torchrun --nproc-per-node {len(stages)}, or use stages: together"
        )
    for stage, ranks in zip(stages, groups(policy.world, len(stages)), strict=True):
        stage.check_divisible(len(ranks))
    return stages


def groups(processes: int, count: int) -> list[list[int]]:
    """The ranks 0 .. processes - 1 in `count` groups, in order, the first of them one larger where it does not come out
    even."""
    bounds = [(processes * index + count - 1) // count for index in range(count + 1)]
    return [list(range(first, last)) for first, last in itertools.pairwise(bounds)]


def check_continued(policy: DevicePolicy, run: RunDirectory) -> None:
    """Raises CheckpointError where a run was begun with the stages together and would go on apart, or the reverse."""
    apart = (run.path / DIRECTORY).exists()
    if not run.has_checkpoint and apart and policy.config.stages == "together":
        raise CheckpointError(f"{run.path} was begun with device.stages=apart; continue it with the same")
    if run.has_checkpoint and not apart and policy.config.stages == "apart":
        raise CheckpointError(f"{run.path} was begun with device.stages=together; continue it with the same")


class ApartTrainer:
    """Trains the stages of an experiment apart: this process one of them. All end with the weights of all.

    A stage's log and checkpoints lie in `stages/NAME` of the run; the log of the whole is put together at the end.
    progress: shown by the first process of each group; on a terminal by the main one alone, for all.
    """

    def __init__(
        self,
        config: ExperimentConfig,
        model: SmoothedModel,
        baseline: DensityModel | None,
        source: DataSource,
        policy: DevicePolicy,
        run: RunDirectory | None,
        progress: bool,
    ) -> None:
        self.policy, self.source, self.run = policy, source, run
        self.stages = check_apart(config, model, baseline, policy)
        self.ranks = groups(policy.world, len(self.stages))
        timeout = timedelta(seconds=policy.config.timeout)
        handles = [dist.new_group(ranks, timeout=timeout) for ranks in self.ranks]
        index = next(index for index, ranks in enumerate(self.ranks) if policy.rank in ranks)
        self.stage = self.stages[index]
        group = policy.of_group(self.ranks[index], handles[index])
        self.progress = Progress(enabled=progress and group.is_main)
        if not policy.is_main and self.progress.console.is_terminal:
            self.progress.enabled = False
        trainees = {"model": model} | ({} if baseline is None else {"baseline": baseline})
        own = None if run is None else self._directory(run.path, self.stage.name, group)
        settings, seed = config.trainer, config.seed
        self.board = Board(policy.store, self.stage.name, [stage.name for stage in self.stages], policy.config.timeout)
        self.trainer = Trainer(settings, seed, trainees, [self.stage], source, group, own, self.progress, self.board)
        self._whole = partial(Trainer, settings, seed, trainees, self.stages, source, policy.alone(), run)

    @property
    def reports(self) -> dict[StageName, StageReport]:
        """What the stage of this process took."""
        return self.trainer.reports

    def train(self, resume: bool = False) -> None:
        """Trains this process's stage, waits for the others, and takes over their weights.

        Raises what `Trainer.train` does, and DistributedError or Interrupted where another stage ended early.
        """
        if resume and self.run is not None and self.run.has_checkpoint:
            self._whole().train(resume=True)  # which has nothing left to do
            return
        try:
            part = self.trainer.run
            if part is not None and self.trainer.policy.is_main and not (resume and part.has_checkpoint):
                part.rewind(0)
            self.trainer.train(resume)
        except BaseException as error:
            with contextlib.suppress(dist.DistError):  # the store may be what was lost
                self.board.fail(error)
            raise
        self.board.finish()
        self._wait()
        self._share_weights()
        if self.run is not None and self.policy.is_main:
            lines = [(self.run.path / DIRECTORY / stage.name / METRICS).read_bytes() for stage in self.stages]
            write_atomically(self.run.path / METRICS, b"".join(lines))
            self.run.records = len(self.run.metrics())
            self._whole().save_finished()
        self.policy.barrier()

    @staticmethod
    def _directory(run: Path, stage: str, group: DevicePolicy) -> RunDirectory:
        directory = RunDirectory(run / DIRECTORY / stage)
        if group.is_main:
            directory.path.mkdir(parents=True, exist_ok=True)
        group.barrier()
        return directory

    def _wait(self) -> None:
        """Until the other stages are done, however long, as long as they live."""
        for name in self.board.others:
            with contextlib.ExitStack() as shown:
                bar = None
                while not self.board.done(name):
                    trouble = self.board.trouble()
                    if trouble is not None:
                        raise trouble
                    at = self.board.progress(name)
                    if at is not None and bar is None:
                        bar = shown.enter_context(self.progress.stage(f"waiting for {name}", at[1], at[0]))
                    elif at is not None and bar is not None:
                        bar.update(at[0], "")
                    time.sleep(PERIOD)

    @torch.no_grad()
    def _share_weights(self) -> None:
        """Every stage's weights, from the first process that trained it to all."""
        for stage, ranks in zip(self.stages, self.ranks, strict=True):
            for tensor in stage.objective.state_dict().values():
                value = (tensor.to(torch.uint8) if tensor.dtype == torch.bool else tensor).contiguous()
                dist.broadcast(value, src=ranks[0])
                tensor.copy_(value)
            stage.objective.eval()
