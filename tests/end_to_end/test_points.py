"""Two-sample measures of a tiny model of points, from training to the tables."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from command_line import call

import smoothgen
from smoothgen.comparison import compare, markdown
from smoothgen.device import DevicePolicy
from smoothgen.errors import ConfigError, DataError
from smoothgen.evaluation.sample_sets import sample_sets
from smoothgen.evaluation.two_sample import two_sample
from smoothgen.progress import Progress

MADE = {"type": "made", "hidden": [16], "components": 2}
CONFIG = {
    "name": "tiny-rings",
    "data": {"type": "rings", "test_size": 300},
    "kernel": {"type": "gaussian", "sigma": 0.3},
    "density": MADE,
    "inverter": {"type": "conditional", "density": MADE},
    "baseline": MADE,
    "trainer": {"max_steps": 20, "batch_size": 64, "validation_examples": 64},
    "evaluate": {"importance_samples": [2], "max_examples": 50, "samples": 50, "two_sample_points": 200},
    "device": {"device": "cpu", "threads": 1},
}
SETS = {"two-step", "single-step", "single-step, truncated", "baseline", "test"}
MEASURES = {"MMD^2", "off support", "precision", "recall"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    directory = tmp_path_factory.mktemp("points") / "run"
    return directory, smoothgen.fit(CONFIG, directory)


def changed(**keys):
    return CONFIG | {"evaluate": CONFIG["evaluate"] | keys}


def test_points_are_compared_without_being_asked(run):
    directory, result = run
    found = result.metrics["two_sample"]
    assert found == json.loads((directory / "evaluation.json").read_text())["two_sample"]
    assert set(found["sets"]) == SETS
    assert (found["reference_from"], found["reference"]) == ("fresh draws", 200)
    assert all(set(values) == MEASURES for values in found["sets"].values())
    model, floor = found["sets"]["two-step"], found["sets"]["test"]
    assert model["MMD^2"]["n_fake"] == model["off support"]["n_fake"] == 200
    assert floor["MMD^2"]["value"] < 4 * floor["MMD^2"]["null_sd"] < model["MMD^2"]["value"]
    assert floor["off support"]["value"] < 0.03 < model["off support"]["value"]
    assert floor["precision"]["value"] > model["precision"]["value"]


def test_the_numbers_can_be_made_again_without_a_configuration(run):
    config, model = run[1].config, run[1].model
    data, policy = config.data.build(), DevicePolicy(config.device)
    sets = sample_sets(config, model, run[1].baseline, data, policy, Progress(enabled=False), 200)
    generator = policy.generator(config.seed, "evaluate", "two-sample")
    reference = data.draw(200, generator).x
    again = two_sample(sets, reference, data, generator)
    assert {"reference_from": "fresh draws"} | again == run[1].metrics["two_sample"]


def test_evaluate_shows_them_and_takes_bandwidths(run, tmp_path, capsys, monkeypatch):
    out = tmp_path / "again.json"
    keys = ("evaluate.two_sample_bandwidths=[0.1,0.5]", "evaluate.two_sample_points=100")
    answer = call(capsys, monkeypatch, "evaluate", run[0], *keys, "--out", out, "--device", "cpu")
    assert answer.code == 0, answer.err
    assert "against 100 fresh draws; MMD^2 with bandwidths 0.1, 0.5" in " ".join(answer.out.split())
    assert "off support" in answer.out and "0 ± " in answer.out
    assert json.loads(out.read_text())["two_sample"]["bandwidths"] == [0.1, 0.5]


def test_a_model_without_a_bound_can_be_evaluated_on_points(tmp_path, capsys, monkeypatch):
    plain = {key: value for key, value in CONFIG.items() if key != "baseline"} | {"inverter": {"type": "gradient"}}
    assert set(smoothgen.fit(plain, tmp_path / "run").metrics["two_sample"]["sets"]) == {"single-step", "test"}
    answer = call(capsys, monkeypatch, "evaluate", tmp_path / "run", "--device", "cpu")
    assert answer.code == 0 and "MMD^2" in answer.out


def test_compare_has_their_columns(tmp_path):
    config = changed(two_sample_points=60) | {"trainer": {"max_steps": 2, "batch_size": 16, "validation_examples": 16}}
    result = compare(config, [0, 1], tmp_path)
    assert set(result["models"]) == SETS
    assert {"likelihood", *MEASURES} <= set(result["models"]["two-step"])
    assert set(result["models"]["test"]) == MEASURES
    assert len(result["models"]["test"]["MMD^2"]["seeds"]) == 2
    assert "MMD^2 | off support | precision | recall |" in markdown(result).splitlines()[0]


def test_tables_with_context_are_compared_with_training_rows(tmp_path):
    generator = np.random.default_rng(0)
    np.save(tmp_path / "table.npy", generator.normal(size=(400, 4)))
    data = {"type": "array", "path": str(tmp_path / "table.npy"), "context_columns": [3]}
    found = smoothgen.fit(CONFIG | {"data": data}).metrics["two_sample"]
    assert (found["reference_from"], found["reference"]) == ("training examples", 200)
    assert set(found["sets"]) == SETS and found["sets"]["test"]["MMD^2"]["n_fake"] == 40
    assert set(found["sets"]["two-step"]) == MEASURES - {"off support"}


def test_few_points_are_left_out_or_refused(tmp_path, capsys, monkeypatch):
    few = CONFIG | {"data": {"type": "rings", "test_size": 19}}
    assert "two_sample" not in smoothgen.fit(few, tmp_path / "few").metrics
    answer = call(capsys, monkeypatch, "evaluate", tmp_path / "few", "--device", "cpu")
    assert answer.code == 0 and "elbo" in answer.out and "MMD^2" not in answer.out
    few["evaluate"] = {"metrics": ["two-sample"]}
    with pytest.raises(DataError, match=r"needs 20 examples of the training and of the test split, got 19"):
        smoothgen.fit(few, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(ConfigError, match="two_sample_points"):
        smoothgen.load_config(changed(two_sample_points=19))


def test_only_what_is_named_is_measured():
    assert "two_sample" not in smoothgen.fit(changed(metrics=["elbo"])).metrics
    alone = smoothgen.fit(changed(metrics=["two-sample"])).metrics
    assert set(alone["two_sample"]["sets"]) == SETS and not alone["likelihoods"]


def test_images_levels_and_long_vectors_are_not_points():
    settings = smoothgen.load_config(CONFIG).evaluate
    event = smoothgen.EventSpec
    assert settings.measures("two-sample", event(shape=(16,)))
    for other in (
        event(shape=(17,)),
        event(shape=(1, 2, 2)),
        event(shape=(2,), low=0.0, high=1.0, levels=5),
    ):
        assert not settings.measures("two-sample", other)
        named = settings.model_copy(update={"metrics": ("two-sample",)})
        assert named.measures("two-sample", other)


def test_images_can_be_compared_where_it_is_asked():
    config = changed(metrics=["two-sample"], two_sample_points=40) | {"data": {"type": "digits"}}
    found = smoothgen.fit(config).metrics["two_sample"]["sets"]
    assert set(found["test"]) == MEASURES - {"off support"}
    assert torch.tensor(found["two-step"]["MMD^2"]["value"]).isfinite()
