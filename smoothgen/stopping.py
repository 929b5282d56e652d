"""Why a training stops before its end: a signal to one of its processes, or trouble in a stage trained elsewhere."""

from __future__ import annotations

import contextlib
import signal

from smoothgen.board import Board
from smoothgen.device import DevicePolicy
from smoothgen.errors import DistributedError, Interrupted, SmoothgenError
from smoothgen.signals import StopSignals

STOP_EVERY = 10
"""Steps after which several processes agree, at the latest, that one got a signal."""


class StopRequests:
    """Signals, and what the board of the other stages says, if there is one; all processes stop at the same step."""

    def __init__(self, policy: DevicePolicy, log_every: int, board: Board | None = None) -> None:
        self.policy, self.every, self.board = policy, min(log_every, STOP_EVERY), board
        self.signals = StopSignals()
        self.trouble: SmoothgenError | None = None

    def listening(self) -> contextlib.AbstractContextManager[None]:
        """Records signals for the duration, see `StopSignals.listening`."""
        return self.signals.listening()

    def due(self, step: int) -> bool:
        """Whether to stop after this step; several processes agree on it every few steps."""
        if self.policy.world == 1:
            return self._asked()
        return step % self.every == 0 and self.policy.any(self._asked())

    def error(self, where: str) -> SmoothgenError:
        """What to raise once the state is saved: Interrupted, or DistributedError where another stage failed."""
        where = f"{where}; the state is saved, continue with --resume"
        signum = self.signals.signum
        if self.trouble is None or signum is not None:
            return Interrupted(f"stopped by signal {signum or signal.SIGTERM} at {where}", signum or signal.SIGTERM)
        if isinstance(self.trouble, Interrupted):
            return Interrupted(f"stopped at {where} ({self.trouble})", self.trouble.signum)
        return DistributedError(f"{self.trouble}; stopped at {where}")

    def _asked(self) -> bool:
        if self.board is not None and self.trouble is None:
            self.trouble = self.board.trouble()
        return self.signals.signum is not None or self.trouble is not None
