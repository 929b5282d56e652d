"""The runner of `smoothgen reproduce`, on studies that cost nothing: what is kept, done again, reported, stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fake_studies import Squares

from smoothgen.errors import ConfigError, JobsFailedError
from smoothgen.reproduction.outcomes import OutcomeStore, Record
from smoothgen.reproduction.runner import FAILURES, reproduce
from smoothgen.reproduction.study import Job, Outcome


def lines(path: Path) -> list[str]:
    return sorted(path.read_text().splitlines()) if path.exists() else []


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


def outcome_of(directory: Path, name: str, seed: int = 0, ending: str = "json") -> Path:
    (path,) = (directory / "outcomes" / "squares").glob(f"{name}-seed{seed}-*.{ending}")
    return path


def test_every_job_is_computed_once_with_one_thread_and_found_again(tmp_path, log):
    page = reproduce([Squares(log)], tmp_path, seeds=[0, 1], workers=2, command=["smoothgen", "reproduce", "all"])
    assert lines(log) == [f"{name} {seed}" for name in range(4) for seed in (0, 1)]
    text = page.read_text()
    # 2 seeds x (0 + 1 + 4 + 9), and six cells in each array
    assert text.count("The squares sum to 28, the arrays to 168.") == 2  # in the summary and in the section
    assert "smoothgen reproduce all" in text and "8 of 8 finished" in text and "seeds | 0, 1" in text
    assert (tmp_path / "squares.png").read_bytes() == b"picture"
    written = json.loads(outcome_of(tmp_path, "3").read_text())
    assert written["numbers"] == {"value": 9, "threads": "1"}
    assert written["record"]["cpu_seconds"] >= 0.0 and written["record"]["wall_seconds"] >= 0.0
    assert written["record"]["versions"].keys() == {"smoothgen", "python", "torch", "numpy"}
    before = outcome_of(tmp_path, "3").stat().st_mtime_ns
    again = reproduce([Squares(log)], tmp_path, seeds=[0, 1]).read_text()
    assert len(lines(log)) == 8 and outcome_of(tmp_path, "3").stat().st_mtime_ns == before
    assert "The squares sum to 28, the arrays to 168." in again


def test_a_changed_setting_computes_only_what_it_concerns(tmp_path, log):
    reproduce([Squares(log)], tmp_path, seeds=[0])
    log.unlink()
    text = reproduce([Squares(log, factor=10)], tmp_path, seeds=[0]).read_text()
    assert lines(log) == ["1 0"]
    assert "sum to 23," in text
    log.unlink()
    reproduce([Squares(log)], tmp_path, seeds=[0, 5])  # the old setting is still there, the new seed is not
    assert lines(log) == ["0 5", "1 5", "2 5", "3 5"]


def test_another_version_computes_again(tmp_path, log, monkeypatch):
    reproduce([Squares(log)], tmp_path, seeds=[0], quick=True)
    monkeypatch.setattr("smoothgen.reproduction.outcomes.__version__", "9.9")
    reproduce([Squares(log)], tmp_path, seeds=[0], quick=True)
    assert lines(log) == ["0 0", "0 0", "1 0", "1 0"]


def test_failing_and_dying_jobs_are_named_and_the_others_go_on(tmp_path, log):
    study = Squares(log, {"1": "fails", "2": "dies", "0": "object"})
    with pytest.raises(JobsFailedError) as caught:
        reproduce([study], tmp_path, seeds=[0], workers=1)
    message = str(caught.value)
    assert "3 of 4 jobs failed" in message
    assert "squares/1, seed 0: ValueError: 1 is no good" in message
    assert "squares/2, seed 0: the worker process died (exit code -9" in message
    assert "squares/0, seed 0" in message
    assert "raise ValueError" in (tmp_path / FAILURES).read_text()
    text = (tmp_path / "reproduction.md").read_text()
    assert "The squares sum to 9," in text and "- failed: squares/1, seed 0: ValueError" in text
    log.unlink()
    text = reproduce([Squares(log)], tmp_path, seeds=[0]).read_text()  # mended: only those are computed
    assert lines(log) == ["0 0", "1 0", "2 0"] and "sum to 14," in text
    assert not (tmp_path / FAILURES).exists()


def test_a_section_that_cannot_be_made_is_an_error_and_leaves_the_page(tmp_path, log):
    with pytest.raises(JobsFailedError, match=r"a section failed.*\n.*the section could not be made: KeyError"):
        reproduce([Squares(log, {"section": "fails"})], tmp_path, seeds=[0])
    assert "the section could not be made" in (tmp_path / "reproduction.md").read_text()


@pytest.mark.parametrize("damage", ["cut json", "cut arrays", "changed arrays", "no arrays", "other json"])
def test_a_damaged_outcome_is_noted_and_computed_again(tmp_path, log, capsys, damage):
    reproduce([Squares(log)], tmp_path, seeds=[0])
    log.unlink()
    numbers, arrays = outcome_of(tmp_path, "3"), outcome_of(tmp_path, "3", ending="npz")
    content = arrays.read_bytes()
    match damage:
        case "cut json":
            numbers.write_bytes(numbers.read_bytes()[:-30])
        case "cut arrays":
            arrays.write_bytes(content[: len(content) // 2])
        case "changed arrays":
            arrays.write_bytes(content[:40] + bytes([content[40] ^ 1]) + content[41:])
        case "no arrays":
            arrays.unlink()
        case "other json":
            numbers.write_text('{"numbers": []}')
    text = reproduce([Squares(log)], tmp_path, seeds=[0]).read_text()
    assert lines(log) == ["3 0"] and "sum to 14," in text
    assert "is damaged" in capsys.readouterr().err


SCRIPT = """
import sys
from pathlib import Path
from fake_studies import Squares
from smoothgen.errors import Interrupted
from smoothgen.reproduction.runner import reproduce
if __name__ == "__main__":
    try:
        reproduce([Squares(Path(sys.argv[1]) / "log", {"2": "slow"})], sys.argv[1], seeds=[0, 1], workers=1)
    except Interrupted as error:
        print(error, file=sys.stderr)
        sys.exit(128 + error.signum)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_command_stops_at_once_and_goes_on_where_it_was(tmp_path, log, number):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    process = subprocess.Popen(
        [sys.executable, script, tmp_path], env=os.environ | {"PYTHONPATH": path}, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60.0
    while not any(line.startswith("2") for line in lines(log)) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    _, error = process.communicate(timeout=20.0)  # the slow job sleeps for a minute
    if number == signal.SIGKILL:
        assert process.returncode == -number
    else:
        assert process.returncode == 128 + number and "jobs to go; what is finished is kept" in error
    done = len(list((tmp_path / "outcomes").rglob("*.json")))
    assert done == len(lines(log)) - 1  # all that was begun but the slow one
    text = reproduce([Squares(log)], tmp_path, seeds=[0, 1]).read_text()
    assert "sum to 28," in text
    assert len(lines(log)) == 9  # 8 jobs, the slow one twice


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="children are looked up in /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_worker_outlives_its_parent_or_complains(tmp_path, number):
    """A terminal sends Ctrl-C to all processes of a command: here while the first worker is still starting."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    process = subprocess.Popen(
        [sys.executable, script, tmp_path],
        env=os.environ | {"PYTHONPATH": path},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored in a shell's background job
    )
    started = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    deadline = time.monotonic() + 60.0
    workers: list[str] = []
    while len(workers) < 2 and time.monotonic() < deadline:  # the tracker of resources is one
        workers = started.read_text().split()
    assert len(workers) == 2
    if number == signal.SIGKILL:
        process.send_signal(number)
    else:
        os.killpg(process.pid, number)
    _, error = process.communicate(timeout=30.0)  # the workers hold standard error open as long as they live
    assert process.returncode == (-number if number == signal.SIGKILL else 128 + number)
    if number != signal.SIGKILL:  # without its parent, python's own start of a worker fails loudly
        assert "Traceback" not in error
    while any(Path(f"/proc/{worker}").exists() for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)


def test_seeds_and_names_are_checked(tmp_path, log):
    for seeds in ([], [0, 0], [-1]):
        with pytest.raises(ConfigError, match="seeds must be different numbers from 0"):
            reproduce([Squares(log)], tmp_path, seeds=seeds)

    class Twice(Squares):
        def jobs(self, seeds, quick):
            return [Job("squares", "0", 0), Job("squares", "0", 0, {"factor": 2})]

    with pytest.raises(ConfigError, match="squares/0, seed 0 is there twice"):
        reproduce([Twice(log)], tmp_path, seeds=[0])


def test_numbers_are_read_as_they_were_written(tmp_path):
    store, record = OutcomeStore(tmp_path), Record(1.0, 2.0, {"smoothgen": "x"}, "a machine")
    job = Job("squares", "odd name / with ß", 3, {"nested": {"a": [1, 2.5, None]}})
    found = store.write(job, Outcome({"a": (1, 2), "b": float("nan"), "c": "ä"}), record)
    assert found.outcome.numbers == {"a": [1, 2], "b": None, "c": "ä"} and found.record == record
    assert store.read(job) == found
    assert store.path(job).parent == tmp_path / "squares"
    with pytest.raises(FileNotFoundError):
        store.read(Job("squares", "odd name / with ß", 3, {"nested": {"a": [1, 2.5, 0]}}))


def test_the_page_alone_is_made_of_what_is_there(tmp_path, log):
    """Nothing is computed, and the page says how much is missing."""
    reproduce([Squares(log)], tmp_path, seeds=[0])
    log.unlink()
    page = reproduce([Squares(log, count=6)], tmp_path, seeds=[0], compute=False).read_text()
    assert not log.exists()
    assert "| jobs | 4 of 6 finished |" in page and "The squares sum to 14," in page
