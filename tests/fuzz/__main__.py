"""python -m tests.fuzz: damaged and hostile inputs for every reader, or one of them again."""

from __future__ import annotations

import argparse
import json
import platform
import sys
import traceback
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress, TimeRemainingColumn
from rich.table import Table

from .readers import READERS, Reader
from .runner import CPU_SECONDS, MEMORY, Outcome, attempt, run

BEGIN, END = "<!-- fuzz:begin -->", "<!-- fuzz:end -->"
"""What the table on the page about security stands between."""


def main() -> int:
    """0 if every input of every reader was accepted or refused with a SmoothgenError."""
    arguments = parser().parse_args()
    torch.set_num_threads(1)
    names = arguments.reader or [reader.name for reader in READERS]
    readers = [reader for reader in READERS if reader.name in names]
    if len(readers) != len(names):
        sys.exit(f"no such reader; there are {', '.join(reader.name for reader in READERS)}")
    if arguments.replay is not None:
        return replay(readers[0], arguments.seed, arguments.replay)
    with Progress(*Progress.get_default_columns(), TimeRemainingColumn(), disable=not sys.stderr.isatty()) as bars:
        bar = bars.add_task("fuzzing", total=arguments.inputs * len(readers))
        outcomes = []
        for reader in readers:  # what is done is kept, should the rest be cut short
            done = run([reader], arguments.inputs, arguments.seed, arguments.jobs, lambda _, n: bars.advance(bar, n))
            outcomes += done
            if arguments.out:
                write(arguments.out, outcomes, arguments.seed)
    show(outcomes)
    if arguments.page:
        arguments.page.write_text(with_table(arguments.page.read_text(), json.loads(arguments.out.read_text())))
    return int(any(outcome.failures for outcome in outcomes))


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    made.add_argument("--inputs", type=int, default=1000, help="for each reader")
    made.add_argument("--reader", action="append", help="one reader alone; may be given several times")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--jobs", type=int, default=1, help="processes at a time")
    made.add_argument("--out", type=Path, help="a JSON file; readers that are in it and were not run now stay")
    made.add_argument("--page", type=Path, help="a Markdown file whose table shows what --out holds")
    made.add_argument("--replay", type=int, metavar="INPUT", help="read one input again and show the traceback")
    return made


def replay(reader: Reader, seed: int, number: int) -> int:
    """Reads one input in this process."""
    with TemporaryDirectory() as name:
        reader.prepare(Path(name))
        outcome = Outcome(reader.name)
        read = reader.read

        def shown(directory: Path, rng: object) -> None:
            try:
                read(directory, rng)  # type: ignore[arg-type]
            except BaseException:
                traceback.print_exc()
                raise

        reader.read = shown  # type: ignore[method-assign, assignment]
        seconds = attempt(reader, Path(name), seed, number, outcome)
        print(f"accepted {outcome.accepted}, refused {dict(outcome.refused)}, {outcome.failures}, {seconds:.3f} s")
    return int(bool(outcome.failures))


def show(outcomes: list[Outcome]) -> None:
    """The table, and every failure."""
    table = Table("reader", "inputs", "accepted", "refused", "failures", "slowest, s", "peak, MB", "CPU, s")
    for each in outcomes:
        refused = ", ".join(f"{count} {name}" for name, count in each.refused.most_common())
        table.add_row(
            each.reader,
            str(each.inputs),
            str(each.accepted),
            refused,
            str(len(each.failures)),
            f"{each.slowest_seconds:.2f} (#{each.slowest_input})",
            f"{each.peak_megabytes:.0f}",
            f"{each.cpu_seconds:.0f}",
        )
    console = Console(width=None if sys.stdout.isatty() else 150)
    console.print(table)
    for each in outcomes:
        kinds = {what for _, what in each.failures}
        for what in sorted(kinds)[:30]:
            numbers = [number for number, other in each.failures if other == what]
            console.print(f"{each.reader} #{numbers[0]} ({len(numbers)}): {what}", markup=False)


def write(path: Path, outcomes: list[Outcome], seed: int) -> None:
    """Merges the results into the file."""
    old = json.loads(path.read_text())["readers"] if path.exists() else {}
    new = {
        each.reader: {
            "inputs": each.inputs,
            "accepted": each.accepted,
            "refused": dict(sorted(each.refused.items())),
            "failures": len(each.failures),
            "slowest_seconds": round(each.slowest_seconds, 3),
            "peak_megabytes": round(each.peak_megabytes),
            "cpu_seconds": round(each.cpu_seconds),
        }
        for each in outcomes
    }
    merged = old | new
    document = {
        "command": "python -m tests.fuzz --inputs INPUTS --seed SEED",
        "seed": seed,
        "limits": {"cpu_seconds": CPU_SECONDS, "memory_bytes": MEMORY},
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "readers": {reader.name: merged[reader.name] for reader in READERS if reader.name in merged},
    }
    path.write_text(json.dumps(document, indent=2) + "\n")


def with_table(page: str, document: dict[str, Any]) -> str:
    """The page with a table of the results between its two marks."""
    lines = [
        f"Seed {document['seed']}, Python {document['versions']['python']}, torch {document['versions']['torch']}:",
        "",
        "| reader | inputs | accepted | refused | failures | slowest, s of CPU | peak, MB |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, each in document["readers"].items():
        refused = ", ".join(f"{count:,} `{error}`" for error, count in each["refused"].items())
        lines.append(
            f"| {name} | {each['inputs']:,} | {each['accepted']:,} | {refused} | {each['failures']} | "
            f"{each['slowest_seconds']:.2f} | {each['peak_megabytes']} |"
        )
    before, _, rest = page.partition(BEGIN)
    return "\n".join([before + BEGIN, *lines, END + rest.partition(END)[2]])


if __name__ == "__main__":
    sys.exit(main())
