"""A checkpoint of another model, version, division of the batch, run or data: refused by name, and left as it was."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from command_line import TINY

import smoothgen
from smoothgen.checkpoint import read_tensors, write_tensors
from smoothgen.errors import CheckpointError
from smoothgen.trainer import CHECKPOINT_KIND, Trainer

FILE = "checkpoint.safetensors"


class Cut(Exception):
    """Stands for the end of a process."""


def tiny(**changes):
    return copy.deepcopy(TINY) | changes


def interrupted(config, run_dir, monkeypatch, at=30):
    """Trains until step `at` of all, and leaves the last checkpoint."""
    original, seen = Trainer._step, []

    def step(self, *arguments):
        seen.append(1)
        if len(seen) > at:
            raise Cut
        return original(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", step)
        with pytest.raises(Cut):
            smoothgen.fit(config, run_dir)
    return run_dir / FILE


def refused(config, run_dir, match):
    before = (run_dir / FILE).read_bytes()
    with pytest.raises(CheckpointError, match=match):
        smoothgen.fit(config, run_dir, resume=True)
    assert (run_dir / FILE).read_bytes() == before


def edit(checkpoint, **metadata):
    tensors, stored = read_tensors(checkpoint, CHECKPOINT_KIND)
    write_tensors(checkpoint, tensors, stored | metadata)


def test_another_format(tmp_path, monkeypatch):
    edit(interrupted(tiny(), tmp_path / "run", monkeypatch), format=2)
    refused(tiny(), tmp_path / "run", "has format 2, this smoothgen reads format 1; install the version")


def test_another_division_of_the_batch(tmp_path, monkeypatch):
    edit(interrupted(tiny(), tmp_path / "run", monkeypatch), micro_batches=[4, 4])
    reason = r"with 4 micro-batches a step of stage density \(accumulate x processes\), this run has 1"
    refused(tiny(), tmp_path / "run", reason)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"density": TINY["density"] | {"hidden": [24, 16]}}, "another density than"),
        ({"kernel": {"type": "gaussian", "sigma": 0.4}}, "another kernel than"),
        ({"seed": 1, "trainer": TINY["trainer"] | {"learning_rate": 0.0031}}, "another seed, trainer than"),
        ({"baseline": {"type": "made", "hidden": [16]}}, "has the stages"),
    ],
    ids=["model", "sigma", "settings", "stages"],
)
def test_a_checkpoint_of_another_run(tmp_path, monkeypatch, changes, named):
    other = interrupted(tiny(**changes), tmp_path / "other", monkeypatch)
    own = interrupted(tiny(), tmp_path / "run", monkeypatch)
    whole = own.read_bytes()
    own.write_bytes(other.read_bytes())
    refused(tiny(), tmp_path / "run", named)
    own.write_bytes(whole)
    smoothgen.fit(tiny(), tmp_path / "run", resume=True)


def test_a_checkpoint_whose_experiment_is_gone_is_taken_for_its_own_only(tmp_path, monkeypatch):
    checkpoint = interrupted(tiny(), tmp_path / "run", monkeypatch)
    experiment = checkpoint.with_name("experiment.yaml")
    text = experiment.read_text()
    experiment.unlink()
    refused(tiny(seed=5), tmp_path / "run", "another seed than")
    experiment.unlink()
    smoothgen.fit(tiny(name="renamed"), tmp_path / "run", resume=True)
    assert experiment.read_text().replace("renamed", "tiny") == text


def test_weights_of_another_model_are_named_without_a_fingerprint(tmp_path, monkeypatch):
    """As a checkpoint from before there were fingerprints."""
    wider = tiny(density=TINY["density"] | {"hidden": [24, 16]})
    edit(interrupted(wider, tmp_path / "wider", monkeypatch), fingerprint=None)
    own = interrupted(tiny(), tmp_path / "run", monkeypatch)
    own.write_bytes((tmp_path / "wider" / FILE).read_bytes())
    refused(tiny(), tmp_path / "run", r"has shape \(24, .*it holds the weights of another model")


def array_config(directory, values):
    np.save(directory / "x.npy", values.astype(np.float32))
    return tiny(data={"type": "array", "path": str(directory / "x.npy")})


@pytest.mark.parametrize("change", ["one value", "one row less", "order"])
def test_changed_data(tmp_path, monkeypatch, change):
    values = np.random.default_rng(0).normal(size=(400, 2))
    config = array_config(tmp_path, values)
    checkpoint = interrupted(config, tmp_path / "run", monkeypatch)
    changed = values.copy()
    if change == "one value":
        changed[7, 1] += 1e-3
    elif change == "one row less":
        changed = changed[:-1]
    else:
        changed = changed[::-1]
    array_config(tmp_path, changed)
    refused(config, tmp_path / "run", "the training data have changed since")
    array_config(tmp_path, values)
    smoothgen.fit(config, tmp_path / "run", resume=True)
    assert checkpoint.with_name("model.safetensors").exists()


def test_what_no_weight_depends_on_may_change(tmp_path, monkeypatch):
    interrupted(tiny(), tmp_path / "run", monkeypatch)
    smoothgen.fit(tiny(name="other", evaluate=TINY["evaluate"] | {"samples": 10}), tmp_path / "run", resume=True)
