"""Figure 3: three logistics on ten sharp modes, and on the same data smoothed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from smoothgen.density_model import DensityModel
from smoothgen.reproduction.bounds import bounds
from smoothgen.reproduction.drawing import COLOURS, label, save, sheet
from smoothgen.reproduction.estimates import grouped, of_key, table, text
from smoothgen.reproduction.line import REACH, Nodes, kernel_of, nodes_of_data, nodes_of_smoothed
from smoothgen.reproduction.study import Job, Outcome, Study
from smoothgen.reproduction.training import train_plain, train_smoothed, unseen

DATA = {"type": "ten_modes"}
SIGMA, SPACING = 0.5, 0.01
PLAIN, SMOOTHED, WIDE = "plain, 3 logistics", "smoothed, 3 logistics", "plain, 10 logistics"
TRAINER = {"batch_size": 512, "learning_rate": 2e-2}


class TenModes(Study):
    """KL of each model to the exact density of what it was trained on, and the bound that smoothing ends with."""

    name = "ten-modes"
    title = "Ten modes by three logistics"
    source = "Figure 3, section 3.1"

    def jobs(self, seeds: Sequence[int], quick: bool) -> list[Job]:
        steps = 60 if quick else 2500
        trainer = {**TRAINER, "max_steps": steps}
        points = {"points": 500, "few": 50} if quick else {"points": 20_000, "few": 2000}
        rows: dict[str, dict[str, Any]] = {
            name: {"density": mixture(components), "data": DATA, "trainer": trainer}
            for name, components in ((PLAIN, 3), (WIDE, 10))
        }
        conditional = {"type": "made", "hidden": [64, 64, 64], "components": 3, "fourier": 4}
        config = {
            "data": DATA,
            "kernel": {"type": "gaussian", "sigma": SIGMA},
            "density": mixture(3),
            "inverter": {"type": "conditional", "density": conditional},
            "trainer": {**trainer, "inverter": {"learning_rate": 1e-2}},
        }
        rows[SMOOTHED] = {"config": config}
        return [
            Job(self.name, name, seed, {"row": name, **row, **points}) for name, row in rows.items() for seed in seeds
        ]

    def run(self, job: Job) -> Outcome:
        settings = job.settings
        if "config" not in settings:
            trained = train_plain(settings["density"], unseen(DATA, job.seed), settings["trainer"], job.seed)
            exact = nodes_of_data(trained.data, SPACING)
            found = exact.divergence(log_density(trained.model, exact.x))
            numbers = {"entropy": exact.entropy, "divergence": found, "gap": found, "cpu_seconds": trained.cpu_seconds}
            return Outcome(numbers, curves(trained.model, exact))
        config = settings["config"]
        trained = train_smoothed({**config, "data": unseen(DATA, job.seed)}, job.seed)
        assert trained.smoothed is not None
        numbers = bounds(trained, "gaussian", job.seed, settings["points"], settings["few"], SPACING)
        kernel = kernel_of("gaussian", SIGMA)
        exact = nodes_of_smoothed(nodes_of_data(trained.data, SPACING), kernel, REACH["gaussian"] * SIGMA, SPACING)
        numbers |= {"divergence": numbers["smooth_gap"]}
        return Outcome(numbers, curves(trained.smoothed.density, exact))

    def present(self, outcomes: Mapping[Job, Outcome], directory: Path) -> str:
        found = {name: seeded for (name,), seeded in grouped(outcomes, "row").items()}
        rows = []
        for name, seeded in found.items():
            first = next(iter(seeded.values())).numbers
            cells = [text(of_key(seeded, key)) for key in ("divergence", "gap")]
            weighted = text(of_key(seeded, "iw_gap")) if "iw_gap" in first else ""
            rows.append(
                (name, f"{first['entropy']:.4f}", *cells, weighted, f"{of_key(seeded, 'cpu_seconds').mean:.1f}")
            )
        header = ("model", "entropy of the data", "KL to its own target", "gap, NLL or -ELBO", "gap of IW-100", "CPU s")
        return "\n\n".join(
            [
                _claim({name: of_key(seeded, "divergence").mean for name, seeded in found.items()}),
                f"The KL of the smoothed row is of p(x̃) to the data plus N(0, {SIGMA:g}²); its gap is that of the "
                "whole bound, p(x|x̃) with three logistics included. Ten plain logistics have one for each mode.",
                save(_figure(found), directory, "ten-modes", "densities of the models beside the exact ones"),
                "*Grey: the exact density. Lines: the model, one for each seed.*",
                table(header, rows),
            ]
        )


def mixture(components: int) -> dict[str, Any]:
    """A plain mixture of logistics: MADE for one coordinate and no context has nothing to see."""
    return {"type": "made", "hidden": [4], "components": components}


def log_density(model: DensityModel, x: torch.Tensor) -> torch.Tensor:
    """log p at x (n,), float64."""
    with torch.no_grad():
        return model.log_prob(x[:, None].float()).double()


def curves(model: DensityModel, exact: Nodes) -> dict[str, NDArray[Any]]:
    """The exact density and the model's, on an even grid over both."""
    x = torch.arange(exact.x.min().item(), exact.x.max().item(), exact.spacing, dtype=torch.float64)
    shown = np.interp(x.numpy(), exact.x.numpy(), exact.log_density.exp().numpy())
    gaps = torch.searchsorted(exact.x, x).clamp(1, len(exact.x) - 1)
    shown[((exact.x[gaps] - exact.x[gaps - 1]) > 1.5 * exact.spacing).numpy()] = 0.0
    return {"x": x.numpy(), "exact": shown, "model": log_density(model, x).exp().numpy()}


def _claim(divergence: Mapping[str, float]) -> str:
    if not {PLAIN, SMOOTHED} <= divergence.keys():
        return "The two trainings to compare are not both there."
    plain, smoothed = divergence[PLAIN], divergence[SMOOTHED]
    return (
        "The paper says that three logistics cannot fit ten modes but fit the smoothed data reasonably well: "
        f"{'yes' if smoothed < 0.1 * plain else 'no'}, the KL to the exact density is {plain:.3f} nats without and "
        f"{smoothed:.4f} with smoothing."
    )


def _figure(found: Mapping[str, Mapping[int, Outcome]]) -> Any:
    figure, axes = sheet(1, len(found), 3.2)
    for axis, (name, seeded) in zip(axes[0], found.items(), strict=True):
        for index, (seed, outcome) in enumerate(seeded.items()):
            arrays = outcome.arrays
            if not index:
                axis.fill_between(arrays["x"], arrays["exact"], color="#bbbbbb", linewidth=0, label="exact")
            axis.plot(arrays["x"], arrays["model"], color=COLOURS[index % 6], linewidth=1.2, label=f"seed {seed}")
        variable = "x̃" if name == SMOOTHED else "x"
        label(axis, name, f"{variable} (unit of the data)", f"density of {variable} (per unit)")
    axes[0, 0].legend(fontsize=8)
    return figure
