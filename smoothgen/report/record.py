"""What a run directory holds, read without trust and without a model: a run may be unfinished, damaged or foreign."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from smoothgen.checkpoint import WEIGHTS_FILE
from smoothgen.config import read_yaml
from smoothgen.documents import parse_json, read_json
from smoothgen.errors import RunDirectoryError
from smoothgen.limits import LOG_BYTES
from smoothgen.regular_file import is_regular, read_bytes
from smoothgen.run_directory import ENVIRONMENT, EVALUATION, EXPERIMENT, METRICS, SIGMA_SEARCH
from smoothgen.successive_halving import Rung


@dataclass(frozen=True)
class RunRecord:
    """A run as plain values.

    label: what the page calls it, different for every run of a page. config: experiment.yaml, not validated, since its
    plugins may not be installed. metrics: the lines of metrics.jsonl. evaluation, environment: empty where missing.
    trained: whether a model was saved. notes: what is missing or unreadable, a sentence each.
    """

    path: Path
    label: str
    config: dict[str, Any]
    environment: dict[str, Any]
    metrics: tuple[dict[str, Any], ...]
    evaluation: dict[str, Any]
    search: dict[str, Any] | None
    trained: bool
    notes: tuple[str, ...] = ()

    @property
    def status(self) -> str:
        """How far the run is, in a few words."""
        if self.evaluation:
            return "finished"
        if self.trained:
            return "trained, not measured"
        steps = [record for record in self.metrics if isinstance(record.get("step"), int)]
        if not steps:
            return "searching for sigma" if self.search and not self.search.get("finished") else "not begun"
        last = steps[-1]
        total = self._steps_of(str(last.get("stage")))
        return f"unfinished: stage {last.get('stage')}, step {last['step']}" + (f" of {total}" if total else "")

    def _steps_of(self, stage: str) -> Any:
        trainer = self.config.get("trainer")
        if not isinstance(trainer, dict):
            return None
        own = trainer.get(stage)
        changed = own.get("max_steps") if isinstance(own, dict) else None
        return changed or trainer.get("max_steps")


def read_runs(paths: Sequence[Path]) -> list[RunRecord]:
    """The runs in these directories, each with a label of its own.

    A directory of `compare`, with a run for every seed below it, stands for those runs. Raises RunDirectoryError where
    there is no run.
    """
    directories: list[Path] = []
    for path in paths:
        seeds = sorted(path.glob(f"seed-*/{EXPERIMENT}"), key=lambda file: (len(file.parent.name), file.parent.name))
        found = [path] if is_regular(path / EXPERIMENT) or not seeds else [file.parent for file in seeds]
        directories += [directory for directory in found if directory.resolve() not in map(Path.resolve, directories)]
    return [
        replace(read_run(directory), label=label)
        for directory, label in zip(directories, _labels(directories), strict=True)
    ]


def read_run(path: Path) -> RunRecord:
    """The run in a directory. Raises RunDirectoryError where there is none, ConfigError for unreadable YAML."""
    if not is_regular(path / EXPERIMENT):
        raise RunDirectoryError(f"{path} holds no run ({EXPERIMENT} is missing); give a run's directory")
    notes: list[str] = []
    environment = _read_json(path / ENVIRONMENT, notes)
    evaluation = _read_json(path / EVALUATION, notes)
    search = _search(_read_json(path / SIGMA_SEARCH, notes), notes)
    metrics = _read_lines(path / METRICS, notes)
    trained = is_regular(path / WEIGHTS_FILE)
    if not trained:
        notes.append("Training has not ended, so there is no model yet: no samples, no densities, no likelihoods.")
    elif not evaluation:
        notes.append(f"{EVALUATION} is missing: the run was not measured.")
    config = read_yaml(path / EXPERIMENT)
    return RunRecord(path, path.name, config, environment, metrics, evaluation, search, trained, tuple(notes))


def _labels(directories: Sequence[Path]) -> list[str]:
    """The folders' names, with as much of the path before them as tells them apart."""
    parts = [directory.resolve().parts for directory in directories]
    most = max((len(part) for part in parts), default=1)
    for length in range(1, most + 1):
        labels = ["/".join(part[-length:]) for part in parts]
        if len(set(labels)) == len(labels):
            return labels
    return [str(directory) for directory in directories]


def _read_json(path: Path, notes: list[str]) -> dict[str, Any]:
    if not is_regular(path):
        return {}
    try:
        content = read_json(path)
    except (OSError, ValueError):
        content = None
    if not isinstance(content, dict):
        notes.append(f"{path.name} cannot be read.")
        return {}
    return content


def _search(record: dict[str, Any], notes: list[str]) -> dict[str, Any] | None:
    """The record of a search for sigma, where it is one."""
    if not record:
        return None
    try:
        rungs = [Rung.restored(values) for values in record["rungs"]]
        complete = all(len(rung.candidates) == len(rung.scores) for rung in rungs) and len(record["candidates"]) > 0
    except (KeyError, TypeError):
        complete = False
    if not complete:
        notes.append(f"{SIGMA_SEARCH} cannot be read.")
    return record if complete else None


def _read_lines(path: Path, notes: list[str]) -> tuple[dict[str, Any], ...]:
    """The records of metrics.jsonl; a line that was cut short is left out, and said."""
    if not is_regular(path):
        notes.append(f"{path.name} is missing: nothing was logged yet.")
        return ()
    try:
        lines = read_bytes(path, LOG_BYTES).decode("utf-8", errors="replace").splitlines()
    except OSError:
        notes.append(f"{path.name} cannot be read.")
        return ()
    records, bad = [], 0
    for line in lines:
        try:
            record = parse_json(line, finite=False)
        except ValueError:
            record = None
        if isinstance(record, dict):
            records.append(record)
        else:
            bad += 1
    if bad:
        notes.append(f"{bad} lines of {path.name} cannot be read.")
    return tuple(records)
