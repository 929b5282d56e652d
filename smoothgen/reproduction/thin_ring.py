"""Figure 2: how steep the density of a thin ring is, before and after smoothing; exact, nothing is trained."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from smoothgen.data_source import DataSource
from smoothgen.reproduction.drawing import COLOURS, DASHES, label, save, sheet
from smoothgen.reproduction.estimates import table
from smoothgen.reproduction.line import data_of
from smoothgen.reproduction.study import Job, Outcome, Study

RADIUS, NOISE = 1.0, 0.01
SHOWN = (0.0, 0.01, 0.03, 0.1, 0.3)
"""Noise whose slopes are drawn."""
SMOOTH = 0.03
"""Noise of the second row of pictures."""
OFFSETS = (-0.03, -0.015, -0.007, 0.0, 0.007, 0.015, 0.03)
"""c: the point is at (sqrt(.5) + c, sqrt(.5) + c), so sqrt(2) c off the circle; the paper's values are unknown."""
WINDOW, PIXELS = 0.08, 81
LIPSCHITZ_OF_NORMAL = 1.0 / math.sqrt(2.0 * math.pi * math.e)
"""Of N(0, 1); that of N(0, s^2) is this over s^2."""


class ThinRing(Study):
    """Directional derivatives along the diagonal, and the Lipschitz constant against the noise."""

    name = "thin-ring"
    title = "The density of a thin ring is steep, smoothing makes it flat"
    source = "Figure 2, section 2.2"

    def jobs(self, seeds: Sequence[int], quick: bool) -> list[Job]:
        sigmas = [0.0, *np.geomspace(1e-3, 1.0, 4 if quick else 25).tolist()]
        settings = {
            "data": {"type": "thin_ring", "radius": RADIUS, "noise": NOISE},
            "sigmas": sigmas,
            "points": 2001 if quick else 20001,
        }
        return [Job(self.name, "exact", seeds[0], settings)]

    def run(self, job: Job) -> Outcome:
        source = data_of(job.settings["data"])
        numbers: dict[str, Any] = {"sigmas": job.settings["sigmas"], "lipschitz": [], "rms": []}
        for sigma in numbers["sigmas"]:
            steepest, rms = steepness(source, sigma, job.settings["points"])
            numbers["lipschitz"].append(steepest)
            numbers["rms"].append(rms)
        arrays: dict[str, NDArray[Any]] = {"offset": np.linspace(-0.15, 0.15, 1201)}
        along = torch.from_numpy(RADIUS + arrays["offset"])
        numbers["largest_tangential"] = 0.0
        for sigma in SHOWN:
            log_p, radial, tangential = derivatives(source, sigma, along)
            arrays[f"log-slope {sigma:g}"] = radial.numpy()
            arrays[f"slope {sigma:g}"] = (radial * log_p.exp()).numpy()
            largest = (tangential * log_p.exp()).abs().max().item()
            numbers["largest_tangential"] = max(numbers["largest_tangential"], largest)
        for sigma in (0.0, SMOOTH):
            arrays[f"window {sigma:g}"] = window(source, sigma)
            log_p, radial, _ = derivatives(source, sigma, RADIUS + math.sqrt(2.0) * torch.tensor(OFFSETS).double())
            arrays[f"arrows {sigma:g}"] = (radial * log_p.exp()).numpy()
        return Outcome(numbers, arrays)

    def present(self, outcomes: Mapping[Job, Outcome], directory: Path) -> str:
        (outcome,) = outcomes.values()
        numbers = outcome.numbers
        plain, sigmas = numbers["lipschitz"][0], numbers["sigmas"]
        peak = math.sqrt(0.5) * NOISE * 1e3
        nearest = min(range(len(sigmas)), key=lambda index: abs(sigmas[index] - SMOOTH))
        factor = plain / numbers["lipschitz"][nearest]
        arrows = np.abs(outcome.arrays["arrows 0"])
        crest = arrows[OFFSETS.index(0.0)] / plain
        first = (
            f"Beside the ring the density's slope reaches {plain:.0f} per unit of length, on its crest it is "
            f"{100 * crest:.0f} % of that and {OFFSETS[-1]:g} away {100 * arrows[-1] / plain:.1g} %: small, large, "
            f"small, large, small along the way, as the paper says. Gaussian noise of {sigmas[nearest]:.3g} makes the "
            f"Lipschitz constant {factor:.1f} times smaller."
        )
        falls = all(later < earlier for earlier, later in itertools.pairwise(numbers["lipschitz"]))
        rows = [
            (f"{sigma:.3g}", f"{lip:.4g}", f"{lip / plain:.4f}", f"{closed_form(sigma):.4g}", f"{rms:.4g}")
            for sigma, lip, rms in zip(sigmas, numbers["lipschitz"], numbers["rms"], strict=True)
            if sigma in (sigmas[0], *sigmas[1::4])
        ]
        header = ("sigma", "Lip(p)", "ratio", "thin-ring limit", "root mean square of the score")
        return "\n\n".join(
            [
                first,
                f"The Lipschitz constant falls with every step of sigma: {'yes' if falls else 'no'}. Along the ring "
                f"the density does not change at all (largest derivative {numbers['largest_tangential']:.1g}), so the "
                "whole slope is across the manifold. The thin-ring limit is 0.242 / (2π (s² + σ²)), the slope of a "
                "Gaussian profile rolled around a unit circle; it fails once σ is of the circle's size. The score of "
                "a point of the smoothed data falls like 1 / sqrt(s² + σ²).",
                save(_path(outcome), directory, "thin-ring-path", "the density near the ring and its derivative"),
                f"*The window is ±{WINDOW:g} around the ring's crossing with the diagonal; arrows are derivatives "
                f"along the diagonal, on one scale in each row. Steepest at c = ±{peak:.1f}e-3.*",
                save(_slopes(outcome), directory, "thin-ring-slopes", "slopes and Lipschitz constants against sigma"),
                table(header, rows),
            ]
        )


def derivatives(source: DataSource, sigma: float, distance: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """log p at a distance (n,) from the origin on the diagonal; d log p along and across the radius: (n,) each."""
    outwards = torch.tensor([1.0, 1.0]).double() / math.sqrt(2.0)
    x = (distance[:, None] * outwards).requires_grad_(True)
    log_p = source.smoothed_log_prob(x, sigma)
    (gradient,) = torch.autograd.grad(log_p.sum(), x)
    across = torch.stack([-outwards[1], outwards[0]])
    return log_p.detach(), gradient @ outwards, gradient @ across


def steepness(source: DataSource, sigma: float, points: int) -> tuple[float, float]:
    """max |grad p|, and the root mean square of grad log p under p itself: both only have a radial part."""
    reach = 8.0 * math.hypot(NOISE, sigma)
    low, high = max(RADIUS - reach, 1e-4), RADIUS + reach
    distance = torch.linspace(low, high, points, dtype=torch.float64)
    log_p, radial, _ = derivatives(source, sigma, distance)
    mass = log_p.exp() * distance
    return (radial * log_p.exp()).abs().max().item(), ((mass * radial.square()).sum() / mass.sum()).sqrt().item()


def closed_form(sigma: float) -> float:
    """The Lipschitz constant of a Gaussian profile around a unit circle, while it is thin."""
    return LIPSCHITZ_OF_NORMAL / (NOISE**2 + sigma**2) / (2.0 * math.pi)


def window(source: DataSource, sigma: float) -> NDArray[Any]:
    """The density on a square around the ring's crossing with the diagonal: (PIXELS, PIXELS), float32."""
    side = torch.linspace(-WINDOW, WINDOW, PIXELS, dtype=torch.float64) + math.sqrt(0.5)
    x = torch.cartesian_prod(side, side)
    image: NDArray[Any] = source.smoothed_log_prob(x, sigma).exp().reshape(PIXELS, PIXELS).T.float().numpy()
    return image


def _path(outcome: Outcome) -> Any:
    figure, axes = sheet(2, len(OFFSETS), 3.6, sharex=True, sharey=True)
    for row, sigma in zip(axes, (0.0, SMOOTH), strict=True):
        arrows = outcome.arrays[f"arrows {sigma:g}"]
        for axis, offset, slope in zip(row, OFFSETS, arrows, strict=True):
            extent = (-WINDOW, WINDOW, -WINDOW, WINDOW)
            axis.imshow(outcome.arrays[f"window {sigma:g}"], origin="lower", extent=extent, cmap="viridis")
            axis.plot([-WINDOW, WINDOW], [-WINDOW, WINDOW], color="white", linewidth=0.6, linestyle=":")
            length = 0.055 * slope / np.abs(arrows).max()
            if abs(length) > 0.003:  # the head of a shorter arrow would hide which way it points
                style = {"arrowstyle": "-|>", "color": "white", "linewidth": 1.8, "shrinkA": 0, "shrinkB": 0}
                axis.annotate("", (offset + length, offset + length), (offset, offset), arrowprops=style)
            axis.plot(offset, offset, "o", color=COLOURS[1], markersize=5)
            axis.set_title(f"c = {offset:g}\nslope {slope:.3g}", fontsize=8)
        row[0].set_ylabel(("not smoothed" if not sigma else f"sigma {sigma:g}") + "\n$x_2 - \\sqrt{0.5}$", fontsize=9)
    axes[1, len(OFFSETS) // 2].set_xlabel("$x_1 - \\sqrt{0.5}$", fontsize=9)
    return figure


def _slopes(outcome: Outcome) -> Any:
    figure, axes = sheet(2, 2, 6.0)
    offset, numbers = outcome.arrays["offset"], outcome.numbers
    for index, sigma in enumerate(SHOWN):
        style = {"color": COLOURS[index], "linestyle": DASHES[index % len(DASHES)], "label": f"sigma {sigma:g}"}
        slope = outcome.arrays[f"slope {sigma:g}"]
        axes[0, 0].plot(offset, slope / np.abs(slope).max(), **style)
        axes[0, 1].plot(offset, outcome.arrays[f"log-slope {sigma:g}"], **style)
    distance = "distance from the ring (unit of x)"
    label(axes[0, 0], "slope of the density, each to its own maximum", distance, "dp/dr over its maximum")
    label(axes[0, 1], "slope of the log density", distance, "d log p/dr (nats per unit)")
    axes[0, 1].set_ylim(-400, 400)
    axes[0, 0].legend(fontsize=8)
    sigmas = numbers["sigmas"][1:]
    axes[1, 0].loglog(sigmas, numbers["lipschitz"][1:], "o-", color=COLOURS[0], markersize=4, label="exact")
    limit = [closed_form(sigma) for sigma in sigmas]
    axes[1, 0].loglog(sigmas, limit, "--", color=COLOURS[1], label="thin-ring limit")
    axes[1, 0].axhline(numbers["lipschitz"][0], color=COLOURS[6], linestyle=":", label="not smoothed")
    label(axes[1, 0], "Lipschitz constant of the density", "sigma (unit of x)", "max |grad p| (per unit³)")
    axes[1, 0].legend(fontsize=8)
    axes[1, 1].loglog(sigmas, numbers["rms"][1:], "o-", color=COLOURS[0], markersize=4)
    axes[1, 1].axhline(numbers["rms"][0], color=COLOURS[6], linestyle=":", label="not smoothed")
    label(axes[1, 1], "score at points of the smoothed data", "sigma (unit of x)", "root mean square (nats per unit)")
    axes[1, 1].legend(fontsize=8)
    return figure
