"""What groups of processes that train different stages tell each other: how far they are, and that one failed."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

from smoothgen.errors import DistributedError, Interrupted, SmoothgenError

PERIOD = 0.5
"""Seconds between two looks at the board."""


class Board:
    """One stage's view of the others, through the key-value store in which the processes met.

    Nothing here waits for another process, so stages may take as long as they like; a stage that gives no sign of
    life for `timeout` seconds is taken for dead.
    """

    def __init__(self, store: Any, stage: str, stages: Sequence[str], timeout: float) -> None:
        self.store, self.stage, self.timeout = store, stage, timeout
        self.others = [name for name in stages if name != stage]
        self._looked = 0.0
        self._beats: dict[str, tuple[str, float]] = {name: ("", time.monotonic()) for name in self.others}

    def tell(self, step: int, steps: int) -> None:
        """Shows the others how far this stage is."""
        self._set("progress", [step, steps])

    def fail(self, error: BaseException) -> None:
        """Says that this stage ends without having finished, and why."""
        signum = error.signum if isinstance(error, Interrupted) else None
        self._set("failed", {"why": str(error) or type(error).__name__, "signum": signum})

    def finish(self) -> None:
        """Says that this stage is done."""
        self._set("done", True)

    def trouble(self) -> SmoothgenError | None:
        """Why this stage should stop: another one failed, or is silent. Looks twice a second, and is cheap between."""
        now = time.monotonic()
        if now - self._looked < PERIOD:
            return None
        self._looked = now
        self._set("beat", now)
        for name in self.others:
            failed = self._get(name, "failed")
            if failed is not None and failed["signum"]:
                return Interrupted(f"stage {name} was {failed['why']}", failed["signum"])
            if failed is not None:
                return DistributedError(f"stage {name} failed on other processes ({failed['why']})")
            beat = str(self._get(name, "beat"))
            if beat != self._beats[name][0]:
                self._beats[name] = (beat, now)
            elif now - self._beats[name][1] > self.timeout and not self.done(name):
                return DistributedError(f"the processes of stage {name} gave no sign of life for {self.timeout:g} s")
        return None

    def done(self, name: str) -> bool:
        """Whether another stage has finished."""
        return self._get(name, "done") is True

    def progress(self, name: str) -> tuple[int, int] | None:
        """(step, steps) of another stage; None before it has told."""
        told = self._get(name, "progress")
        return None if told is None else (told[0], told[1])

    def status(self) -> str:
        """The other stages' progress in a few words."""
        told = {name: self.progress(name) for name in self.others}
        return "".join(f"; {name} {at[0]}/{at[1]}" for name, at in told.items() if at is not None)

    def _set(self, what: str, value: Any) -> None:
        self.store.set(f"smoothgen/{self.stage}/{what}", json.dumps(value))

    def _get(self, name: str, what: str) -> Any:
        key = f"smoothgen/{name}/{what}"
        return json.loads(self.store.get(key)) if self.store.check([key]) else None
