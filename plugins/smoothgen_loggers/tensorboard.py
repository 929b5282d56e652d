"""TensorBoard: event files in the run directory. Needs the extra `tensorboard`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
from PIL import Image
from pydantic import PositiveInt

from smoothgen.extras import required
from smoothgen.logger import Logger, LoggerConfig, Record, Status, numbers

FOLDER, EVENTS = "tensorboard", "events.out.tfevents.*"


class TensorBoardLogger(Logger):
    """Scalars "STAGE/NAME" over the stage's own steps, "test/..." for what was measured, pictures, the configuration.

    After a resume or a rollback the event files are written anew from the records that stand. TensorBoard's own way,
    `purge_step`, knows one step for all tags, but every stage counts its own; and a killed process takes what it had
    not yet flushed with it, which metrics.jsonl still has.
    """

    def __init__(self, library: ModuleType, flush_seconds: int) -> None:
        self.library, self.flush_seconds = library, flush_seconds
        self.writer: Any = None

    def start(self, config: dict[str, Any], run_dir: Path, records: Sequence[Record]) -> None:
        folder = run_dir / FOLDER
        for old in folder.glob(EVENTS):
            old.unlink()
        self.writer = self.library.SummaryWriter(str(folder), flush_secs=self.flush_seconds)
        self.writer.add_text("configuration", _indented(config))
        for index, record in enumerate(records):
            self.log(index, record)

    def log(self, index: int, record: Record) -> None:
        stage, step = record.get("stage", "run"), record.get("step", index)
        for name, value in record.items():
            if name not in ("stage", "step") and isinstance(value, int | float):
                self.writer.add_scalar(f"{stage}/{name}", value, step)

    def measure(self, metrics: dict[str, Any]) -> None:
        for name, value in numbers(metrics):
            self.writer.add_scalar(f"test/{name}", value, 0)

    def picture(self, name: str, path: Path) -> None:
        with Image.open(path) as image:
            self.writer.add_image(name, np.asarray(image.convert("RGB")), 0, dataformats="HWC")

    def finish(self, status: Status) -> None:
        self.writer.close()


class TensorBoardConfig(LoggerConfig):
    """TensorBoard's event files, in the folder `tensorboard` of the run; needs the extra `tensorboard`.

    flush_seconds: how often what was logged is written to disk.
    """

    type: Literal["tensorboard"] = "tensorboard"
    flush_seconds: PositiveInt = 30

    def build(self) -> TensorBoardLogger:
        module = required("torch.utils.tensorboard", 'logger "tensorboard"', "tensorboard", "tensorboard")
        return TensorBoardLogger(module, self.flush_seconds)


def _indented(config: dict[str, Any]) -> str:
    """JSON as a block of Markdown's code."""
    return "\n".join(f"    {line}" for line in json.dumps(config, indent=2, ensure_ascii=False).splitlines())
