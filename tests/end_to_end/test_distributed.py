"""Several gloo processes: the same bits as one, exact resume, and what happens when one of them is lost.

More of it, with real launchers and four processes, is in tests/distributed/hashes.py, whose results are committed.
"""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path

import pytest
import torch
import yaml
from command_line import TINY, call
from processes import log_hash, run, sha256, start, wait_until
from safetensors.torch import load_file

from smoothgen.run_directory import RunDirectory

FAST = TINY | {
    "kernel": {"type": "gaussian", "sigma": 0.3, "learnable": True},
    "trainer": TINY["trainer"] | {"max_steps": 20, "validate_every": 10, "checkpoint_every": 6, "clip_norm": 0.0},
}
SAME = TINY | {
    "baseline": {"type": "made", "hidden": [15]},
    "trainer": {
        "max_steps": 20, "batch_size": 32, "log_every": 5, "validate_every": 10, "checkpoint_every": 6,
        "clip_norm": 1.0, "patience": 3, "learning_rate": 0.01, "warmup_steps": 2,
    },
    "evaluate": TINY["evaluate"] | {"metrics": ["elbo", "two-sample"], "max_examples": 200, "two_sample_points": 200},
    "device": TINY["device"] | {"reproducible": True},
}  # fmt: skip
FITS = ("first", "fails", "second", "third", "fourth", "fifth", "sixth")
"""Of several_fits.py."""
FILES = ("model.safetensors", "baseline/model.safetensors", "evaluation.json")


def assert_same(first: Path, second: Path) -> None:
    for file in FILES:
        assert sha256(first / file) == sha256(second / file), file
    assert log_hash(first) == log_hash(second)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Configurations, and what one process with four micro-batches makes of the reproducible one."""
    folder = tmp_path_factory.mktemp("distributed")
    (folder / "fast.yaml").write_text(yaml.safe_dump(FAST))
    (folder / "same.yaml").write_text(yaml.safe_dump(SAME))
    run(1, "train", "same.yaml", "--run-dir", "alone", "trainer.accumulate=4", cwd=folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_equal_one_to_rounding(folder, strategy):
    # without clipping, since FSDP adds up the gradient's norm in another order
    if not (folder / "fast").exists():
        run(1, "train", "fast.yaml", "--run-dir", "fast", "trainer.accumulate=2", cwd=folder)
    run(2, "train", "fast.yaml", "--run-dir", strategy, f"device.strategy={strategy}", cwd=folder, torchrun=True)
    one, other = (load_file(folder / name / "model.safetensors") for name in ("fast", strategy))
    assert one.keys() == other.keys()
    assert max((one[name] - other[name]).abs().max().item() for name in one if one[name].numel()) <= 1e-6


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "count"), [("ddp", 4), ("fsdp", 2)])
def test_reproducible_runs_leave_the_same_bits(folder, strategy, count):
    name = f"{strategy}-{count}"
    options = (f"device.strategy={strategy}", f"trainer.accumulate={4 // count}")
    run(count, "train", "same.yaml", "--run-dir", name, *options, cwd=folder)
    assert_same(folder / "alone", folder / name)


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "action"), [("ddp", "skip"), ("fsdp", "rollback")])
def test_bad_steps_are_answered_alike_by_all(folder, strategy, action):
    options = (f"trainer.on_bad_step={action}", "trainer.spike_factor=1.7", "trainer.bad_steps=40")
    few = ("trainer.max_steps=150", "trainer.patience=0", "evaluate.metrics=[]", "baseline=null")
    run(1, "train", "same.yaml", "--run-dir", f"one-{action}", "trainer.accumulate=2", *options, *few, cwd=folder)
    name = f"two-{action}"
    run(2, "train", "same.yaml", "--run-dir", name, f"device.strategy={strategy}", *options, *few, cwd=folder)
    answers = [record["bad_step"] for record in RunDirectory(folder / name).metrics() if "bad_step" in record]
    assert answers and set(answers) == {action}
    assert sha256(folder / f"one-{action}" / FILES[0]) == sha256(folder / name / FILES[0])


@pytest.mark.slow
def test_stages_apart_end_with_the_same_bits(folder):
    options = ("device.stages=apart", "trainer.accumulate=4")
    run(3, "train", "same.yaml", "--run-dir", "apart", *options, cwd=folder)
    assert_same(folder / "alone", folder / "apart")


@pytest.mark.slow
def test_a_lost_process_ends_the_others_with_one_line_and_the_run_resumes_alone(folder):
    command = ("train", "same.yaml", "--run-dir", "lost")
    group = start(2, *command, "trainer.accumulate=2", cwd=folder)
    wait_until((folder / "lost/checkpoint.safetensors").exists, group)
    os.kill(group.workers()[1], signal.SIGKILL)
    assert group.finish(60) == [2, -signal.SIGKILL]
    assert len(re.findall(r"^error: process 0 of 2 lost contact .*--resume", group.errors, re.M)) == 1
    assert "Traceback" not in group.errors
    run(1, *command, "trainer.accumulate=4", "--resume", cwd=folder)
    assert_same(folder / "alone", folder / "lost")


@pytest.mark.slow
def test_a_silent_process_is_waited_for_no_longer_than_the_timeout(folder):
    group = start(
        2, "train", "same.yaml", "--run-dir", "silent", "device.timeout=5", "trainer.max_steps=9999", cwd=folder
    )
    wait_until((folder / "silent/checkpoint.safetensors").exists, group)
    os.kill(group.workers()[1], signal.SIGSTOP)
    try:
        assert group.members[0].wait(40) == 2
    finally:
        os.kill(group.workers()[1], signal.SIGKILL)
    group.finish()
    assert "device.timeout = 5 s" in group.errors


@pytest.mark.slow
def test_a_stage_that_fails_stops_the_others(folder):
    options = ("device.stages=apart", "trainer.max_steps=99999", "trainer.inverter.learning_rate=1e30", "baseline=null")
    options += ("trainer.inverter.warmup_steps=0", "trainer.inverter.clip_norm=0", "trainer.patience=0")
    group = start(2, "train", "same.yaml", "--run-dir", "fails", *options, cwd=folder)
    assert group.finish(60) == [2, 2]
    assert "error: stage inverter, step" in group.errors
    assert re.search(
        r"error: stage inverter failed on other processes .*; stopped at step \d+ of stage density", group.errors
    )
    assert (folder / "fails/stages/density/checkpoint.safetensors").exists()


@pytest.mark.slow
def test_another_configuration_in_one_process_is_refused_by_all(folder):
    group = start(2, "train", "same.yaml", "--run-dir", "other", cwd=folder, last=("trainer.learning_rate=0.5",))
    assert group.finish(60) == [2, 2]
    assert group.errors.count("error: process 1 was started with another configuration or version than process 0") == 2
    assert not (folder / "other").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("torchrun", "group"), [(True, "new"), (False, "new"), (True, "own")])
def test_fits_in_one_process_know_nothing_of_earlier_ones(tmp_path, torchrun, group):
    program = (str(Path(__file__).parent / "several_fits.py"),)
    several = run(2, group, cwd=tmp_path, torchrun=torchrun, program=program)
    said = "".join(out for out, _ in several.output).splitlines()
    assert {name: said.count(f"{name} is done") for name in FITS} == {name: 2 * (name != "fails") for name in FITS}
    ended = sorted(line for line in said if "ended" in line)
    assert ended[0] == "fails ended: made-up trouble"
    assert ended[1].startswith("fails ended: stage inverter failed on other processes (made-up trouble)")
    assert len(ended) == 2
    assert sha256(tmp_path / "first/model.safetensors") == sha256(tmp_path / "second/model.safetensors")
    assert sha256(tmp_path / "third/model.safetensors") == sha256(tmp_path / "fifth/model.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize(("command", "count"), [(("sample", "alone", "-n", "501", "--smoothed"), 3),
                                                (("inpaint", "alone", "x.npy", "--mask", "mask.npy"), 2)])  # fmt: skip
def test_commands_share_their_work_and_leave_the_same_bits(folder, monkeypatch, capsys, command, count):
    import numpy as np

    np.save(folder / "x.npy", np.linspace(0.0, 1.0, 602, dtype=np.float32).reshape(301, 2))
    np.save(folder / "mask.npy", np.array([[1, 0]] * 301))
    monkeypatch.chdir(folder)
    answer = call(capsys, monkeypatch, *command, "--out", "one.safetensors")
    assert answer.code == 0, answer.err
    run(count, *command, "--out", "many.safetensors", cwd=folder)
    assert sha256(folder / "one.safetensors") == sha256(folder / "many.safetensors")


def test_chunks_draw_different_samples(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    call(capsys, monkeypatch, "sample", "alone", "-n", "600", "--out", "chunks.safetensors")
    x = load_file("chunks.safetensors")["samples"]
    assert len(torch.unique(x, dim=0)) == 600
    call(capsys, monkeypatch, "sample", "alone", "-n", "250", "--out", "first.safetensors")
    assert torch.equal(load_file("first.safetensors")["samples"], x[:250])


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["kernel.learnable=true"], "sigma is learned from both"),
        (["inverter=gradient", "baseline=null", "evaluate.metrics=[]"], "has a single stage to train"),
        ([], "needs a process for each of 3 stages (density, inverter, baseline), got 1"),
    ],
)
def test_stages_that_cannot_be_apart_are_refused(folder, monkeypatch, capsys, options, reason):
    monkeypatch.chdir(folder)
    answer = call(capsys, monkeypatch, "train", "same.yaml", "--run-dir", "no", "device.stages=apart", *options)
    assert answer.code == 2
    assert reason in answer.err
    assert not Path("no").exists()


def test_what_several_processes_cannot_do_is_refused(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    answer = call(capsys, monkeypatch, "train", "same.yaml", "--run-dir", "x", "device.strategy=fsdp")
    assert (answer.code, "torchrun" in answer.err) == (2, True)
    answer = call(capsys, monkeypatch, "train", "same.yaml", "--run-dir", "alone", "--resume", "device.stages=apart")
    assert answer.code == 2
    for name, value in {"WORLD_SIZE": "3", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    answer = call(capsys, monkeypatch, "train", "same.yaml")
    assert (answer.code, "need --run-dir" in answer.err) == (2, True)
    answer = call(capsys, monkeypatch, "compare", "same.yaml")
    assert (answer.code, "one process, not 3" in answer.err) == (2, True)


def test_the_log_of_the_alone_run_is_whole(folder):
    """What the comparisons above compare is not empty."""
    records = [json.loads(line) for line in (folder / "alone/metrics.jsonl").read_text().splitlines()]
    assert {record["stage"] for record in records} == {"density", "inverter", "baseline"}
    measured = json.loads((folder / "alone/evaluation.json").read_text())
    assert {"likelihoods", "two_sample", "gain_over_baseline"} <= measured.keys()
