"""Steps per second of the trainer on a 2-d MADE, against the same model under a DataLoader and default Adam.

    python tests/benchmarks/made_step.py [--seconds 20] [--out FILE]

Both train p(x_tilde) of the rings with fresh noise at each step: 3 hidden layers of 100, 3 logistics, one thread.
The two take turns (A B A B ...) in one process; medians over the rounds and their ratio are printed. "bare" is this
trainer without clipping and averaging, which the DataLoader loop does not do either; "as shipped" has both; "compiled"
is the same with device.compile (its half minute of compiling is not counted).
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator

import torch
from torch.utils.data import DataLoader, TensorDataset

from smoothgen.config import load_config
from smoothgen.device import DevicePolicy
from smoothgen.experiment import assemble
from smoothgen.trainer import trainer_of

STEPS = 50
CONFIG = {
    "name": "benchmark",
    "data": {"type": "rings", "train_size": 50000},
    "kernel": {"type": "gaussian", "sigma": 0.3},
    "density": {"type": "made", "hidden": [100, 100, 100], "components": 3, "activation": "relu"},
    "inverter": "gradient",
    "device": {"device": "cpu", "threads": 1},
}


def trainer_steps(batch_size: int, clip_norm: float, ema_decay: float, compiled: bool = False) -> Iterator[None]:
    """The trainer's own step, STEPS at a time."""
    stage = {"batch_size": batch_size, "clip_norm": clip_norm, "ema_decay": ema_decay, "max_steps": 10**6}
    config = load_config(CONFIG | {"trainer": stage}, [f"device.compile={str(compiled).lower()}"])
    source = config.data.build()
    config, model, _ = assemble(config, source)
    trainer = trainer_of(config, model, None, source, DevicePolicy(config.device))
    stage_to_train = trainer.stages[0]
    training = trainer._start(stage_to_train, None)
    while True:
        for _ in range(STEPS):
            trainer._step(stage_to_train, training)
            training.position.step += 1
        yield


def loader_steps(batch_size: int) -> Iterator[None]:
    """The textbook loop: DataLoader without workers, torch.optim.Adam with its defaults."""
    config = load_config(CONFIG)
    source = config.data.build()
    _, model, _ = assemble(config, source)
    loader = DataLoader(TensorDataset(source.split("train").x), batch_size=batch_size, shuffle=True, drop_last=True)
    optimizer = torch.optim.Adam(model.density.parameters(), lr=2e-3)
    done = 0
    while True:
        for (x,) in loader:
            loss = -model.density.log_prob(model.kernel.sample(x)).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            done += 1
            if done % STEPS == 0:
                yield


def interleaved(contenders: dict[str, Callable[[], Iterator[None]]], seconds: float) -> dict[str, list[float]]:
    """Steps per second of each contender, round by round."""
    running = {name: make() for name, make in contenders.items()}
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for steps in running.values():
        next(steps)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for name, steps in running.items():
            start = time.perf_counter()
            next(steps)
            rates[name].append(STEPS / (time.perf_counter() - start))
    return rates


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--out")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results = {}
    for batch_size in (200, 512, 1000):
        contenders = {
            "DataLoader + Adam": lambda batch_size=batch_size: loader_steps(batch_size),
            "trainer, bare": lambda batch_size=batch_size: trainer_steps(batch_size, 0.0, 0.0),
            "trainer, as shipped": lambda batch_size=batch_size: trainer_steps(batch_size, 5.0, 0.999),
            "trainer, compiled": lambda batch_size=batch_size: trainer_steps(batch_size, 5.0, 0.999, compiled=True),
        }
        rates = interleaved(contenders, arguments.seconds)
        base = statistics.median(rates["DataLoader + Adam"])
        for name, values in rates.items():
            middle = statistics.median(values)
            low, high = statistics.quantiles(values, n=4)[0], statistics.quantiles(values, n=4)[2]
            print(
                f"batch {batch_size:5d}  {name:22s} {middle:7.0f} steps/s [{low:.0f}, {high:.0f}]  x{middle / base:.2f}"
            )
            results[f"{name}, batch {batch_size}"] = {"steps_per_second": middle, "ratio": middle / base}
    if arguments.out:
        with open(arguments.out, "w") as file:
            json.dump(results, file, indent=2)


if __name__ == "__main__":
    main()
