"""Theorem 1: smoothing never raises the Lipschitz constant of a density on a line; exact, nothing is trained."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from smoothgen.data_source import DataSource
from smoothgen.reproduction.drawing import COLOURS, DASHES, label, save, sheet
from smoothgen.reproduction.estimates import table
from smoothgen.reproduction.line import data_of, kernel_of
from smoothgen.reproduction.study import Job, Outcome, Study

SETS = {"two_gaussians": 0.1, "six_modes": 0.15, "ten_modes": 0.05}
"""Sets of equal modes, and the modes' standard deviation."""
KERNELS = ("gaussian", "laplace", "uniform")
SIGMAS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0)
REACH = 20.0
"""Standard deviations of noise that are kept; the Laplace kernel has 1e-12 beyond."""


class TheoremOne(Study):
    """Lip(q) / Lip(p) for three kernels and three sets, over the noise."""

    name = "theorem-1"
    title = "Smoothing lowers the Lipschitz constant"
    source = "Theorem 1, section 3.1"

    def jobs(self, seeds: Sequence[int], quick: bool) -> list[Job]:
        settings = {"sigmas": [0.01, 0.3] if quick else list(SIGMAS), "spacing": 5e-4}
        return [
            Job(self.name, f"{data} {kernel}", seeds[0], {"data": data, "kernel": kernel, **settings})
            for data, kernel in itertools.product(SETS, KERNELS)
        ]

    def run(self, job: Job) -> Outcome:
        settings = job.settings
        source, spacing = data_of({"type": settings["data"]}), settings["spacing"]
        ratios = [smoothed_ratio(source, settings["kernel"], sigma, spacing) for sigma in settings["sigmas"]]
        return Outcome({"sigmas": settings["sigmas"], "ratios": ratios})

    def present(self, outcomes: Mapping[Job, Outcome], directory: Path) -> str:
        found = {(job.settings["data"], job.settings["kernel"]): outcome.numbers for job, outcome in outcomes.items()}
        largest = max(ratio for numbers in found.values() for ratio in numbers["ratios"])
        falls = all(a >= b - 1e-12 for numbers in found.values() for a, b in itertools.pairwise(numbers["ratios"]))
        sigmas = next(iter(found.values()))["sigmas"]
        rows = [
            (f"{data}, {kernel}", *(f"{ratio:.4f}" for ratio in numbers["ratios"]))
            for (data, kernel), numbers in found.items()
        ]
        off = [
            abs(ratio / closed_form(data, sigma) - 1.0)
            for (data, kernel), numbers in found.items()
            for sigma, ratio in zip(numbers["sigmas"], numbers["ratios"], strict=True)
            if kernel == "gaussian" and sigma <= 0.05
        ]
        exact = f"; up to σ = 0.05 the measured ratios agree with it to {100 * max(off):.2g} %" if off else ""
        return "\n\n".join(
            [
                f"The paper proves Lip(q) ≤ Lip(p) for every symmetric, stationary kernel: "
                f"{'holds' if largest <= 1.0 + 1e-9 else 'fails'}, the largest of {len(rows) * len(sigmas)} ratios "
                f"is {largest:.4f}; more noise never raises it again: {'yes' if falls else 'no'}.",
                "For Gaussian noise and modes that stay apart the ratio is s² / (s² + σ²), s the modes' standard "
                f"deviation{exact}. Slopes are exact, the noise is a normalised sum over a grid of "
                f"{next(iter(outcomes)).settings['spacing']:g}.",
                save(_figure(found), directory, "theorem-1", "Lipschitz constants after smoothing over those before"),
                table(("Lip(q) / Lip(p)", *(f"σ = {sigma:g}" for sigma in sigmas)), rows),
            ]
        )


def smoothed_ratio(source: DataSource, kernel: str, sigma: float, spacing: float) -> float:
    """Lip of the data's density after noise over Lip before, both on the same grid.

    Every smoothed slope is an average of slopes on the grid, by weights that sum to 1: the theorem to rounding.
    """
    seen = source.split("test").x.double().abs().max().item()
    half = 1.3 * seen + 0.2 + REACH * sigma
    slope = slopes(source, half, spacing)
    weights = noise_weights(kernel, sigma, spacing)
    size = len(slope) + len(weights) - 1
    smoothed = np.fft.irfft(np.fft.rfft(slope, size) * np.fft.rfft(weights, size), size)
    return float(np.abs(smoothed).max() / np.abs(slope).max())


def slopes(source: DataSource, half: float, spacing: float) -> NDArray[Any]:
    """dp/dx of the exact density, by autograd, on an even grid from -half to half."""
    points = math.ceil(half / spacing)
    x = (torch.arange(-points, points + 1, dtype=torch.float64) * spacing)[:, None].requires_grad_(True)
    (gradient,) = torch.autograd.grad(source.log_prob(x).exp().sum(), x)
    found: NDArray[Any] = gradient[:, 0].numpy()
    return found


def noise_weights(kernel: str, sigma: float, spacing: float) -> NDArray[Any]:
    """A registered kernel's density on an even grid, normalised to sum 1."""
    steps = max(1, math.ceil(REACH * sigma / spacing))
    e = (torch.arange(-steps, steps + 1, dtype=torch.float64) * spacing)[:, None]
    weights: NDArray[Any] = torch.softmax(kernel_of(kernel, sigma).log_prob(e, torch.zeros_like(e)), 0).numpy()
    return weights


def closed_form(data: str, sigma: float) -> float:
    """The ratio for Gaussian noise while the smoothed modes stay apart."""
    return SETS[data] ** 2 / (SETS[data] ** 2 + sigma**2)


def _figure(found: dict[tuple[str, str], dict[str, Any]]) -> Any:
    figure, axes = sheet(1, len(SETS), 3.2, sharey=True)
    for axis, data in zip(axes[0], SETS, strict=True):
        for index, kernel in enumerate(KERNELS):
            numbers = found.get((data, kernel))
            if numbers is not None:
                style = {"color": COLOURS[index], "linestyle": DASHES[index], "marker": "os^"[index], "markersize": 4}
                axis.loglog(numbers["sigmas"], numbers["ratios"], label=kernel, **style)
        sigmas = np.geomspace(0.01, 2.0, 100)
        limit = [closed_form(data, sigma) for sigma in sigmas]
        axis.loglog(sigmas, limit, color=COLOURS[6], linewidth=0.8, linestyle=":", label="s² / (s² + σ²)")
        label(axis, data.replace("_", " "), "standard deviation of the noise (unit of x)")
    axes[0, 0].set_ylabel("Lip(q) / Lip(p)", fontsize=9)
    axes[0, 0].legend(fontsize=8)
    return figure
