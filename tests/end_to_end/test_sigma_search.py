"""`kernel.sigma: auto`: what the search finds, shares, refuses, keeps and repeats."""

from __future__ import annotations

import copy
import json
import math
from typing import Literal

import pytest
import torch
import yaml
from command_line import call
from processes import run

import smoothgen
from smoothgen.comparison import compare
from smoothgen.config import TrainerConfig, load_config
from smoothgen.device import DevicePolicy, seed_everything
from smoothgen.errors import ConfigError, NonFiniteError
from smoothgen.event import EventSpec
from smoothgen.experiment import assemble
from smoothgen.noise_kernel import NoiseKernelConfig, ProductKernel, median_sigma
from smoothgen.registry import installed
from smoothgen.run_directory import RunDirectory
from smoothgen.sigma_search import SigmaSearch, shortened
from smoothgen.trainer import Trainer

MADE = {"type": "made", "hidden": [8], "components": 2}
AUTO = {
    "name": "auto",
    "data": {"type": "six_modes", "train_size": 300, "validation_size": 100, "test_size": 100},
    "kernel": {"type": "gaussian", "sigma": "auto"},
    "density": MADE,
    "inverter": {"type": "conditional", "density": MADE},
    "trainer": {
        "max_steps": 40,
        "batch_size": 32,
        "warmup_steps": 5,
        "log_every": 5,
        "checkpoint_every": 10,
        "sigma_search": {"candidates": 4, "steps": 3},
    },
    "evaluate": {"max_examples": 50, "importance_samples": [], "samples": 20, "metrics": ["elbo"]},
    "device": {"device": "cpu", "threads": 1},
}
STEPS = 2 * (4 * 3 + 2 * 6)
"""Steps that the whole search takes, over both stages."""


def auto(**changes):
    config = copy.deepcopy(AUTO)
    for path, value in changes.items():
        *parents, key = path.split("__")
        node = config
        for parent in parents:
            node = node[parent]
        node[key] = value
    return config


def search_of(document):
    config = load_config(document)
    return SigmaSearch(config, config.data.build(), DevicePolicy(config.device), assemble)


def timeless(record):
    return record | {"rungs": [{k: v for k, v in rung.items() if k != "seconds"} for rung in record["rungs"]]}


class PlannedFailure(Exception):
    """Stands for a process that dies between two instructions."""


@pytest.fixture
def steps(monkeypatch):
    """Counts the steps of all trainings; `steps.fail_at` is the one to die in, counted from the last reset."""

    class Steps:
        taken, fail_at = 0, None

    counter, original = Steps(), Trainer._step

    def step(self, *arguments):
        counter.taken += 1
        if counter.taken == counter.fail_at:
            raise PlannedFailure
        return original(self, *arguments)

    monkeypatch.setattr(Trainer, "_step", step)
    return counter


# --- what is found ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_six_modes_get_a_sigma_from_the_plateau_that_beats_the_median_rule_and_little_noise():
    """Learned, sigma converges to 0.63 here; from 0.4 to 1.1 the bound hardly changes (science.md, section 5)."""
    made = {"type": "made", "hidden": [32, 32], "components": 2, "fourier": 3}
    config = auto(
        data={"type": "six_modes"},
        density=made,
        inverter={"type": "conditional", "density": made},
        trainer={"max_steps": 400, "batch_size": 256, "learning_rate": 1e-2, "sigma_search": {"steps": 75}},
        evaluate={"metrics": ["elbo"], "importance_samples": [], "max_examples": 4000},
    )
    found = smoothgen.fit(config)
    record = found.metrics["sigma_search"]
    assert 0.4 <= record["sigma"] <= 1.1
    assert found.config.kernel.sigma == record["sigma"]
    assert found.model.kernel.sigma.item() == pytest.approx(record["sigma"])
    assert record["median"] == pytest.approx(median_sigma(config_data(config).split("train").x))
    reached = found.metrics["likelihoods"]["elbo"]
    for other in ("median", 0.1):
        rival = smoothgen.fit(config | {"kernel": {"type": "gaussian", "sigma": other}})
        assert reached["nats"] > rival.metrics["likelihoods"]["elbo"]["nats"] + 5 * reached["stderr"], other


def config_data(config):
    return load_config(config).data.build()


def test_the_search_is_a_function_of_the_configuration(steps):
    first, again = search_of(auto()).run(), search_of(auto()).run()
    assert timeless(first) == timeless(again)
    assert steps.taken == 2 * STEPS
    assert [(rung["steps"], len(rung["candidates"])) for rung in first["rungs"]] == [(3, 4), (6, 2)]
    assert first["finished"]
    assert timeless(first) != timeless(search_of(auto(seed=1)).run())


def test_a_learnable_sigma_starts_from_the_one_that_was_found(monkeypatch):
    starts = []
    original = Trainer.train

    def train(self, *arguments):
        starts.append(self.trainees["model"].kernel.sigma.item())
        original(self, *arguments)
        if len(self.stages) == 2:
            assert self.trainees["model"].kernel.sigma.item() == starts[-1], "a candidate keeps its sigma"

    monkeypatch.setattr(Trainer, "train", train)
    settings = AUTO["trainer"] | {"joint": {"learning_rate": 0.02}}
    result = smoothgen.fit(auto(kernel__learnable=True, trainer=settings))
    found = result.metrics["sigma_search"]["sigma"]
    assert len(starts) == 4 + 2 + 1
    assert starts[-1] == pytest.approx(found)
    assert result.model.kernel.learnable
    assert result.model.kernel.sigma.item() != pytest.approx(found, rel=1e-4)


@pytest.mark.parametrize("failing", [0, 3])
def test_a_candidate_whose_training_breaks_is_dropped(monkeypatch, failing):
    search = search_of(auto())
    bad = search.candidates[failing]
    original = Trainer.train

    def train(self, *arguments):
        if math.isclose(self.trainees["model"].kernel.sigma.item(), bad, rel_tol=1e-5):
            raise NonFiniteError("planned")
        original(self, *arguments)

    monkeypatch.setattr(Trainer, "train", train)
    record = search.run()
    assert record["rungs"][0]["scores"][failing] is None
    assert bad not in record["rungs"][1]["candidates"]
    monkeypatch.setattr(Trainer, "train", lambda self: (_ for _ in ()).throw(NonFiniteError("planned")))
    with pytest.raises(NonFiniteError, match="none of the candidates"):
        search.run()


def test_the_command_line_says_what_was_found_and_when_the_range_was_too_narrow(tmp_path, capsys, monkeypatch):
    (tmp_path / "auto.yaml").write_text(yaml.safe_dump(auto()))
    command = ("train", tmp_path / "auto.yaml", "trainer.sigma_search.candidates=2", "trainer.sigma_search.low=0.001")
    narrow = call(capsys, monkeypatch, *command, "trainer.sigma_search.high=0.003", "--run-dir", tmp_path / "run")
    found = RunDirectory(tmp_path / "run").search()
    assert narrow.code == 0, narrow.err
    assert f"sigma: {found['sigma']:.4g} found" in narrow.out
    key = "low" if found["sigma"] == found["candidates"][0] else "high"
    assert f"widen trainer.sigma_search.{key}" in " ".join(narrow.out.split())
    assert "sigma, 2 candidates of 3 steps" in narrow.err


def test_the_baseline_takes_no_part(monkeypatch):
    original, stages = Trainer.train, []

    def train(self, *arguments):
        stages.append([stage.name for stage in self.stages])
        original(self, *arguments)

    monkeypatch.setattr(Trainer, "train", train)
    smoothgen.fit(auto(baseline=MADE))
    assert stages == [["density", "inverter"]] * 6 + [["density", "inverter", "baseline"]]


# --- shared noise ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tag", ["gaussian", "laplace", "uniform"])
@pytest.mark.parametrize("own_generator", [True, False])
def test_the_same_seed_gives_the_same_standard_noise_whatever_sigma(tag, own_generator):
    x = torch.zeros(50, 3, dtype=torch.float64)
    drawn = []
    for sigma in (0.01, 0.3, 7.0):
        kernel = installed().find("kernel", tag)(sigma=sigma).build(EventSpec(shape=(3,))).double()
        seed_everything(5, "density", 3)
        generator = torch.Generator().manual_seed(5) if own_generator else None
        drawn.append(kernel.sample(x, generator=generator) / kernel.sigma)
    assert drawn[0].std() > 0.5
    for other in drawn[1:]:
        torch.testing.assert_close(other, drawn[0], rtol=1e-12, atol=0.0)


def test_candidates_see_the_same_examples_and_the_same_noise(monkeypatch):
    seen = {}
    original = ProductKernel._sample

    def sample(self, x, generator):
        x_tilde = original(self, x, generator)
        seen.setdefault(self.sigma.item(), []).append((x, (x_tilde - x) / self.sigma))
        return x_tilde

    monkeypatch.setattr(ProductKernel, "_sample", sample)
    search = search_of(auto(kernel={"type": "laplace", "sigma": "auto"}))
    search._measure(search.candidates, 3)
    assert len(seen) == 4
    first, *others = seen.values()
    assert len(first) > 2 * 3 + 1  # both stages' steps, and the bound
    for other in others:
        assert len(other) == len(first)
        for (x, noise), (x_first, noise_first) in zip(other, first, strict=True):
            assert torch.equal(x, x_first)
            # float32 rounds x + noise, the more in units of sigma the smaller sigma is
            torch.testing.assert_close(noise, noise_first, rtol=1e-3, atol=1e-3)


def test_a_schedule_is_shortened_in_proportion():
    trainer = TrainerConfig.model_validate(
        {"max_steps": 1000, "warmup_steps": 100, "inverter": {"max_steps": 3000, "warmup_steps": 10}}
    )
    short = shortened(trainer, 50)
    density, inverter = short.stage("density"), short.stage("inverter")
    assert (density.max_steps, density.warmup_steps) == (50, 5)
    assert (inverter.max_steps, inverter.warmup_steps) == (150, 0)
    assert density.learning_rate == trainer.learning_rate


class NarrowConfig(NoiseKernelConfig):
    """A kernel of someone else's: Gaussian noise under a key of its own, to be searched for where that is 0."""

    type: Literal["narrow"] = "narrow"
    width: float = 0.0

    @property
    def searches(self):
        return self.width == 0.0

    def with_sigma(self, sigma):
        return self.model_copy(update={"width": sigma})

    def build(self, event):
        return installed().find("kernel", "gaussian")(sigma=self.width).build(event)


def test_any_kernel_may_take_part():
    config = load_config(auto()).model_copy(update={"kernel": NarrowConfig()})
    result = smoothgen.fit(config)
    assert result.config.kernel == NarrowConfig(width=result.metrics["sigma_search"]["sigma"])
    assert timeless(result.metrics["sigma_search"]) == timeless(search_of(auto()).run())


def test_other_kernels_are_not_searched_for():
    class Plain(NoiseKernelConfig):
        type: Literal["plain"] = "plain"

    assert not Plain().searches
    assert not load_config(auto(kernel__sigma="median")).kernel.searches
    with pytest.raises(TypeError, match="Plain must define with_sigma"):
        Plain().with_sigma(0.3)


# --- refusals --------------------------------------------------------------------------------------------------------


def test_building_without_training_is_refused():
    with pytest.raises(ConfigError, match=r'auto: kernel.sigma: "auto" is found by training.*smoothgen.fit'):
        smoothgen.build(AUTO)


@pytest.mark.parametrize("place", ["density", "inverter"])
def test_only_the_experiments_own_kernel_is_searched_for(place, steps):
    nested = {"type": "smoothed", "kernel": AUTO["kernel"], "density": MADE, "inverter": AUTO["inverter"]}
    change = {"density": nested} if place == "density" else {"inverter__density": nested}
    with pytest.raises(ConfigError, match='"auto" is found by training the experiment whose own kernel this is'):
        smoothgen.fit(auto(**change))
    assert steps.taken == 0


def test_an_inverter_without_a_density_is_refused_before_anything_is_trained(tmp_path, steps):
    settings = {"metrics": ["samples"]}
    with pytest.raises(ConfigError, match=r'"auto" needs a bound to compare, which inverter "gradient" does not give'):
        smoothgen.fit(auto(inverter={"type": "gradient"}, evaluate=settings), tmp_path / "run")
    assert steps.taken == 0
    assert not (tmp_path / "run").exists()


def test_bad_settings_are_refused(steps):
    for bad in ({"low": 1.0, "high": 0.5}, {"candidates": 1}, {"steps": 0}):
        with pytest.raises(ConfigError, match="sigma_search"):
            smoothgen.fit(auto(trainer__sigma_search=bad))
    with pytest.raises(ConfigError, match=r'one such number per coordinate, "median" or "auto"'):
        smoothgen.fit(auto(kernel__sigma="automatic"))
    with pytest.raises(ConfigError, match="not a multiple"):
        smoothgen.fit(auto(trainer__accumulate=3))
    assert steps.taken == 0


# --- files and resume ------------------------------------------------------------------------------------------------


def test_the_record_is_kept_and_the_run_holds_the_number(tmp_path):
    result = smoothgen.fit(auto(), tmp_path / "run")
    run = RunDirectory(tmp_path / "run")
    record = json.loads((run.path / "sigma_search.json").read_text())
    assert record == json.loads(json.dumps(result.metrics["sigma_search"]))
    assert record == json.loads((run.path / "evaluation.json").read_text())["sigma_search"]
    assert run.stored_config().kernel.sigma == record["sigma"]
    for rung in record["rungs"]:
        assert len(rung["candidates"]) == len(rung["scores"]) == len(rung["stderr"])
        assert min(rung["behind"]) == 0.0
    assert smoothgen.load(run.path).kernel.sigma.item() == pytest.approx(record["sigma"])


@pytest.mark.parametrize("fail_at", [2, STEPS // 2, STEPS - 3, STEPS + 1, STEPS + 15, STEPS + 57])
def test_a_killed_run_ends_as_if_nothing_had_happened(tmp_path, steps, fail_at):
    whole = smoothgen.fit(auto(), tmp_path / "whole")
    steps.taken, steps.fail_at = 0, fail_at
    with pytest.raises(PlannedFailure):
        smoothgen.fit(auto(), tmp_path / "cut")
    steps.taken, steps.fail_at = 0, None
    resumed = smoothgen.fit(auto(), tmp_path / "cut", resume=True)
    assert timeless(resumed.metrics["sigma_search"]) == timeless(whole.metrics["sigma_search"])
    for one, other in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other)
    finished_rungs = (fail_at > STEPS // 2) + (fail_at > STEPS)
    assert steps.taken <= (2 - finished_rungs) * STEPS // 2 + 80


def test_a_kill_between_the_record_and_the_configuration_loses_nothing(tmp_path, steps, monkeypatch):
    original = SigmaSearch.assembled
    monkeypatch.setattr(SigmaSearch, "assembled", lambda *arguments: (_ for _ in ()).throw(PlannedFailure))
    with pytest.raises(PlannedFailure):
        smoothgen.fit(auto(), tmp_path / "run")
    assert RunDirectory(tmp_path / "run").stored_config().kernel.sigma == "auto"
    monkeypatch.setattr(SigmaSearch, "assembled", original)
    steps.taken = 0
    smoothgen.fit(auto(), tmp_path / "run", resume=True)
    assert steps.taken == 80, "the search is not repeated"


def test_a_finished_run_resumes_under_either_configuration_and_no_other(tmp_path, steps):
    first = smoothgen.fit(auto(), tmp_path / "run")
    steps.taken = 0
    for source in (auto(), tmp_path / "run/experiment.yaml"):
        again = smoothgen.fit(source, tmp_path / "run", resume=True)
        assert again.metrics == json.loads(json.dumps(first.metrics))
    assert steps.taken == 0
    for other in (auto(kernel__sigma=0.5), auto(kernel__type="laplace"), auto(kernel__learnable=True)):
        with pytest.raises(ConfigError, match="was started with another kernel"):
            smoothgen.fit(other, tmp_path / "run", resume=True)
    with pytest.raises(ConfigError, match="was started with another trainer"):
        smoothgen.fit(auto(trainer__sigma_search={"candidates": 3, "steps": 3}), tmp_path / "run", resume=True)
    smoothgen.fit(auto(kernel__sigma=0.5), tmp_path / "number")
    with pytest.raises(ConfigError, match="was started with another kernel"):
        smoothgen.fit(auto(), tmp_path / "number", resume=True)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_find_what_one_finds(tmp_path, strategy):
    config = auto(trainer__clip_norm=0.0)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    run(2, "train", "config.yaml", "--run-dir", "two", f"device.strategy={strategy}", cwd=tmp_path, torchrun=True)
    alone = smoothgen.fit(config | {"trainer": config["trainer"] | {"accumulate": 2}}, tmp_path / "one")
    found = [RunDirectory(tmp_path / name).search()["sigma"] for name in ("one", "two")]
    assert found[1] == pytest.approx(found[0], rel=1e-4)
    weights = alone.model.state_dict()
    for name, value in smoothgen.load(tmp_path / "two").state_dict().items():
        torch.testing.assert_close(value, weights[name], rtol=0.0, atol=1e-4)


def test_compare_searches_for_every_seed_once(tmp_path, steps):
    compare(AUTO, [0, 1], tmp_path)
    assert steps.taken == 2 * (STEPS + 80)
    found = [RunDirectory(tmp_path / f"seed-{seed}").search()["sigma"] for seed in (0, 1)]
    assert found[0] != found[1]
    compare(AUTO, [0, 1], tmp_path)
    assert steps.taken == 2 * (STEPS + 80)
    with pytest.raises(ConfigError, match="was started with another kernel"):
        compare(auto(kernel__sigma=0.5), [0], tmp_path)
