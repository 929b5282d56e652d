"""Sample quality of a tiny model of the digits, from training to the tables."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from command_line import call
from omegaconf import OmegaConf

import smoothgen
from smoothgen.device import DevicePolicy
from smoothgen.errors import ConfigError, DataError
from smoothgen.evaluation.sample_sets import sample_sets
from smoothgen.progress import Progress

MADE = {"type": "made", "hidden": [16], "components": 2}
FEATURES = {"type": "classifier", "weights": "digits"}
CONFIG = {
    "name": "tiny-digits",
    "data": {"type": "digits"},
    "kernel": {"type": "gaussian", "sigma": 0.3},
    "density": MADE,
    "inverter": {"type": "conditional", "density": MADE},
    "baseline": MADE,
    "trainer": {"max_steps": 20, "batch_size": 32},
    "evaluate": {
        "metrics": ["quality", "neighbours"],
        "features": FEATURES,
        "quality_samples": 60,
        "neighbour_samples": 30,
        "few_samples": True,
    },
    "device": {"device": "cpu", "threads": 1},
}
SETS = {"two-step", "single-step", "single-step, truncated", "baseline", "test"}
METRICS = {f"digits-classifier {name}" for name in ("FID", "KID", "IS", "precision", "recall")}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("quality") / "run"
    smoothgen.fit(CONFIG, directory)
    return directory


def evaluation(path: Path) -> dict:
    return json.loads((path / "evaluation.json").read_text() if path.is_dir() else path.read_text())


def changed(**keys):
    return CONFIG | {"evaluate": CONFIG["evaluate"] | keys}


def test_a_run_measures_every_kind_of_sample(run):
    quality = evaluation(run)["quality"]
    assert set(quality["sets"]) == SETS
    assert quality["network"]["name"] == "digits-classifier" and quality["reference"] == 1297
    for values in quality["sets"].values():
        assert set(values) == METRICS
    fid = {name: values["digits-classifier FID"] for name, values in quality["sets"].items()}
    assert fid["test"]["value"] < min(fid[name]["value"] for name in ("two-step", "single-step", "baseline"))
    assert fid["test"]["n_fake"] == 60


def test_a_run_looks_up_neighbours(run):
    neighbours = evaluation(run)["neighbours"]
    assert set(neighbours) == {"pixel space", "digits-classifier features"}
    for sets in neighbours.values():
        assert set(sets) == SETS
        assert all(value["n"] == 30 and value["n_train"] == 1297 for value in sets.values())
    assert (run / "neighbours.png").stat().st_size > 1000


def test_evaluating_again_gives_the_same_numbers_and_a_table(run, tmp_path, capsys, monkeypatch):
    before = evaluation(run)
    out = tmp_path / "again.json"
    answer = call(capsys, monkeypatch, "evaluate", run, "--out", out, "--device", "cpu")
    assert answer.code == 0, answer.err
    assert "digits-classifier" in answer.out and "single-step" in answer.out
    assert evaluation(out)["quality"] == before["quality"]
    assert evaluation(out)["likelihoods"], "smoothgen evaluate always measures the bounds"


def test_features_can_be_given_after_training(tmp_path, capsys, monkeypatch):
    plain = {key: value for key, value in CONFIG.items() if key != "baseline"} | {
        "inverter": {"type": "gradient"},
        "evaluate": {"metrics": []},
    }
    smoothgen.fit(plain, tmp_path / "run")
    alone = call(capsys, monkeypatch, "evaluate", tmp_path / "run", "--device", "cpu")
    assert alone.code == 0 and "stage-one" in alone.out and "classifier" not in alone.out
    keys = ("evaluate.quality_samples=40", "evaluate.few_samples=true", "evaluate.neighbour_samples=20")
    features = ("evaluate.features.type=classifier", "evaluate.features.weights=digits")
    out = tmp_path / "e.json"
    answer = call(capsys, monkeypatch, "evaluate", tmp_path / "run", *features, *keys, "--out", out, "--device", "cpu")
    assert answer.code == 0, answer.err
    assert set(evaluation(out)["quality"]["sets"]) == {"single-step", "test"}
    refused = call(capsys, monkeypatch, "evaluate", tmp_path / "run", "kernel.sigma=2")
    assert refused.code == 2 and "only keys below evaluate" in refused.err


def test_a_model_with_labels_is_sampled_with_those_of_training_data():
    result = smoothgen.fit(changed(metrics=["quality"]) | {"data": {"type": "digits", "labels": True}})
    assert set(result.metrics["quality"]["sets"]) == SETS
    assert "neighbours" not in result.metrics


def test_neighbours_need_no_features():
    result = smoothgen.fit(changed(metrics=["neighbours"], features=None))
    assert set(result.metrics["neighbours"]) == {"pixel space"} and "quality" not in result.metrics


def test_points_have_neighbours_too(tmp_path):
    config = changed(metrics=["neighbours"], features=None) | {"data": {"type": "rings", "train_size": 500}}
    result = smoothgen.fit(config, tmp_path / "rings")
    assert set(result.metrics["neighbours"]["pixel space"]) == SETS
    assert not (tmp_path / "rings" / "neighbours.png").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": None}, "set evaluate.features"),
        ({"few_samples": False}, "a model has 60 examples; an FID of fewer than 2048"),
        ({"few_samples": False, "quality_samples": 3000}, "the test split has 300 examples"),
        ({"features": {"type": "classifier", "weights": "nothing"}}, "neither shipped nor a file"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_training(change, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        smoothgen.fit(changed(**change), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_wrong_event_is_refused_before_training(tmp_path, capsys, monkeypatch):
    path = tmp_path / "rings.yaml"
    path.write_text(OmegaConf.to_yaml(OmegaConf.create(CONFIG | {"data": "rings"})))
    answer = call(capsys, monkeypatch, "train", path, "--run-dir", tmp_path / "run")
    assert answer.code == 2 and "were trained on examples of shape (1, 8, 8)" in answer.err


def test_samples_that_are_not_finite_are_refused():
    class Broken:
        def sample(self, n, context, *, generator):
            return torch.full((n, 1, 8, 8), torch.nan)

    config = smoothgen.load_config(CONFIG)
    model, data = smoothgen.build(CONFIG).eval(), config.data.build()
    with pytest.raises(DataError, match="baseline: 640 of 640 values are not finite"):
        sample_sets(config, model, Broken(), data, DevicePolicy(config.device), Progress(enabled=False), 10)


@pytest.mark.gpu
def test_samples_are_measured_where_they_lie():
    config = changed(metrics=["quality", "neighbours"])
    here = smoothgen.fit(config).metrics["quality"]["sets"]["test"]
    there = smoothgen.fit(config | {"device": {"device": "auto"}}).metrics["quality"]["sets"]["test"]
    for metric in ("digits-classifier FID", "digits-classifier precision"):
        assert here[metric]["value"] == pytest.approx(there[metric]["value"], rel=0.05)
