"""Weights & Biases: a run in its format in the run directory, or online. Needs the extra `wandb`."""

from __future__ import annotations

import re
import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from smoothgen.checkpoint import write_json
from smoothgen.documents import read_json
from smoothgen.errors import ConfigError, RunDirectoryError
from smoothgen.extras import required
from smoothgen.logger import Logger, LoggerConfig, Record, Status, numbers

FOLDER, IDENTITY = "wandb", "smoothgen-run.json"


class WandbLogger(Logger):
    """Scalars "STAGE/NAME" over "STAGE/step", a summary "test/...", pictures, the configuration.

    wandb's own step is the place of a record in metrics.jsonl. A resumed run keeps its identity. Offline, its file is
    written anew from the records that stand. Online, a server keeps what it has: a resumed run logs the very same
    losses again (training is a pure function of the seed), so records up to the server's step are left out. A stage
    that went back to its checkpoint logs other ones, which a server would refuse: the records are sent as a new run.

    Nothing of the machine, the environment, the code or the terminal is recorded, so that no secret can be.
    """

    def __init__(self, library: ModuleType, config: WandbConfig) -> None:
        self.library, self.config = library, config
        self.run: Any = None
        self.known = 0

    def start(self, config: dict[str, Any], run_dir: Path, records: Sequence[Record]) -> None:
        folder = run_dir / FOLDER
        folder.mkdir(exist_ok=True)
        offline = self.config.mode == "offline"
        identity = _identity(folder, anew=self.run is not None and not offline)
        if offline:
            for old in folder.glob(f"offline-run-*-{identity}"):
                shutil.rmtree(old)
        settings = self.library.Settings(
            silent=True, console="off", save_code=False, disable_code=True, disable_git=True, x_disable_meta=True
        )
        self.run = self.library.init(
            project=self.config.project,
            entity=self.config.entity,
            group=self.config.group,
            name=run_dir.resolve().name,
            id=identity,
            resume=None if offline else "allow",
            mode=self.config.mode,
            dir=str(run_dir),
            config=config,
            settings=settings,
        )
        self.known = 0 if offline else int(self.run.step)
        for stage in ("density", "inverter", "joint", "baseline"):
            self.run.define_metric(f"{stage}/*", step_metric=f"{stage}/step")
        for index, record in enumerate(records):
            self.log(index, record)

    def log(self, index: int, record: Record) -> None:
        if index < self.known:
            return
        stage = record.get("stage", "run")
        named = {f"{stage}/{name}": value for name, value in record.items() if isinstance(value, int | float)}
        self.run.log(named, step=index)

    def measure(self, metrics: dict[str, Any]) -> None:
        self.run.summary.update({f"test/{name}": value for name, value in numbers(metrics)})

    def picture(self, name: str, path: Path) -> None:
        self.run.log({name: self.library.Image(str(path))})

    def finish(self, status: Status) -> None:
        self.run.finish(exit_code=0 if status == "finished" else 1)


class WandbConfig(LoggerConfig):
    """Weights & Biases; needs the extra `wandb`.

    mode: offline keeps everything in the folder `wandb` of the run, for `wandb sync` later; online sends it, and needs
    `wandb login` first. There is no key for a password: wandb keeps its own, outside the run. project, entity, group:
    where the run appears.
    """

    type: Literal["wandb"] = "wandb"
    mode: Literal["offline", "online"] = "offline"
    project: str = "smoothgen"
    entity: str | None = None
    group: str | None = None

    def build(self) -> WandbLogger:
        library = required("wandb", 'logger "wandb"', "wandb")
        if self.mode == "online" and not library.api.api_key:
            raise ConfigError(
                'logger "wandb": mode online needs a login; run "wandb login" first, or use mode: offline'
            )
        return WandbLogger(library, self)


def _identity(folder: Path, anew: bool = False) -> str:
    """The run's identity at wandb: kept in the run, so that a resumed one continues it."""
    path = folder / IDENTITY
    if path.is_file() and not anew:
        try:
            return re.fullmatch(r"[0-9a-z]{1,64}", read_json(path)["id"]).group()  # type: ignore[union-attr]
        except (ValueError, OSError, KeyError, TypeError, AttributeError) as error:
            raise RunDirectoryError(f"{path} is damaged; remove it, and the run is a new one at wandb") from error
    identity = uuid.uuid4().hex[:12]
    write_json(path, {"id": identity})
    return identity
