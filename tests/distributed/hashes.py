"""Which results are equal, to the bit, whatever the number of processes: by sha256 of what runs leave.

python tests/distributed/hashes.py --out tests/distributed/results.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
import tempfile
import time
from pathlib import Path

import torch
import yaml
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parents[1] / "end_to_end"))
from processes import Group, log_hash, run, sha256, start, wait_until

MADE = {"type": "made", "hidden": [16, 15], "components": 2}
CONFIG = {
    "data": {"type": "rings", "train_size": 500, "validation_size": 700, "test_size": 600},
    "kernel": {"type": "gaussian", "sigma": 0.3},
    "density": MADE,
    "inverter": {"type": "conditional", "density": MADE},
    "trainer": {
        "max_steps": 60, "batch_size": 32, "log_every": 5, "validate_every": 20, "checkpoint_every": 10,
        "clip_norm": 1.0, "patience": 3, "learning_rate": 0.01, "warmup_steps": 5, "ema_decay": 0.99,
    },
    "evaluate": {
        "metrics": ["elbo", "two-sample"], "max_examples": 600, "importance_examples": 60,
        "importance_samples": [20], "two_sample_points": 600,
    },
    "device": {"device": "cpu", "threads": 1, "reproducible": True},
}  # fmt: skip
JOINT = CONFIG | {"kernel": {"type": "gaussian", "sigma": 0.3, "learnable": True}}
THREE = CONFIG | {"baseline": MADE}
SHARED = {
    "sample": ("-n", "1001", "--smoothed"),
    "denoise": ("noisy.safetensors",),
    "inpaint": ("noisy.safetensors", "--mask", "mask.safetensors"),
    "evaluate": (),
}


def train(work: Path, config: str, name: str, count: int, accumulate: int, *more: str, torchrun: bool = True) -> dict:
    directory = f"{config}-{name}"
    arguments = ("train", f"{config}.yaml", "--run-dir", directory, f"trainer.accumulate={accumulate}", *more)
    run(count, *arguments, cwd=work, torchrun=torchrun and count > 1)
    return found(work / directory, count, accumulate)


def found(directory: Path, count: int, accumulate: int) -> dict:
    files = {"model": "model.safetensors", "evaluation": "evaluation.json", "baseline": "baseline/model.safetensors"}
    hashes = {name: sha256(directory / file) for name, file in files.items() if (directory / file).exists()}
    return {"processes": count, "accumulate": accumulate} | hashes | {"log": log_hash(directory)}


def training(work: Path) -> dict[str, dict[str, dict]]:
    """Runs of one global batch of four micro-batches, by configuration."""
    results: dict[str, dict[str, dict]] = {"two stages": {}, "learned sigma": {}, "three stages": {}}
    for config, title in (("two", "two stages"), ("joint", "learned sigma")):
        for strategy in ("ddp", "fsdp"):
            for count in (1, 2, 4):
                if count > 1 or strategy == "ddp":
                    chosen = (f"device.strategy={strategy}",) if count > 1 else ()
                    name = f"{strategy}-{count}" if count > 1 else "alone"
                    results[title][name] = train(work, config, name, count, 4 // count, *chosen)
    results["three stages"]["alone"] = train(work, "three", "alone", 1, 4)
    for count in (3, 4):  # with four, two of them share the first stage
        halved = ("trainer.density.accumulate=2",) if count == 4 else ()
        done = train(work, "three", f"apart-{count}", count, 4, "device.stages=apart", *halved)
        results["three stages"][f"apart-{count}"] = done
    return results


def kill(group: Group, how: str) -> None:
    workers = group.workers()
    if how == "one":
        os.kill(workers[-1], signal.SIGKILL)
    elif how == "all":
        for pid in (*workers, group.members[0].pid):
            os.kill(pid, signal.SIGKILL)
    else:
        group.members[0].send_signal(signal.SIGTERM)


def faults(work: Path) -> dict[str, dict]:
    """Two processes stopped in the middle, then resumed by two, or by four."""
    results = {}
    for how, count, apart in (("one", 2, False), ("all", 4, False), ("SIGTERM", 1, False), ("all", 2, True)):
        name = f"{how} killed, resumed by {count}" if how != "SIGTERM" else f"SIGTERM, resumed by {count}"
        more = ("device.stages=apart",) if apart else ()
        name += ", stages apart" if apart else ""
        directory = name.replace(" ", "-").replace(",", "")
        command = ("train", "two.yaml", "--run-dir", directory, *more)
        group = start(2, *command, f"trainer.accumulate={4 if apart else 2}", cwd=work, torchrun=True)
        stage = work / directory / "stages" / "density" if apart else work / directory
        wait_until((stage / "checkpoint.safetensors").exists, group)
        time.sleep(0.1)
        kill(group, how)
        began = time.monotonic()
        codes = group.finish()
        took = time.monotonic() - began
        assert codes != [0] and not (work / directory / "evaluation.json").exists(), "it was stopped too late"
        accumulate = 4 if apart else 4 // count
        run(count, *command, f"trainer.accumulate={accumulate}", "--resume", cwd=work, torchrun=count > 1)
        results[name] = found(work / directory, count, accumulate) | {"seconds until all had left": round(took, 1)}
        results[name]["code of torchrun"] = codes[0]
    return results


def commands(work: Path) -> dict[str, dict[str, str]]:
    """What the commands that share work leave, for 1, 2 and 4 processes."""
    generator = torch.Generator().manual_seed(0)
    save_file({"x": torch.rand(601, 2, generator=generator)}, work / "noisy.safetensors")
    save_file({"mask": torch.tensor([[1.0, 0.0]]).repeat(601, 1)}, work / "mask.safetensors")
    results: dict[str, dict[str, str]] = {}
    for command, arguments in SHARED.items():
        for count in (1, 2, 4):
            out = work / f"{command}-{count}.{'json' if command == 'evaluate' else 'safetensors'}"
            run(count, command, "two-alone", *arguments, "--out", out, cwd=work, torchrun=count > 1)
            results.setdefault(command, {})[str(count)] = sha256(out)
    return results


def differing(results: dict) -> list[str]:
    """What should have been equal and is not."""
    bad = []
    for title, runs in results["training"].items():
        alone = runs["alone"]
        for name, one in runs.items():
            bad += [
                f"{title}, {name}: {key}"
                for key in alone.keys() - {"processes", "accumulate"}
                if one[key] != alone[key]
            ]
    alone = results["training"]["two stages"]["alone"]
    for name, one in results["faults"].items():
        bad += [f"{name}: {key}" for key in alone.keys() - {"processes", "accumulate"} if one[key] != alone[key]]
    bad += [command for command, hashes in results["commands"].items() if len(set(hashes.values())) > 1]
    return bad


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    out: Path = parser.parse_args().out
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        for name, config in (("two", CONFIG), ("joint", JOINT), ("three", THREE)):
            (work / f"{name}.yaml").write_text(yaml.safe_dump(config))
        results: dict = {
            "command": "python tests/distributed/hashes.py --out tests/distributed/results.json",
            "torch": torch.__version__, "backend": "gloo", "machine": platform.platform(), "cores": os.cpu_count(),
            "config": CONFIG,
        }  # fmt: skip
        for part in (training, faults, commands):
            results[part.__name__] = part(work)
            print(json.dumps(results[part.__name__], indent=1), flush=True)
    results["different"] = differing(results)
    out.write_text(json.dumps(results, indent=2) + "\n")
    print(f"different: {results['different'] or 'nothing'}; all in {out}")
    sys.exit(bool(results["different"]))


if __name__ == "__main__":
    main()
