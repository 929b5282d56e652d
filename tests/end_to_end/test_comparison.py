"""`smoothgen compare`: every seed once, a table with errors over the seeds, and nothing trained twice."""

from __future__ import annotations

import json
import math
import shutil

import pytest

from smoothgen.comparison import compare, markdown
from smoothgen.config import load_config
from smoothgen.errors import ConfigError

TINY = {"type": "pixelcnnpp", "filters": 3, "blocks": 1, "resolutions": 2, "components": 2}
EXPERIMENT = {
    "name": "tiny",
    "data": {"type": "digits"},
    "kernel": {"type": "gaussian", "sigma": 0.3},
    "density": TINY,
    "inverter": {"type": "conditional", "density": TINY},
    "baseline": TINY | {"head": "continuous"},
    "trainer": {"max_steps": 3, "warmup_steps": 1, "batch_size": 8, "validation_examples": 8, "log_every": 1},
    "evaluate": {
        "importance_samples": [2],
        "max_examples": 8,
        "importance_examples": 4,
        "features": {"type": "classifier", "weights": "digits"},
        "quality_samples": 64,
        "few_samples": True,
        "score_steps": [0.1],
        "neighbour_samples": 16,
    },
    "device": {"device": "cpu", "threads": 1},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("comparison")
    return path, compare(EXPERIMENT, [0, 3], path)


def test_every_way_of_sampling_has_its_likelihood_and_quality(folder):
    path, result = folder
    models = result["models"]
    assert set(models) >= {
        "two-step",
        "single-step",
        "single-step, truncated",
        "baseline",
        "baseline, score step 0.1",
        "test",
    }
    assert {"likelihood", "iw-2", "digits-classifier FID"} <= set(models["two-step"])
    assert models["single-step"]["likelihood"]["unit"] == "bits_per_dim"  # the bound of stage one alone
    values = models["baseline"]["digits-classifier FID"]["seeds"]
    assert len(values) == 2 and values[0] != values[1]
    mean, error = sum(values) / 2, abs(values[0] - values[1]) / 2
    assert models["baseline"]["digits-classifier FID"]["value"] == pytest.approx(mean)
    assert models["baseline"]["digits-classifier FID"]["stderr"] == pytest.approx(error)
    assert all(seconds["value"] > 0 for seconds in result["training_seconds"].values())
    assert (path / "comparison.png").stat().st_size > 1000
    assert json.loads((path / "comparison.json").read_text())["seeds"] == [0, 3]
    assert "| two-step | ≤ " in (path / "comparison.md").read_text()


def test_finished_runs_are_read_and_others_refused(folder):
    path, result = folder
    before = (path / "seed-0" / "model.safetensors").stat().st_mtime_ns
    again = compare(EXPERIMENT, [0, 3], path)
    assert (path / "seed-0" / "model.safetensors").stat().st_mtime_ns == before
    assert again["models"] == result["models"]
    with pytest.raises(ConfigError, match="was started with another kernel"):
        compare(load_config(EXPERIMENT, ["kernel.sigma=0.4"]), [0], path)
    with pytest.raises(ConfigError, match="different numbers"):
        compare(EXPERIMENT, [1, 1], path)


def test_one_seed_has_no_error_and_says_so_with_nothing(folder):
    path, _ = folder
    result = compare(EXPERIMENT, [3], path)
    assert math.isnan(result["models"]["two-step"]["likelihood"]["stderr"])
    assert "±" not in markdown(result).splitlines()[2]


def _nothing_more(path):
    return sorted(each.name for each in path.iterdir() if each.is_dir()) == ["seed-0", "seed-3"]


@pytest.mark.parametrize(
    ("seeds", "reason"),
    [
        ([0, -1], "seed: .*greater than or equal to 0"),
        ([0, 2**64], "seed=1844.* has more than 64 bits"),
    ],
)
def test_seeds_are_checked_before_anything_is_trained(folder, seeds, reason):
    path, _ = folder
    with pytest.raises(ConfigError, match=reason):
        compare(EXPERIMENT, [5, *seeds], path)
    assert _nothing_more(path)
    with pytest.raises(ConfigError, match="seed: Input should be less than or equal to 18446744073709551615"):
        load_config(EXPERIMENT | {"seed": 2**64})


def test_runs_measured_otherwise_are_refused_before_anything_is_trained(folder):
    path, _ = folder
    with pytest.raises(ConfigError, match=r"seed-0 was .*importance_samples = \[2\], not \[4\]; .*--again"):
        compare(load_config(EXPERIMENT, ["evaluate.importance_samples=[4]"]), [0, 1], path)
    assert _nothing_more(path)


def test_a_bound_that_is_not_finite_is_shown_as_that(folder, tmp_path):
    path, result = folder
    copy = tmp_path / "copy"
    shutil.copytree(path, copy)
    file = copy / "seed-3" / "evaluation.json"
    measured = json.loads(file.read_text())
    measured["likelihoods"]["elbo"] |= {"nats": None, "bits_per_dim": None}
    file.write_text(json.dumps(measured))
    found = compare(EXPERIMENT, [0, 3], copy)["models"]["two-step"]["likelihood"]
    assert found["seeds"][0] == result["models"]["two-step"]["likelihood"]["seeds"][0]
    assert math.isnan(found["value"]) and math.isnan(found["seeds"][1])
    assert "| two-step | ≤ nan |" in (copy / "comparison.md").read_text()
