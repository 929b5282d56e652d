"""What a person sees while a run goes on: a bar with an ETA on a terminal, lines elsewhere."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

_listener: ContextVar[Callable[[float], None] | None] = ContextVar("smoothgen_progress", default=None)


def report(share: float) -> None:
    """Says how much of a long computation (a sample, say) is done, 0 to 1, to whoever is `listening`."""
    listener = _listener.get()
    if listener is not None:
        listener(share)


@contextlib.contextmanager
def listening(listener: Callable[[float], None]) -> Iterator[None]:
    """For the duration, `report` calls the listener."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def piece(index: int, count: int) -> contextlib.AbstractContextManager[None]:
    """For the duration, the share that is reported is that of one of `count` pieces of a longer computation."""
    whole = _listener.get()
    if whole is None:
        return contextlib.nullcontext()
    return listening(lambda share: whole((index + share) / count))


class Bar:
    """One stage's bar."""

    def __init__(self, bars: Bars | None, task: TaskID | None) -> None:
        self.bars, self.task = bars, task

    def update(self, completed: int, status: str) -> None:
        """Moves the bar and shows a short status beside it."""
        if self.bars is not None and self.task is not None:
            self.bars.update(self.task, completed=completed, status=status)


class Progress:
    """Bars and notes on standard error; silent when not enabled."""

    def __init__(self, enabled: bool = True, console: Console | None = None) -> None:
        self.enabled = enabled
        self.console = console or Console(stderr=True)

    @contextlib.contextmanager
    def stage(self, title: str, total: int, completed: int = 0, period: float = 30.0) -> Iterator[Bar]:
        """A bar for one stage of the work. period: seconds over which the ETA averages."""
        if not self.enabled:
            yield Bar(None, None)
            return
        if not self.console.is_terminal:
            self.console.print(f"{title}: {total - completed} steps", highlight=False)
            yield Bar(None, None)
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[status]}"),
            TimeElapsedColumn(),
            TextColumn("eta"),
            TimeRemainingColumn(),
        )
        with Bars(*columns, console=self.console, speed_estimate_period=period) as bars:
            yield Bar(bars, bars.add_task(title, total=total, completed=completed, status=""))

    @contextlib.contextmanager
    def shares(self, title: str) -> Iterator[None]:
        """For the duration, shows what is reported of a long computation. Several of them fill the bar again."""
        if not self.console.is_terminal:
            yield
            return
        with self.stage(title, 1000) as bar, listening(lambda share: bar.update(round(1000 * share), "")):
            yield

    def note(self, line: str) -> None:
        """One line, where there is no bar to show the same."""
        if self.enabled and not self.console.is_terminal:
            self.console.print(line, highlight=False, markup=False, soft_wrap=True)
