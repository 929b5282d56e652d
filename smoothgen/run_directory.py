"""A run's folder: one writer, its configuration, its metrics, its checkpoint."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from smoothgen import __version__
from smoothgen.checkpoint import write_atomically, write_json
from smoothgen.config import ExperimentConfig, read_yaml
from smoothgen.errors import RunDirectoryError
from smoothgen.registry import installed

CHECKPOINT, METRICS, EXPERIMENT = "checkpoint.safetensors", "metrics.jsonl", "experiment.yaml"
EVALUATION, SIGMA_SEARCH = "evaluation.json", "sigma_search.json"


class RunDirectory:
    """experiment.yaml, environment.json, metrics.jsonl, checkpoint.safetensors, and what evaluation adds."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records = 0

    @property
    def checkpoint(self) -> Path:
        """Where the state of an unfinished or finished training is."""
        return self.path / CHECKPOINT

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
        from omegaconf import OmegaConf

        text = OmegaConf.to_yaml(OmegaConf.create(config.model_dump(mode="json")))
        write_atomically(self.path / EXPERIMENT, text.encode())
        write_json(self.path / "environment.json", environment())

    def stored_config(self) -> ExperimentConfig:
        """The resolved configuration of the run that lies here."""
        path = self.path / EXPERIMENT
        if not path.is_file():
            raise RunDirectoryError(f"{self.path} holds no run ({EXPERIMENT} is missing); give a run's directory")
        return ExperimentConfig.model_validate(read_yaml(path))

    def log(self, record: dict[str, Any]) -> None:
        """Appends one line to metrics.jsonl."""
        try:
            with (self.path / METRICS).open("a") as file:
                file.write(json.dumps(record) + "\n")
        except OSError as error:
            raise RunDirectoryError(f"cannot write {self.path / METRICS}: {error.strerror}") from error
        self.records += 1

    def rewind(self, records: int) -> None:
        """Drops the metrics logged after the checkpoint that training resumes from."""
        path = self.path / METRICS
        if path.is_file():
            lines = path.read_text().splitlines(keepends=True)[:records]
            write_atomically(path, "".join(lines).encode())
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
        """The record of the search for sigma, or None where there was none."""
        path = self.path / SIGMA_SEARCH
        if not path.is_file():
            return None
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return record

    def metrics(self) -> list[dict[str, Any]]:
        """Everything logged so far."""
        path = self.path / METRICS
        return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def versions() -> dict[str, str]:
    """What has to be alike where several processes compute one result."""
    plugins = {plugin.name: plugin.version for plugin in installed().plugins}
    return {"smoothgen": __version__, "torch": str(torch.__version__)} | plugins


def environment() -> dict[str, Any]:
    """Versions of smoothgen, python, torch and every loaded plugin, and the command."""
    packages = ("torch", "numpy", "pydantic", "pluggy", "safetensors", "normflows")
    return {
        "smoothgen": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: importlib.metadata.version(name) for name in packages},
        "threads": torch.get_num_threads(),
        "plugins": {plugin.name: plugin.version for plugin in installed().plugins},
        "command": sys.argv,
    }
