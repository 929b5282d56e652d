"""Proposition 1: to first order in the noise's variance, smoothing regularises by the curvature of log p; exact."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from smoothgen.data_source import DataSource
from smoothgen.reproduction.drawing import COLOURS, DASHES, label, save, sheet
from smoothgen.reproduction.estimates import table
from smoothgen.reproduction.line import data_of, kernel_of, nodes_of_data
from smoothgen.reproduction.study import Job, Outcome, Study

KAPPA = {"gaussian": 3.0, "laplace": 6.0, "uniform": 1.8}
"""Fourth moment of each kernel's noise of unit variance: what the next order of the expansion goes by."""
DATA = {"type": "two_gaussians"}
MODEL = {"type": "mixture_1d", "means": [-0.25, 0.35], "stds": [0.15, 0.2]}
QUADRATIC = {"type": "mixture_1d", "means": [0.1], "stds": [0.4]}
ETAS = tuple(10.0 ** (-exponent / 2.0) for exponent in range(4, 9))


class PropositionOne(Study):
    """E[log p(x_tilde)] - E[log p(x)] against eta / 2 E[d² log p / dx²], eta the variance of the noise."""

    name = "proposition-1"
    title = "Smoothing regularises by the curvature of log p"
    source = "Proposition 1, appendix A"

    def jobs(self, seeds: Sequence[int], quick: bool) -> list[Job]:
        etas = list(ETAS[::2] if quick else ETAS)
        settings = {"data": DATA, "model": MODEL, "quadratic": QUADRATIC, "etas": etas, "spacing": 1e-3}
        return [Job(self.name, kernel, seeds[0], {"kernel": kernel, **settings}) for kernel in KAPPA]

    def run(self, job: Job) -> Outcome:
        settings = job.settings
        data = nodes_of_data(data_of(settings["data"]), settings["spacing"])
        numbers: dict[str, Any] = {"etas": settings["etas"]}
        for name in ("model", "quadratic"):
            model = data_of(settings[name])
            second, fourth = (moment @ data.probability for moment in even_derivatives(model, data.x))
            changes = [change(model, data.x, data.probability, settings["kernel"], eta) for eta in settings["etas"]]
            first_order = [0.5 * eta * second.item() for eta in settings["etas"]]
            errors = [found - wanted for found, wanted in zip(changes, first_order, strict=True)]
            predicted = KAPPA[settings["kernel"]] / 24.0 * fourth.item()
            numbers[name] = {"change": changes, "first order": first_order, "error": errors, "predicted": predicted}
        return Outcome(numbers)

    def present(self, outcomes: Mapping[Job, Outcome], directory: Path) -> str:
        found = {job.settings["kernel"]: outcome.numbers for job, outcome in outcomes.items()}
        rows, ratios = [], []
        for kernel, numbers in found.items():
            etas, model = numbers["etas"], numbers["model"]
            slope = math.log(model["error"][-2] / model["error"][-1]) / math.log(etas[-2] / etas[-1])
            constant = model["error"][-1] / etas[-1] ** 2
            ratios.append(f"{kernel} {constant / model['predicted']:.4f}")
            rows.append(
                (
                    f"{kernel}, eta = {etas[-1]:.3g}",
                    f"{model['change'][-1]:.8f}",
                    f"{model['first order'][-1]:.8f}",
                    f"{slope:.3f}",
                    f"{constant:.1f}",
                    f"{model['predicted']:.1f}",
                    f"{max(map(abs, numbers['quadratic']['error'])):.1g}",
                )
            )
        orders = [float(row[3]) for row in rows]
        holds = all(abs(order - 2.0) < 0.05 for order in orders)
        header = (
            "noise",
            "change of E[log p]",
            "η/2 E[(log p)'']",
            "order of the rest",
            "rest / η²",
            "κ₄/24 E[(log p)'''']",
        )
        return "\n\n".join(
            [
                "The paper's expansion E[log p(x̃)] ≈ E[log p(x) + η/2 (log p)''] "
                f"{'holds' if holds else 'fails'}, η being the variance of the noise: what is left is of order "
                f"{min(orders):.2f} to {max(orders):.2f} in η.",
                "What is left is κ₄/24 E[(log p)''''] η², κ₄ = 3, 6 and 1.8 being the fourth moment of standardised "
                f'Gaussian, Laplace and uniform noise (measured over predicted: {", ".join(ratios)}); so "negligible '
                'higher moments" hold best for uniform noise. Where log p is quadratic nothing is left (last column).',
                save(_figure(found), directory, "proposition-1", "what is left of the expansion against the variance"),
                table((*header, "left for a quadratic log p"), rows),
            ]
        )


def even_derivatives(model: DataSource, x: Tensor) -> tuple[Tensor, Tensor]:
    """Second and fourth derivative of log p at x (n,), by autograd."""
    variable = x[:, None].clone().requires_grad_(True)
    value = model.log_prob(variable)
    found = []
    for _ in range(4):
        (value,) = torch.autograd.grad(value.sum(), variable, create_graph=True)
        found.append(value.detach()[:, 0])
    return found[1], found[3]


def noise_nodes(kernel: str, sigma: float) -> tuple[Tensor, Tensor]:
    """Noise values and their probabilities, by Gauss-Legendre panels between the kernels' kinks and edges.

    sigma scales the kernel of unit noise, whose sigma float32 holds exactly.
    """
    nodes, weights = np.polynomial.legendre.leggauss(16)
    edges = np.array([0.0, math.sqrt(3.0), 5.0, 10.0, 18.0, 30.0])
    e = np.concatenate([0.5 * (a + b) + 0.5 * (b - a) * nodes for a, b in itertools.pairwise(edges)])
    w = np.concatenate([0.5 * (b - a) * weights for a, b in itertools.pairwise(edges)])
    points, panel = (torch.from_numpy(np.concatenate([*pair])) for pair in ((-e, e), (w, w)))
    density = kernel_of(kernel, 1.0).log_prob(points[:, None], torch.zeros(len(points), 1, dtype=torch.float64))
    return sigma * points, panel * density.exp()


def change(model: DataSource, x: Tensor, probability: Tensor, kernel: str, eta: float) -> float:
    """E[log p(x_tilde)] - E[log p(x)] for noise of variance eta, nats."""
    e, q = noise_nodes(kernel, math.sqrt(eta))
    noisy = model.log_prob((x[:, None] + e).reshape(-1, 1)).reshape(len(x), len(e))
    return (probability @ (noisy - model.log_prob(x[:, None])[:, None]) @ q).item()


def _figure(found: dict[str, dict[str, Any]]) -> Any:
    figure, axes = sheet(1, 1, 3.6)
    axis = axes[0, 0]
    for index, (kernel, numbers) in enumerate(found.items()):
        etas, model = numbers["etas"], numbers["model"]
        axis.loglog(etas, np.abs(model["error"]), "os^"[index], color=COLOURS[index], label=f"{kernel}, measured")
        line = [abs(model["predicted"]) * eta**2 for eta in etas]
        name = f"{kernel}, κ₄/24 E[(log p)''''] η²"
        axis.loglog(etas, line, color=COLOURS[index], linestyle=DASHES[index], label=name)
    label(axis, "what the first order leaves", "η, variance of the noise (unit of x, squared)", "|rest| (nats)")
    axis.legend(fontsize=8)
    return figure
