"""Studies that cost nothing, in a module of their own so that worker processes can import it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from smoothgen.reproduction.study import Job, Outcome, Study


class Squares(Study):
    """Squares of numbers. Settings make single jobs slow, failing or deadly; every run leaves a line in `log`."""

    name, title, source = "squares", "Squares", "nothing of the paper"

    def __init__(self, log: Path, special: dict[str, str] | None = None, factor: int = 1, count: int = 4) -> None:
        self.log, self.special, self.factor, self.count = log, special or {}, factor, count

    def jobs(self, seeds: Sequence[int], quick: bool) -> list[Job]:
        count = 2 if quick else self.count
        settings = {str(n): {"factor": self.factor if n == 1 else 1} for n in range(count)}
        return [Job(self.name, name, seed, value) for name, value in settings.items() for seed in seeds]

    def run(self, job: Job) -> Outcome:
        with self.log.open("a") as file:
            file.write(f"{job.name} {job.seed}\n")
        kind = self.special.get(job.name)
        if kind == "fails":
            raise ValueError(f"{job.name} is no good")
        if kind == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == "slow":
            time.sleep(60.0)
        if kind == "object":
            return Outcome({"value": object()})
        value = job.settings["factor"] * int(job.name) ** 2
        threads = os.environ.get("OMP_NUM_THREADS")
        return Outcome({"value": value, "threads": threads}, {"grid": np.full((2, 3), value)})

    def present(self, outcomes: Mapping[Job, Outcome], directory: Path) -> str:
        if self.special.get("section") == "fails":
            raise KeyError("no such row")
        (directory / "squares.png").write_bytes(b"picture")
        total = sum(outcome.numbers["value"] for outcome in outcomes.values())
        arrays = sum(float(outcome.arrays["grid"].sum()) for outcome in outcomes.values())
        return f"The squares sum to {total}, the arrays to {arrays:g}.\n\n![squares](squares.png)"
