"""Puts a finished reproduction into the tree: its page and pictures into docs/, all numbers into results/.

    smoothgen reproduce all --out runs/reproduction
    python tests/benchmarks/publish_reproduction.py runs/reproduction

results/reproduction.json holds the numbers of every job that the page was made of, the settings' digest and what
computing it took, one line for each job; the arrays behind the pictures stay in the run.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
from pathlib import Path

from smoothgen.reproduction.outcomes import OutcomeStore, digest
from smoothgen.reproduction.page import PAGE
from smoothgen.reproduction.studies import chosen

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs" / "reproduction"
RESULTS = Path(__file__).parent / "results" / "reproduction.json"

WIDE = "---\nhide:\n  - toc\n---\n\n"
"""Tables of a dozen columns need the room of the table of contents."""


def publish(out: Path, seeds: tuple[int, ...]) -> None:
    """Copies what the page shows; pictures that it no longer shows are removed."""
    page = (out / PAGE).read_text(encoding="utf-8")
    shown = set(re.findall(r"!\[[^\]]*\]\(([^)]+)\)", page))
    DOCS.mkdir(parents=True, exist_ok=True)
    for old in DOCS.glob("*.png"):
        old.unlink()
    for name in sorted(shown):
        shutil.copy(out / name, DOCS / name)
    (DOCS / "index.md").write_text(WIDE + page, encoding="utf-8")
    store, lines = OutcomeStore(out / "outcomes"), []
    for job in chosen("all")[0].jobs(seeds, quick=False):
        try:
            finished = store.read(job)
        except FileNotFoundError:
            continue
        row = {"study": job.study, "name": job.name, "seed": job.seed, "settings": digest(job)}
        record = {"cpu_seconds": round(finished.record.cpu_seconds, 1), "machine": finished.record.machine}
        lines.append(json.dumps(row | {"numbers": _rounded(finished.outcome.numbers)} | record, ensure_ascii=False))
    RESULTS.write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8")
    print(f"{len(shown)} pictures and {len(lines)} outcomes")


def _rounded(value: object) -> object:
    """Floats to six digits: a test point more or less changes the fifth."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list) else value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="the --out of smoothgen reproduce")
    parser.add_argument("--seeds", default="0,1,2")
    arguments = parser.parse_args()
    publish(arguments.out, tuple(int(seed) for seed in arguments.seeds.split(",")))


if __name__ == "__main__":
    main()
