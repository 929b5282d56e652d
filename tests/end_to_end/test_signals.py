"""SIGTERM and Ctrl-C at every moment: what is done is kept, one line, the right code, and an exact resume."""

from __future__ import annotations

import copy
import hashlib
import importlib
import os
import signal
from pathlib import Path

import pytest
import yaml
from command_line import TINY, call, start

from smoothgen.run_directory import RunDirectory
from smoothgen.signals import Stopped, StopSignals, raise_stopped

MOMENTS = {
    "preparing": "smoothgen.experiment:assemble",
    "the run directory": "smoothgen.run_directory:RunDirectory.describe",
    "search, scoring": "smoothgen.smoothed_model:SmoothedModel.likelihood_at",
    "search, between rungs": "smoothgen.run_directory:RunDirectory.write_search",
    "a stage's start": "smoothgen.trainer:Trainer._start",
    "a step": "smoothgen.trainer:Trainer._step",
    "validation": "smoothgen.trainer:Trainer._validation_means",
    "a checkpoint": "smoothgen.trainer:write_tensors",
    "a stage's end": "smoothgen.trainer:Trainer._finish",
    "saving the model": "smoothgen.smoothed_model:SmoothedModel.save_pretrained",
    "evaluation": "smoothgen.experiment:measure",
    "pictures": "smoothgen.experiment:draw_pictures",
}


def experiment(directory: Path) -> Path:
    config = copy.deepcopy(TINY)
    config["kernel"]["sigma"] = "auto"
    config["trainer"] |= {"sigma_search": {"candidates": 3, "steps": 4}, "max_steps": 30}
    config["evaluate"] = {"metrics": ["elbo", "samples"], "max_examples": 50, "samples": 20}
    path = directory / "tiny.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def left(run_dir: Path) -> tuple[str, list[dict]]:
    weights = hashlib.sha256((run_dir / "model.safetensors").read_bytes()).hexdigest()
    metrics = RunDirectory(run_dir).metrics()
    return weights, [{k: v for k, v in record.items() if k != "steps_per_second"} for record in metrics]


def usual_handlers() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def own_handlers():
    """A command that a signal ends leaves its handlers as they are: its process ends. This one goes on."""
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.getsignal(number) for number in numbers}
    usual_handlers()  # in a shell's background job Ctrl-C would be ignored
    yield
    for number, action in before.items():
        signal.signal(number, action)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What the run leaves that no signal stopped."""
    directory = tmp_path_factory.mktemp("whole")
    from smoothgen import fit

    fit(experiment(directory), directory / "run")
    return left(directory / "run")


def signal_at(patch: pytest.MonkeyPatch, where: str, number: int, calls: int = 2, times: int = 1) -> list[int]:
    """Sends the signal, `times` over, while the named function runs for the `calls`-th time; counts its calls."""
    module, _, path = where.partition(":")
    owner = importlib.import_module(module)
    *parents, name = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    original, seen = getattr(owner, name), []

    def wrapped(*arguments, **keywords):
        seen.append(len(seen))
        if len(seen) == calls:
            for _ in range(times):
                os.kill(os.getpid(), number)
        return original(*arguments, **keywords)

    patch.setattr(owner, name, wrapped)
    return seen


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_signal_at_any_moment_leaves_a_run_that_resumes_exactly(tmp_path, capsys, monkeypatch, whole, moment, number):
    config = experiment(tmp_path)
    once = moment in ("saving the model", "evaluation", "pictures")
    with monkeypatch.context() as patch:
        calls = 1 if once else 2
        seen = signal_at(patch, MOMENTS[moment], number, calls)
        answer = call(capsys, patch, "train", config, "--run-dir", tmp_path / "run")
    assert len(seen) >= calls, "the moment never came"
    assert answer.code == 128 + number, answer.err
    last = answer.err.strip().splitlines()[-1]
    assert last.startswith(f"stopped by signal {number}") and "--resume" in last
    assert "Traceback" not in answer.err
    usual_handlers()
    answer = call(capsys, monkeypatch, "train", config, "--run-dir", tmp_path / "run", "--resume")
    assert answer.code == 0, answer.err
    assert left(tmp_path / "run") == whole
    assert not list((tmp_path / "run").glob(".*.tmp"))


def test_a_second_ctrl_c_stops_at_once(tmp_path, capsys, monkeypatch, whole):
    config = experiment(tmp_path)
    with monkeypatch.context() as patch:
        seen = signal_at(patch, "smoothgen.trainer:Trainer._save", signal.SIGINT, calls=3, times=2)
        answer = call(capsys, patch, "train", config, "--run-dir", tmp_path / "run")
    assert len(seen) == 3, "it went on"
    assert answer.code == 130
    assert answer.err.strip().splitlines()[-1].startswith("stopped by signal 2; what was saved is in")
    usual_handlers()
    assert call(capsys, monkeypatch, "train", config, "--run-dir", tmp_path / "run", "--resume").code == 0
    assert left(tmp_path / "run") == whole


def test_a_second_sigterm_changes_nothing(tmp_path, capsys, monkeypatch):
    signal_at(monkeypatch, "smoothgen.trainer:Trainer._step", signal.SIGTERM, times=3)
    answer = call(capsys, monkeypatch, "train", experiment(tmp_path), "--run-dir", tmp_path / "run")
    assert answer.code == 143


def test_comparison_stops_and_goes_on(tmp_path, capsys, monkeypatch):
    command = ("compare", experiment(tmp_path), "--seeds", "0,1", "--out")
    assert call(capsys, monkeypatch, *command, tmp_path / "whole").code == 0
    for where, calls in (("smoothgen.trainer:Trainer._step", 40), ("smoothgen.experiment:measure", 2)):
        usual_handlers()
        with monkeypatch.context() as patch:
            signal_at(patch, where, signal.SIGTERM, calls)
            answer = call(capsys, patch, *command, tmp_path / "cut")
        assert answer.code == 143, answer.err
        last = answer.err.strip().splitlines()[-1]
        assert last.startswith("stopped by signal 15; ") and last.endswith("the same command goes on from there")
    usual_handlers()
    assert call(capsys, monkeypatch, *command, tmp_path / "cut").code == 0
    for seed in ("seed-0", "seed-1"):
        assert left(tmp_path / "cut" / seed) == left(tmp_path / "whole" / seed)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])
def test_a_signal_while_the_command_is_still_importing(tmp_path, number):
    """The process signals itself at its first heavy import."""
    hook = tmp_path / "sitecustomize.py"
    hook.write_text(
        "import os, sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == 'typer': sys.meta_path.remove(self); os.kill(os.getpid(), {int(number)})\n"
        "sys.meta_path.insert(0, Finder())\n"
    )
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    process = start("train", experiment(tmp_path), "--run-dir", "run", cwd=tmp_path, path=path)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (128 + number, f"stopped by signal {int(number)}\n")
    assert not out


def test_a_request_that_comes_too_late_for_the_loop_is_passed_on():
    signal.signal(signal.SIGTERM, raise_stopped)
    stop = StopSignals()
    with pytest.raises(Stopped, match="stopped by signal 15"), stop.listening():
        os.kill(os.getpid(), signal.SIGTERM)
    assert stop.signum == signal.SIGTERM
