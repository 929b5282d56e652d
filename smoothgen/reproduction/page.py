"""The page: how it was made, a summary, and a section for each study."""

from __future__ import annotations

import datetime
import re
import traceback
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from smoothgen.checkpoint import write_atomically
from smoothgen.reproduction.outcomes import Finished, label
from smoothgen.reproduction.study import Job, Study
from smoothgen.reproduction.tables import line

PAGE = "reproduction.md"
NOT_A_SENTENCE = ("|", "!", "#", "-", "*", "<", "`")
"""How a paragraph begins that the summary cannot quote: tables, pictures, headings, lists, code."""

INTRODUCTION = (
    "The one- and two-dimensional evidence of *Improved Autoregressive Modeling with Distribution Smoothing* "
    "([arXiv 2103.15089](https://arxiv.org/abs/2103.15089)), run again on data whose density and entropy are known, so "
    "that a negative log-likelihood can be read as a distance from the best that is possible. Settings were chosen on "
    "data of another seed. The command below makes this whole page: no number or verdict on it is typed."
)
QUICK = "**Every training was cut to a few steps, to see all code run: no number and no verdict here means anything.**"


@dataclass(frozen=True)
class Section:
    """A study with what was found, and what failed, by job; jobs: all that it has, computed or not."""

    study: Study
    finished: Mapping[Job, Finished]
    failed: Mapping[Job, str]
    jobs: Sequence[Job]

    @property
    def cpu_seconds(self) -> float:
        """Of all its jobs together, whenever they were computed."""
        return sum(each.record.cpu_seconds for each in self.finished.values())


def write_page(
    directory: Path, sections: Sequence[Section], seeds: Sequence[int], command: str, quick: bool
) -> list[str]:
    """Writes reproduction.md and the pictures of the sections; returns what went wrong in presenting them.

    quick: the page warns that its numbers mean nothing.
    """
    bodies, problems = [], []
    for section in sections:
        body, problem = _present(section, directory)
        bodies.append(body)
        problems += [problem] if problem else []
    parts = [
        "# Reproduction",
        INTRODUCTION,
        *[QUICK] * quick,
        _header(sections, seeds, command),
        "## Summary",
        _summary(sections, bodies),
    ]
    for section, body in zip(sections, bodies, strict=True):
        parts += [f"## {section.study.title}", f"*{section.study.source}*", body, *_failures(section)]
    write_atomically(directory / PAGE, ("\n\n".join(parts) + "\n").encode())
    return problems


def _present(section: Section, directory: Path) -> tuple[str, str]:
    """The body of a section, and the error where a study could not make it."""
    if not section.finished:
        return "No job of this study finished.", ""
    try:
        outcomes = {job: each.outcome for job, each in section.finished.items()}
        return section.study.present(outcomes, directory).strip(), ""
    except Exception as error:  # the other sections are written; the command ends with this error
        said = f"{section.study.name}: the section could not be made: {type(error).__name__}: {error}"
        return said, f"{said}\n\n{traceback.format_exc()}"


def _header(sections: Sequence[Section], seeds: Sequence[int], command: str) -> str:
    finished = {job: each.record for section in sections for job, each in section.finished.items()}
    jobs = {job for section in sections for job in section.jobs}
    records = finished.values()  # of jobs that studies share, once
    machines = sorted({record.machine for record in records})
    versions = sorted({", ".join(f"{name} {value}" for name, value in record.versions.items()) for record in records})
    rows = {
        "command": f"`{command}`",
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "seeds": ", ".join(map(str, seeds)),
        "machine": "; ".join(machines),
        "versions": "; ".join(versions),
        "jobs": f"{len(finished)} of {len(jobs)} finished",
        "CPU time": duration(sum(record.cpu_seconds for record in records)),
    }
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())])


def _summary(sections: Sequence[Section], bodies: Sequence[str]) -> str:
    """A row for each study, with the first paragraph of its section: there a study says what it found."""
    lines = ["| study | finding | jobs | CPU time |", "|---|---|---|---|"]
    for section, body in zip(sections, bodies, strict=True):
        first = " ".join(body.partition("\n\n")[0].split())
        finding = "" if first.startswith(NOT_A_SENTENCE) else first
        jobs = len(section.jobs)
        done = str(jobs) if len(section.finished) == jobs else f"{len(section.finished)} of {jobs}"
        title = f"[{section.study.title}](#{anchor(section.study.title)})"
        lines.append(line([title, finding, done, duration(section.cpu_seconds)]))
    return "\n".join(lines)


def anchor(title: str) -> str:
    """What Python-Markdown, and with it mkdocs, calls the anchor of a heading."""
    ascii_only = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode()
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", ascii_only).strip().lower())


def _failures(section: Section) -> list[str]:
    return ["\n".join(f"- failed: {label(job)}: {error}" for job, error in section.failed.items())] * bool(
        section.failed
    )


def duration(seconds: float) -> str:
    """42 s, 12 min or 2.3 h."""
    if seconds < 120.0:
        return f"{seconds:.0f} s"
    return f"{seconds / 60.0:.0f} min" if seconds < 7200.0 else f"{seconds / 3600.0:.1f} h"
