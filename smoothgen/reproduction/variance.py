"""Figure 4, third panel: the bound against the variance of the noise, for three kernels, term by term."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from smoothgen.reproduction.bounds import TERMS, bounds
from smoothgen.reproduction.capacity import capacity
from smoothgen.reproduction.drawing import COLOURS, DASHES, label, save, sheet
from smoothgen.reproduction.estimates import Seeded, difference, grouped, of_key, sure_sign, table, text
from smoothgen.reproduction.line import REACH, data_of, kernel_of, nodes_of_data
from smoothgen.reproduction.study import Job, Outcome, Study
from smoothgen.reproduction.training import train_smoothed, unseen

KERNELS = ("gaussian", "laplace", "uniform")
EVEN, UNEVEN = "six modes", "six uneven modes"
DATA: dict[str, dict[str, Any]] = {
    EVEN: {"type": "six_modes"},
    UNEVEN: {
        "type": "mixture_1d",
        "means": [-5.0, -3.4, -1.2, 0.6, 3.0, 5.0],
        "stds": [0.15, 0.12, 0.2, 0.15, 0.2, 0.12],
    },
}
SIGMAS = {
    EVEN: (0.1, 0.2, 0.35, 0.5, 0.6, 0.7, 0.85, 1.0, 1.4, 2.0, 3.0),
    UNEVEN: (0.4, 0.55, 0.7, 0.85, 1.0),
}
SPACING = 0.03
TICKS = (0.1, 0.2, 0.4, 0.7, 1.0, 2.0, 3.0)
NAMES = dict(zip(TERMS, ("-E log p(x̃)", "E log q(x̃|x)", "-E log p(x|x̃)"), strict=True))
"""Minus the terms of the bound: what -ELBO is the sum of."""
Curve = list[tuple[float, Seeded]]


class Variance(Study):
    """-ELBO over the noise's standard deviation: two logistics in each part, anchored, with Fourier inputs."""

    name = "variance"
    title = "The bound against the variance of the noise"
    source = "Figure 4, third panel, section 4.1"

    def jobs(self, seeds: Sequence[int], quick: bool) -> list[Job]:
        jobs = []
        points = {"points": 500, "few": 50} if quick else {"points": 20_000, "few": 2000}
        for data, kernel in itertools.product(DATA, KERNELS):
            for sigma in SIGMAS[data] if not quick else SIGMAS[data][2::3]:
                where = {"data": data, "kernel": kernel, "sigma": sigma}
                config = _config(data, kernel, sigma, 40 if quick else 2000)
                name = f"{data}, {kernel} {sigma:g}"
                jobs += [Job(self.name, name, seed, {**where, "config": config, **points}) for seed in seeds]
                if not quick or (data, sigma) == (EVEN, SIGMAS[EVEN][5]):
                    settings = {**where, "best": True, "every": 0.5 if quick else 0.1}
                    jobs.append(Job(self.name, f"{name}, at best", seeds[0], settings))
        return jobs

    def run(self, job: Job) -> Outcome:
        settings = job.settings
        kernel, sigma, data = settings["kernel"], settings["sigma"], DATA[settings["data"]]
        if "best" in settings:
            nodes = nodes_of_data(data_of(data), SPACING)
            best = capacity(nodes, kernel_of(kernel, sigma), 2, REACH[kernel] * sigma, settings["every"])
            return Outcome({"gap": best.gap, "smooth_gap": best.smooth})
        trained = train_smoothed({**settings["config"], "data": unseen(data, job.seed)}, job.seed)
        return Outcome(bounds(trained, kernel, job.seed, settings["points"], settings["few"], SPACING))

    def present(self, outcomes: Mapping[Job, Outcome], directory: Path) -> str:
        trained = {job: outcome for job, outcome in outcomes.items() if "config" in job.settings}
        best = {job: outcome for job, outcome in outcomes.items() if "best" in job.settings}
        parts = []
        for data in DATA:
            curves = {kernel: _curve(trained, data, kernel) for kernel in KERNELS}
            capable = {kernel: _curve(best, data, kernel) for kernel in KERNELS}
            curves = {kernel: curve for kernel, curve in curves.items() if curve}
            if not curves:
                continue
            file = f"variance-{data.replace(' ', '-')}"
            parts += [
                _shape(data, curves),
                _order(curves, "gap", "-ELBO"),
                _order(curves, "iw_gap", "the IW-100 bound"),
                _capable(capable),
                save(_figure(curves, capable), directory, file, f"-ELBO against sigma and its terms, {data}"),
                table(*_table(curves)),
            ]
        parts.append(
            "*-ELBO is the mean gap to the exact density over the test points plus the exact entropy. Best possible: "
            "two logistics of its own for every x̃, no network. Bars are standard errors over seeds.*"
        )
        return "\n\n".join(part for part in parts if part)


def _config(data: str, kernel: str, sigma: float, steps: int) -> dict[str, Any]:
    conditional = {"type": "made", "hidden": [64, 64], "components": 2, "fourier": 3}
    trainer = {"max_steps": steps, "batch_size": 512, "learning_rate": 1e-2}
    return {
        "data": DATA[data],
        "kernel": {"type": kernel, "sigma": sigma},
        "density": {"type": "made", "hidden": [4], "components": 2},
        "inverter": {"type": "conditional", "density": conditional},
        "trainer": {**trainer, "density": {"max_steps": max(steps // 2, 1), "learning_rate": 2e-2}},
    }


def _curve(outcomes: Mapping[Job, Outcome], data: str, kernel: str) -> Curve:
    """The points of one kernel by sigma."""
    found = grouped(outcomes, "data", "kernel", "sigma")
    mine = [(sigma, seeded) for (of, tag, sigma), seeded in found.items() if (of, tag) == (data, kernel)]
    return sorted(mine, key=lambda point: point[0])


def _lowest(curve: Curve, key: str) -> tuple[float, Seeded]:
    return min(curve, key=lambda point: of_key(point[1], key).mean)


def _shape(data: str, curves: Mapping[str, Curve]) -> str:
    """Whether each kernel has its best variance inside the grid."""
    inside, where = [], []
    for kernel, curve in curves.items():
        sigma, _ = _lowest(curve, "gap")
        inside.append(curve[0][0] < sigma < curve[-1][0])
        where.append(f"{kernel} {sigma:g}")
    return (
        f"The paper's reverse U of the ELBO in the variance, {data}: {'yes' if all(inside) else 'no'}, with "
        f"{sum(inside)} of {len(inside)} kernels the best σ lies inside the grid ({', '.join(where)})."
    )


def _order(curves: Mapping[str, Curve], key: str, what: str) -> str:
    """Gaussian noise against the others, each at its best sigma."""
    if "gaussian" not in curves:
        return ""
    gaussian = _lowest(curves["gaussian"], key)[1]
    said = []
    for kernel in curves:
        if kernel != "gaussian":
            found = difference(gaussian, _lowest(curves[kernel], key)[1], key)
            verdict = {-1: "yes", 0: "not decided", 1: "no"}[sure_sign(found)]
            said.append(f"beats {kernel}: {verdict}, differs by {text(found, 4)}")
    if not said:
        return ""
    return f"The paper finds Gaussian noise best. By {what}, each at its best σ, it {'; it '.join(said)} nats."


def _capable(capable: Mapping[str, Curve]) -> str:
    found = {kernel: _lowest(curve, "gap") for kernel, curve in capable.items() if curve}
    said = [f"{kernel} {of_key(seeded, 'gap').mean:.4f} (σ = {sigma:g})" for kernel, (sigma, seeded) in found.items()]
    return f"The least gap that two logistics can have at all: {', '.join(said)}." if said else ""


def _table(curves: Mapping[str, Curve]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    header = ("noise", "σ", "entropy", "-ELBO", "gap", "of it p(x̃)", *NAMES.values(), "gap of IW-100", "CPU s")
    rows = []
    for kernel, curve in curves.items():
        for sigma, seeded in curve:
            entropy = next(iter(seeded.values())).numbers["entropy"]
            means = [text(of_key(seeded, key)) for key in ("nll", "gap", "smooth_gap")]
            terms = [f"{-of_key(seeded, key).mean:.3f}" for key in TERMS]
            seconds = f"{of_key(seeded, 'cpu_seconds').mean:.1f}"
            cells = (kernel, f"{sigma:g}", f"{entropy:.4f}", *means, *terms, text(of_key(seeded, "iw_gap")), seconds)
            rows.append(cells)
    return header, rows


def _figure(curves: Mapping[str, Curve], capable: Mapping[str, Curve]) -> Any:
    figure, axes = sheet(2, len(KERNELS), 5.6, sharex=True, sharey="row")
    for (upper, lower), kernel in zip(axes.T, KERNELS, strict=True):
        curve = curves.get(kernel, [])
        sigmas = [sigma for sigma, _ in curve]
        for index, (key, name) in enumerate((("nll", "-ELBO"), ("iw", "-IW-100"))):
            found = [of_key(seeded, key) for _, seeded in curve]
            errors = [0.0 if math.isnan(value.stderr) else value.stderr for value in found]
            style = {"color": COLOURS[index], "linestyle": DASHES[index], "marker": "os"[index], "markersize": 4}
            upper.errorbar(sigmas, [value.mean for value in found], errors, label=name, capsize=2, **style)
        entropy = next((o.numbers["entropy"] for _, seeded in curve for o in seeded.values()), 0.0)
        floor = [(sigma, entropy + of_key(seeded, "gap").mean) for sigma, seeded in capable.get(kernel, [])]
        if floor:
            upper.plot(*zip(*floor, strict=True), color=COLOURS[2], linestyle="-.", label="best possible -ELBO")
        upper.axhline(entropy, color=COLOURS[6], linestyle=":", label="entropy of the data")
        for index, (key, name) in enumerate(NAMES.items()):
            values = [-of_key(seeded, key).mean for _, seeded in curve]
            style = {"color": COLOURS[index + 3], "linestyle": DASHES[index], "marker": "v^d"[index], "markersize": 4}
            lower.plot(sigmas, values, label=name, **style)
        label(upper, kernel)
        label(lower, "", "σ of the noise (unit of x)")
        lower.set_xscale("log")
        lower.set_xticks(TICKS, [f"{tick:g}" for tick in TICKS], minor=False)
        lower.set_xticks([], minor=True)
        if sigmas:
            lower.set_xlim(0.9 * sigmas[0], 1.1 * sigmas[-1])
    axes[0, 0].set_ylabel("nats", fontsize=9)
    axes[1, 0].set_ylabel("terms of -ELBO (nats)", fontsize=9)
    axes[0, 0].legend(fontsize=8)
    axes[1, 0].legend(fontsize=8)
    return figure
