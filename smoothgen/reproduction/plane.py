"""Table 1 and beyond: smoothed and plain models of rings, olympics and the checkerboard, on equal terms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from smoothgen.reproduction.goals import goals_met, goals_of
from smoothgen.reproduction.pictures import Points, save_scatters
from smoothgen.reproduction.row_jobs import DATA, by_row, estimates, estimates_of_set, row_jobs, run_row, smoothed_rows
from smoothgen.reproduction.rows import Row, RowSet, load_rows
from smoothgen.reproduction.study import Job, Outcome, Study
from smoothgen.reproduction.tables import Column, Estimate, TableRow, difference, doubt, markdown_table

Found = Mapping[str, Mapping[str, Estimate | None]]
"""Estimates by row and key."""

COLUMNS = (
    Column("nll", "−ELBO or NLL", "lower"),
    Column("gap", "gap", "lower"),
    Column("iw_10", "IW-10", "lower"),
    Column("iw_100", "IW-100", "lower"),
    Column("iw_1000", "IW-1000", "lower"),
    Column("off_support", "off support", "lower"),
    Column("mmd", "MMD² × 10⁴", "lower", scale=1e4, digits=2),
    Column("precision", "precision", "higher", digits=3),
    Column("recall", "recall", "higher", digits=3),
    Column("parameters", "parameters", form="count"),
    Column("steps", "steps", form="count"),
    Column("cpu_seconds", "CPU s", form="count"),
)
PARTS = (
    Column("sigma", "σ", digits=3),
    Column("smoothing_gap", "gap of p(x̃)", "lower"),
    Column("inversion_gap", "gap of p(x|x̃)", "lower"),
    Column("off single-step", "single step off support", digits=3),
    Column("mmd single-step", "single step MMD² × 10⁴", scale=1e4, digits=2),
    Column("off smoothed", "x̃ off support", digits=3),
)
COMPARED = (
    ("nll", "nll", "−ELBO against NLL", "nats"),
    ("iw_100", "nll", "IW-100 against NLL", "nats"),
    ("off_support", "off_support", "share off the support", ""),
    ("mmd", "mmd", "MMD²", ""),
)
"""(key of smoothed rows, key of plain rows, what is compared, unit), lower is better in all."""


class TableStudy(Study):
    """A table of all rows of rows/NAME.yaml, and what it shows."""

    def jobs(self, seeds: Sequence[int], quick: bool) -> list[Job]:
        return row_jobs(self.name, load_rows(self.name), seeds, quick)

    def run(self, job: Job) -> Outcome:
        return run_row(job)

    def present(self, outcomes: Mapping[Job, Outcome], directory: Path) -> str:
        rows, found = load_rows(self.name), by_row(outcomes)
        numbers = {name: estimates(each) for name, each in found.items()}
        shown = [row for row in rows.rows if row.name in found]
        picture = f"{self.name}-samples.png"
        save_scatters(directory / picture, first_sets(found))
        entropy = next(iter(outcomes.values())).numbers["entropy"]
        parts = [
            finding(shown, numbers),
            f"Exact entropy {entropy:.4f} nats: no −ELBO or NLL can be lower in the mean. {ON_EQUAL_TERMS}",
            table(shown, numbers),
            "Where the gap of each bound comes from, and what the other ways of sampling give:",
            parts_table(shown, found),
            f"![Samples of every row]({picture})",
            settings_note(self.name, rows),
        ]
        return "\n\n".join(part for part in parts if part)


ON_EQUAL_TERMS = (
    "Every number is a gap to the exact log density on the same test points plus the entropy; ± is the standard error "
    "over seeds, each with data of its own that no setting was chosen on. Bold: better than every other row by more "
    "than two standard errors of the difference, taken as unpaired. IW-K is the importance-weighted bound of K draws. "
    "The row *data* is a second set of true examples: the floor of the sample measures. Parameters count weights that "
    "a mask removes, of the spline flow for instance. Steps are those of training; CPU s hold a search for σ as well."
)


def table(rows: Sequence[Row], numbers: Found) -> str:
    """The main table, with the goals of each row."""
    found = [TableRow(f"*{DATA}*", numbers[DATA], competes=False)] if DATA in numbers else []
    with_goals = any(row.goals for row in rows)
    found += [TableRow(row.name, numbers[row.name], (goals_of(row, numbers),) * with_goals) for row in rows]
    return markdown_table(COLUMNS, found, "model", ("goal",) if with_goals else ())


def parts_table(rows: Sequence[Row], found: Mapping[str, Sequence[Outcome]]) -> str:
    """Of smoothed rows: sigma, both parts of the gap, and the sets of samples besides the first."""
    lines = []
    for row in rows:
        if row.smoothed:
            numbers = estimates(found[row.name])
            for name in ("single-step", "smoothed"):
                of_set = estimates_of_set(found[row.name], name)
                numbers |= {f"off {name}": of_set.get("off support"), f"mmd {name}": of_set.get("MMD^2")}
            lines.append(TableRow(row.name, numbers))
    return markdown_table(PARTS, lines, "smoothed model") if lines else ""


def finding(rows: Sequence[Row], numbers: Found) -> str:
    """What the table shows, in a paragraph: the best smoothed row against the best plain one, and the goals."""
    smoothed = [row.name for row in rows if row.name in smoothed_rows(rows)]
    plain = [row.name for row in rows if row.name not in smoothed_rows(rows)]
    sentences = []
    for own, other, what, unit in COMPARED:
        ours, theirs = _lowest(smoothed, numbers, own), _lowest(plain, numbers, other)
        if ours is not None and theirs is not None:
            sentences.append(_compared(what, unit, ours, numbers[ours][own], theirs, numbers[theirs][other]))
    met = goals_met(rows, numbers)
    if met:
        sentences.append(met)
    return " ".join(sentences) or "No model to compare."


def _lowest(names: Sequence[str], numbers: Found, key: str) -> str | None:
    known = [(value.mean, name) for name in names if (value := numbers[name].get(key)) is not None]
    return min(known)[1] if known else None


def _compared(what: str, unit: str, ours: str, mine: Estimate | None, theirs: str, other: Estimate | None) -> str:
    """One sentence: who is better, by how much, and whether that is more than chance."""
    assert mine is not None and other is not None
    by, sure = difference(mine, other)
    better = f"best smoothed ({ours}) {by} {unit}".rstrip()
    side = "below" if mine.mean < other.mean else "above"
    chance = doubt(sure, mine, other)
    return f"{what[0].upper()}{what[1:]}: {better} {side} best plain ({theirs}){', ' * bool(chance)}{chance}."


def first_sets(found: Mapping[str, Sequence[Outcome]]) -> dict[str, Points]:
    """The first set of samples of every row, of its first seed; the data first."""
    return {name: next(iter(each[0].arrays.values())) for name, each in found.items()}


def settings_note(name: str, rows: RowSet) -> str:
    """Where the settings are, and what was left out."""
    lines = [f"Settings of every row: `smoothgen/reproduction/rows/{name}.yaml`."]
    lines += [f"Left out: {row}, since {reason}." for row, reason in rows.skipped.items()]
    return " ".join(lines)


class Rings(TableStudy):
    """Four circles with noise 0.08."""

    name = "rings"
    title = "Rings: Table 1, and beyond"
    source = "Table 1 and Figure 5; peers, two-sample measures and importance-weighted bounds go beyond"


class Olympics(TableStudy):
    """Five crossing circles with noise 0.015."""

    name = "olympics"
    title = "Olympics: Table 1, and beyond"
    source = "Table 1 and Figure 5, on unit circles (the paper's geometry is unknown); the rest goes beyond"


class Checkerboard(TableStudy):
    """A density with edges."""

    name = "checkerboard"
    title = "Checkerboard, and beyond"
    source = "Section 5 for RealNVP; MADE and the rest go beyond"
