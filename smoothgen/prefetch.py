"""Batches read ahead of the step that asks for them, by one thread in the background."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

Request = TypeVar("Request")
Answer = TypeVar("Answer")
AHEAD = 4
"""How many answers are ready, or on their way."""


class Prefetch(Generic[Request, Answer]):
    """Answers requests, and those that follow before they are made.

    answer: a pure function, called in one other thread, a call at a time. after: which request probably follows.
    Only speed depends on the guess. What `answer` raises is raised by the call that asks for it, and by no other.
    """

    def __init__(self, answer: Callable[[Request], Answer], after: Callable[[Request], Request]) -> None:
        self._answer, self._after = answer, after
        self._ready: deque[tuple[Request, Future[Answer]]] = deque()
        self._thread: ThreadPoolExecutor | None = None

    def __call__(self, request: Request) -> Answer:
        """The answer to the request."""
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="smoothgen-prefetch")
        if not self._ready or self._ready[0][0] != request:
            self._forget()
            self._ready.append((request, self._thread.submit(self._answer, request)))
        while len(self._ready) <= AHEAD:
            following = self._after(self._ready[-1][0])
            self._ready.append((following, self._thread.submit(self._answer, following)))
        return self._ready.popleft()[1].result()

    def close(self) -> None:
        """Ends the thread, once what it reads just now is read. Another call starts one anew."""
        self._forget()
        if self._thread is not None:
            self._thread.shutdown(wait=True)
            self._thread = None

    def _forget(self) -> None:
        for _, future in self._ready:
            future.cancel()
        self._ready.clear()
