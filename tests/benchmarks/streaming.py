"""Streamed data against data in memory: peak memory, steps a second, and what a batch costs to read.

python tests/benchmarks/streaming.py --out tests/benchmarks/results/streaming.json

Peak memory (resident, VmHWM) is that of a process of its own that trains by `smoothgen.fit`: on a few rows (the
baseline: interpreter, torch and network), on a large file streamed, on many shards streamed, and in memory on a file of
an eighth of the size. Speed is measured in one process: blocks of steps on streamed data and in memory take turns, with
the same network, and the ratio is that of neighbouring blocks, so that what else runs on the machine falls on both.
The thread that reads needs a core of its own: where none is free its work, the difference of the CPU times, adds to
every step.
Reading is timed for batches of 256 rows with the file in the page cache and after `posix_fadvise(DONTNEED)`, at random
and in runs of neighbours.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import smoothgen
from smoothgen.data_source import DataSource
from smoothgen.device import DeviceConfig, DevicePolicy
from smoothgen.objectives import MaximumLikelihood, Objective
from smoothgen.permutation import Bijection
from smoothgen.registry import installed
from smoothgen.training_data import TrainingData

COLUMNS = 16
ROW = 4 * COLUMNS
STEPS = 300


def write_table(path: Path, rows: int, seed: int = 0) -> None:
    """Correlated normal columns, float32, written a piece at a time."""
    random = np.random.default_rng(seed)
    mixing = random.normal(size=(COLUMNS, COLUMNS))
    mixing = mixing.astype(np.float32)
    with path.open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (rows, COLUMNS)}
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, rows, 2**18):
            count = min(rows - start, 2**18)
            file.write((random.standard_normal((count, COLUMNS), dtype=np.float32) @ mixing).data)


def peak_mib() -> float:
    """The most memory that this process had. `ru_maxrss` would count the process that started it as well."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def train(path: str, stream: str) -> None:
    """What the processes do whose memory is measured: train, and print what it took."""
    network = {"type": "made", "hidden": [64, 64], "components": 3}
    start = time.monotonic()
    smoothgen.fit(
        {
            "data": {"type": "array", "path": path, "stream": stream},
            "kernel": {"type": "gaussian", "sigma": "median"},
            "density": network,
            "inverter": {"type": "conditional", "density": network},
            "trainer": {"max_steps": STEPS, "batch_size": 256},
            "evaluate": {"metrics": ["elbo"], "max_examples": 1000, "importance_examples": 100},
            "device": {"device": "cpu", "threads": 1},
        }
    )
    print(json.dumps({"peak_mib": round(peak_mib(), 1), "seconds": round(time.monotonic() - start, 1)}))


def memory(folder: Path, gib: float) -> dict[str, Any]:
    """Peak memory of training on a few rows, and on much."""
    rows = int(gib * 2**30) // ROW
    write_table(folder / "few.npy", 5000)
    write_table(folder / "large.npy", rows)
    write_table(folder / "eighth.npy", rows // 8)
    (folder / "shards").mkdir()
    for index in range(16):
        write_table(folder / "shards" / f"part-{index}.npy", rows // 16, seed=0)
    results: dict[str, Any] = {"gib": gib, "rows": rows, "columns": COLUMNS, "steps of each stage": STEPS}
    cases = {
        "baseline, 5000 rows in memory": ("few.npy", "never"),
        "streamed, one file": ("large.npy", "always"),
        "streamed, 16 shards": ("shards", "always"),
        "in memory, an eighth of the file": ("eighth.npy", "never"),
        "streamed, an eighth of the file": ("eighth.npy", "always"),
    }
    for name, (path, stream) in cases.items():
        answer = subprocess.run(
            [sys.executable, __file__, "--train", str(folder / path), stream],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | {"SMOOTHGEN_CACHE": str(folder / f"cache-{len(results)}")},
        )
        results[name] = json.loads(answer.stdout.splitlines()[-1])
        results[name]["over the baseline, MiB"] = round(
            results[name]["peak_mib"] - results["baseline, 5000 rows in memory"]["peak_mib"], 1
        )
        print(name, results[name], flush=True)
    return results


def source(settings: dict[str, Any]) -> DataSource:
    return installed().components["data"][settings["type"]].model_validate(settings).build()


def steps_of(data: TrainingData, objective: Objective, batch: int) -> Callable[[int, int], float]:
    """Seconds of `count` steps from step `first` on."""
    optimizer = torch.optim.AdamW(objective.parameters(), 1e-4, fused=True)

    def run(first: int, count: int) -> float:
        start = time.monotonic()
        for step in range(first, first + count):
            split = data.batch("density", step, 0, batch, 1)
            objective(split.x, split.context).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return time.monotonic() - start

    return run


def speed(settings: dict[str, Any], density: dict[str, Any], batch: int, count: int, blocks: int) -> dict[str, Any]:
    """Steps a second, streamed and in memory, in turns."""
    policy = DevicePolicy(DeviceConfig(device="cpu", threads=1))
    runs, given = {}, []
    for stream in ("always", "never"):
        data = TrainingData(source(settings | {"stream": stream}), policy, 0)
        given.append(data)
        torch.manual_seed(0)
        network = installed().components["density"][density["type"]].model_validate(density)
        objective = MaximumLikelihood(network.build(data.source.event.standard()))
        objective.initialize(data.sample(512).x)
        runs[stream] = steps_of(data, objective, batch)
        runs[stream](0, 5)
    seconds: dict[str, list[float]] = {"always": [], "never": []}
    cpu = {"always": 0.0, "never": 0.0}
    for block in range(blocks):
        for stream in ("always", "never") if block % 2 else ("never", "always"):
            before = time.process_time()
            seconds[stream].append(runs[stream](5 + block * count, count))
            cpu[stream] += time.process_time() - before
    for data in given:
        with data.reading():
            pass
    ratios = [one / other for one, other in zip(seconds["never"], seconds["always"], strict=True)]
    low, middle, high = (round(value, 3) for value in statistics.quantiles(ratios, n=4))
    return {
        "batch": batch,
        "blocks": blocks,
        "steps of each block": count,
        "steps/s in memory": round(count / statistics.median(seconds["never"]), 1),
        "steps/s streamed": round(count / statistics.median(seconds["always"]), 1),
        "streamed / in memory": {"median": middle, "quartiles": [low, high]},
        "CPU ms a step, in memory": round(1e3 * cpu["never"] / (blocks * count), 2),
        "CPU ms a step, streamed": round(1e3 * cpu["always"] / (blocks * count), 2),
    }


def write_pictures(folder: Path, count: int, size: int) -> None:
    """Smooth random colours, as PNG."""
    random = np.random.default_rng(0)
    folder.mkdir()
    for index in range(count):
        coarse = Image.fromarray(random.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        coarse.resize((size, size), Image.Resampling.BICUBIC).save(folder / f"{index:05}.png")


def reading(path: Path, repeats: int = 30) -> dict[str, Any]:
    """Milliseconds to read, check and scale 256 rows."""
    examples = source({"type": "array", "path": str(path), "stream": "always", "standardize": False}).examples("train")
    order, results = Bijection(len(examples), 1), {}

    def batches(neighbours: int) -> list[torch.Tensor]:
        starts = order(np.arange(repeats * 256 // neighbours)) // neighbours * neighbours
        rows = (starts[:, None] + np.arange(neighbours)).reshape(repeats, 256)
        return list(torch.from_numpy(np.minimum(rows, len(examples) - 1)))

    reader = examples.reader
    with path.open("rb") as file:
        for cached in (False, True):
            for neighbours in (1, 16, 256):
                taken = []
                for rows in batches(neighbours):
                    ascending = np.sort(rows.numpy())
                    if cached:
                        list(reader.read(ascending))
                    else:
                        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                    start = time.monotonic()
                    list(reader.read(ascending))
                    taken.append(1e3 * (time.monotonic() - start))
                where = "in the page cache" if cached else "on the disk"
                results[f"{where}, runs of {neighbours}"] = round(statistics.median(taken), 2)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--gib", type=float, default=2.0, help="size of the large file")
    parser.add_argument("--out", type=Path, help="where the results go, as JSON")
    parser.add_argument("--folder", help="where data are written for the time being")
    parser.add_argument("--train", nargs=2, metavar=("PATH", "STREAM"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.train:
        train(*arguments.train)
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        os.environ["SMOOTHGEN_CACHE"] = str(folder / "cache")
        results: dict[str, Any] = {
            "command": "python " + " ".join(["tests/benchmarks/streaming.py", *sys.argv[1:]]),
            "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "torch": torch.__version__},
            "load average before": os.getloadavg()[0],
            "memory": memory(folder, arguments.gib),
            "read 256 rows, ms": reading(folder / "large.npy"),
        }
        write_pictures(folder / "pictures", 2000, 32)
        table = {"type": "array", "path": str(folder / "eighth.npy")}
        pictures = {"type": "images", "path": str(folder / "pictures"), "keep_mib": 0}
        made = {"type": "made", "hidden": [64, 64], "components": 3}
        pixelcnnpp = {"type": "pixelcnnpp", "filters": 8, "resolutions": 2, "blocks": 1}
        results["speed"] = {
            "MADE 64-64, 16 columns": speed(table, made, 256, 50, 31),
            "MADE 256-256, 16 columns": speed(table, made | {"hidden": [256, 256]}, 256, 50, 15),
            "PixelCNN++ 8 filters, 32x32 png, nothing kept": speed(pictures, pixelcnnpp, 8, 4, 11),
            "MADE 64, 32x32 png, nothing kept": speed(pictures, made | {"hidden": [64]}, 16, 4, 11),
        }
        results["load average after"] = os.getloadavg()[0]
    print(json.dumps(results, indent=2))
    if arguments.out:
        arguments.out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
