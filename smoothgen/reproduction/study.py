"""One table or figure of the evidence: what has to be computed, and how it is shown."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from numpy.typing import NDArray


@dataclass(frozen=True)
class Job:
    """One training or computation, a pure function of its fields, so that its outcome can be kept and found again.

    study: by default the study's name; equal jobs of several studies run once. name: which row or curve point it is,
    unique in its study together with the seed. settings: plain JSON values.
    """

    study: str
    name: str
    seed: int
    settings: dict[str, Any] = field(hash=False, default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What a job found. numbers: plain JSON values for the tables. arrays: for the figures."""

    numbers: dict[str, Any]
    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)


class Study(ABC):
    """Jobs that can run in any order and in any process, and the section of the page that is made of their outcomes.

    name: what `smoothgen reproduce NAME` calls it. title: the heading of its section. source: what of the paper
    (arXiv 2103.15089) it reproduces, or that it goes beyond it.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    source: ClassVar[str]

    @abstractmethod
    def jobs(self, seeds: Sequence[int], quick: bool) -> list[Job]:
        """What to compute, for every seed. quick: the same code paths with a fraction of the steps."""

    @abstractmethod
    def run(self, job: Job) -> Outcome:
        """Computes one job: in a process of its own, with one thread."""

    @abstractmethod
    def present(self, outcomes: Mapping[Job, Outcome], directory: Path) -> str:
        """The section below the heading, in Markdown. Pictures are written to `directory` and named relative to it."""
