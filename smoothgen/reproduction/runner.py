"""Runs the jobs of studies on all cores, keeps every outcome as it comes, and makes the page of them."""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from smoothgen.checkpoint import write_atomically
from smoothgen.errors import ConfigError, DataError, Interrupted, JobsFailedError
from smoothgen.progress import Bar, Progress
from smoothgen.reproduction.outcomes import Finished, OutcomeStore, Record, digest, label
from smoothgen.reproduction.page import PAGE, Section, write_page
from smoothgen.reproduction.study import Job, Study
from smoothgen.reproduction.workers import Answer, run_all
from smoothgen.signals import StopSignals

FAILURES = "failures.txt"
PERIOD = 3 * 3600.0
"""Seconds over which the ETA averages: jobs take minutes, and far from equal ones."""


@dataclass
class Work:
    """All jobs of a command, each with a study that can run it, and what came of them.

    jobs: of every study; studies may share jobs, which then run once.
    """

    studies: dict[Job, Study] = field(default_factory=dict)
    jobs: dict[str, list[Job]] = field(default_factory=dict)
    finished: dict[Job, Finished] = field(default_factory=dict)
    failed: dict[Job, Answer] = field(default_factory=dict)


def reproduce(
    studies: Sequence[Study],
    directory: str | Path,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    quick: bool = False,
    workers: int | None = None,
    command: Sequence[str] = (),
    progress: bool = False,
    compute: bool = True,
) -> Path:
    """Computes what is missing in `directory`/outcomes, then writes reproduction.md and its pictures. Returns its path.

    compute: otherwise only the page is made, of what is there. workers: processes, by default one for each core.
    command: what the page says how it was made.
    Raises JobsFailedError once all is done and written where single jobs failed; Interrupted after a signal, with
    everything finished kept; ConfigError for seeds or workers that make no sense.
    """
    directory, workers = Path(directory), workers or os.cpu_count() or 1
    if not seeds or len(set(seeds)) != len(seeds) or min(seeds) < 0:
        raise ConfigError(f"seeds must be different numbers from 0, at least one, got {list(seeds)}")
    bars, store = Progress(enabled=progress), OutcomeStore(directory / "outcomes")
    directory.mkdir(parents=True, exist_ok=True)
    work = _plan(studies, seeds, quick)
    _read_finished(work, store, bars)
    if compute:
        _compute(work, store, workers, bars)
    sections = [_section(study, work) for study in studies]
    problems = write_page(directory, sections, seeds, shlex.join(command), quick)
    _report(work, problems, directory)
    return directory / PAGE


def _plan(studies: Sequence[Study], seeds: Sequence[int], quick: bool) -> Work:
    work = Work()
    known: dict[str, Job] = {}
    for study in studies:
        mine = study.jobs(seeds, quick)
        for job in mine:
            if known.setdefault(label(job), job) != job or mine.count(job) > 1:
                raise ConfigError(f"{label(job)} is there twice; a job's name and seed must be its own in a study")
            work.studies[job] = study  # the last of those that share it: the first may only judge by it
        work.jobs[study.name] = mine
    return work


def _read_finished(work: Work, store: OutcomeStore, bars: Progress) -> None:
    """Finds the outcomes of earlier commands; damaged ones are computed again."""
    for job in work.studies:
        try:
            work.finished[job] = store.read(job)
        except FileNotFoundError:
            continue
        except DataError as error:
            bars.console.print(f"note: {error}", highlight=False, markup=False, soft_wrap=True)


def _compute(work: Work, store: OutcomeStore, workers: int, bars: Progress) -> None:
    """Computes the jobs that have no outcome, in an order without system, so that the ETA means something."""
    missing = sorted((job for job in work.studies if job not in work.finished), key=digest)
    tasks = [(work.studies[job], job) for job in missing]
    stop, total = StopSignals(), len(work.studies)
    with (
        bars.stage("jobs", total, len(work.finished), period=PERIOD) as bar,
        stop.listening(),
        contextlib.closing(run_all(tasks, workers)) as answers,
    ):
        for answer in answers:
            if stop.signum is not None:
                raise Interrupted(
                    f"stopped by signal {stop.signum} with {total - len(work.finished)} of {total} jobs to go; what "
                    "is finished is kept, the same command goes on from there",
                    stop.signum,
                )
            if answer is not None:
                _take(work, *answer, store, bars, bar)


def _take(work: Work, job: Job, answer: Answer, store: OutcomeStore, bars: Progress, bar: Bar) -> None:
    """Keeps one answer and says so."""
    state = f"{answer.cpu_seconds:.0f} s"
    if answer.outcome is not None:
        record = Record(answer.cpu_seconds, answer.wall_seconds, answer.versions or {}, answer.machine)
        try:
            work.finished[job] = store.write(job, answer.outcome, record)
        except DataError as error:
            answer = Answer(None, str(error))
    if answer.outcome is None:
        work.failed[job] = answer
        state = f"failed: {answer.error}"
    done = len(work.finished) + len(work.failed)
    bars.note(f"{done}/{len(work.studies)} {label(job)}: {state}")
    failures = f"{len(work.failed)} failed; " if work.failed else ""
    bar.update(done, f"{failures}last: {label(job)}")


def _section(study: Study, work: Work) -> Section:
    mine = work.jobs[study.name]
    finished = {job: work.finished[job] for job in mine if job in work.finished}
    failed = {job: work.failed[job].error for job in mine if job in work.failed}
    return Section(study, finished, failed, mine)


def _report(work: Work, problems: list[str], directory: Path) -> None:
    """Raises JobsFailedError with a list, where anything failed; the tracebacks are in a file."""
    path = directory / FAILURES
    path.unlink(missing_ok=True)
    if not work.failed and not problems:
        return
    lines = [f"{label(job)}: {answer.error}" for job, answer in work.failed.items()]
    details = [f"{line}\n\n{answer.details}" for line, answer in zip(lines, work.failed.values(), strict=True)]
    write_atomically(path, "\n".join([*details, *problems, ""]).encode())
    heads = [problem.partition("\n")[0] for problem in problems]
    count = f"{len(work.failed)} of {len(work.studies)} jobs failed" if work.failed else "a section failed"
    raise JobsFailedError(
        "\n  ".join([f"{count}; all else is in {directory / PAGE}, the tracebacks in {path}:", *lines, *heads])
    )
