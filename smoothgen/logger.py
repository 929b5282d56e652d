"""Where a run is followed while it goes on: loggers, and the group of a run's loggers, which cannot harm it."""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from smoothgen.component import ComponentConfig
from smoothgen.errors import SmoothgenWarning
from smoothgen.registry import ComponentField

Status = Literal["finished", "interrupted", "failed"]
Record = dict[str, Any]
"""A line of metrics.jsonl: stage, step, and numbers by name; losses in nats per example."""


class LoggerWarning(SmoothgenWarning):
    """A logger that failed and was dropped; training goes on without it."""


class Logger(ABC):
    """Follows one run. Only the main process has loggers; every call comes from the thread that trains.

    metrics.jsonl is the truth, a logger its copy. A run that resumes goes back to its checkpoint, and what it logs from
    there comes again: `start` says which records stand, and `index` is a record's place among all of them. So does a
    stage that a bad step sends back (`on_bad_step: rollback`), with other losses: `finish`, then `start` once more.
    """

    @abstractmethod
    def start(self, config: dict[str, Any], run_dir: Path, records: Sequence[Record]) -> None:
        """Begins, or continues after a resume or a rollback.

        config: the resolved configuration as plain values. records: those that stand, empty for a new run. What the log
        holds beyond them, of a process that was killed, has to go, and what it lacks of them has to be added: `log` is
        called for later ones alone.
        """

    @abstractmethod
    def log(self, index: int, record: Record) -> None:
        """One record, right after it was written to metrics.jsonl as its line `index` (from 0)."""

    def measure(self, metrics: dict[str, Any]) -> None:  # noqa: B027  (a logger may leave it out)
        """What evaluation measured, in the form of evaluation.json, once it has."""

    def picture(self, name: str, path: Path) -> None:  # noqa: B027  (a logger may leave it out)
        """A PNG that the run left: "samples", "neighbours"."""

    def finish(self, status: Status) -> None:  # noqa: B027  (a logger may leave it out)
        """Flush and close. The last call, but where a rollback takes records back: then `start` follows."""


class LoggerConfig(ComponentConfig):
    """The configuration of a logger. It is written into the run: it must have no key for a secret."""

    interface: ClassVar[str] = "logger"

    def build(self) -> Logger:
        """The logger, not started; called before training, in every process.

        Raises DependencyError where a library is missing, ConfigError for what cannot work.
        """
        raise TypeError(f"{type(self).__name__} must define build()")


AnyLogger = Annotated[LoggerConfig, ComponentField("logger")]
"""The type of a configuration field that holds any registered logger."""


@dataclass
class Loggers:
    """The loggers of a run, by tag. They start with the first record, once it is known which ones stand.

    A logger that raises is dropped with one LoggerWarning; the run and the other loggers go on.
    """

    active: dict[str, Logger] = field(default_factory=dict)
    started: bool = False

    def start(self, config: Callable[[], dict[str, Any]], run_dir: Path, records: Sequence[Record]) -> None:
        """Starts them, unless they are."""
        if self.started or not self.active:
            return
        self.started = True
        plain = config()
        self._each("start", lambda logger: logger.start(plain, run_dir, records))

    def log(self, index: int, record: Record) -> None:
        """Passes a record on."""
        self._each("log", lambda logger: logger.log(index, record))

    def measure(self, metrics: dict[str, Any]) -> None:
        """Passes on what evaluation measured."""
        self._each("measure", lambda logger: logger.measure(metrics))

    def picture(self, name: str, path: Path) -> None:
        """Passes a picture on, if it is there."""
        if path.is_file():
            self._each("picture", lambda logger: logger.picture(name, path))

    def take_back(self) -> None:
        """Closes those that have started; they start anew, with the records that stand, before the next one."""
        self._close("interrupted")

    def finish(self, status: Status) -> None:
        """Closes those that have started, for good."""
        self._close(status)
        self.active.clear()

    def _close(self, status: Status) -> None:
        if self.started:
            self._each("finish", lambda logger: logger.finish(status))
        self.started = False

    def _each(self, what: str, call: Callable[[Logger], None]) -> None:
        for tag, logger in list(self.active.items()):
            try:
                call(logger)
            except Exception as error:  # a stranger's code and a stranger's service: training must survive both
                del self.active[tag]
                message = " ".join(f"{type(error).__name__}: {error}".split())
                warnings.warn(
                    f'logger "{tag}" failed in {what} and was dropped, training goes on: {message}',
                    LoggerWarning,
                    stacklevel=2,
                )


def build_loggers(configs: Sequence[LoggerConfig]) -> dict[str, Logger]:
    """The loggers of a configuration, by tag; a second one of a kind is numbered."""
    built: dict[str, Logger] = {}
    for config in configs:
        same = sum(1 for tag in built if tag.partition(" ")[0] == config.tag())
        built[f"{config.tag()} {same + 1}" if same else config.tag()] = config.build()
    return built


def numbers(node: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """("likelihoods/elbo/nats", -2.6), ...: every finite number below a plain value, by its path."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from numbers(value, f"{path}/{key}" if path else str(key))
    elif isinstance(node, int | float) and not isinstance(node, bool) and math.isfinite(node):
        yield path, float(node)
