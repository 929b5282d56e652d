"""Figure 4, second panel: do eight plain logistics fit six modes? It depends on the start and the learning rate."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor

from smoothgen.device import derived_seed
from smoothgen.logistic_mixture import log_density
from smoothgen.reproduction.drawing import COLOURS, label, save, sheet
from smoothgen.reproduction.estimates import grouped, of_key, table, text
from smoothgen.reproduction.line import data_of, nodes_of_data
from smoothgen.reproduction.study import Job, Outcome, Study
from smoothgen.reproduction.training import unseen

DATA = {"type": "six_modes"}
SPREADS = {"N(0, 1)": 1.0, "N(0, 0.1²)": 0.1, "over the data": None}
"""Where the components' means start; None spreads them evenly over the data."""
RATES = {"small, constant": (1e-3, False), "large, to zero": (2e-2, True)}
"""Adam's learning rate, and whether it falls to zero along a cosine."""
FITTED = 0.1
"""A gap below which all six modes are there: missing a mode costs 0.18 or more."""
SPACING = 0.01


class PlainMixture(Study):
    """Mixtures of two and eight logistics without smoothing, by start and learning rate."""

    name = "plain-mixture"
    title = "Six modes by a plain mixture of logistics"
    source = "Figure 4, second panel, section 4.1"

    def jobs(self, seeds: Sequence[int], quick: bool) -> list[Job]:
        steps = 30 if quick else 3000
        cases = [(8, *case) for case in itertools.product(SPREADS, RATES)] + [(2, "N(0, 1)", "large, to zero")]
        return [
            Job(self.name, f"{k} from {spread}, {rate}", seed, {"k": k, "spread": spread, "rate": rate, "steps": steps})
            for k, spread, rate in cases
            for seed in seeds
        ]

    def run(self, job: Job) -> Outcome:
        settings = job.settings
        source = data_of(unseen(DATA, job.seed))
        start = time.process_time()
        rate, falls = RATES[settings["rate"]]
        model = _start(settings["k"], SPREADS[settings["spread"]], source.split("train").x, job.seed)
        optimizer = torch.optim.Adam([model.requires_grad_(True)], rate)
        generator = Generator().manual_seed(derived_seed(job.seed, "plain-mixture", "draw"))
        for step in range(settings["steps"]):
            optimizer.param_groups[0]["lr"] = rate * _cosine(step / settings["steps"]) if falls else rate
            optimizer.zero_grad()
            (-log_density(source.draw(512, generator).x[:, 0], *model).mean()).backward()
            optimizer.step()
        seconds = time.process_time() - start
        exact = nodes_of_data(source, SPACING)
        x = torch.linspace(-7.0, 7.0, 1401, dtype=torch.float64)
        model = model.detach().double()
        numbers = {"gap": exact.divergence(log_density(exact.x, *model)), "entropy": exact.entropy}
        numbers["nll"] = numbers["entropy"] + numbers["gap"]
        return Outcome(
            numbers | {"cpu_seconds": seconds}, {"x": x.numpy(), "model": log_density(x, *model).exp().numpy()}
        )

    def present(self, outcomes: Mapping[Job, Outcome], directory: Path) -> str:
        found = grouped(outcomes, "k", "spread", "rate")
        rows = []
        for (k, spread, rate), seeded in found.items():
            first = next(iter(seeded.values())).numbers
            fitted = sum(outcome.numbers["gap"] < FITTED for outcome in seeded.values())
            gaps = ", ".join(f"{outcome.numbers['gap']:.3f}" for outcome in seeded.values())
            cells = (k, spread, rate, f"{first['entropy']:.4f}", text(of_key(seeded, "nll")), gaps)
            rows.append((*cells, f"{fitted} of {len(seeded)}"))
        header = ("logistics", "means start", "learning rate", "entropy", "NLL", "gap, each seed", "all modes")
        eight = {key: seeded for key, seeded in found.items() if key[0] == 8}
        done = [k for k, seeded in eight.items() if all(o.numbers["gap"] < FITTED for o in seeded.values())]
        where = "; ".join(f"means {spread} with a learning rate {rate}" for _, spread, rate in done) or "none"
        failed = len(eight) - len(done)
        return "\n\n".join(
            [
                "The paper says that eight plain logistics fail on six modes, perhaps by optimisation or start: with "
                f"{failed} of {len(eight)} starts and learning rates they do for some seed, and with "
                f"{len(done)} they fit every time ({where}).",
                save(
                    _figure(eight), directory, "plain-mixture", "densities of eight plain logistics by start and rate"
                ),
                "*Grey: the exact density. Lines: eight logistics, one for each seed.*",
                table(header, rows),
            ]
        )


def _start(components: int, spread: float | None, x: Tensor, seed: int) -> Tensor:
    """(3, components): logits, loc and log scale; equal weights and scales of 1."""
    generator = Generator().manual_seed(derived_seed(seed, "plain-mixture", "start"))
    if spread is None:
        loc = torch.quantile(x[:, 0], (torch.arange(components) + 0.5) / components)
    else:
        loc = spread * torch.randn(components, generator=generator)
    return torch.stack([torch.zeros(components), loc, torch.zeros(components)])


def _cosine(share: float) -> float:
    return 0.5 * (1.0 + math.cos(math.pi * share))


def _figure(found: Mapping[tuple[Any, ...], Mapping[int, Outcome]]) -> Any:
    figure, axes = sheet(len(RATES), len(SPREADS), 4.6, sharex=True, sharey=True)
    exact = nodes_of_data(data_of(DATA), SPACING)
    for (row, rate), (column, spread) in itertools.product(enumerate(RATES), enumerate(SPREADS)):
        axis = axes[row, column]
        axis.vlines(exact.x.numpy(), 0.0, exact.log_density.exp().numpy(), color="#bbbbbb", linewidth=1.0)
        for index, outcome in enumerate(found.get((8, spread, rate), {}).values()):
            axis.plot(outcome.arrays["x"], outcome.arrays["model"], color=COLOURS[index % 6], linewidth=1.2)
        label(axis, f"means {spread}\nlearning rate {rate}")
        axis.set_ylim(0.0, 0.6)
    for axis in axes[-1]:
        axis.set_xlabel("x (unit of the data)", fontsize=9)
    for axis in axes[:, 0]:
        axis.set_ylabel("density (per unit)", fontsize=9)
    return figure
