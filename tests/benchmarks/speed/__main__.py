"""Everything that smoothgen promises about speed, measured in one run, contenders taking turns.

    python tests/benchmarks/speed --out tests/benchmarks/results/speed-cpu.json
    python tests/benchmarks/speed pixelcnn sampling --rounds 5
    python tests/benchmarks/speed --quick
    python tests/benchmarks/speed --device cuda --out tests/benchmarks/results/speed-cuda.json

One CPU thread, or one accelerator. Needs the extra `bench` (nflows and zuko). About half an hour on one core; nothing
else should run. Ratios are the baseline's time over ours; times on the CPU are its own seconds, not the clock's.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from timing import Row, Settings

GROUPS = ("ceilings", "pixelcnn", "sampling", "plane", "bounds", "costs", "growth")


def table(rows: list[Row]) -> Table:
    """What was asked for, beside what was found."""
    made = Table("", "ours", "baseline", "ratio", "quartiles", "asked", "aim", "", title="Speed")
    for row in rows:
        unit = row.notes.get("unit", "s")
        met = "" if row.least is None or row.ratio is None else "met" if row.ratio >= row.least else "missed"
        made.add_row(
            row.name,
            f"{row.ours:.4g} {unit}",
            "" if row.baseline is None else f"{row.baseline:.4g} s",
            "" if row.ratio is None else f"x{row.ratio:.2f}",
            "" if row.low is None else f"{row.low:.2f} to {row.high:.2f}",
            "" if row.least is None else f"{row.least:g}",
            "" if row.aim is None else f"{row.aim:g}",
            met,
        )
    return made


def processor() -> str:
    """The CPU's name."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "groups", nargs="*", default=GROUPS, metavar="GROUP", help=f"of {', '.join(GROUPS)}; all by default"
    )
    parser.add_argument("--rounds", type=int, default=7, help="turns of every contender")
    parser.add_argument("--quick", action="store_true", help="small sizes and two rounds, to see that everything runs")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--out", type=Path, help="JSON, written after every row; rows of other groups there are kept")
    arguments = parser.parse_args()
    unknown = set(arguments.groups) - set(GROUPS)
    if unknown:
        parser.error(f"no such group: {', '.join(sorted(unknown))}; there are {', '.join(GROUPS)}")
    torch.set_num_threads(1)
    settings = Settings(torch.device(arguments.device), 2 if arguments.quick else arguments.rounds, arguments.quick)
    rows: list[Row] = []
    kept = json.loads(arguments.out.read_text())["rows"] if arguments.out and arguments.out.exists() else []
    about = {
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if settings.device.type == "cuda" else processor(),
        "threads": 1,
        "rounds": settings.rounds,
        "quick": settings.quick,
    }
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=len(arguments.groups))
        for group in arguments.groups:
            progress.update(task, description=group)
            for row in import_module(group).rows(settings):
                row.notes["load"] = os.getloadavg()[0]
                row.notes["when"] = datetime.now(UTC).isoformat(timespec="seconds")
                row.notes["part"] = group
                rows.append(row)
                ratio = "" if row.ratio is None else f" x{row.ratio:.2f}"
                progress.console.print(f"{row.name}: {row.ours:.4g} {row.notes.get('unit', 's')}{ratio}")
                if arguments.out:
                    others = [other for other in kept if other["notes"]["part"] not in arguments.groups]
                    written = about | {"rows": others + [r.as_dict() for r in rows]}
                    arguments.out.write_text(json.dumps(written, indent=1) + "\n")
            progress.advance(task)
    Console(width=None if sys.stdout.isatty() else 200).print(table(rows))


if __name__ == "__main__":
    main()
