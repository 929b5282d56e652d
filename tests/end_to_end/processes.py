"""Several processes of the command line: by torchrun, or started by hand, which is quicker and leaves no launcher."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Group:
    """The processes of one run; `launcher` is torchrun's own, where it started them."""

    members: list[subprocess.Popen[str]]
    launcher: bool = False
    output: list[tuple[str, str]] = field(default_factory=list)

    def finish(self, timeout: float = 240.0) -> list[int]:
        """Waits for all, kills those that take too long, and returns their exit codes."""
        deadline = time.monotonic() + timeout
        try:
            self.output = [member.communicate(timeout=max(deadline - time.monotonic(), 0.1)) for member in self.members]
        finally:
            for member in self.members:
                if member.poll() is None:
                    member.kill()
                    member.communicate()
        return [member.returncode for member in self.members]

    @property
    def errors(self) -> str:
        """All that was written to standard error."""
        return "\n".join(err for _, err in self.output)

    def workers(self) -> list[int]:
        """The ids of the processes that compute."""
        if not self.launcher:
            return [member.pid for member in self.members]
        tasks = Path(f"/proc/{self.members[0].pid}/task")
        return [int(pid) for task in tasks.iterdir() for pid in (task / "children").read_text().split()]


SMOOTHGEN = ("-m", "smoothgen")


def start(
    count: int,
    *arguments: str | Path,
    cwd: Path,
    torchrun: bool = False,
    last: tuple[str, ...] = (),
    program: tuple[str, ...] = SMOOTHGEN,
) -> Group:
    """`smoothgen ARGUMENTS`, or another Python program, in `count` processes.

    last: more arguments for the last of them, without torchrun.
    """
    command = [sys.executable, *program, *map(str, arguments)]
    environment = {name: value for name, value in os.environ.items() if name not in ("WORLD_SIZE", "RANK")}
    environment |= {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}

    def process(command: list[str], **more: str) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        return subprocess.Popen(command, cwd=cwd, env=environment | more, stdout=pipe, stderr=pipe, text=True)

    if torchrun:
        launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
        return Group([process([sys.executable, "-m", *launcher, *program, *map(str, arguments)])], True)
    if count == 1:
        return Group([process(command)])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    meeting = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    commands = [command] * (count - 1) + [[*command, *last]]
    members = [process(each, RANK=str(rank), LOCAL_RANK=str(rank), **meeting) for rank, each in enumerate(commands)]
    return Group(members)


def run(
    count: int, *arguments: str | Path, cwd: Path, torchrun: bool = False, program: tuple[str, ...] = SMOOTHGEN
) -> Group:
    """The same, waited for. Fails where a process does."""
    group = start(count, *arguments, cwd=cwd, torchrun=torchrun, program=program)
    codes = group.finish()
    assert codes == [0] * len(codes), group.errors
    return group


def wait_until(condition: Callable[[], bool], group: Group, seconds: float = 120.0) -> None:
    """Until something is so. Fails where a process ends before it."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline and all(member.poll() is None for member in group.members)
        time.sleep(0.01)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def log_hash(run_dir: Path) -> str:
    """Of metrics.jsonl without the times."""
    records = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    kept = [{key: value for key, value in record.items() if key != "steps_per_second"} for record in records]
    return hashlib.sha256(json.dumps(kept).encode()).hexdigest()
