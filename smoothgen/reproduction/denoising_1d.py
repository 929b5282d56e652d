"""Figures 8 to 11: two Gaussians denoised by a single step, and by p(x | x_tilde) of one and of two logistics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from smoothgen.device import derived_seed
from smoothgen.reproduction.drawing import COLOURS, DASHES, label, save, sheet
from smoothgen.reproduction.estimates import Seeded, grouped, of_key, table, text
from smoothgen.reproduction.line import (
    REACH,
    Nodes,
    SmoothedData,
    kernel_of,
    nodes_of_data,
    nodes_of_smoothed,
    posterior,
)
from smoothgen.reproduction.study import Job, Outcome, Study
from smoothgen.reproduction.training import Trained, train_smoothed, unseen

DATA = {"type": "two_gaussians"}
CASES = (("gaussian", 0.3), ("gaussian", 0.1), ("laplace", 0.3))
MIDDLE = 0.1
"""|x| below this is the gap between the modes."""
SPACING = 0.01
CENTRE = 0.0
"""x_tilde_0, the noisy point whose posterior is drawn."""
EDGES = np.linspace(-1.0, 1.0, 101)
EXACT, LEARNED, MISUSED = "single step, exact p(x̃)", "single step, learned p(x̃)", "Gaussian step, exact p(x̃)"
ONE, TWO = "p(x|x̃), 1 logistic", "p(x|x̃), 2 logistics"
Denoised = dict[str, Tensor]


class Denoising1D(Study):
    """Share of points between the modes and squared error of every denoiser, beside the data and the least error."""

    name = "denoising-1d"
    title = "Denoising two Gaussians"
    source = "Figures 8 to 11, appendix B.1"

    def jobs(self, seeds: Sequence[int], quick: bool) -> list[Job]:
        size = {"steps": 40, "points": 400} if quick else {"steps": 1200, "points": 6000}
        return [
            Job(self.name, f"{kernel} {sigma:g}", seed, {"kernel": kernel, "sigma": sigma, **size})
            for kernel, sigma in CASES
            for seed in seeds
        ]

    def run(self, job: Job) -> Outcome:
        settings = job.settings
        kernel, sigma = settings["kernel"], settings["sigma"]
        one, two = (train_smoothed(_config(settings, k, unseen(DATA, job.seed)), job.seed) for k in (1, 2))
        data, noise = nodes_of_data(two.data, SPACING), kernel_of(kernel, sigma)
        generator = Generator().manual_seed(derived_seed(job.seed, self.name))
        x = two.data.split("test").x[: settings["points"]]
        x_tilde = noise.sample(x.double(), generator=generator)
        sets: Denoised = {"data": x.double(), "noisy": x_tilde} | _exact(data, kernel, sigma, x_tilde)
        sets |= _learned(one, two, x_tilde.float(), generator)
        numbers: dict[str, Any] = {"entropy": two.data.entropy, "mass": {}, "mse": {}}
        numbers["cpu_seconds"] = one.cpu_seconds + two.cpu_seconds
        numbers["mmse"], numbers["exact single step"] = single_step(data, kernel, sigma)
        for name, found in sets.items():
            numbers["mass"][name] = (found.abs() < MIDDLE).double().mean().item()
            numbers["mse"][name] = (found - x).square().mean().item()
        numbers["mass"]["exact data"] = data.probability[data.x.abs() < MIDDLE].sum().item()
        arrays = {name: np.histogram(found.numpy(), EDGES, density=True)[0] for name, found in sets.items()}
        return Outcome(numbers, arrays | _posteriors(data, noise, one, two))

    def present(self, outcomes: Mapping[Job, Outcome], directory: Path) -> str:
        found = grouped(_flat(outcomes), "kernel", "sigma")
        parts = [_claims(found)]
        for (kernel, sigma), seeded in found.items():
            first = next(iter(seeded.values())).numbers
            names = [name for name in first["mass"] if name != "exact data"]
            rows = [
                (name, text(of_key(seeded, f"mass {name}"), 4), text(of_key(seeded, f"mse {name}"), 4))
                for name in names
            ]
            alt = f"histograms of the denoised points and the posterior, {kernel} noise {sigma:g}"
            parts += [
                f"**{kernel.capitalize()} noise, σ = {sigma:g}.** Least possible squared error "
                f"{first['mmse']:.5f}; by quadrature {first['exact single step']:.4f} of the posterior means and "
                f"{first['mass']['exact data']:.4f} of the data have |x| < {MIDDLE:g} (entropy of the data "
                f"{first['entropy']:.4f} nats; trainings {of_key(seeded, 'cpu_seconds').mean:.1f} CPU s).",
                save(_figure(seeded), directory, f"denoising-1d-{kernel}-{sigma:g}".replace(".", ""), alt),
                table(("points", f"share with |x| < {MIDDLE:g}", "mean squared error"), rows),
            ]
        return "\n\n".join(parts)


def single_step(data: Nodes, kernel: str, sigma: float) -> tuple[float, float]:
    """The least mean squared error, and the share of E[x | x_tilde] in the middle: exact, by quadrature."""
    noise = kernel_of(kernel, sigma)
    smoothed = nodes_of_smoothed(data, noise, REACH[kernel] * sigma, 0.1 * SPACING)
    rows = posterior(data, noise, smoothed.x)
    mean = rows @ data.x
    variance = rows @ data.x.square() - mean.square()
    return (smoothed.probability @ variance).item(), smoothed.probability[mean.abs() < MIDDLE].sum().item()


def _config(settings: Mapping[str, Any], components: int, data: Mapping[str, Any]) -> dict[str, Any]:
    steps = settings["steps"]
    conditional = {"type": "made", "hidden": [32, 32], "components": components}
    return {
        "data": data,
        "kernel": {"type": settings["kernel"], "sigma": settings["sigma"]},
        "density": {"type": "made", "hidden": [4], "components": 2},
        "inverter": {"type": "conditional", "density": conditional},
        "trainer": {"max_steps": steps, "batch_size": 512, "learning_rate": 1e-2},
    }


def _exact(data: Nodes, kernel: str, sigma: float, x_tilde: Tensor) -> Denoised:
    """Empirical Bayes with the exact p(x_tilde); for other noise also Tweedie's formula, which is not for it."""
    noise = kernel_of(kernel, sigma)
    smoothed = SmoothedData(data, noise)
    found = {EXACT: noise.posterior_mean(x_tilde, smoothed)}
    if kernel != "gaussian":
        found[MISUSED] = x_tilde + sigma**2 * smoothed.score(x_tilde)
    return found


def _learned(one: Trained, two: Trained, x_tilde: Tensor, generator: Generator) -> Denoised:
    assert one.smoothed is not None and two.smoothed is not None
    found = {
        LEARNED: two.smoothed.denoise(x_tilde, method="single-step"),
        ONE: one.smoothed.denoise(x_tilde, generator=generator),
        TWO: two.smoothed.denoise(x_tilde, generator=generator),
    }
    return {name: value.double() for name, value in found.items()}


def _posteriors(data: Nodes, noise: Any, one: Trained, two: Trained) -> dict[str, NDArray[Any]]:
    """p(x | x_tilde_0) on an even grid: exact, and as learned."""
    x = torch.linspace(-1.0, 1.0, 401, dtype=torch.float64)
    exact = posterior(data, noise, torch.tensor([CENTRE]).double())[0] / data.spacing
    arrays = {"x": x.numpy(), "posterior": np.interp(x.numpy(), data.x.numpy(), exact.numpy(), 0.0, 0.0)}
    column = x[:, None].float()
    for name, trained in ((ONE, one), (TWO, two)):
        assert trained.smoothed is not None
        with torch.no_grad():
            log_p = trained.smoothed.inverter.log_prob(column, torch.full_like(column, CENTRE))
        arrays[f"posterior {name}"] = log_p.exp().double().numpy()
    return arrays


def _flat(outcomes: Mapping[Job, Outcome]) -> dict[Job, Outcome]:
    """The same with the numbers of each denoiser under names of their own: "mass noisy", "mse noisy"."""
    flat = {}
    for job, outcome in outcomes.items():
        parts = {f"{key} {name}": value for key in ("mass", "mse") for name, value in outcome.numbers[key].items()}
        flat[job] = Outcome(outcome.numbers | parts, outcome.arrays)
    return flat


def _claims(found: Mapping[tuple[Any, ...], Seeded]) -> str:
    """What the paper says of the wide noise, of the narrow one, and of capacity; and Laplace noise beside it."""
    said = []
    shares = {
        case: {n: of_key(s, f"mass {n}").mean for n in ("data", "noisy", EXACT, ONE, TWO)} for case, s in found.items()
    }
    wide, narrow = shares.get(CASES[0]), shares.get(CASES[1])
    if wide is not None:
        floor = wide["data"]
        step, one = _yes(wide[EXACT] > 3.0 * floor), _yes(wide[ONE] > 3.0 * floor)
        said.append(
            f"The paper says that a single step leaves points between the modes when the noise is wide: {step}, "
            f"{wide[EXACT]:.3f} of them against {floor:.3f} of the data; that one logistic does as well: {one} "
            f"({wide[ONE]:.3f}); and that two do not: {_yes(wide[TWO] < 2.0 * floor)} ({wide[TWO]:.3f})."
        )
    if narrow is not None:
        good = _yes(narrow[EXACT] < 2.0 * narrow["data"])
        said.append(f"With narrow noise a single step is good enough: {good} ({narrow[EXACT]:.3f}).")
    laplace = found.get(CASES[2])
    if laplace is not None:
        errors = {name: of_key(laplace, f"mse {name}").mean for name in ("noisy", EXACT, LEARNED, MISUSED)}
        said.append(
            "For Laplace noise, empirical Bayes of its own has a squared error of "
            f"{errors[EXACT]:.4f} with the exact and {errors[LEARNED]:.4f} with the learned density (least possible "
            f"{of_key(laplace, 'mmse').mean:.4f}, noisy {errors['noisy']:.4f}), the Gaussian formula in its place "
            f"{errors[MISUSED]:.4f}."
        )
    return " ".join(said) or "No case of this study finished."


def _yes(holds: bool) -> str:
    return "yes" if holds else "no"


def _figure(seeded: Seeded) -> Any:
    outcome = next(iter(seeded.values()))
    arrays, middle = outcome.arrays, 0.5 * (EDGES[1:] + EDGES[:-1])
    panels = [name for name in ("noisy", EXACT, MISUSED, LEARNED, ONE, TWO) if name in arrays]
    columns = 3 if len(panels) < 6 else 4
    figure, axes = sheet((len(panels) + 1 + columns - 1) // columns, columns, 5.4)
    flat = list(axes.flat)
    for axis, name in zip(flat, panels, strict=False):
        axis.fill_between(middle, arrays["data"], step="mid", color="#bbbbbb", linewidth=0, label="data")
        axis.step(middle, arrays[name], where="mid", color=COLOURS[0], linewidth=1.2, label="denoised")
        axis.axvspan(-MIDDLE, MIDDLE, color=COLOURS[4], alpha=0.15, linewidth=0, label=f"|x| < {MIDDLE:g}")
        label(axis, name, "x (unit of the data)", "density (per unit)")
        axis.set_ylim(0.0, 1.5 * arrays["data"].max())
    flat[0].legend(fontsize=8)
    axis = flat[len(panels)]
    for index, (key, name) in enumerate(
        (("posterior", "exact"), (f"posterior {ONE}", "1 logistic"), (f"posterior {TWO}", "2 logistics"))
    ):
        axis.plot(arrays["x"], arrays[key], color=COLOURS[(6, 1, 2)[index]], linestyle=DASHES[index], label=name)
    label(axis, f"p(x | x̃ = {CENTRE:g})", "x (unit of the data)", "density (per unit)")
    axis.set_ylim(0.0, 1.6 * arrays["posterior"].max())
    axis.legend(fontsize=7, loc="upper center", ncols=2)
    for axis in flat[len(panels) + 1 :]:
        axis.set_visible(False)
    return figure
