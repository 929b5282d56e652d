"""The mutation driver on a small module with known faults: killed, survived, equivalent, timed out, refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from mutation import change_of, mutants_of

TESTS = Path(__file__).resolve().parents[1]
SOURCE = '''"""Sums."""

def total(values):
    """Of all."""
    result = 0
    for value in values:
        result += value
    return result

def first(values):
    if not values:
        raise ValueError("nothing")
    return values[0]

def count_down(n):
    while n > 0:
        n -= 1
    return n
'''
CHECKS = """
import pytest
import sums

def test_total():
    assert sums.total([2, 3]) == 5 and sums.total([7]) == 7

def test_first():
    assert sums.first([4, 5]) == 4

def test_count_down():
    assert sums.count_down(3) == 0
"""
NAMES = {
    "killed": "total: result += value  ->  result -= value",
    "survived": 'first: raise ValueError("nothing")  ->  pass',
    "timed out": "count_down: n -= 1  ->  n += 1",
}


@pytest.fixture
def project(tmp_path) -> Path:
    (tmp_path / "sums.py").write_text(SOURCE)
    (tmp_path / "test_sums.py").write_text(CHECKS)
    return tmp_path


def drive(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The driver's command, with this module and its test as the only target."""
    code = f"""
import sys
from pathlib import Path
import mutation
mutation.ROOT = Path({str(project)!r})
mutation.EQUIVALENTS = mutation.ROOT / "equivalents.toml"
mutation.TARGETS = {{"sums.py": ("test_sums.py",)}}
mutation.PATIENCE = 5.0
mutation.OPTIONS = mutation.OPTIONS[:-2]  # the profile is known where conftest.py is
mutation.main()
"""
    command = [sys.executable, "-c", code, "--jobs", "2", "--out", "results.json", *arguments]
    environment = os.environ | {
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]),
    }
    return subprocess.run(command, capture_output=True, text=True, cwd=project, env=environment)


def test_every_outcome(project):
    stale = f'[[equivalent]]\ntarget = "sums.py"\nreason = "as it was"\nmutants = [\'{NAMES["killed"]}\']\n'
    (project / "equivalents.toml").write_text(stale)
    done = drive(project)
    results = json.loads((project / "results.json").read_text())["total"]
    assert done.returncode == 1
    assert f"survived: sums.py: {NAMES['survived']}" in done.stderr
    assert f"timed out: sums.py: {NAMES['timed out']}" in done.stderr
    assert f"explains no survivor: sums.py: {NAMES['killed']}" in done.stderr
    assert results["mutants"] == sum(results[name] for name in ("killed", "survived", "timed out", "equivalent"))
    assert results["killed"] >= 8 and results["share"] == round(results["killed"] / results["mutants"], 4)


def test_an_explained_survivor_passes(project):
    entry = '[[equivalent]]\ntarget = "sums.py"\nreason = "{}"\nmutants = [\'{}\']\n'
    (project / "equivalents.toml").write_text(entry.format("no caller is without values", NAMES["survived"]))
    only = ("--only", NAMES["survived"])
    assert drive(project, *only).returncode == 0
    told = json.loads((project / "results.json").read_text())["targets"]["sums.py"]
    assert told["equivalent"] == 1 and told["share"] == 0.0, "an explanation is no kill"
    assert told["not killed"][0]["reason"] == "no caller is without values"


def test_tests_that_fail_or_look_elsewhere_are_refused(project):
    (project / "test_sums.py").write_text(CHECKS.replace("== 5", "== 6"))
    assert "fail without a mutant: test_sums.py" in drive(project).stderr
    (project / "test_sums.py").write_text("def test_nothing():\n    assert True\n")
    assert "did not import it: test_sums.py" in drive(project).stderr


def test_mutants_of_a_source_leave_texts_and_annotations_alone():
    source = (
        '"""Text."""\nfrom a import b\n\n@property\ndef half(x: int = 2) -> float:\n    """Half."""\n    return x / 2\n'
    )
    changes = {mutant.change.split("  ->  ")[1] for mutant in mutants_of(source)}
    assert changes == {
        "def half(x: int = 3) -> float:",
        "return None",
        "return x * 2",
        "return x / 3",
    }
    assert change_of("a = 1\nb = 2\n", "a = 1\nb = 3\n") == "b = 2  ->  b = 3"


def test_the_page_says_what_was_measured():
    root = TESTS.parent
    total = json.loads((root / "tests" / "mutation-results.json").read_text())["total"]
    page = (root / "docs" / "concepts" / "contract.md").read_text()
    assert f"Of {total['mutants']:,} mutants {total['killed']:,} are killed and {total['equivalent']} change" in page
    assert total["survived"] == total["timed out"] == 0 and total["share"] >= 0.9
