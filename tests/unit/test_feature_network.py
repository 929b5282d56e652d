"""Feature networks: found by the registry, checked against the data, and refused when their weights are damaged."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import smoothgen
from smoothgen.config import EvaluationConfig
from smoothgen.errors import CheckpointError, ConfigError, ShapeError
from smoothgen.event import EventSpec
from smoothgen.feature_network import weights_fingerprint
from smoothgen.registry import installed, json_schema
from smoothgen_features import __main__ as command
from smoothgen_features.classifier import Architecture, Classifier, find_weights, load_classifier, shipped
from smoothgen_features.training import (
    TrainingConfig,
    accuracy,
    labels_of,
    load_training_config,
    recorded,
    train_classifier,
)

DIGITS = EventSpec(shape=(1, 8, 8), low=-1.0, high=1.0, levels=17)


class Moments(smoothgen.FeatureNetwork):
    """Mean and mean square: a network of a stranger's plugin."""

    def _features(self, x):
        return torch.stack([x.flatten(1).mean(1), x.flatten(1).square().mean(1)], 1)


class MomentsConfig(smoothgen.FeatureNetworkConfig):
    type: Literal["moments"] = "moments"
    claimed: int = 2

    def build(self, event):
        return Moments("moments", event, self.claimed)


@pytest.fixture
def _moments():
    smoothgen.register(SimpleNamespace(smoothgen_components=smoothgen.hookimpl(_components)), "moments")
    yield
    installed.cache_clear()


def _components():
    return [MomentsConfig]


_components.__name__ = "smoothgen_components"


@pytest.mark.usefixtures("_moments")
def test_a_plugins_network_is_found_by_its_tag():
    config = EvaluationConfig.model_validate({"features": "moments"})
    network = config.features.build(DIGITS)
    x = torch.rand(5, 1, 8, 8)
    torch.testing.assert_close(network.features(x)[:, 0], x.mean((1, 2, 3)))
    assert network.logits(x) is None
    assert "features.moments" in json_schema(EvaluationConfig)["$defs"]


@pytest.mark.usefixtures("_moments")
def test_a_network_that_gives_other_features_than_it_says_is_named():
    network = EvaluationConfig.model_validate({"features": {"type": "moments", "claimed": 3}}).features.build(DIGITS)
    with pytest.raises(ShapeError, match=r"moments: expected features of shape \(5, 3\), got \(5, 2\)"):
        network.features(torch.rand(5, 1, 8, 8))


def test_an_unknown_network_names_the_installed_ones():
    with pytest.raises(ValueError, match=r'unknown type "clasifier"; did you mean "classifier"\?'):
        EvaluationConfig.model_validate({"features": "clasifier"})


def build(weights, event=DIGITS):
    return EvaluationConfig.model_validate({"features": {"type": "classifier", "weights": weights}}).features.build(
        event
    )


@pytest.mark.parametrize("name", sorted(shipped()))
def test_shipped_weights_are_small_and_say_where_they_come_from(name):
    path = shipped()[name]
    assert path.stat().st_size < 400_000
    network, training = load_classifier(path)
    assert network.name.lower() == f"{name}-classifier"
    assert training["test_accuracy"] > 0.97 and training["seed"] == 0 and training["steps"] > 0
    recipe = recorded(load_training_config(name))
    assert {key: training[key] for key in recipe} == recipe


def test_the_shipped_digits_classifier_is_as_accurate_as_it_says():
    network, training = load_classifier(shipped()["digits"])
    data = smoothgen.load_config("digits", ["data.labels=true"]).data.build()
    test = data.split("test")
    assert accuracy(network, test.x, labels_of(test, "digits")) == pytest.approx(training["test_accuracy"])
    squares = network.features(data.split("train").x).square().mean()
    assert squares.item() == pytest.approx(1.0, abs=1e-4)


def test_logits_come_from_the_features():
    network = build("digits")
    x = torch.rand(7, 1, 8, 8) * 2 - 1
    torch.testing.assert_close(network.logits(x), network.logits_of(network.features(x)))
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_the_fingerprint_changes_with_any_weight():
    first = Classifier("c", Architecture(event=DIGITS, classes=3, channels=(2, 2, 2), num_features=4))
    before = first.fingerprint
    assert len(before) == 64 and before == weights_fingerprint(first)
    with torch.no_grad():
        first.hidden.bias[1] += 1e-3
    assert first.fingerprint != before


@pytest.mark.parametrize(
    "event",
    [
        EventSpec(shape=(1, 28, 28), low=-1.0, high=1.0, levels=256),
        EventSpec(shape=(1, 8, 8), low=0.0, high=1.0, levels=17),
        EventSpec(shape=(64,)),
    ],
)
def test_another_event_is_refused(event):
    with pytest.raises(ConfigError, match=r'weights "digits" were trained on examples of shape \(1, 8, 8\) in'):
        build("digits", event)


def test_another_shape_of_x_is_refused():
    with pytest.raises(ShapeError, match=r"digits-classifier: x must have shape \(batch, 1, 8, 8\), got \(2, 64\)"):
        build("digits").features(torch.zeros(2, 64))


def test_unknown_weights_name_the_shipped_ones():
    with pytest.raises(ConfigError, match=r'did you mean "digits"\?.*shipped: .*digits'):
        find_weights("digit")


def test_damaged_weights_are_refused(tmp_path: Path):
    whole = shipped()["digits"].read_bytes()
    cut, flipped = tmp_path / "cut.safetensors", tmp_path / "flipped.safetensors"
    cut.write_bytes(whole[:-100])
    flipped.write_bytes(whole[:-100] + bytes([whole[-100] ^ 1]) + whole[-99:])
    with pytest.raises(CheckpointError, match="is damaged"):
        build(str(cut))
    with pytest.raises(CheckpointError, match="its checksum is not that of what was written"):
        build(str(flipped))


def test_weights_of_something_else_are_refused(tmp_path: Path):
    path = tmp_path / "other.safetensors"
    save_file({"a": torch.zeros(2)}, path)
    with pytest.raises(CheckpointError, match="was not written by smoothgen as a feature classifier"):
        build(str(path))


def test_no_weight_file_holds_code():
    for path in shipped().values():
        with safe_open(path, "pt") as file:
            assert set(file.metadata()) == {"smoothgen"}


SHORT = {"data": {"type": "digits", "labels": True}, "channels": (4, 4, 4), "num_features": 8, "steps": 5}


def test_training_depends_on_the_seed_alone():
    def trained(seed):
        return train_classifier(TrainingConfig(name="short", seed=seed, **SHORT))[0].fingerprint

    state = torch.random.get_rng_state()
    assert trained(0) == trained(0) != trained(1)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize(
    ("data", "message"),
    [("digits", "needs labels; set data.labels: true"), ("rings", "expected images")],
)
def test_training_needs_images_with_labels(data, message):
    with pytest.raises(ConfigError, match=message):
        train_classifier(TrainingConfig(name="short", **SHORT | {"data": data}))


def test_the_command_trains_and_writes_weights_that_load(tmp_path, monkeypatch, capsys):
    recipe, out = tmp_path / "short.yaml", tmp_path / "short.safetensors"
    recipe.write_text(json.dumps({"name": "short", **SHORT}))  # JSON is YAML
    monkeypatch.setattr(sys, "argv", ["smoothgen_features", str(recipe), "--out", str(out)])
    with pytest.raises(SystemExit) as leaving:
        command.main()
    assert not leaving.value.code
    network = load_classifier(out)[0]
    said = capsys.readouterr().out
    assert said.startswith("short: test accuracy 0.") and network.fingerprint in said
    with safe_open(out, "pt") as file:
        kept = json.loads(file.metadata()["smoothgen"])
    assert f"{kept['training']['test_accuracy']:.4f} of {kept['training']['test_examples']}" in said
    assert kept["training"]["torch"] == torch.__version__ and kept["training"]["steps"] == 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "error: .*is neither a shipped recipe nor a file; shipped: digits, mnist"),
        ('{"name": "short"}', r"error: short\.yaml: data: Field required"),
    ],
)
def test_the_command_says_what_is_wrong_in_one_line(tmp_path, monkeypatch, capsys, text, message):
    recipe = tmp_path / "short.yaml"
    if text is not None:
        recipe.write_text(text)
    monkeypatch.setattr(sys, "argv", ["smoothgen_features", str(recipe), "--out", str(tmp_path / "x.safetensors")])
    with pytest.raises(SystemExit) as leaving:
        command.main()
    error = capsys.readouterr().err
    assert leaving.value.code == 2 and re.match(message, error) and error.count("\n") == 1


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
class TestTorchScript:
    """A network from a TorchScript file."""

    @pytest.fixture
    def script(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        class Means(torch.nn.Module):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return x.mean((2, 3))

        path = tmp_path / "means.pt"
        torch.jit.script(Means()).save(str(path))
        self.trust(path, monkeypatch)
        return path

    @staticmethod
    def trust(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SMOOTHGEN_TRUST_TORCHSCRIPT", hashlib.sha256(path.read_bytes()).hexdigest())

    def build(self, path: Path, event: EventSpec = DIGITS, **keys):
        config = {"type": "torchscript", "path": str(path), "name": "means", "num_features": 3} | keys
        return EvaluationConfig.model_validate({"features": config}).features.build(event)

    def test_images_are_brought_to_range_channels_and_size(self, script):
        x = torch.rand(4, 1, 8, 8) * 2 - 1
        unit = ((x + 1) / 2).mean((1, 2, 3))
        plain = self.build(script)
        torch.testing.assert_close(plain.features(x), unit[:, None].expand(-1, 3))
        bytes_ = self.build(script, input_range=[0, 255], input_size=16)
        assert bytes_.prepared(x).shape == (4, 3, 16, 16)
        torch.testing.assert_close(bytes_.features(x)[:, 1], 255 * unit, rtol=0.02, atol=0.5)
        scaled = self.build(script, mean=[0.5, 0.25, 0.0], std=[0.5, 0.5, 1.0])
        torch.testing.assert_close(scaled.features(x), torch.stack([unit * 2 - 1, unit * 2 - 0.5, unit], 1))

    def test_the_fingerprint_is_the_files(self, script):
        network = self.build(script)
        assert network.fingerprint == hashlib.sha256(script.read_bytes()).hexdigest()
        assert network.logits(torch.zeros(1, 1, 8, 8)) is None

    def test_a_script_runs_only_where_the_user_vouches_for_it(self, script, monkeypatch):
        for trusted in (None, "", "0" * 64):
            if trusted is None:
                monkeypatch.delenv("SMOOTHGEN_TRUST_TORCHSCRIPT")
            else:
                monkeypatch.setenv("SMOOTHGEN_TRUST_TORCHSCRIPT", trusted)
            with pytest.raises(ConfigError, match="is code and would run with your rights") as caught:
                self.build(script)
        monkeypatch.setenv("SMOOTHGEN_TRUST_TORCHSCRIPT", "0" * 64 + ", " + str(caught.value).rpartition("=")[2])
        self.build(script)

    def test_what_is_no_script_is_refused(self, tmp_path, monkeypatch):
        path = tmp_path / "no.pt"
        path.write_bytes(b"not a script")
        self.trust(path, monkeypatch)
        with pytest.raises(CheckpointError, match="is not a TorchScript file"):
            self.build(path)
        with pytest.raises(ConfigError, match="is not a file"):
            self.build(tmp_path / "absent.pt")

    def test_what_does_not_fit_is_refused(self, script):
        with pytest.raises(ConfigError, match="takes images of 1 or 3 channels"):
            self.build(script, EventSpec(shape=(2, 8, 8), low=0.0, high=1.0))
        with pytest.raises(ConfigError, match="needs data with a range"):
            self.build(script, EventSpec(shape=(3, 8, 8)))
        with pytest.raises(ConfigError, match="mean and std need 3 numbers"):
            self.build(script, mean=[0.5], std=[0.5])
