"""Figure 7: what smoothing does for RealNVP, on the checkerboard and the olympics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from smoothgen.reproduction.pictures import save_scatters
from smoothgen.reproduction.plane import finding, first_sets, table
from smoothgen.reproduction.row_jobs import by_row, estimates, row_jobs, run_row
from smoothgen.reproduction.rows import RowSet, load_rows
from smoothgen.reproduction.study import Job, Outcome, Study

SETS = ("checkerboard", "olympics")


class Flows(Study):
    """The RealNVP rows of two tables, whose jobs they share, as pictures."""

    name = "flows"
    title = "RealNVP with and without smoothing"
    source = "Figure 7 and Section 5"

    def jobs(self, seeds: Sequence[int], quick: bool) -> list[Job]:
        return [job for name in SETS for job in row_jobs(name, _flows(name), seeds, quick)]

    def run(self, job: Job) -> Outcome:
        return run_row(job)

    def present(self, outcomes: Mapping[Job, Outcome], directory: Path) -> str:
        findings, parts = [], []
        for name in SETS:
            found = by_row({job: outcome for job, outcome in outcomes.items() if job.study == name})
            if not found:
                continue
            rows = [row for row in _flows(name).rows if row.name in found]
            numbers = {row: estimates(each) for row, each in found.items()}
            picture = f"flows-{name}.png"
            save_scatters(directory / picture, first_sets(found), columns=3)
            findings.append(f"{name.capitalize()}: {finding(rows, numbers)}")
            entropy = next(iter(found.values()))[0].numbers["entropy"]
            parts += [
                f"### {name.capitalize()}, entropy {entropy:.4f} nats",
                table(rows, numbers),
                f"![Data, RealNVP and smoothed RealNVP]({picture})",
            ]
        return "\n\n".join([" ".join(findings), *parts])


def _flows(name: str) -> RowSet:
    """The rows of a table whose density is a RealNVP."""
    rows = load_rows(name)
    return RowSet(rows.data, tuple(row for row in rows.rows if row.density.type == "realnvp"), {})
