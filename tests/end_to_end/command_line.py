"""Helpers of the end-to-end tests: the command line in this process and in a new one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from smoothgen import cli

TINY = {
    "name": "tiny",
    "data": {"type": "rings", "train_size": 500, "validation_size": 100, "test_size": 200},
    "kernel": {"type": "gaussian", "sigma": 0.3},
    "density": {"type": "made", "hidden": [16, 16], "components": 2},
    "inverter": {"type": "conditional", "density": {"type": "made", "hidden": [16, 16], "components": 2}},
    "trainer": {
        "max_steps": 60,
        "batch_size": 32,
        "log_every": 5,
        "validate_every": 20,
        "checkpoint_every": 10,
    },
    "evaluate": {"max_examples": 100, "importance_examples": 20, "importance_samples": [5], "samples": 50},
    "device": {"device": "cpu", "threads": 1},
}


@dataclass
class Answer:
    """What a command printed and the code it left."""

    code: int
    out: str
    err: str


def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> Answer:
    """`smoothgen ARGUMENTS` in this process."""
    monkeypatch.setattr(sys, "argv", ["smoothgen", *map(str, arguments)])
    code = 0
    try:
        cli.main()
    except SystemExit as leaving:
        code = int(leaving.code or 0)
    captured = capsys.readouterr()
    return Answer(code, captured.out, captured.err)


def start(*arguments: str | Path, cwd: Path, path: Path | None = None) -> subprocess.Popen[str]:
    """`python -m smoothgen ARGUMENTS` in a new process; `path` is searched for plugins first."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    return subprocess.Popen(
        [sys.executable, "-m", "smoothgen", *map(str, arguments)],
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(*arguments: str | Path, cwd: Path, path: Path | None = None) -> Answer:
    """The same, waited for."""
    process = start(*arguments, cwd=cwd, path=path)
    out, err = process.communicate(timeout=200)
    return Answer(process.returncode, out, err)


def until_done(fit: Callable[[bool], object], interruption: type[BaseException], most: int = 9) -> None:
    """Calls `fit(resume)`, and resumes it after every interruption, of which there has to be one."""
    resume = False
    for _ in range(most):
        try:
            fit(resume)
            break
        except interruption:
            resume = True
    assert resume, "the run never failed, so nothing was tested"
