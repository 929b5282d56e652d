"""Runs inputs in forked processes: one that crashes, hangs or takes too much memory ends its process, and is named."""

from __future__ import annotations

import gc
import json
import mmap
import os
import random
import resource
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from smoothgen.errors import SmoothgenError

from .readers import Reader

CPU_SECONDS = 10
"""One input may compute for so long; a file of a few kilobytes is read in milliseconds."""
WALL_SECONDS = 120
"""One input may block for so long, on a machine that does other work too."""
MEMORY = 1 << 30
"""So much address space may be taken beyond what the process has before its first input."""
CHUNK = 5000


class TookTooLong(BaseException):
    """Not an Exception, so that no reader can turn it into a refusal."""


@dataclass
class Outcome:
    """What the inputs of one reader led to. failures: [input's number, what happened]."""

    reader: str
    inputs: int = 0
    accepted: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    failures: list[tuple[int, str]] = field(default_factory=list)
    slowest_seconds: float = 0.0
    slowest_input: int = -1
    peak_megabytes: float = 0.0
    cpu_seconds: float = 0.0

    def add(self, part: dict[str, Any]) -> None:
        self.inputs += part["inputs"]
        self.accepted += part["accepted"]
        self.refused.update(part["refused"])
        self.failures += [(int(number), str(what)) for number, what in part["failures"]]
        if part["slowest_seconds"] > self.slowest_seconds:
            self.slowest_seconds, self.slowest_input = part["slowest_seconds"], part["slowest_input"]
        self.peak_megabytes = max(self.peak_megabytes, part["peak_megabytes"])
        self.cpu_seconds += part["cpu_seconds"]


def generator_of(reader: Reader, seed: int, number: int) -> random.Random:
    """The random numbers of one input: it can be made again without those before it."""
    return random.Random(f"{seed}/{reader.name}/{number}")


def run(
    readers: list[Reader], inputs: int, seed: int = 0, jobs: int = 1, progress: Callable[[str, int], None] | None = None
) -> list[Outcome]:
    """Every reader on inputs 0 .. inputs - 1."""
    outcomes = {reader.name: Outcome(reader.name) for reader in readers}
    fast = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="smoothgen-fuzz-", dir=fast) as top:
        waiting = []
        for number, reader in enumerate(readers):
            for start in range(0, inputs, CHUNK):
                waiting.append((reader, Path(top, f"{number}"), start, min(start + CHUNK, inputs)))
            Path(top, f"{number}").mkdir()
            reader.prepare(Path(top, f"{number}"))
        waiting.reverse()
        running: list[Child] = []
        while waiting or running:
            while waiting and len(running) < jobs:
                running.append(Child(*waiting.pop(), seed))
            time.sleep(0.005)
            for child in list(running):
                if not child.ended():
                    continue
                running.remove(child)
                part, rest = child.result()
                outcomes[child.reader.name].add(part)
                waiting += rest
                if progress:
                    progress(child.reader.name, part["inputs"])
    return list(outcomes.values())


class Child:
    """A forked process that reads inputs start .. stop - 1."""

    def __init__(self, reader: Reader, directory: Path, start: int, stop: int, seed: int) -> None:
        self.reader, self.directory, self.start, self.stop, self.seed = reader, directory, start, stop, seed
        self.shared = mmap.mmap(-1, 16)
        self.file = tempfile.TemporaryFile()  # noqa: SIM115 - closed with its process
        self.seen, self.since = -1, time.monotonic()
        self.status = 0
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                self._work()
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)

    def ended(self) -> bool:
        pid, self.status = os.waitpid(self.pid, os.WNOHANG)
        if pid:
            return True
        (current,) = struct.unpack("<q", self.shared[:8])
        if current != self.seen:
            self.seen, self.since = current, time.monotonic()
        elif time.monotonic() - self.since > WALL_SECONDS:
            os.kill(self.pid, signal.SIGKILL)
            _, self.status = os.waitpid(self.pid, 0)
            return True
        return False

    def result(self) -> tuple[dict[str, Any], list[Any]]:
        """What it found; where it died, the input that killed it, and what is to be run again."""
        self.file.seek(0)
        if self.status == 0:
            return json.loads(self.file.read()), []
        (current,) = struct.unpack("<q", self.shared[:8])
        killed = os.WIFSIGNALED(self.status)
        what = f"killed by {signal.Signals(os.WTERMSIG(self.status)).name}" if killed else "the process ended"
        part = {"inputs": 1, "accepted": 0, "refused": {}, "failures": [[current, what]], "slowest_seconds": 0.0,
                "slowest_input": -1, "peak_megabytes": 0.0, "cpu_seconds": 0.0}  # fmt: skip
        around = ((self.start, current), (current + 1, self.stop))
        return part, [(self.reader, self.directory, first, last) for first, last in around if first < last]

    def _work(self) -> None:
        own = self.directory.with_name(f"{self.directory.name}-{self.start}-{os.getpid()}")
        _copy(self.directory, own)
        warnings.simplefilter("ignore")
        signal.signal(signal.SIGPROF, _too_long)
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 2)  # decoders in C print what they think of an input
        gc.freeze()
        _reset_peak()
        before = _status("VmRSS")
        limit = _status("VmSize") * 1024 + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        outcome = Outcome(self.reader.name)
        for number in range(self.start, self.stop):
            self.shared[:8] = struct.pack("<q", number)
            seconds = attempt(self.reader, own, self.seed, number, outcome)
            if seconds > outcome.slowest_seconds:
                outcome.slowest_seconds, outcome.slowest_input = seconds, number
        outcome.inputs = self.stop - self.start
        outcome.peak_megabytes = max(0.0, (_status("VmHWM") - before) / 1024)
        outcome.cpu_seconds = time.process_time()
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        self.file.write(json.dumps(vars(outcome)).encode())
        self.file.flush()


def attempt(reader: Reader, directory: Path, seed: int, number: int, outcome: Outcome) -> float:
    """One input; what it led to is added to the outcome. Returns its seconds of the processor, reading alone."""
    rng = generator_of(reader, seed, number)
    reader.write(directory, rng)
    start = time.process_time()
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    try:
        reader.read(directory, rng)
        outcome.accepted += 1
    except SmoothgenError as error:
        outcome.refused[type(error).__name__] += 1
        message = str(error)
        if not message or not message.isprintable():
            outcome.failures.append((number, f"a message that is no line: {message[:200]!r}"))
    except TookTooLong:
        outcome.failures.append((number, f"more than {CPU_SECONDS} s"))
    except BaseException as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        what = f"{type(error).__name__}: {str(error)[:200]} ({Path(place.filename).name}:{place.lineno})"
        outcome.failures.append((number, what))
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return time.process_time() - start


def _too_long(signum: int, frame: object) -> None:
    raise TookTooLong


def _copy(source: Path, target: Path) -> None:
    target.mkdir()
    for path in source.iterdir():
        if path.is_file():
            (target / path.name).write_bytes(path.read_bytes())


def _status(key: str) -> int:
    """Kilobytes, of this process; 0 where the system does not say."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{key}:"):
                return int(line.split()[1])
    return 0


def _reset_peak() -> None:
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
