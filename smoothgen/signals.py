"""SIGTERM and Ctrl-C: as a request that a loop honours when its state is whole, and as an end at once elsewhere.

Nothing is imported here that takes time: the command line listens before it imports anything else.
"""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from typing import Any

SIGNALS: tuple[int, ...] = (signal.SIGTERM, signal.SIGINT)


class Stopped(BaseException):
    """A signal that ends the command where it is; no `except Exception` on the way may take it for a failure.

    signum: the signal. hint: what is kept and how to go on, if anything is.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum, self.hint = signum, ""

    def __str__(self) -> str:
        return f"stopped by signal {self.signum}" + (f"; {self.hint}" if self.hint else "")


def raise_stopped(signum: int, frame: Any) -> None:
    """Handles the first signal. A Ctrl-C after it kills; another SIGTERM is ignored, so that the code stays 143."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Stopped(signum)


@contextlib.contextmanager
def one_line_for_signals() -> Iterator[None]:
    """For the duration, which is that of a command, a signal ends it with one line and exit code 143 or 130."""
    try:
        with _handling(raise_stopped):
            yield
    except Stopped as stop:
        print(stop, file=sys.stderr)
        sys.exit(128 + stop.signum)


@contextlib.contextmanager
def hint(text: str) -> Iterator[None]:
    """Says, in the line about a signal that ends what is inside, what is kept and how to go on."""
    try:
        yield
    except Stopped as stop:
        stop.hint = stop.hint or text
        raise


class StopSignals:
    """signum: the signal that asked to stop, or None. A second Ctrl-C stops at once."""

    def __init__(self) -> None:
        self.signum: int | None = None
        self._before: dict[int, Any] = {}

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Records the signals for the duration; outside the main thread, which alone may listen, it does nothing.

        One that comes too late for the loop to honour is passed on at the end.
        """
        with _handling(self._record) as self._before:
            yield
        if self.signum is not None:
            signal.raise_signal(self.signum)

    def _record(self, signum: int, frame: Any) -> None:
        if self.signum is not None and signum == signal.SIGINT:
            before = self._before.get(signum)
            if callable(before):
                before(signum, frame)
            raise KeyboardInterrupt
        self.signum = signum


@contextlib.contextmanager
def _handling(handler: Any) -> Iterator[dict[int, Any]]:
    """Installs a handler, yields those before it, and restores them, unless another has taken its place meanwhile.

    A signal that is ignored (as Ctrl-C is in a shell's background jobs) stays ignored.
    """
    before: dict[int, Any] = {}
    try:
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, handler)
    except ValueError:  # not the main thread
        before.clear()
    try:
        yield before
    finally:
        for number, action in before.items():
            if signal.getsignal(number) == handler:
                signal.signal(number, action)
