"""A run's folder: one writer, its configuration, its metrics, its checkpoint."""

from __future__ import annotations

import contextlib
import importlib.metadata
import itertools
import json
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Self

import torch
from filelock import FileLock, Timeout
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from smoothgen import __version__
from smoothgen.checkpoint import finite, write_atomically, write_json
from smoothgen.component import describe
from smoothgen.config import ExperimentConfig, read_yaml, validated
from smoothgen.documents import read_json, read_json_lines, to_yaml
from smoothgen.errors import Interrupted, RunDirectoryError
from smoothgen.logger import Logger, Loggers, Status
from smoothgen.registry import installed
from smoothgen.regular_file import is_regular, open_regular

CHECKPOINT, FORMER, METRICS = "checkpoint.safetensors", "checkpoint.previous.safetensors", "metrics.jsonl"
EXPERIMENT = "experiment.yaml"
EVALUATION, SIGMA_SEARCH, ENVIRONMENT = "evaluation.json", "sigma_search.json", "environment.json"


class RunDirectory:
    """experiment.yaml, environment.json, metrics.jsonl, checkpoint.safetensors, and what evaluation adds."""

    def __init__(self, path: Path, loggers: dict[str, Logger] | None = None) -> None:
        self.path = path
        self.records = 0
        self.loggers = Loggers(loggers or {})

    @property
    def checkpoint(self) -> Path:
        """Where the state of an unfinished or finished training is."""
        return self.path / CHECKPOINT

    @property
    def former_checkpoint(self) -> Path:
        """The checkpoint before that: what is left should the newest be damaged."""
        return self.path / FORMER

    @property
    def has_checkpoint(self) -> bool:
        """Whether there is something to resume from."""
        return self.checkpoint.exists() or self.former_checkpoint.exists()

    def set_aside(self) -> Path:
        """Renames a damaged checkpoint, so that nothing overwrites it and nothing takes it for whole."""
        aside = self.checkpoint.with_name("checkpoint.damaged.safetensors")
        self.checkpoint.replace(aside)
        return aside

    @property
    def exists(self) -> bool:
        """Whether a run was begun here."""
        return (self.path / EXPERIMENT).exists()

    @contextlib.contextmanager
    def writing(self, resume: bool) -> Iterator[None]:
        """Holds the folder's lock. Raises RunDirectoryError where it is in use, taken, or cannot be written."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.path / ".lock")
            lock.acquire(timeout=0)
        except Timeout:
            raise RunDirectoryError(
                f"{self.path} is being written by another process; wait for it, or choose another run directory"
            ) from None
        except OSError as error:
            raise RunDirectoryError(f"cannot use {self.path} as run directory: {error.strerror or error}") from error
        try:
            if not resume and self.exists:
                raise RunDirectoryError(
                    f"{self.path} already holds a run; continue it with --resume, or choose another run directory"
                )
            yield
        finally:
            lock.release()

    def describe(self, config: ExperimentConfig) -> None:
        """Writes the resolved configuration and the versions of everything that took part."""
        text = to_yaml(config.model_dump(mode="json"))
        write_atomically(self.path / EXPERIMENT, text.encode())
        write_json(self.path / ENVIRONMENT, environment())

    def stored_config(self) -> ExperimentConfig:
        """The resolved configuration of the run that lies here."""
        path = self.path / EXPERIMENT
        if not is_regular(path):
            raise RunDirectoryError(f"{self.path} holds no run ({EXPERIMENT} is missing); give a run's directory")
        return validated(read_yaml(path), str(path))

    def log(self, record: dict[str, Any]) -> None:
        """Appends one line to metrics.jsonl, and passes it to the loggers."""
        self._start_loggers()
        record = finite(record)
        try:
            with (self.path / METRICS).open("a") as file:
                file.write(json.dumps(record) + "\n")
        except OSError as error:
            raise RunDirectoryError(f"cannot write {self.path / METRICS}: {error.strerror}") from error
        self.records += 1
        self.loggers.log(self.records - 1, record)

    def _start_loggers(self) -> None:
        """Starts the loggers with the records that stand. They are known once training has begun or was restored."""
        if self.loggers.active and not self.loggers.started:
            standing = self.metrics()[: self.records]
            self.loggers.start(lambda: self.stored_config().model_dump(mode="json"), self.path, standing)

    def publish(self, metrics: dict[str, Any]) -> None:
        """Passes what was measured, and the run's pictures, to the loggers."""
        self._start_loggers()
        self.loggers.measure(metrics)
        for name in ("samples", "neighbours"):
            self.loggers.picture(name, self.path / f"{name}.png")

    @contextlib.contextmanager
    def logging(self) -> Iterator[None]:
        """Closes the loggers at the end, and tells them how the run ended."""
        status: Status = "failed"
        try:
            yield
            status = "finished"
        except Interrupted:
            status = "interrupted"
            raise
        finally:
            self.loggers.finish(status)

    def rewind(self, records: int) -> None:
        """Drops the metrics logged after the checkpoint that training goes back to, from the loggers too."""
        if records < self.records:
            self.loggers.take_back()
        path = self.path / METRICS
        if path.is_file():
            with _readable(path), open_regular(path) as file:
                lines = list(itertools.islice(file, records))
            write_atomically(path, b"".join(lines))
        self.records = records

    def write_metrics(self, metrics: dict[str, Any]) -> None:
        """Writes what evaluation measured."""
        write_json(self.path / EVALUATION, metrics)

    def write_search(self, record: dict[str, Any] | None) -> None:
        """Keeps how far the search for sigma is; None forgets an older one."""
        if record is None:
            (self.path / SIGMA_SEARCH).unlink(missing_ok=True)
        else:
            write_json(self.path / SIGMA_SEARCH, record)

    def search(self) -> dict[str, Any] | None:
        """The record of the search for sigma, or None where there was none. Raises RunDirectoryError if damaged."""
        path = self.path / SIGMA_SEARCH
        if not is_regular(path):
            return None
        with _readable(path):
            record = _record(read_json(path))
            SearchRecord.model_validate(record)
            return record

    def evaluation(self) -> dict[str, Any]:
        """What `write_metrics` wrote. Raises RunDirectoryError where it is not there or damaged."""
        with _readable(self.path / EVALUATION):
            return _record(read_json(self.path / EVALUATION))

    def metrics(self) -> list[dict[str, Any]]:
        """Everything logged so far. Raises RunDirectoryError where a line is damaged, but for a last one cut short."""
        path = self.path / METRICS
        if not is_regular(path):
            return []
        with _readable(path):
            return [LogRecord.model_validate(line).model_dump() for line in read_json_lines(path)]


class LogRecord(BaseModel):
    """A line of metrics.jsonl: numbers, by what they are of, at a step of a stage."""

    model_config = ConfigDict(extra="allow", strict=True)
    __pydantic_extra__: dict[str, float | int | str | None] = Field(init=False)

    stage: str
    step: NonNegativeInt


class SearchedRung(BaseModel):
    """A rung of the search for sigma, as `successive_halving.Rung` was written."""

    model_config = ConfigDict(extra="forbid", strict=True)

    steps: PositiveInt
    candidates: list[PositiveFloat]
    scores: list[float | None]
    behind: list[float | None]
    stderr: list[float | None]
    seconds: float

    @model_validator(mode="after")
    def _as_many(self) -> Self:
        if len({len(each) for each in (self.candidates, self.scores, self.behind, self.stderr)}) != 1:
            raise ValueError(f"{len(self.candidates)} candidates need as many scores")
        return self


class SearchRecord(BaseModel):
    """sigma_search.json: see `SigmaSearch.run`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    sigma: PositiveFloat
    finished: bool
    winner: PositiveFloat
    median: PositiveFloat
    candidates: Annotated[list[PositiveFloat], Field(min_length=2)]
    rungs: list[SearchedRung]


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turns what a damaged or foreign file raises into one line that names it."""
    try:
        yield
    except (ValueError, OSError) as error:
        reason = describe(error) if isinstance(error, ValidationError) else getattr(error, "strerror", None) or error
        raise RunDirectoryError(f"{path} is damaged: {reason}; restore it from a copy, or train again") from error


def _record(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"expected keys and values, got {type(value).__name__}")
    return value


def versions() -> dict[str, str]:
    """What has to be alike where several processes compute one result."""
    return {"smoothgen": __version__, "torch": str(torch.__version__)} | _plugin_versions()


def _plugin_versions() -> dict[str, str]:
    return {plugin.name: plugin.version for plugin in installed().plugins}


def environment() -> dict[str, Any]:
    """Versions of smoothgen, python, torch and every loaded plugin, and the command."""
    packages = ("torch", "numpy", "pydantic", "pluggy", "safetensors", "normflows")
    return {
        "smoothgen": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: importlib.metadata.version(name) for name in packages},
        "threads": torch.get_num_threads(),
        "plugins": _plugin_versions(),
        "command": sys.argv,
    }
