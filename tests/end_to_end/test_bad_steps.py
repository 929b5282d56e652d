"""Steps that are not finite, or spike: named, and answered as the configuration says, exactly so after a resume."""

from __future__ import annotations

import copy
import re
import signal
from pathlib import Path

import pytest
import torch
from command_line import TINY, until_done
from safetensors.torch import load_file

import smoothgen
from smoothgen.checkpoint import read_tensors
from smoothgen.data_source import Split
from smoothgen.device import DevicePolicy
from smoothgen.ema import ExponentialMovingAverage
from smoothgen.errors import DataError, Interrupted, NonFiniteError
from smoothgen.guards import WATCHED, UnreadSteps, bad_step, batch_report, remembered
from smoothgen.run_directory import RunDirectory
from smoothgen.trainer import Trainer
from smoothgen.training_data import TrainingData

RUNS = ("waiting", "not waiting")


def tiny(**trainer):
    config = copy.deepcopy(TINY)
    config["trainer"] |= {"max_steps": 40, "checkpoint_every": 7, "log_every": 10} | trainer
    return config


def spoil(monkeypatch, steps, value=float("nan"), stage="density"):
    """Examples of these steps hold a value that is not finite, at every pass."""
    original = TrainingData.batch

    def batch(self, name, step, *rest):
        split = original(self, name, step, *rest)
        if name != stage or step not in steps:
            return split
        x = split.x.clone()
        x[3, 1] = value
        return Split(x, split.context)

    monkeypatch.setattr(TrainingData, "batch", batch)


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model.safetensors")


def same(first: Path, second: Path) -> bool:
    one, other = weights(first), weights(second)
    return all(torch.equal(one[name], other[name]) for name in one)


def records(run: Path) -> list[dict]:
    return [{k: v for k, v in each.items() if k != "steps_per_second"} for each in RunDirectory(run).metrics()]


def test_a_bad_batch_is_named_with_its_row_and_module(tmp_path, monkeypatch):
    spoil(monkeypatch, {13})
    config = smoothgen.load_config(tiny())
    data = config.data.build()
    which = TrainingData(data, DevicePolicy(), 0).which("density", 13, 0, config.trainer.batch_size, 1)
    with pytest.raises(NonFiniteError) as caught:
        smoothgen.fit(config, tmp_path / "run")
    said = str(caught.value)
    assert "stage density, step 13: loss nan" in said
    assert "first not finite: output of " in said
    assert f"1 values of the batch are not finite, the first in training row {int(which[3])}" in said
    saved = load_file(tmp_path / "run/checkpoint.safetensors")
    assert all(value.isfinite().all() for name, value in saved.items() if name.startswith("weights/"))


def test_skipped_steps_change_nothing_and_are_logged(tmp_path, monkeypatch):
    spoil(monkeypatch, {13, 20})
    steps = []
    original = Trainer._answer

    def answer(self, stage, training, step, *rest):
        before = [parameter.detach().clone() for parameter in training.parameters]
        result = original(self, stage, training, step, *rest)
        assert all(torch.equal(now, then) for now, then in zip(training.parameters, before, strict=True))
        steps.append(step)
        return result

    monkeypatch.setattr(Trainer, "_answer", answer)
    smoothgen.fit(tiny(on_bad_step="skip"), tmp_path / "run")
    assert steps == [13, 20]
    logged = [record for record in records(tmp_path / "run") if "bad_step" in record]
    assert [(record["bad_step"], record["step"]) for record in logged] == [("skip", 13), ("skip", 20)]
    assert "training row" in logged[0]["why"]
    losses = [record["loss"] for record in records(tmp_path / "run") if "loss" in record]
    assert all(isinstance(loss, float) for loss in losses)
    assert all(value.isfinite().all() for value in weights(tmp_path / "run").values())


def test_too_many_bad_steps_end_the_training(tmp_path, monkeypatch):
    spoil(monkeypatch, set(range(5, 40)))
    with pytest.raises(NonFiniteError, match=r"step 8: .* after 3 bad steps"):
        smoothgen.fit(tiny(on_bad_step="skip", bad_steps=3), tmp_path / "run")


@pytest.mark.parametrize("run", [True, False], ids=["from the file", "from memory"])
def test_a_rollback_returns_to_the_checkpoint_with_a_lower_rate_and_other_noise(tmp_path, monkeypatch, run):
    passes: list[tuple[int, int]] = []
    original = Trainer._step

    def step(self, stage, training):
        passes.append((training.position.step, training.position.rollbacks))
        if stage.name == "density" and passes[-1] == (17, 0):
            training.parameters[0].data.fill_(float("inf"))  # the weights themselves are lost
        return original(self, stage, training)

    monkeypatch.setattr(Trainer, "_step", step)
    settings = tiny(on_bad_step="rollback", rollback_factor=0.25, decay="constant", warmup_steps=0)
    result = smoothgen.fit(settings, tmp_path / "run" if run else None)
    turn = passes.index((17, 0)) + 1
    assert passes[turn] == (14, 1), "not the checkpoint of step 14"
    assert all(value.isfinite().all() for value in result.model.state_dict().values())
    if run:
        logged = records(tmp_path / "run")
        assert [record["bad_step"] for record in logged if "bad_step" in record] == ["rollback"]
        rates = [record["learning_rate"] for record in logged if "loss" in record and record["stage"] == "density"]
        assert rates[0] / rates[-1] == pytest.approx(4.0)


@pytest.mark.parametrize("action", ["skip", "rollback"])
def test_a_resume_answers_as_the_run_without_a_kill(tmp_path, monkeypatch, action):
    class Killed(Exception):
        pass

    if action == "skip":
        spoil(monkeypatch, {13, 25}, stage="inverter")
    original, kills = Trainer._step, []
    burst = {("density", 17, 0), ("inverter", 30, 0)}
    answered: set[tuple[str, int, int]] = set()

    def step(self, stage, training):
        key = (stage.name, training.position.step, training.position.rollbacks)
        if action == "rollback" and key in burst:
            training.parameters[0].data.fill_(float("inf"))
        if key in answered:
            answered.discard(key)
            kills.append(key)
            raise Killed
        return original(self, stage, training)

    monkeypatch.setattr(Trainer, "_step", step)
    config = tiny(on_bad_step=action)
    smoothgen.fit(config, tmp_path / "whole")
    answered |= {("density", 16, 0), ("density", 20, 1 if action == "rollback" else 0), ("inverter", 33, 0)}
    answered |= {("inverter", 33, 1), ("inverter", 12, 0)}
    until_done(lambda resume: smoothgen.fit(config, tmp_path / "cut", resume=resume), Killed)
    assert len(kills) >= 3
    assert same(tmp_path / "whole", tmp_path / "cut")
    assert records(tmp_path / "whole") == records(tmp_path / "cut")


def test_a_spike_is_a_norm_far_above_the_recent_ones(tmp_path, monkeypatch):
    spoil(monkeypatch, {130}, value=1e4)
    settings = tiny(on_bad_step="skip", spike_factor=20.0, max_steps=150, validate_every=150, clip_norm=5.0)
    smoothgen.fit(settings, tmp_path / "run")
    bad = [(record["step"], record["bad_loss"]) for record in records(tmp_path / "run") if "bad_step" in record]
    assert [step for step, _ in bad] == [130]
    with pytest.raises(NonFiniteError, match=r"step 130: .* a spike above trainer\.spike_factor; the batch's own"):
        smoothgen.fit(settings | {"trainer": settings["trainer"] | {"on_bad_step": "stop"}})


def test_the_running_mean_of_log_norms_by_hand():
    mean, seen, fine = torch.tensor(0.0), torch.tensor(0.0), torch.tensor(False)
    logs = torch.linspace(-1.0, 1.0, 7)
    for value in logs:
        mean, seen = remembered(value.exp(), fine, mean, seen)
    assert seen == 7
    assert torch.allclose(mean, logs.mean(), atol=1e-6)  # a plain mean at first
    for bad in (torch.tensor(float("nan")), torch.tensor(float("inf")), torch.tensor(0.0)):
        assert all(torch.equal(*pair) for pair in zip(remembered(bad, fine, mean, seen), (mean, seen), strict=True))
    assert torch.equal(remembered(torch.tensor(5.0), torch.tensor(True), mean, seen)[0], mean)
    pair = torch.tensor([1.0, 11.0])
    watched = torch.tensor(float(WATCHED))
    zero = torch.tensor(0.0)
    assert bad_step(pair, zero, watched, 10.0)
    assert not bad_step(pair, zero, watched, 12.0)
    assert not bad_step(pair, zero, watched - 1, 10.0)
    assert not bad_step(pair, zero, watched, 0.0)
    assert bad_step(torch.tensor([float("nan"), 1.0]), zero, zero, 0.0)


class Killed(Exception):
    pass


def kill() -> None:
    raise Killed


def spoil_passes(monkeypatch, passes):
    """Examples of these steps of the density, each before so many rollbacks, hold a value that is not finite."""
    original = Trainer._micro_batch

    def micro_batch(self, stage, step, k, rollbacks=0):
        x, context = original(self, stage, step, k, rollbacks)
        if stage.name == "density" and (step, rollbacks) in passes:
            x = x.clone()
            x[3, 1] = float("nan")
        return x, context

    monkeypatch.setattr(Trainer, "_micro_batch", micro_batch)


def interrupt(monkeypatch, at):
    """At each of these steps of the density, once, something happens before it. Returns the steps still to come."""
    original, to_come = Trainer._step, dict(at)

    def step(self, stage, training):
        if stage.name == "density":
            to_come.pop(training.position.step, lambda: None)()
        return original(self, stage, training)

    monkeypatch.setattr(Trainer, "_step", step)
    return to_come


def ended(config, run: Path) -> str:
    """Trains to the end, resuming after every interruption. What a bad step ended it with, or nothing."""
    for resume in (False, True, True):
        try:
            smoothgen.fit(config, run, resume=resume)
        except (Killed, Interrupted):
            continue
        except NonFiniteError as error:
            return str(error)
        break
    return ""


ANSWERS = pytest.mark.parametrize(
    ("passes", "trainer"),
    [
        ({(13, 0)}, {"on_bad_step": "stop"}),
        ({(18, 0), (19, 0)}, {"on_bad_step": "stop", "spike_factor": 20.0}),
        ({(13, 0), (18, 0), (19, 0), (25, 0)}, {"on_bad_step": "skip"}),
        ({(13, 0), (18, 0), (19, 0)}, {"on_bad_step": "skip", "bad_steps": 1, "spike_factor": 20.0}),
        ({(13, 0), (18, 1), (19, 1)}, {"on_bad_step": "rollback", "spike_factor": 20.0}),
        ({(13, 0), (18, 1)}, {"on_bad_step": "rollback", "bad_steps": 1}),
    ],
    ids=["stop", "stop-later", "skip", "skip-too-many", "rollback", "rollback-too-many"],
)
"""Log lines are due after steps 10, 20, ..., checkpoints after 7, 14, 21, ...: bad steps lie in between."""


@ANSWERS
@pytest.mark.parametrize("cut", ["whole", "killed", "stopped"])
def test_the_accelerators_way_leaves_the_bits_of_waiting_for_each_step(tmp_path, monkeypatch, passes, trainer, cut):
    """It reads no step before something is due, and the fused optimizer leaves bad ones out; here on the CPU."""
    config = tiny(ema_decay=0.99, **trainer)
    spoil_passes(monkeypatch, passes)
    error = ended(config, tmp_path / "waiting")
    monkeypatch.setattr(DevicePolicy, "synchronous", property(lambda self: False))
    happens = {
        "whole": {},
        "killed": {16: kill, 20: kill},
        "stopped": {19: lambda: signal.raise_signal(signal.SIGTERM)},
    }[cut]
    to_come = interrupt(monkeypatch, happens)
    assert ended(config, tmp_path / "not waiting") == error
    assert bool(error) == (trainer["on_bad_step"] == "stop" or "bad_steps" in trainer)
    assert error or not to_come
    first, second = (read_tensors(tmp_path / run / "checkpoint.safetensors", "checkpoint") for run in RUNS)
    assert first[1] == second[1]
    assert first[0].keys() == second[0].keys()
    assert all(torch.equal(first[0][name], second[0][name]) for name in first[0])
    assert repr(records(tmp_path / "waiting")) == repr(records(tmp_path / "not waiting"))
    if error:
        assert f"step {first[1]['position']['step']}: loss nan" in error
        with pytest.raises(NonFiniteError, match=re.escape(error)):
            smoothgen.fit(config, tmp_path / "not waiting", resume=True)
    else:
        assert same(*(tmp_path / run for run in RUNS))


@pytest.mark.parametrize("action", ["stop", "skip", "rollback"])
def test_the_accelerators_way_answers_a_bad_step_before_a_batch_that_cannot_be_read(tmp_path, monkeypatch, action):
    spoil_passes(monkeypatch, {(15, 0)})

    original = Trainer._step

    def step(self, stage, training):
        if (stage.name, training.position.step) == ("density", 17):
            raise DataError("the file is gone")
        return original(self, stage, training)

    monkeypatch.setattr(Trainer, "_step", step)
    saved = []
    for run, synchronous in zip(RUNS, (True, False), strict=True):
        monkeypatch.setattr(DevicePolicy, "synchronous", property(lambda self, now=synchronous: now))
        with pytest.raises(NonFiniteError if action == "stop" else DataError):
            smoothgen.fit(tiny(on_bad_step=action, ema_decay=0.99), tmp_path / run)
        saved.append(read_tensors(tmp_path / run / "checkpoint.safetensors", "checkpoint"))
    (first, values), (second, others) = saved
    assert values == others
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_report_counts_examples_over_micro_batches():
    good, bad = Split(torch.zeros(4, 2)), Split(torch.zeros(4, 2), torch.tensor([[0.0], [0.0], [float("nan")], [0.0]]))
    assert "the first in example 6 of the step" in batch_report([(good, None), (bad, None)])
    assert batch_report([(good, torch.arange(4))]) == "the batch's own 4 examples are finite (training rows 0, 1, 2, 3)"


def test_steps_that_the_host_has_not_read_leave_no_trace_after_one_too_many():
    fine, bad = torch.tensor(False), torch.tensor(True)
    unread = UnreadSteps()
    assert unread.read() == []
    steps = [unread.add(step, torch.tensor([float(step), 2.0]), flag, 1) for step, flag in enumerate([bad, fine, bad])]
    steps.append(unread.add(3, torch.tensor([3.0, 2.0]), fine, 1))
    assert [bool(step) for step in steps] == [True, False, True, True]
    assert unread.read() == [(0, 0.0, 2.0), (2, 2.0, 2.0)]
    assert unread.read() == []
    assert not unread.add(4, torch.tensor([4.0, 2.0]), fine, 0)


def test_the_average_stays_where_a_step_is_left_out_and_moves_as_ever_elsewhere():
    weights = [torch.randn(3, 4), torch.randn(5)]
    one, other = ExponentialMovingAverage(weights, 0.9), ExponentialMovingAverage(weights, 0.9)
    for step, left_out in enumerate([False, True, False, False, True]):
        for tensor in weights:
            tensor += torch.randn_like(tensor)
        if not left_out:
            one.update(step)
        other.update(step, torch.tensor(left_out))
    assert all(torch.equal(*pair) for pair in zip(one.average, other.average, strict=True))
