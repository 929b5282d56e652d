"""Two machines in small: network namespaces with an address and a host name each, torchrun between them, and Slurm.

Needs Linux, root and iproute2; the part with Slurm, left out where it is not installed, Debian's slurmctld, slurmd and
slurm-client. Nothing is written outside a temporary folder.

python tests/distributed/cluster.py --out tests/distributed/cluster.json
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml

sys.path.insert(0, str(Path(__file__).parents[1] / "end_to_end"))
from hashes import CONFIG, found, train
from processes import Group, wait_until

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Host:
    """A network namespace; what runs in it sees its own address, its own host name and the others' names."""

    name: str
    address: str
    hosts: Path

    @property
    def namespace(self) -> str:
        return f"{self.name}-{os.getpid()}"

    def command(self, *command: str | Path) -> list[str]:
        # not ip netns exec, which hides /sys/fs/cgroup, where slurmd looks
        enter = ["nsenter", f"--net=/run/netns/{self.namespace}", "unshare", "--uts", "--mount", "sh", "-c"]
        script = f'hostname {self.name} && mount --bind "$0" /etc/hosts && exec "$@"'
        return [*enter, script, str(self.hosts), *map(str, command)]

    def start(self, *command: str | Path, cwd: Path) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}
        return subprocess.Popen(self.command(*command), cwd=cwd, env=environment, stdout=pipe, stderr=pipe, text=True)

    def pids(self) -> list[int]:
        """What runs on it."""
        command = ["ip", "netns", "pids", self.namespace]
        return [int(pid) for pid in subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()]

    def kill(self) -> None:
        """Ends everything that runs on it, as when its power fails."""
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def cable(self, state: str) -> None:
        """Pulls its network cable (down), or puts it back (up)."""
        ip("-n", self.namespace, "link", "set", "cable", state)


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


@contextlib.contextmanager
def two_hosts(work: Path) -> Iterator[tuple[Host, Host]]:
    """Two hosts and a cable between them. work: where the table of their names is kept."""
    table = work / "hosts"
    hosts = Host("smooth1", "10.77.0.1", table), Host("smooth2", "10.77.0.2", table)
    lines = ["127.0.0.1 localhost", *(f"{host.address} {host.name}" for host in hosts)]
    table.write_text("\n".join([*lines, ""]))
    made = []
    try:
        for host in hosts:
            ip("netns", "add", host.namespace)
            made.append(host)
        first, second = hosts
        ends = ("cable", "netns", first.namespace, "type", "veth", "peer", "name", "cable", "netns", second.namespace)
        ip("link", "add", *ends)
        for host in hosts:
            for link in ("lo", "cable"):
                ip("-n", host.namespace, "link", "set", link, "up")
            ip("-n", host.namespace, "address", "add", f"{host.address}/24", "dev", "cable")
        yield hosts
    finally:
        for host in made:
            host.kill()
            ip("netns", "delete", host.namespace)


def torchrun(hosts: tuple[Host, ...], each: int, *arguments: str | Path, cwd: Path) -> Group:
    """The command of docs/tutorials/many-devices.md, on every host."""
    meeting = ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"{hosts[0].name}:29500", "--rdzv-id", "my-run"]
    number = ["--nnodes", str(len(hosts)), "--nproc-per-node", str(each)]
    launcher = [sys.executable, "-m", "torch.distributed.run", *number, *meeting, "-m", "smoothgen"]
    return Group([host.start(*launcher, *arguments, cwd=cwd) for host in hosts], launcher=True)


def finish(group: Group) -> float:
    """Seconds until all have left, which they must without an error."""
    began = time.monotonic()
    codes = group.finish()
    assert codes == [0] * len(codes), group.errors
    return time.monotonic() - began


def machines(work: Path, hosts: tuple[Host, Host]) -> dict[str, dict]:
    """Trained by one process, by two hosts, and by two hosts of which one is lost in the middle."""
    results = {"one process": train(work, "two", "alone", 1, 4)}
    for strategy, each in (("ddp", 1), ("ddp", 2), ("fsdp", 1)):
        directory = f"{strategy}-2x{each}"
        options = (f"device.strategy={strategy}", f"trainer.accumulate={2 // each}")
        finish(torchrun(hosts, each, "train", "two.yaml", "--run-dir", directory, *options, cwd=work))
        results[f"two hosts, {each} each, {strategy}"] = found(work / directory, 2 * each, 2 // each)
    for what in ("power", "cable"):
        directory = f"lost-{what}"
        command = ("train", "two.yaml", "--run-dir", directory, "trainer.accumulate=2", "device.timeout=10")
        group = torchrun(hosts, 1, *command, cwd=work)
        wait_until((work / directory / "checkpoint.safetensors").exists, group)
        launchers = {member.pid for member in group.members}
        if what == "power":
            hosts[1].kill()
        else:
            hosts[1].cable("down")
        began = time.monotonic()
        wait(lambda kept=launchers: {pid for host in hosts for pid in host.pids()} <= kept, 60)
        left = round(time.monotonic() - began, 1)
        # torchrun of the machine without a cable waits for the other until its kernel gives the connection up
        hosts[1].kill()
        codes = group.finish()
        hosts[1].cable("up")
        assert 0 not in codes and not (work / directory / "evaluation.json").exists(), "it was stopped too late"
        assert group.output[0][1].count("error: process 0 of 2 lost contact") == 1, group.errors
        finish(torchrun(hosts, 1, *command, "--resume", cwd=work))
        shown = {"codes of torchrun": codes, "seconds until all processes had left": left}
        results[f"{what} of one host lost, resumed by two"] = found(work / directory, 2, 2) | shown
    return results


@contextlib.contextmanager
def slurm(hosts: tuple[Host, Host], state: Path) -> Iterator[Host]:
    """slurmctld on the first host and slurmd on both, each with one GPU that only Slurm believes in."""
    state.mkdir()
    lines = [
        "ClusterName=smooth", f"SlurmctldHost={hosts[0].name}", "SlurmUser=root", "AuthType=auth/none",
        "CredType=cred/none", "ProctrackType=proctrack/linuxproc", "TaskPlugin=task/none", "MpiDefault=none",
        f"StateSaveLocation={state}/control", f"SlurmdSpoolDir={state}/%n", f"SlurmdPidFile={state}/%n.pid",
        f"SlurmctldPidFile={state}/control.pid", f"SlurmctldLogFile={state}/control.log",
        f"SlurmdLogFile={state}/%n.log", "SelectType=select/cons_tres",
        "SelectTypeParameters=CR_Core", "GresTypes=gpu", "ReturnToService=2",
    ]  # fmt: skip
    cores = os.cpu_count()
    lines += [f"NodeName={host.name} NodeAddr={host.address} CPUs={cores} Gres=gpu:1 State=UNKNOWN" for host in hosts]
    lines += [f"PartitionName=all Nodes={','.join(host.name for host in hosts)} Default=YES State=UP", ""]
    (state / "slurm.conf").write_text("\n".join(lines))
    (state / "gres.conf").write_text("Name=gpu File=/dev/null\n")
    os.environ["SLURM_CONF"] = str(state / "slurm.conf")
    daemons = [hosts[0].start("slurmctld", "-D", cwd=state)]
    daemons += [host.start("slurmd", "-D", cwd=state) for host in hosts]
    try:
        yield hosts[0]
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.communicate(timeout=30)


def ask(host: Host, *command: str | Path, cwd: Path) -> str:
    """What a command of Slurm's prints."""
    done = subprocess.run(host.command(*command), cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def job(work: Path, hosts: tuple[Host, Host]) -> dict[str, dict]:
    """The script of the docs, on two nodes, with a time limit that the training is longer than."""
    long = ("trainer.max_steps=12000", "trainer.patience=0", "trainer.checkpoint_every=1000")
    long += ("trainer.validate_every=3000", "trainer.log_every=1000")
    results = {"one process, 12,000 steps": train(work, "two", "alone-long", 1, 4, *long)}
    script = ROOT / "docs" / "assets" / "smoothgen.sbatch"
    here = ("--gpus-per-node=1", "--cpus-per-task=1", "--time=3", "--signal=B:TERM@90", "--output=job.out")
    with slurm(hosts, work / "slurm") as head:
        wait(lambda: ask(head, "sinfo", "--noheader", "--format=%D %t", cwd=work).split() == ["2", "idle"], 60)
        command = ("two.yaml", work / "job", "trainer.accumulate=2", *long)
        number = ask(head, "sbatch", "--parsable", *here, script, *command, cwd=work).strip()

        def state() -> dict[str, str]:
            words = ask(head, "scontrol", "show", "job", number, "--oneliner", cwd=work).split()
            return dict(word.split("=", 1) for word in words if "=" in word)

        wait(lambda: state()["JobState"] in ("COMPLETED", "FAILED", "TIMEOUT", "CANCELLED", "NODE_FAIL"), 1800)
        ended = state()
    assert ended["JobState"] == "COMPLETED", (ended, (work / "job.out").read_text())
    shown = {"state": ended["JobState"], "times put back in the queue": int(ended["Restarts"])}
    assert shown["times put back in the queue"] >= 1, "the training was shorter than the time limit"
    results["by Slurm, two nodes"] = found(work / "job", 2, 2) | shown
    return results


def wait(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    out: Path = parser.parse_args().out
    results: dict = {
        "command": "python tests/distributed/cluster.py --out tests/distributed/cluster.json",
        "torch": torch.__version__, "backend": "gloo", "machine": platform.platform(), "cores": os.cpu_count(),
    }  # fmt: skip
    parts = (machines, job) if shutil.which("slurmctld") else (machines,)
    with tempfile.TemporaryDirectory() as folder, two_hosts(work := Path(folder)) as hosts:
        (work / "two.yaml").write_text(yaml.safe_dump(CONFIG))
        for part in parts:
            results[part.__name__] = part(work, hosts)
            print(json.dumps(results[part.__name__], indent=1), flush=True)
    bad = []
    for part in parts:
        runs = results[part.__name__]
        alone = next(iter(runs.values()))
        bad += [
            f"{name}: {key}"
            for name, one in runs.items()
            for key in alone.keys() - {"processes", "accumulate"}
            if one[key] != alone[key]
        ]
    results["different"] = bad
    out.write_text(json.dumps(results, indent=2) + "\n")
    print(f"different: {bad or 'nothing'}; all in {out}")
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
