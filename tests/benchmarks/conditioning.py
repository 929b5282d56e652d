"""p(x | x_tilde) by `aligned` and by `stack` at equal compute: bits per dim against CPU seconds.

python tests/benchmarks/conditioning.py digits --seconds 120 --seeds 0 1 2
python tests/benchmarks/conditioning.py mnist --data ../shared/data/mnist --seconds 600 --seeds 0

Both have as many parameters (filters are chosen so), the same data, noise, seeds and optimiser settings, one thread,
and stop after the same CPU seconds of training; the test split is measured with averaged weights and the same draws.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import Generator

from smoothgen.component import ComponentConfig
from smoothgen.data_source import DataSource
from smoothgen.ema import ExponentialMovingAverage
from smoothgen.objectives import InversionObjective
from smoothgen.registry import installed

SETTINGS: dict[str, dict[str, Any]] = {
    "digits": {"data": {"type": "digits"}, "sigma": 0.3, "batch": 64, "rate": 2e-3, "test": 300, "blocks": 1},
    "mnist": {"data": {"type": "mnist"}, "sigma": 0.5, "batch": 32, "rate": 2e-3, "test": 500, "blocks": 1},
}
NETWORKS = {
    "digits": {"resolutions": 2, "components": 5, "dropout": 0.2},
    "mnist": {"resolutions": 3, "components": 5},
}
FILTERS = {"digits": {"stack": 24, "aligned": 19}, "mnist": {"stack": 16, "aligned": 13}}


def part(interface: str, settings: dict[str, Any]) -> ComponentConfig:
    """The configuration of a registered part."""
    return installed().components[interface][settings["type"]].model_validate(settings)


def train(name: str, conditioning: str, source: DataSource, seconds: float, seed: int) -> dict[str, Any]:
    """Trains one inverter for so many CPU seconds and measures it."""
    settings = SETTINGS[name]
    torch.manual_seed(seed)
    kernel = part("kernel", {"type": "gaussian", "sigma": settings["sigma"]}).build(source.event)
    network = {"type": "pixelcnnpp", "filters": FILTERS[name][conditioning], "conditioning": conditioning}
    density = network | {"blocks": settings["blocks"]} | NETWORKS[name]
    inverter = part("inverter", {"type": "conditional", "density": density}).build(source.event, kernel, 0)
    objective = InversionObjective(kernel, inverter)
    x = source.split("train").x
    objective.initialize(x[:: max(1, len(x) // 1024)])
    parameters = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, settings["rate"], weight_decay=0.0, fused=True)
    average = ExponentialMovingAverage(parameters, 0.998)
    generator = Generator().manual_seed(seed)
    spent, steps, curve = 0.0, 0, []
    while spent < seconds:
        began = time.process_time()
        for group in optimizer.param_groups:  # cosine in the time spent, so that both end their schedule
            group["lr"] = (
                settings["rate"] * min(1.0, (steps + 1) / 50) * 0.5 * (1 + math.cos(math.pi * spent / seconds))
            )
        loss = objective(x[torch.randint(len(x), (settings["batch"],), generator=generator)])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 5.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        average.update(steps)
        spent += time.process_time() - began
        steps += 1
        if spent >= seconds * (len(curve) + 1) / 5:
            with average.applied():
                curve.append({"seconds": spent, "steps": steps} | measure(objective, source, settings["test"]))
            print(f"  {conditioning} seed {seed}: {curve[-1]}", flush=True)
    count = sum(parameter.numel() for parameter in parameters)
    return {"conditioning": conditioning, "seed": seed, "parameters": count, "steps": steps, "curve": curve}


@torch.no_grad()
def measure(objective: InversionObjective, source: DataSource, most: int) -> dict[str, float]:
    """-log2 P(x | x_tilde) / D on the test split, four draws of x_tilde for each image."""
    objective.eval()
    x, bits = source.split("test").x[:most], []
    for draw in range(4):
        generator = Generator().manual_seed(draw)
        x_tilde = objective.kernel.sample(x, generator=generator)
        chunks = [objective.inverter.log_prob(a, b) for a, b in zip(x.split(100), x_tilde.split(100), strict=True)]
        bits.append(-torch.cat(chunks).double() / (x[0].numel() * math.log(2.0)))
    objective.train()
    mean = torch.stack(bits).mean(0)
    return {"bits_per_dim": mean.mean().item(), "stderr": (mean.std() / math.sqrt(len(mean))).item()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=sorted(SETTINGS))
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--data", type=Path, help="folder of the data, for mnist")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    settings = SETTINGS[arguments.name]["data"]
    source = part("data", settings | ({"path": str(arguments.data)} if arguments.data else {})).build()
    runs = [
        train(arguments.name, conditioning, source, arguments.seconds, seed)
        for seed in arguments.seeds
        for conditioning in ("aligned", "stack")
    ]
    result = {"name": arguments.name, "seconds": arguments.seconds, "runs": runs}
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=2) + "\n")
    for run in runs:
        print(f"{run['conditioning']:8} seed {run['seed']} {run['parameters']} parameters: {run['curve'][-1]}")


if __name__ == "__main__":
    main()
