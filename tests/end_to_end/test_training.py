"""Training as a user sees it: files, exact resume after kills, signals, early stopping, guards."""

from __future__ import annotations

import copy
import json
import random
import signal
import time
from pathlib import Path

import pytest
import torch
import yaml
from command_line import TINY, run, start, until_done
from safetensors.torch import load_file

import smoothgen
from smoothgen.errors import ConfigError, DamagedError, NonFiniteError, RecoveryWarning, RunDirectoryError
from smoothgen.run_directory import RunDirectory
from smoothgen.stages import schedule
from smoothgen.trainer import Trainer, trainer_of


def tiny(**changes):
    config = copy.deepcopy(TINY)
    for path, value in changes.items():
        *parents, key = path.split("__")
        node = config
        for parent in parents:
            node = node[parent]
        node[key] = value
    return config


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    return load_file(run_dir / "model.safetensors")


def assert_same_bits(first: Path, second: Path) -> None:
    one, other = weights(first), weights(second)
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


def timeless(run_dir: Path) -> list[dict]:
    return [{k: v for k, v in record.items() if k != "steps_per_second"} for record in RunDirectory(run_dir).metrics()]


class PlannedFailure(Exception):
    """Stands for a process that dies between two instructions."""


def fail_at(monkeypatch, steps):
    original, count = Trainer._step, [0]

    def step(self, *arguments):
        count[0] += 1
        if count[0] in steps:
            raise PlannedFailure
        return original(self, *arguments)

    monkeypatch.setattr(Trainer, "_step", step)


def cut_short(monkeypatch, config, run_dir):
    """A run that dies at its thirtieth step."""
    with monkeypatch.context() as patch:
        fail_at(patch, {30})
        with pytest.raises(PlannedFailure):
            smoothgen.fit(config, run_dir)


def test_a_run_leaves_everything_behind(tmp_path):
    result = smoothgen.fit(tiny(baseline={"type": "made", "hidden": [16]}), tmp_path / "run")
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert {
        "experiment.yaml", "environment.json", "metrics.jsonl", "checkpoint.safetensors", "config.json",
        "model.safetensors", "evaluation.json", "samples.png", "baseline",
    } <= names  # fmt: skip
    stored = json.loads((tmp_path / "run/evaluation.json").read_text())
    assert stored["likelihoods"].keys() == {"elbo", "iw-5", "baseline"}
    assert stored["likelihoods"]["elbo"]["n"] == 100
    assert stored["likelihoods"]["elbo"]["gap"] == pytest.approx(
        -stored["likelihoods"]["elbo"]["nats"] - stored["entropy"], abs=0.5
    )
    assert stored == json.loads(json.dumps(result.metrics))
    reloaded = smoothgen.load(tmp_path / "run")
    x = reloaded.sample(5, generator=torch.Generator().manual_seed(0))
    again = result.model.sample(5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(x, again)


def test_training_lowers_both_losses(tmp_path):
    smoothgen.fit(tiny(trainer__max_steps=200), tmp_path / "run")
    for stage in ("density", "inverter"):
        losses = [r["loss"] for r in RunDirectory(tmp_path / "run").metrics() if r["stage"] == stage and "loss" in r]
        assert sum(losses[-5:]) / 5 < losses[0] - 0.1


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"kernel__learnable": True},
        {"trainer__accumulate": 2, "trainer__patience": 2},
        {"density__dropout": 0.3, "data__train_size": None},
        {"inverter": "gradient"},
    ],
    ids=["two stages", "joint", "accumulated, patient", "dropout, fresh data", "gradient"],
)
def test_a_resumed_run_ends_with_the_very_weights(tmp_path, monkeypatch, changes):
    config = tiny(**changes)
    smoothgen.fit(config, tmp_path / "whole")
    fail_at(monkeypatch, {13, 40, 71, 90})
    until_done(lambda resume: smoothgen.fit(config, tmp_path / "cut", resume=resume), PlannedFailure)
    assert_same_bits(tmp_path / "whole", tmp_path / "cut")
    assert timeless(tmp_path / "whole") == timeless(tmp_path / "cut")


def test_a_killed_process_resumes_exactly(tmp_path):
    config = tmp_path / "tiny.yaml"
    config.write_text(yaml.safe_dump(tiny(trainer__max_steps=400, trainer__checkpoint_every=20)))
    assert run("train", config, "--run-dir", "whole", cwd=tmp_path).code == 0
    chance, kills = random.Random(0), 0
    command = ["train", config, "--run-dir", "cut"]
    for _ in range(3):
        process = start(*command, cwd=tmp_path)
        checkpoint = tmp_path / "cut/checkpoint.safetensors"
        deadline = time.monotonic() + 60
        before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
        while process.poll() is None and time.monotonic() < deadline:
            if checkpoint.exists() and checkpoint.stat().st_mtime_ns != before:
                time.sleep(chance.uniform(0.0, 0.2))
                process.send_signal(signal.SIGKILL)
                kills += 1
                break
            time.sleep(0.005)
        process.communicate()
        command = ["train", config, "--run-dir", "cut", "--resume"]
    assert kills >= 1
    answer = run(*command, cwd=tmp_path)
    assert answer.code == 0, answer.err
    assert_same_bits(tmp_path / "whole", tmp_path / "cut")


def test_sigterm_saves_and_leaves_with_its_code(tmp_path):
    config = tmp_path / "tiny.yaml"
    config.write_text(yaml.safe_dump(tiny(trainer__max_steps=20000, trainer__checkpoint_every=20000)))
    process = start("train", config, "--run-dir", "run", cwd=tmp_path)
    metrics = tmp_path / "run/metrics.jsonl"
    deadline = time.monotonic() + 60
    while not metrics.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert "--resume" in err
    assert (tmp_path / "run/checkpoint.safetensors").exists()


def test_early_stopping_keeps_the_best_weights(tmp_path):
    config = tiny(
        trainer__patience=2, trainer__max_steps=5000, trainer__learning_rate=0.03, trainer__warmup_steps=0,
        trainer__decay="constant", data__train_size=20, inverter="gradient", trainer__ema_decay=0.0,
    )  # fmt: skip
    smoothgen.fit(config, tmp_path / "run")
    validations = [r for r in RunDirectory(tmp_path / "run").metrics() if "validation_loss" in r]
    losses = [record["validation_loss"] for record in validations]
    assert validations[-1]["step"] < 5000
    assert losses.index(min(losses)) == len(losses) - 3
    loaded = smoothgen.load_config(config)
    model = smoothgen.load(tmp_path / "run")
    from smoothgen.device import DevicePolicy

    trainer = trainer_of(loaded, model, None, loaded.data.build(), DevicePolicy(loaded.device))
    stage = trainer.stages[0]
    assert trainer.validation_loss(stage, stage.objective) == pytest.approx(min(losses), abs=1e-6)


def test_a_step_that_is_not_finite_stops_with_its_name_and_loses_nothing(tmp_path):
    config = tiny(trainer__learning_rate=1e30, trainer__warmup_steps=0, trainer__clip_norm=0.0)
    with pytest.raises(NonFiniteError, match=r"stage density, step \d+: .*first not finite: (output|gradient)"):
        smoothgen.fit(config, tmp_path / "run")
    saved = load_file(tmp_path / "run/checkpoint.safetensors")
    assert all(value.isfinite().all() for name, value in saved.items() if name.startswith("weights/"))


def test_one_writer_at_a_time_and_no_overwriting(tmp_path):
    run_dir = RunDirectory(tmp_path / "run")
    with run_dir.writing(resume=False), pytest.raises(RunDirectoryError, match="another process"):
        smoothgen.fit(tiny(), tmp_path / "run")
    smoothgen.fit(tiny(trainer__max_steps=2), tmp_path / "run")
    before = weights(tmp_path / "run")
    with pytest.raises(RunDirectoryError, match="--resume"):
        smoothgen.fit(tiny(trainer__max_steps=2, seed=1), tmp_path / "run")
    assert all(torch.equal(value, before[name]) for name, value in weights(tmp_path / "run").items())


def test_resume_refuses_another_configuration(tmp_path, monkeypatch):
    cut_short(monkeypatch, tiny(), tmp_path / "run")
    with pytest.raises(ConfigError, match="started with another kernel"):
        smoothgen.fit(tiny(kernel__sigma=0.2), tmp_path / "run", resume=True)


def test_a_damaged_checkpoint_is_set_aside_for_the_one_before_it(tmp_path, monkeypatch):
    config = tiny()
    smoothgen.fit(config, tmp_path / "whole")
    cut_short(monkeypatch, config, tmp_path / "run")
    checkpoint, former = (tmp_path / "run" / f"checkpoint{name}.safetensors" for name in ("", ".previous"))
    newest = checkpoint.read_bytes()
    assert newest != former.read_bytes()
    damaged = bytearray(newest)
    damaged[-5] ^= 1
    checkpoint.write_bytes(damaged)
    with pytest.warns(RecoveryWarning, match=r"checksum.*going on from the checkpoint before it"):
        smoothgen.fit(config, tmp_path / "run", resume=True)
    assert_same_bits(tmp_path / "whole", tmp_path / "run")
    assert timeless(tmp_path / "whole") == timeless(tmp_path / "run")
    assert (tmp_path / "run/checkpoint.damaged.safetensors").read_bytes() == damaged
    checkpoint.write_bytes(newest[: len(newest) // 2])
    former.write_bytes(b"")
    with pytest.raises(DamagedError, match=r"checkpoint\.previous\.safetensors is damaged"):
        smoothgen.fit(config, tmp_path / "run", resume=True)


def test_a_kill_between_keeping_the_former_and_naming_the_new_loses_nothing(tmp_path, monkeypatch):
    config = tiny()
    smoothgen.fit(config, tmp_path / "whole")
    cut_short(monkeypatch, config, tmp_path / "run")
    (tmp_path / "run/checkpoint.safetensors").replace(tmp_path / "run/checkpoint.previous.safetensors")
    smoothgen.fit(config, tmp_path / "run", resume=True)
    assert_same_bits(tmp_path / "whole", tmp_path / "run")


def test_the_seed_alone_decides(tmp_path):
    first = smoothgen.fit(tiny(trainer__max_steps=5)).model.state_dict()
    torch.manual_seed(123)
    second = smoothgen.fit(tiny(trainer__max_steps=5)).model.state_dict()
    other = smoothgen.fit(tiny(trainer__max_steps=5, seed=1)).model.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_schedule_warms_up_and_decays():
    settings = smoothgen.load_config(tiny(trainer__max_steps=100, trainer__warmup_steps=10)).trainer
    factors = [schedule(settings, step) for step in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert max(factors) == pytest.approx(1.0)
    assert factors[9:] == sorted(factors[9:], reverse=True)
    assert factors[-1] < 0.01
    exponential = settings.model_copy(update={"decay": "exponential", "decay_rate": 0.5})
    assert schedule(exponential, 12) == pytest.approx(0.25)


def test_bf16_trains_and_keeps_float32_weights(tmp_path):
    result = smoothgen.fit(tiny(device__precision="bf16-mixed", trainer__max_steps=5))
    assert all(value.dtype == torch.float32 for value in result.model.state_dict().values())


def test_learned_sigma_moves_and_is_recorded(tmp_path):
    overrides = ["trainer.max_steps=500", "kernel.sigma=1.0", "evaluate.max_examples=500", "device.threads=1"]
    smoothgen.fit("six-modes", tmp_path / "run", overrides=overrides)
    sigma = json.loads((tmp_path / "run/evaluation.json").read_text())["sigma"]
    assert 0.4 < sigma[0] < 0.9  # the best lies near 0.63
    assert smoothgen.load(tmp_path / "run").kernel.sigma.tolist() == sigma
