"""Reading ahead: the right answers in any order, errors where they belong, and no thread left."""

from __future__ import annotations

import threading
import time

import pytest

from smoothgen.errors import DataError
from smoothgen.prefetch import AHEAD, Prefetch


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("smoothgen-prefetch")]


def wait_until(condition, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.001)


def test_answers_are_those_of_the_function_whatever_the_order():
    prefetch = Prefetch(lambda n: n * n, lambda n: n + 1)
    for n in (0, 1, 2, 3, 4, 9, 10, 3, 3, 4, 100, 0, 1):
        assert prefetch(n) == n * n
    prefetch.close()


def test_what_follows_is_read_before_it_is_asked_for_and_no_more():
    read: list[int] = []
    prefetch = Prefetch(lambda n: read.append(n) or n, lambda n: n + 1)
    prefetch(0)
    wait_until(lambda: len(read) == 1 + AHEAD)
    time.sleep(0.05)
    assert read == list(range(1 + AHEAD))
    for n in range(1, 20):
        assert prefetch(n) == n
    prefetch.close()
    assert read == sorted(set(read)), "something was read twice"


def test_reading_goes_on_while_the_caller_computes():
    prefetch = Prefetch(lambda n: time.sleep(0.05) or n, lambda n: n + 1)
    prefetch(0)
    time.sleep(0.05 * (AHEAD + 2))
    start = time.monotonic()
    prefetch(1)
    assert time.monotonic() - start < 0.04
    prefetch.close()


def test_an_error_is_raised_by_the_request_that_causes_it():
    def answer(n: int) -> int:
        if n == 3:
            raise DataError("part-3.npy: row 17 is bad")
        return n

    prefetch = Prefetch(answer, lambda n: n + 1)
    for n in range(3):
        assert prefetch(n) == n
    for _ in range(2):  # asked again, it is raised again
        with pytest.raises(DataError, match="row 17 is bad"):
            prefetch(3)
    assert prefetch(4) == 4
    prefetch.close()


def test_closing_leaves_no_thread_and_reads_no_more():
    read: list[int] = []

    def slow(n: int) -> int:
        time.sleep(0.02)
        read.append(n)
        return n

    prefetch = Prefetch(slow, lambda n: n + 1)
    prefetch(0)
    assert len(threads()) == 1
    prefetch.close()
    assert not threads()
    count = len(read)
    assert count < 1 + AHEAD
    time.sleep(0.05)
    assert len(read) == count
    assert prefetch(7) == 7  # and it starts again
    prefetch.close()
    prefetch.close()
    assert not threads()
