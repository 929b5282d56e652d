"""What a user waits for and pays: the time to the first step, memory for every parameter, and none that grows."""

from __future__ import annotations

import gc
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from plane import MADE, trainer_steps
from timing import Row, Rows, Settings

from smoothgen.config import load_config
from smoothgen.device import DevicePolicy
from smoothgen.experiment import assemble
from smoothgen.trainer import trainer_of

FIRST_STEP = """
import sys, time
from smoothgen import trainer
step = trainer.Trainer._step
def first(*arguments):
    result = step(*arguments)
    print("first step", time.time(), flush=True)
    import os
    os._exit(0)
trainer.Trainer._step = first
from smoothgen.cli import main
sys.argv = ["smoothgen", "train", "digits", "--run-dir", sys.argv[1]]
main()
"""


def resident() -> int:
    """Bytes of this process in memory."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def first_step() -> float:
    """Seconds by the clock from starting Python to the end of the first step of `smoothgen train digits`."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.time()
        command = [sys.executable, "-c", FIRST_STEP, f"{folder}/run"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    line = next(line for line in done.stdout.splitlines() if line.startswith("first step"))
    return float(line.split()[-1]) - began


def bytes_for_a_parameter(settings: Settings) -> tuple[float, int]:
    """What training a MADE holds for every parameter: weights, gradients, Adam's two moments, averaged weights."""
    wide = 500 if settings.quick else 4000
    density = MADE["density"] | {"hidden": [wide, wide]}
    stage = {"batch_size": 16, "max_steps": 10}
    config = load_config(MADE | {"density": density, "trainer": stage, "device": {"device": settings.device.type}})
    source = config.data.build()
    before = resident() if settings.device.type == "cpu" else torch.cuda.memory_allocated()
    config, model, _ = assemble(config, source)
    trainer = trainer_of(config, model, None, source, DevicePolicy(config.device))
    training = trainer._start(trainer.stages[0], None)
    for _ in range(3):
        trainer._step(trainer.stages[0], training)
        training.position.step += 1
    after = resident() if settings.device.type == "cpu" else torch.cuda.memory_allocated()
    count = sum(p.numel() for p in model.parameters())
    return (after - before) / count, count


def rows(settings: Settings) -> Rows:
    if settings.device.type == "cpu":
        times = sorted(first_step() for _ in range(settings.fewer(5)))
        yield Row(
            "costs", "smoothgen train digits, from start to first step", times[len(times) // 2], notes={"unit": "s"}
        )
    # a process of its own: in this one, memory that other measurements freed would be used again, unseen
    command = [sys.executable, __file__, settings.device.type, str(int(settings.quick))]
    each, count = map(float, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    yield Row("costs", "memory of training, for a parameter", each, notes={"unit": "bytes", "parameters": int(count)})
    work = trainer_steps(settings, 200, 5.0, 0.999, False)
    turns = 2 if settings.quick else 25
    for _ in range(turns):
        work()
    early = resident()
    for _ in range(turns if settings.quick else 225):
        work()
    grown = (resident() - early) / 2**10
    yield Row("costs", "memory grown from step 1,000 to step 10,000", grown, notes={"unit": "KiB"})


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(*bytes_for_a_parameter(Settings(torch.device(sys.argv[1]), 2, bool(int(sys.argv[2])))))
