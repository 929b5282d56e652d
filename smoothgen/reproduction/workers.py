"""Worker processes, one job at a time each; a worker that dies costs its job and nothing else.

Nothing heavy is imported here: a worker imports what its study needs, with one thread.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any

from smoothgen.reproduction.provenance import machine, versions
from smoothgen.reproduction.study import Job, Outcome, Study
from smoothgen.signals import SIGNALS

POLL_SECONDS = 0.2
"""How long a signal may go unseen."""
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


@dataclass(frozen=True)
class Answer:
    """What came of a job: an outcome, or what went wrong in one line and in full. Seconds of processor and clock."""

    outcome: Outcome | None
    error: str = ""
    details: str = ""
    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0
    versions: dict[str, str] | None = None
    machine: str = ""


class Worker:
    """A process started afresh, with one end of a pipe; `job` is what it computes, or None."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=work, args=(theirs,), daemon=True)
        resource_tracker.ensure_running()  # which would unblock the signals, if `start` were to begin it
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # a Ctrl-C reaches all processes, also one still starting
        try:
            self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        theirs.close()
        self.job: Job | None = None

    def begin(self, study: Study, job: Job) -> None:
        """Hands over a job."""
        self.job = job
        self.connection.send((study, job))

    def answer(self) -> Answer:
        """What it sent, or what is known of its death."""
        try:
            answer: Answer = self.connection.recv()
            return answer
        except (EOFError, OSError):
            self.process.join(timeout=5.0)
            code = self.process.exitcode
            hint = ", which is what happens without enough memory" if code == -signal.SIGKILL else ""
            return Answer(None, f"the worker process died (exit code {code}{hint})")

    def stop(self) -> None:
        """Ends it at once; the parent alone writes files, so nothing can be half-written."""
        self.process.kill()
        self.process.join()
        self.connection.close()


def work(connection: Connection) -> None:
    """The worker's loop: computes what comes, until the other end closes."""
    for number in SIGNALS:  # the parent decides
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    os.environ.update(ONE_THREAD)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        try:
            study, job = connection.recv()
        except (EOFError, ConnectionResetError):
            return
        except Exception as error:  # a study that cannot be imported here is its job's failure
            answer = _failure(error)
        else:
            answer = compute(study, job)
        try:
            connection.send(answer)
        except BrokenPipeError:  # the parent is gone
            return


def _end_with_parent() -> None:
    """A parent that is killed cannot stop its workers, so that they watch it."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def compute(study: Study, job: Job) -> Answer:
    """Runs one job in this process and measures it."""
    cpu, clock = time.process_time(), time.monotonic()
    try:
        outcome = study.run(job)
    except Exception as error:  # reported with the job's name; the others go on
        return _failure(error)
    spent: dict[str, Any] = {"cpu_seconds": time.process_time() - cpu, "wall_seconds": time.monotonic() - clock}
    return Answer(outcome, versions=versions(), machine=machine(), **spent)


def _failure(error: Exception) -> Answer:
    message = " ".join(str(error).split()) or "no message"
    return Answer(None, f"{type(error).__name__}: {message}", traceback.format_exc())


def run_all(tasks: Iterable[tuple[Study, Job]], count: int) -> Generator[tuple[Job, Answer] | None, None, None]:
    """Computes all tasks on `count` workers, and yields each answer as it comes; None now and then meanwhile.

    Closing the iterator stops all workers at once.
    """
    waiting = list(tasks)[::-1]
    workers: list[Worker] = []
    try:
        while waiting or any(worker.job for worker in workers):
            while waiting and len(workers) < count:
                workers.append(Worker())
                workers[-1].begin(*waiting.pop())
            busy = {worker.connection: worker for worker in workers if worker.job}
            yield None
            for ready in wait(list(busy), POLL_SECONDS):
                worker = busy[ready]  # type: ignore[index]
                job, answer = worker.job, worker.answer()
                assert job is not None
                worker.job = None
                yield job, answer  # kept before the next is begun, so that a kill loses only what was going on
                if not worker.process.is_alive():
                    worker.stop()
                    workers.remove(worker)
                elif waiting:
                    worker.begin(*waiting.pop())
    finally:
        for worker in workers:
            worker.stop()
