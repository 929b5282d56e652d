"""Saved models: whole or not there, and refused with a reason when they are not what they should be."""

from __future__ import annotations

import json
import os

import pytest
import torch
from safetensors.torch import load_file, save_file

import smoothgen
from smoothgen import EventSpec
from smoothgen.checkpoint import load_model, read_tensors, write_atomically, write_tensors
from smoothgen.errors import CheckpointError, DamagedError, RunDirectoryError
from smoothgen.smoothed_model import SmoothedConfig, SmoothedModel

CONFIG = {
    "kernel": {"type": "gaussian", "sigma": 0.3},
    "density": {"type": "made", "hidden": [8]},
    "inverter": {"type": "conditional", "density": {"type": "made", "hidden": [8]}},
}


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(0)
    model = SmoothedConfig.model_validate(CONFIG).build(
        EventSpec(shape=(2,), shift=(1.0, 2.0), scale=(3.0, 0.5), names=("a", "b"))
    )
    model.save_pretrained(tmp_path / "model")
    return model, tmp_path / "model"


def test_a_model_comes_back_as_it_was(saved):
    model, directory = saved
    loaded = SmoothedModel.from_pretrained(directory)
    assert loaded.event == model.event
    x = torch.randn(5, 2)
    first = model.likelihood(x, generator=torch.Generator().manual_seed(0)).per_example
    second = loaded.likelihood(x, generator=torch.Generator().manual_seed(0)).per_example
    assert torch.equal(first, second)
    assert not loaded.training


def test_a_density_that_is_not_smoothed_is_saved_and_told_apart(tmp_path):
    from smoothgen.checkpoint import save_model
    from smoothgen_made.made import MADEConfig

    config = MADEConfig(hidden=(4,))
    density = config.build(EventSpec(shape=(3,)))
    save_model(density, config, tmp_path)
    x = torch.randn(2, 3)
    assert torch.equal(load_model(tmp_path).log_prob(x), density.log_prob(x))
    with pytest.raises(CheckpointError, match="holds a MADE, not a SmoothedModel"):
        SmoothedModel.from_pretrained(tmp_path)


def test_a_model_assembled_by_hand_says_why_it_cannot_be_saved(saved, tmp_path):
    model, _ = saved
    by_hand = SmoothedModel(model.kernel, model.density, model.inverter, model.event)
    with pytest.raises(CheckpointError, match="assembled from modules"):
        by_hand.save_pretrained(tmp_path / "x")


@pytest.mark.parametrize("cut", [0, 1, 7, 8, 50, 500, -1])
def test_a_file_cut_short_is_damaged(saved, cut):
    _, directory = saved
    weights = directory / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:cut])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged"):
        smoothgen.load(directory)


def small(tmp_path):
    path = tmp_path / "small.safetensors"
    tensors = {"a": torch.tensor([1.0, -2.0]), "b": torch.arange(3), "c": torch.zeros(0), "d": torch.tensor(True)}
    write_tensors(path, tensors, {"kind": "model", "format": 1, "position": {"step": 3, "loss": 0.25}})
    return path, tensors


def test_no_flipped_bit_passes_for_what_was_written(tmp_path):
    """Every bit of the file in turn: an error, or (a blank of the header's padding) the very same content."""
    path, tensors = small(tmp_path)
    whole = path.read_bytes()
    _, metadata = read_tensors(path, "model")
    refused = 0
    for index in range(8 * len(whole)):
        changed = bytearray(whole)
        changed[index // 8] ^= 1 << (index % 8)
        path.write_bytes(changed)
        try:
            found, said = read_tensors(path, "model")
        except CheckpointError:
            refused += 1
            continue
        assert said == metadata
        assert found.keys() == tensors.keys()
        assert all(torch.equal(found[name], tensors[name]) for name in tensors)
    assert refused > 8 * (len(whole) - 16)


def test_a_file_cut_at_any_byte_is_damaged(tmp_path):
    path, _ = small(tmp_path)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(DamagedError):
            read_tensors(path, "model")


@pytest.mark.parametrize("links", [True, False])
def test_the_former_file_is_kept_at_every_moment(tmp_path, monkeypatch, links):
    path, former = tmp_path / "new.safetensors", tmp_path / "former.safetensors"

    def refuse(*_):
        raise OSError("no links here")

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    replace = os.replace

    def watched(source, target):
        replace(source, target)
        kept = [file for file in (path, former) if file.exists()]
        assert kept, "for a moment there was nothing to resume from"
        for file in kept:
            read_tensors(file, "model")

    monkeypatch.setattr(os, "replace", watched)
    for step in range(3):
        write_tensors(path, {"a": torch.tensor(step)}, {"kind": "model", "format": 1}, former)
    assert read_tensors(path, "model")[0]["a"] == 2
    assert read_tensors(former, "model")[0]["a"] == 1
    assert sorted(file.name for file in tmp_path.iterdir()) == ["former.safetensors", "new.safetensors"]


def test_weights_of_another_model_or_program_are_refused(saved, tmp_path):
    _, directory = saved
    weights = directory / "model.safetensors"
    own = load_file(weights)
    name = "density.conditioner.layers.0.weight"
    for tensors, expected in [
        ({k: v for k, v in own.items() if k != name}, f"{name} is missing"),
        (own | {"zz": torch.zeros(1)}, "zz is not part of this model"),
        (own | {name: torch.zeros(3, 3)}, r"has shape \(3, 3\), this model"),
    ]:
        write_tensors(weights, tensors, {"kind": "model", "format": 1})
        with pytest.raises(CheckpointError, match=expected):
            smoothgen.load(directory)
    save_file(own, weights, metadata={"smoothgen": json.dumps({"kind": "model", "format": 1})})
    with pytest.raises(DamagedError, match="has no checksum"):
        smoothgen.load(directory)
    save_file(own, weights)
    with pytest.raises(CheckpointError, match="was not written by smoothgen as a model"):
        smoothgen.load(directory)
    write_tensors(weights, own, {"kind": "model", "format": 99})
    with pytest.raises(CheckpointError, match="format 99"):
        smoothgen.load(directory)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"format": 2}, "format 2"),
        ({"extra": 1}, "extra: unknown key"),
        ({"model": {"type": "nobody"}}, 'unknown type "nobody"'),
        ({"event": {"shape": []}}, "at least one axis"),
    ],
)
def test_a_foreign_description_is_refused(saved, change, expected):
    _, directory = saved
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CheckpointError, match=expected):
        smoothgen.load(directory)


def test_missing_things_are_named(tmp_path, saved):
    with pytest.raises(CheckpointError, match="no model is saved there"):
        smoothgen.load(tmp_path / "nowhere")
    (tmp_path / "half").mkdir()
    (tmp_path / "half/checkpoint.safetensors").touch()
    with pytest.raises(CheckpointError, match="training has not finished"):
        smoothgen.load(tmp_path / "half")
    _, directory = saved
    (directory / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="is not a model description"):
        smoothgen.load(directory)


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_atomically(path, b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunDirectoryError, match="No space left on device; free some space"):
        write_atomically(path, b"new")
    with pytest.raises(RunDirectoryError, match="No space left"):
        write_tensors(path, {"a": torch.zeros(1)}, {})
    assert path.read_bytes() == b"old"
    assert [item.name for item in tmp_path.iterdir()] == ["a.json"]
