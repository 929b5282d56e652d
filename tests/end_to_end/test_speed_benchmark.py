"""The benchmark of speed runs, and refuses what it does not know. What it measures is not tested: machines differ."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SPEED = Path(__file__).parents[1] / "benchmarks" / "speed"


def test_a_quick_run_measures_and_writes_every_row(tmp_path):
    out = tmp_path / "speed.json"
    command = [sys.executable, str(SPEED), "pixelcnn", "sampling", "bounds", "--quick", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    measured = json.loads(out.read_text())
    assert measured["quick"] and len(measured["rows"]) == 11
    equal = [row["notes"]["equal"] for row in measured["rows"] if "equal" in row["notes"]]
    assert equal and all(e["outputs"] < 1e-5 and e["gradients"] < 1e-4 and e["compared"] > 50 for e in equal)


def test_an_unknown_group_is_named():
    done = subprocess.run([sys.executable, str(SPEED), "sped"], capture_output=True, text=True)
    assert done.returncode == 2 and "no such group: sped; there are ceilings" in done.stderr
