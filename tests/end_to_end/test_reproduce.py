"""`smoothgen reproduce` as a user sees it: the list, one study to its page and pictures, the second time for free."""

from __future__ import annotations

import json
import re
import time

import pytest
from command_line import call, run

from smoothgen.reproduction.studies import studies


def test_without_a_name_the_studies_are_listed(capsys, monkeypatch):
    answer = call(capsys, monkeypatch, "reproduce")
    assert answer.code == 0
    for study in studies():
        assert f"│ {study.name} " in answer.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("ring",), 'unknown study "ring"'), (("rings", "--seeds", "a"), "--seeds: expected whole numbers")],
)
def test_bad_arguments_are_one_line(capsys, monkeypatch, arguments, message):
    answer = call(capsys, monkeypatch, "reproduce", *arguments)
    assert answer.code == 2 and message in answer.err and "Traceback" not in answer.err


def test_a_quick_study_makes_its_page_and_is_found_again(tmp_path):
    command = ("reproduce", "flows", "--quick", "--seeds", "0,1", "--jobs", "1")
    answer = run(*command, cwd=tmp_path)
    assert answer.code == 0, answer.err
    out = tmp_path / "runs" / "reproduction-quick"
    page = (out / "reproduction.md").read_text()
    assert "the page is runs/reproduction-quick/reproduction.md" in answer.out
    assert "no number and no verdict here means anything" in page
    assert "# Reproduction" in page and "## Summary" in page and "## RealNVP with and without smoothing" in page
    assert "Figure 7" in page and "`smoothgen reproduce flows --quick --seeds 0,1 --jobs 1`" in page
    for picture in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", page):
        assert (out / picture).read_bytes().startswith(b"\x89PNG")
    row = re.search(r"^\| smoothed RealNVP \| ([\d.]+) ± ", page, re.M)
    assert row and float(row[1]) > 3.46  # no bound is below the checkerboard's entropy
    outcomes = sorted((out / "outcomes").rglob("*.json"))
    assert len(outcomes) == 20  # two sets, two models with and without Fourier inputs and the data, two seeds
    numbers = json.loads(outcomes[-1].read_text())["numbers"]
    assert {"nll", "gap", "iw_100", "off_support", "mmd", "precision", "recall"} <= numbers.keys()
    start = time.monotonic()
    again = run(*command, cwd=tmp_path)
    assert again.code == 0 and "jobs: 0 steps" in again.err
    assert time.monotonic() - start < 60.0
    after = (out / "reproduction.md").read_text()
    assert [line for line in after.splitlines() if "| date |" not in line] == [
        line for line in page.splitlines() if "| date |" not in line
    ]
