"""Does smoothing regularise? Training sets of 1,000, 10,000 and 100,000 points, with and without early stopping."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Generator

from smoothgen.device import derived_seed
from smoothgen.reproduction.measuring import Effort, draw_sets, likelihoods, measure_row
from smoothgen.reproduction.pictures import Curve, save_curves
from smoothgen.reproduction.row_jobs import by_row, estimates, train_row
from smoothgen.reproduction.rows import load_rows
from smoothgen.reproduction.study import Job, Outcome, Study
from smoothgen.reproduction.tables import Column, Estimate, TableRow, difference, doubt, markdown_table
from smoothgen.reproduction.training import unseen

SIZES = (1_000, 10_000, 100_000)
STOPPING = {"to the end": 0, "early stopping": 10}
"""Patience: how many validations without a new best end a stage."""
VALIDATION_SHARE = 5
"""The validation set is so many times smaller than the training set."""
COLUMNS = (
    Column("train_nll", "training −ELBO or NLL"),
    Column("nll", "test −ELBO or NLL", "lower"),
    Column("overfitting", "test − training gap"),
    Column("iw_100", "test IW-100"),
    Column("smoothing_gap", "gap of p(x̃)"),
    Column("inversion_gap", "gap of p(x|x̃)"),
    Column("off_support", "off support"),
    Column("mmd", "MMD² × 10⁴", scale=1e4, digits=2),
    Column("steps", "steps", form="count"),
)


Found = Mapping[str, Mapping[str, Estimate | None]]


class DataSize(Study):
    """Smoothed and plain models on finite training sets."""

    name = "data-size"
    title = "Does smoothing regularise?"
    source = "Proposition 1, tested on fixed training sets; goes beyond the paper"

    def jobs(self, seeds: Sequence[int], quick: bool) -> list[Job]:
        rows, found = load_rows(self.name), []
        for row in rows.rows:
            for stopping, patience in STOPPING.items():
                settings = row.settings(quick)
                trainer = settings["trainer"] | {"patience": patience}
                for size in SIZES:
                    data = rows.data | {"train_size": size, "validation_size": size // VALIDATION_SHARE}
                    job = {"data": data, "row": settings | {"trainer": trainer}, "quick": quick}
                    found += [Job(self.name, name_of(row.name, size, stopping), seed, job) for seed in seeds]
        return found

    def run(self, job: Job) -> Outcome:
        effort, data = Effort.chosen(job.settings["quick"]), unseen(job.settings["data"], job.seed)
        trained = train_row(job.settings["row"], data, job.seed)
        numbers = measure_row(trained, job.seed, effort, draw_sets(trained, effort.samples, job.seed))
        generator = Generator().manual_seed(derived_seed(job.seed, "training examples"))
        seen = likelihoods(trained, trained.data.split("train").x, Effort(effort.points, 0, ()), generator)
        more = {"train_nll": seen["nll"], "train_gap": seen["gap"], "overfitting": numbers["gap"] - seen["gap"]}
        return Outcome(numbers | more)

    def present(self, outcomes: Mapping[Job, Outcome], directory: Path) -> str:
        numbers = {name: estimates(each) for name, each in by_row(outcomes).items()}
        entropy = next(iter(outcomes.values())).numbers["entropy"]
        kinds = [row.name for row in load_rows(self.name).rows]
        curves = {stopping: _curves(numbers, kinds, stopping) for stopping in STOPPING}
        y_label = "nats above the entropy, test"
        save_curves(directory / "data-size.png", curves, "training examples", y_label, log_x=True, log_y=True)
        rows = [
            TableRow(name, numbers[name])
            for size in SIZES
            for stopping in STOPPING
            for name in (name_of(kind, size, stopping) for kind in kinds)
            if name in numbers
        ]
        return "\n\n".join(
            [
                _finding(numbers, kinds),
                f"Exact entropy {entropy:.4f} nats. Training and test numbers are gaps to the exact density on those "
                "examples plus the entropy, so that their difference is overfitting and nothing else. Early stopping "
                f"looks at a validation set of 1/{VALIDATION_SHARE} of the training set's size.",
                markdown_table(COLUMNS, rows, "model, training examples"),
                "![Gap of the test likelihood against the number of training examples](data-size.png)",
                f"Settings: `smoothgen/reproduction/rows/{self.name}.yaml`.",
            ]
        )


def name_of(kind: str, size: int, stopping: str) -> str:
    """How a row of the table, and its jobs, are called."""
    return f"{kind}, {size:,}, {stopping}"


def _curves(numbers: Found, kinds: Sequence[str], stopping: str) -> dict[str, Curve]:
    curves: dict[str, Curve] = {}
    for kind in kinds:
        points = [(size, numbers.get(name_of(kind, size, stopping), {}).get("gap")) for size in SIZES]
        curve = [(float(size), value.mean, value.stderr) for size, value in points if value is not None]
        if curve:
            curves[kind] = curve
    return curves


def _finding(numbers: Found, kinds: Sequence[str]) -> str:
    """Smoothed against plain, at every size, by the better of both ways to stop."""
    sentences = []
    for size in SIZES:
        best = {}
        for kind in kinds:
            known = [numbers.get(name_of(kind, size, stopping), {}).get("nll") for stopping in STOPPING]
            there = [value for value in known if value is not None]
            if there:
                best[kind] = min(there, key=lambda value: value.mean)
        if len(best) == len(kinds) == 2:
            one, other = best[kinds[0]], best[kinds[1]]
            by, sure = difference(one, other)
            better = kinds[0] if one.mean < other.mean else kinds[1]
            chance = f" ({doubt(sure, one, other)})" * (not sure)
            sentences.append(f"with {size:,} training examples the {better} model is better by {by} nats{chance}")
    text = "; ".join(sentences)
    return f"{text[:1].upper()}{text[1:]}." if text else "No pair of models to compare."
