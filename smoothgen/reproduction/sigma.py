"""Which sigma: the median rule of appendix C.1 and the search `auto` against a grid, in the plane."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from smoothgen.reproduction.pictures import Curve, save_curves
from smoothgen.reproduction.row_jobs import by_row, estimates, run_row
from smoothgen.reproduction.rows import load_rows, replaced
from smoothgen.reproduction.study import Job, Outcome, Study
from smoothgen.reproduction.tables import Column, Estimate, TableRow, difference, doubt, markdown_table

SETS = ("rings", "olympics")
GRID = (0.1, 0.15, 0.2, 0.3, 0.45, 0.65)
COLUMNS = (
    Column("sigma", "σ", digits=3),
    Column("nll", "−ELBO", "lower"),
    Column("smoothing_gap", "gap of p(x̃)", "lower"),
    Column("inversion_gap", "gap of p(x|x̃)", "lower"),
    Column("iw_100", "IW-100", "lower"),
    Column("off_support", "off support", "lower"),
    Column("cpu_seconds", "CPU s", form="count"),
)

Found = Mapping[str, Mapping[str, Estimate | None]]


class SigmaInThePlane(Study):
    """The bound against sigma, with the rules that choose one."""

    name = "sigma"
    title = "Which sigma, in the plane"
    source = "Appendix C.1 (the median rule), against a grid and against sigma: auto, which goes beyond"

    def jobs(self, seeds: Sequence[int], quick: bool) -> list[Job]:
        found = []
        for data in SETS:
            rows = load_rows(f"sigma-{data}")
            for row in rows.rows:
                settings = row.settings(quick)
                named = {row.name: settings}
                if row.name == "grid":
                    kernel = settings["kernel"]["type"]
                    named = {f"σ = {sigma:g}": replaced(settings, kernel, sigma=sigma) for sigma in GRID}
                for name, own in named.items():
                    job = {"data": rows.data, "row": own, "quick": quick}
                    found += [Job(f"sigma-{data}", name, seed, job) for seed in seeds]
        return found

    def run(self, job: Job) -> Outcome:
        return run_row(job)

    def present(self, outcomes: Mapping[Job, Outcome], directory: Path) -> str:
        findings, parts = [], []
        for data in SETS:
            found = by_row({job: outcome for job, outcome in outcomes.items() if job.study == f"sigma-{data}"})
            if not found:
                continue
            numbers = {name: estimates(each) for name, each in found.items()}
            picture = f"sigma-{data}.png"
            entropy = next(iter(found.values()))[0].numbers["entropy"]
            save_curves(directory / picture, {data: _curves(numbers)}, "σ", "nats", {"entropy": entropy}, log_x=True)
            findings.append(f"{data.capitalize()}: {_finding(numbers)}")
            rows = [TableRow(name, each) for name, each in numbers.items()]
            skipped = [f"Left out: {name}, since {why}." for name, why in load_rows(f"sigma-{data}").skipped.items()]
            parts += [
                f"### {data.capitalize()}, entropy {entropy:.4f} nats",
                markdown_table(COLUMNS, rows, "σ from"),
                f"![The bound against σ on {data}]({picture})",
                *skipped,
            ]
        note = "Settings: `smoothgen/reproduction/rows/sigma-rings.yaml` and `sigma-olympics.yaml`."
        return "\n\n".join([" ".join(findings), *parts, note])


def _rules(numbers: Found) -> list[str]:
    return [name for name in numbers if not name.startswith("σ = ")]


def _finding(numbers: Found) -> str:
    """How far each rule's bound is from the best of the grid."""
    grid = {name: each["nll"] for name, each in numbers.items() if name not in _rules(numbers)}
    known = {name: value for name, value in grid.items() if value is not None}
    if not known:
        return "no grid to compare with."
    best = min(known, key=lambda name: known[name].mean)
    sentences = [f"the best of the grid is {best}"]
    for rule in _rules(numbers):
        value, sigma = numbers[rule].get("nll"), numbers[rule].get("sigma")
        if value is not None and sigma is not None:
            by, sure = difference(value, known[best])
            side = "above" if value.mean > known[best].mean else "below"
            chance = f" ({doubt(sure, value, known[best])})" * (not sure)
            sentences.append(f"{rule} (σ = {sigma.mean:.3g}) is {by} nats {side} it{chance}")
    return "; ".join(sentences) + "."


def _curves(numbers: Found) -> dict[str, Curve]:
    """The grid's bounds as curves, every rule as a point."""
    curves: dict[str, Curve] = {}
    for title, key in {"−ELBO": "nll", "IW-100": "iw_100"}.items():
        curve = [point for name in numbers if name not in _rules(numbers) for point in _point(numbers[name], key)]
        if curve:
            curves[title] = sorted(curve)
    for rule in _rules(numbers):
        points = _point(numbers[rule], "nll")
        if points:
            curves[rule] = points
    return curves


def _point(numbers: Mapping[str, Estimate | None], key: str) -> list[tuple[float, float, float]]:
    value, sigma = numbers.get(key), numbers.get("sigma")
    return [] if value is None or sigma is None else [(sigma.mean, value.mean, value.stderr)]
