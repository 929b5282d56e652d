"""SIGTERM and Ctrl-C as a request that a loop can honour when its state is whole."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from typing import Any


class StopSignals:
    """signum: the signal that asked to stop, or None. A second Ctrl-C stops at once."""

    def __init__(self) -> None:
        self.signum: int | None = None

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Records the signals for the duration; outside the main thread, which alone may listen, it does nothing."""
        try:
            previous = {number: signal.signal(number, self._record) for number in (signal.SIGTERM, signal.SIGINT)}
        except ValueError:
            previous = {}
        try:
            yield
        finally:
            for number, action in previous.items():
                signal.signal(number, action)

    def _record(self, signum: int, frame: Any) -> None:
        if self.signum is not None and signum == signal.SIGINT:
            raise KeyboardInterrupt
        self.signum = signum
