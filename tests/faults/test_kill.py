"""A few kills of `kill.py`, and what the numbers of its full run say."""

from __future__ import annotations

import json
import random
from pathlib import Path

import kill
import pytest

RESULTS = Path(__file__).parent / "results.json"


@pytest.mark.slow
def test_a_run_killed_at_random_moments_ends_as_if_nothing_had_happened(tmp_path):
    outcome = kill.torture("two stages and a baseline", 3, random.Random(0), tmp_path / "runs", steps=240)
    assert outcome.kills == 3
    assert outcome.equal == outcome.runs >= 1, outcome.differences


def test_the_comparison_sees_what_differs(tmp_path):
    """A run that lost a line, logged one twice, or ended with other weights would be seen."""
    for name, lines, weights in (
        ("whole", [1, 2, 3], b"a"),
        ("lost", [1, 3], b"a"),
        ("twice", [1, 2, 2, 3], b"a"),
        ("other", [1, 2, 3], b"b"),
    ):
        run_dir = tmp_path / name
        run_dir.mkdir()
        records = [{"stage": "density", "step": step, "steps_per_second": random.random()} for step in lines]
        (run_dir / "metrics.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in records))
        (run_dir / "evaluation.json").write_text(json.dumps({"elbo": 1.0, "seconds": random.random()}))
        (run_dir / "model.safetensors").write_bytes(weights)
    whole = kill.left(tmp_path / "whole")
    different = {
        name: [part for part in whole if kill.left(tmp_path / name)[part] != whole[part]]
        for name in ("whole", "lost", "twice", "other")
    }
    assert different == {"whole": [], "lost": ["metrics.jsonl"], "twice": ["metrics.jsonl"], "other": ["weights"]}


def test_the_numbers_in_the_docs_are_those_of_the_last_full_run():
    result = json.loads(RESULTS.read_text())
    assert result["kills"] >= 50 and result["equal"] == result["runs"]
    assert sum(result["phases"].values()) == result["kills"]
    page = (Path(__file__).parents[2] / "docs/concepts/recovery.md").read_text()
    assert f"{result['kills']} kills, {result['runs']} runs" in page
    for phase, count in result["phases"].items():
        assert f"| {phase} | {count} |" in page
