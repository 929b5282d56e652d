"""Figures 5, 12 and 13: samples and likelihoods for 2 to 7 components, smoothed and plain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from smoothgen.reproduction.pictures import Curve, Points, save_curves, save_scatters
from smoothgen.reproduction.row_jobs import estimates, estimates_of_set, run_row
from smoothgen.reproduction.rows import load_rows, replaced
from smoothgen.reproduction.study import Job, Outcome, Study
from smoothgen.reproduction.tables import Column, Estimate, TableRow, difference, doubt, markdown_table

SETS = ("rings", "olympics")
COUNTS = (2, 3, 4, 5, 6, 7)
COLUMNS = (
    Column("plain nll", "plain NLL"),
    Column("smoothed nll", "smoothed −ELBO"),
    Column("smoothed iw_100", "smoothed IW-100"),
    Column("plain off", "plain off support"),
    Column("smoothed off", "two-step off support"),
    Column("single off", "single step off support"),
    Column("plain mmd", "plain MMD² × 10⁴", scale=1e4, digits=2),
    Column("smoothed mmd", "two-step MMD² × 10⁴", scale=1e4, digits=2),
)
PANELS = {"plain": "plain", "smoothed x̃": "smoothed", "single step": "single-step", "two-step": "two-step"}
"""Title of a column of the pictures, and which set of samples it shows."""

ByCount = Mapping[int, Mapping[str, Sequence[Outcome]]]
"""Outcomes over seeds by number of components and by kind, "smoothed" or "plain"."""
Numbers = Mapping[int, Mapping[str, Estimate | None]]


class Components(Study):
    """The same networks with more and more components, on two sets of circles."""

    name = "components"
    title = "How many components does it take?"
    source = "Figures 5, 12 and 13"

    def jobs(self, seeds: Sequence[int], quick: bool) -> list[Job]:
        found = []
        for data in SETS:
            rows = load_rows(f"components-{data}")
            for row in rows.rows:
                for count in COUNTS:
                    settings = replaced(row.settings(quick), "made", components=count)
                    job = {"data": rows.data, "row": settings, "quick": quick}
                    found += [Job(f"components-{data}", f"{row.name} {count}", seed, job) for seed in seeds]
        return found

    def run(self, job: Job) -> Outcome:
        return run_row(job)

    def present(self, outcomes: Mapping[Job, Outcome], directory: Path) -> str:
        findings, parts = [], []
        for data in SETS:
            found = _by_count(outcomes, f"components-{data}")
            if found:
                numbers = {count: _numbers(kinds) for count, kinds in found.items()}
                findings.append(f"{data.capitalize()}: {_finding(numbers)}")
                parts += _section(data, found, numbers, directory)
        note = "Settings: `smoothgen/reproduction/rows/components-rings.yaml` and `components-olympics.yaml`."
        return "\n\n".join([" ".join(findings), *parts, note])


def _section(data: str, found: ByCount, numbers: Numbers, directory: Path) -> list[str]:
    """Table, samples and curve of one set."""
    entropy = next(each[0] for kinds in found.values() for each in kinds.values()).numbers["entropy"]
    samples, curve = f"components-{data}.png", f"components-{data}-curve.png"
    save_scatters(directory / samples, _panels(found), columns=len(PANELS))
    save_curves(directory / curve, {data: _curves(numbers)}, "components", "nats", {"entropy": entropy})
    return [
        f"### {data.capitalize()}, entropy {entropy:.4f} nats",
        markdown_table(COLUMNS, [TableRow(str(count), each) for count, each in numbers.items()], "components"),
        f"![Likelihoods on {data} against the number of components]({curve})",
        f"![Samples on {data} for 2 to 7 components]({samples})",
    ]


def _by_count(outcomes: Mapping[Job, Outcome], study: str) -> dict[int, dict[str, list[Outcome]]]:
    found: dict[int, dict[str, list[Outcome]]] = {}
    for job in sorted(outcomes, key=lambda job: job.seed):
        if job.study == study:
            kind, count = job.name.rsplit(" ", 1)
            found.setdefault(int(count), {}).setdefault(kind, []).append(outcomes[job])
    return dict(sorted(found.items()))


def _numbers(kinds: Mapping[str, Sequence[Outcome]]) -> dict[str, Estimate | None]:
    numbers: dict[str, Estimate | None] = {}
    for kind, each in kinds.items():
        own = estimates(each)
        numbers |= {f"{kind} {key}": own.get(key) for key in ("nll", "iw_100", "mmd")}
        numbers[f"{kind} off"] = own.get("off_support")
    if "smoothed" in kinds:
        numbers["single off"] = estimates_of_set(kinds["smoothed"], "single-step").get("off support")
    return numbers


def _finding(numbers: Numbers) -> str:
    """Which of the models is better, and by how much, with the fewest and with the most components."""
    sentences = []
    for count in (min(numbers), max(numbers)):
        plain, smoothed = numbers[count].get("plain nll"), numbers[count].get("smoothed nll")
        if plain is not None and smoothed is not None:
            by, sure = difference(plain, smoothed)
            better = "smoothed" if smoothed.mean < plain.mean else "plain"
            chance = f" ({doubt(sure, plain, smoothed)})" * (not sure)
            sentences.append(f"with {count} components the {better} model is better by {by} nats{chance}")
    return f"{'; '.join(sentences) or 'no pair of models to compare'}."


def _curves(numbers: Numbers) -> dict[str, Curve]:
    curves: dict[str, Curve] = {}
    for title, key in {"plain NLL": "plain nll", "−ELBO": "smoothed nll", "IW-100": "smoothed iw_100"}.items():
        points = [(count, each.get(key)) for count, each in numbers.items()]
        curve = [(float(count), value.mean, value.stderr) for count, value in points if value is not None]
        if curve:
            curves[title] = curve
    return curves


def _panels(found: ByCount) -> dict[str, Points]:
    """Four sets of samples for each number of components, of the first seed."""
    panels: dict[str, Points] = {}
    for count, kinds in found.items():
        arrays = {name: array for each in kinds.values() for name, array in each[0].arrays.items()}
        panels |= {f"{title}, {count}": arrays[name] for title, name in PANELS.items() if name in arrays}
    return panels
