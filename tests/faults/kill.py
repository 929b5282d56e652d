"""SIGKILL at random moments: every run is resumed, and ends as if nothing had happened.

    python tests/faults/kill.py --times 50 --seed 0 --out tests/faults/results.json

A moment is uniform over the time that the whole run takes, from the start of the interpreter to the last picture. A run
is killed again and again until it is quicker than its next kill. Then its weights have to be those of the run that was
never killed, bit by bit, its metrics.jsonl the same but for times, and its evaluation.json the same but for times.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

MADE = {"type": "made", "hidden": [16, 16], "components": 2}
COMMON: dict[str, Any] = {
    "data": {"type": "rings", "train_size": 500, "validation_size": 100, "test_size": 1000},
    "kernel": {"type": "gaussian", "sigma": 0.3},
    "density": MADE,
    "inverter": {"type": "conditional", "density": MADE},
    "trainer": {"batch_size": 16, "log_every": 5, "validate_every": 20, "checkpoint_every": 5},
    "evaluate": {"metrics": ["elbo", "samples"], "max_examples": 1000, "importance_samples": [100], "samples": 50},
    "device": {"device": "cpu", "threads": 1},
}
SETTINGS: dict[str, dict[str, Any]] = {
    "two stages and a baseline": {"baseline": MADE},
    "joint, learned sigma": {"kernel": {"type": "gaussian", "sigma": 0.3, "learnable": True}},
    "averaged, accumulated, patient": {"trainer": {"ema_decay": 0.99, "accumulate": 2, "patience": 4}},
    "dropout, fresh data": {"density": MADE | {"dropout": 0.3}, "data": {"train_size": None}},
    "search for sigma": {
        "kernel": {"type": "gaussian", "sigma": "auto"},
        "trainer": {"sigma_search": {"candidates": 4}},
    },
}
TIMES = {"steps_per_second", "seconds", "stderr_seconds"}
PATIENCE_SECONDS = 300.0
STEPS = 1500  # so many that most of a run's time is training


@dataclass
class Outcome:
    """What came of the runs of one setting. phases: how many kills fell where, by what the run had written by then."""

    setting: str
    kills: int = 0
    runs: int = 0
    equal: int = 0
    phases: dict[str, int] = field(default_factory=dict)
    seconds_uninterrupted: float = 0.0
    sha256: str = ""
    differences: list[str] = field(default_factory=list)


def configuration(name: str, steps: int) -> dict[str, Any]:
    """The setting's whole configuration, with `steps` steps a stage; a rung of the search has a third of them."""
    config = COMMON | {"name": "killed"}
    for key, value in SETTINGS[name].items():
        config[key] = config.get(key, {}) | value
    trainer = config["trainer"] | {"max_steps": steps}
    if "sigma_search" in trainer:
        trainer["sigma_search"] = trainer["sigma_search"] | {"steps": steps // 3}
    return config | {"trainer": trainer}


def start(config: Path, run_dir: Path) -> subprocess.Popen[bytes]:
    """`smoothgen train --resume` in a process of its own; where there is nothing to resume, it begins."""
    command = [sys.executable, "-m", "smoothgen", "train", config, "--run-dir", run_dir, "--resume"]
    with (run_dir.parent / f"{run_dir.name}.log").open("ab") as log:
        return subprocess.Popen(
            [str(part) for part in command],
            stdout=log,
            stderr=log,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )


def phase(run_dir: Path) -> str:
    """Where a run is, from the files that it has written."""
    if (run_dir / "evaluation.json").exists():
        return "pictures and end"
    if (run_dir / "config.json").exists():
        return "evaluation"
    if any(run_dir.glob(".*.tmp")):
        return "writing a file"
    if not (run_dir / "experiment.yaml").exists():
        return "start-up"
    search = run_dir / "sigma_search.json"
    searching = "sigma: auto" in (run_dir / "experiment.yaml").read_text()
    if searching:
        return "search for sigma, " + ("after a rung" if search.exists() else "first rung")
    metrics = run_dir / "metrics.jsonl"
    lines = metrics.read_text().splitlines() if metrics.exists() else []
    stages = [name for name in map(_stage, lines) if name]
    return f"stage {stages[-1]}" if stages else "first steps"


def _stage(line: str) -> str | None:
    """The stage of a line of metrics.jsonl, None where a kill cut it short."""
    try:
        return str(json.loads(line)["stage"])
    except ValueError:
        return None


def timeless(value: Any) -> Any:
    """The value without what a clock measured."""
    if isinstance(value, dict):
        return {key: timeless(item) for key, item in value.items() if key not in TIMES}
    return [timeless(item) for item in value] if isinstance(value, list) else value


def left(run_dir: Path) -> dict[str, Any]:
    """All that a finished run left and that has to be equal: digests of its weights, its metrics and measurements."""
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    models = sorted(run_dir.rglob("model.safetensors"))
    return {
        "weights": {str(p.relative_to(run_dir)): hashlib.sha256(p.read_bytes()).hexdigest() for p in models},
        "metrics.jsonl": [timeless(json.loads(line)) for line in lines],
        "evaluation.json": timeless(json.loads((run_dir / "evaluation.json").read_text())),
        "temporary files": [path.name for path in run_dir.glob(".*.tmp")],
    }


def finish(config: Path, run_dir: Path) -> float:
    """Lets a run end, and returns its seconds. Raises RuntimeError with its last words where it fails."""
    clock = time.monotonic()
    code = start(config, run_dir).wait(PATIENCE_SECONDS)
    if code:
        raise RuntimeError(f"exit code {code}: {(run_dir.parent / f'{run_dir.name}.log').read_text()[-2000:]}")
    return time.monotonic() - clock


def kill_one_run(config: Path, run_dir: Path, chance: random.Random, span: float, most: int) -> Iterator[str]:
    """Kills and resumes a run until it ends before its next kill; yields where each of at most `most` kills fell."""
    for _ in range(most):
        process = start(config, run_dir)
        try:
            code = process.wait(chance.uniform(0.0, span))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            if process.wait() != -signal.SIGKILL:
                return  # it ended in the moment between
            yield phase(run_dir)
        else:
            if code:
                break  # `finish` says why
            return
    finish(config, run_dir)


def torture(setting: str, times: int, chance: random.Random, directory: Path, steps: int = STEPS) -> Outcome:
    """Spreads `times` kills over as many runs of a setting as it takes."""
    directory.mkdir(parents=True)
    config = directory / "experiment.yaml"
    config.write_text(json.dumps(configuration(setting, steps)))  # JSON is YAML
    outcome = Outcome(setting)
    outcome.seconds_uninterrupted = round(finish(config, directory / "whole"), 2)
    whole = left(directory / "whole")
    outcome.sha256 = whole["weights"]["model.safetensors"]
    phases: Counter[str] = Counter()
    while outcome.kills < times:
        run_dir = directory / f"run-{outcome.runs}"
        for where in kill_one_run(config, run_dir, chance, outcome.seconds_uninterrupted, times - outcome.kills):
            outcome.kills += 1
            phases[where] += 1
            print(f"{setting}: kill {outcome.kills} of {times}, run {outcome.runs}, {where}", flush=True)
        outcome.runs += 1
        found = left(run_dir)
        different = [part for part in whole if found[part] != whole[part]]
        outcome.equal += not different
        outcome.differences += [f"run {outcome.runs - 1}: {part}" for part in different]
    outcome.phases = dict(phases.most_common())
    return outcome


def commit() -> str | None:
    """The commit of the code that ran, where git knows."""
    answer = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return answer.stdout.strip() or None


def main() -> int:
    """Prints and writes what came of it; 1 if any run ended differently."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=50, help="kills in all, spread over the settings")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="settings at a time")
    parser.add_argument("--settings", nargs="*", choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--out", type=Path, default=None, help="where the numbers go, as JSON")
    arguments = parser.parse_args()
    chosen = list(enumerate(arguments.settings))[: arguments.times]
    with tempfile.TemporaryDirectory() as place, ThreadPoolExecutor(arguments.jobs) as pool:

        def one(index: int, setting: str) -> Outcome:
            share = len(range(index, arguments.times, len(chosen)))
            return torture(setting, share, random.Random(f"{arguments.seed} {setting}"), Path(place) / str(index))

        outcomes = list(pool.map(one, *zip(*chosen, strict=True)))
    result = {
        "commit": commit(),
        "command": f"python tests/faults/kill.py --times {arguments.times} --seed {arguments.seed}",
        "kills": sum(outcome.kills for outcome in outcomes),
        "runs": sum(outcome.runs for outcome in outcomes),
        "equal": sum(outcome.equal for outcome in outcomes),
        "phases": dict(sum((Counter(outcome.phases) for outcome in outcomes), Counter()).most_common()),
        "settings": [asdict(outcome) for outcome in outcomes],
    }
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(result, indent=2) + "\n")
    print(f"{result['kills']} kills, {result['runs']} runs, {result['equal']} of them equal to the uninterrupted one")
    return int(result["equal"] != result["runs"])


if __name__ == "__main__":
    sys.exit(main())
