"""Combinations and inputs that once went wrong: each test is one of them."""

from __future__ import annotations

import copy
import json
import math

import numpy as np
import pytest
import torch
from command_line import TINY, call
from omegaconf import OmegaConf

import smoothgen
from smoothgen.errors import ConfigError, DataError, ShapeError
from smoothgen.event import EventSpec
from smoothgen.experiment import load_baseline
from smoothgen.run_directory import RunDirectory

MADE = {"type": "made", "hidden": [8], "components": 2}
REALNVP = {"type": "realnvp", "hidden": [8], "layers": 2}
NESTED = {
    "type": "smoothed",
    "kernel": {"type": "gaussian", "sigma": 0.1},
    "density": MADE,
    "inverter": {"type": "conditional", "density": MADE},
}
QUICK = {"max_steps": 3, "batch_size": 16, "log_every": 1}


def config(**parts):
    return copy.deepcopy(TINY) | {"trainer": QUICK} | parts


@pytest.mark.parametrize("learnable", [False, True])
@pytest.mark.parametrize("density", [MADE, REALNVP, NESTED], ids=lambda density: density["type"])
@pytest.mark.parametrize("kernel", ["gaussian", "laplace", "uniform"])
def test_every_kernel_with_every_density_on_discrete_and_continuous_data(kernel, density, learnable):
    for data in ("digits", "six_modes") if density["type"] != "realnvp" else ("digits", "rings"):
        sigma = {"type": kernel, "sigma": 0.3, "learnable": learnable}
        parts = {"data": data, "kernel": sigma, "density": density}
        result = smoothgen.fit(config(**parts, inverter={"type": "conditional", "density": density}))
        for likelihood in result.metrics["likelihoods"].values():
            assert math.isfinite(likelihood["nats"])
            assert likelihood["measure"] == ("discrete" if data == "digits" else "density")
        x = result.model.sample(3)
        result.model.event.check(x)


def test_labels_reach_the_model_and_the_command_line(tmp_path):
    result = smoothgen.fit(config(data={"type": "digits", "labels": True}, baseline=MADE), tmp_path / "run")
    assert result.model.context_shape == (10,)
    one_hot = torch.eye(10)[[3, 4]]
    generator = torch.Generator().manual_seed(0)
    assert result.model.sample(2, one_hot, generator=generator).shape == (2, 1, 8, 8)


def test_a_gradient_inverter_on_discrete_data_comes_back_and_samples_levels(tmp_path):
    result = smoothgen.fit(config(data="digits", inverter="gradient"), tmp_path / "run")
    assert result.metrics["likelihoods"].keys() == {"stage-one"}
    assert 0.0 < result.metrics["likelihoods"]["stage-one"]["bits_per_dim"] < math.inf
    loaded = smoothgen.load(tmp_path / "run")
    loaded.event.check(loaded.sample(4))


def test_smoothgen_evaluate_measures_a_gradient_inverter_on_discrete_data(tmp_path, capsys, monkeypatch):
    smoothgen.fit(config(data="digits", inverter="gradient", baseline=MADE), tmp_path / "run")
    answer = call(capsys, monkeypatch, "evaluate", tmp_path / "run", "--out", tmp_path / "numbers.json")
    assert answer.code == 0, answer.err
    assert json.loads((tmp_path / "numbers.json").read_text())["likelihoods"].keys() == {"stage-one", "baseline"}
    assert "stage-one" in answer.out


@pytest.mark.parametrize("noise", ["uniform", {"type": "gaussian", "sigma": "median"}])
@pytest.mark.parametrize("labels", [False, True])
def test_dequantisation_works_wherever_a_density_goes(noise, labels, tmp_path):
    part = {"type": "dequantized", "density": MADE, "noise": noise}
    data = {"type": "digits", "labels": labels}
    parts = {"data": data, "inverter": {"type": "conditional", "density": part}, "baseline": part}
    result = smoothgen.fit(config(**parts), tmp_path / "run")
    likelihoods = result.metrics["likelihoods"]
    assert likelihoods.keys() == {"elbo", "iw-5", "stage-one", "baseline"}
    assert all(math.isfinite(value["bits_per_dim"]) for value in likelihoods.values())
    loaded, baseline = smoothgen.load(tmp_path / "run"), load_baseline(tmp_path / "run")
    labels = torch.eye(10)[:4] if labels else None
    for model in (loaded, baseline):
        model.event.check(model.sample(4, labels))
    mask = torch.zeros(loaded.event_shape, dtype=torch.bool)
    mask[:, :4] = True
    x = loaded.event.quantize(torch.rand(4, *loaded.event_shape))
    loaded.event.check(loaded.inpaint(x, mask, labels, particles=3))
    trained, restored = result.model.state_dict(), loaded.state_dict()
    assert all(torch.equal(restored[name], trained[name]) for name in trained)


def test_the_bound_with_a_uniform_kernel_is_finite_far_from_zero(tmp_path):
    values = np.random.default_rng(0).normal(1000.0, 50.0, size=(400, 2))
    np.save(tmp_path / "far.npy", values)
    data = {"type": "array", "path": str(tmp_path / "far.npy"), "standardize": False}
    result = smoothgen.fit(config(data=data, kernel={"type": "uniform", "sigma": 0.05}))
    assert math.isfinite(result.metrics["likelihoods"]["elbo"]["nats"])


def test_an_offset_changes_neither_the_likelihood_nor_the_samples(tmp_path):
    values = np.random.default_rng(0).normal(0.0, 0.05, size=(400, 2))
    measured, drawn = [], []
    for offset in (0.0, 1e6):
        np.save(tmp_path / "data.npy", values + offset)
        data = {"type": "array", "path": str(tmp_path / "data.npy")}
        result = smoothgen.fit(config(data=data))
        measured.append(result.metrics["likelihoods"]["elbo"]["nats"])
        drawn.append(result.model.sample(50, generator=torch.Generator().manual_seed(0)) - offset)
    assert measured[0] == pytest.approx(measured[1], abs=1e-3)
    torch.testing.assert_close(drawn[0], drawn[1], atol=1e-5, rtol=1e-3)
    x = result.model.sample(5)
    assert result.model.log_prob(x).shape == (5,)
    assert result.model.likelihood(x).n == 5
    assert result.model.denoise(result.model.smooth(x)).shape == x.shape


def test_the_laplace_posterior_mean_stays_near_whatever_the_density_claims():
    from smoothgen import DensityModel
    from smoothgen_kernels.laplace import LaplaceConfig

    class Narrow(DensityModel):
        """Tails far lighter than any density smoothed by this noise can have."""

        def _log_prob(self, x, context, generator):
            return -0.5 * (x / 0.05).square().sum(1)

        def _sample(self, num_samples, context, generator):
            return torch.zeros(num_samples, *self.event_shape)

    event = EventSpec(shape=(2,))
    y = torch.tensor([[5.0, 0.0], [20.0, -30.0]])
    mean = LaplaceConfig(sigma=0.3).build(event).posterior_mean(y, Narrow(event))
    assert mean.isfinite().all()
    assert ((mean - y).abs() < 120 * 0.3).all()  # the largest node lies at 112 b


def test_a_narrow_made_still_sees_the_last_coordinates():
    from smoothgen_made.made import MADEConfig

    model = MADEConfig(hidden=(32, 32)).build(EventSpec(shape=(64,)))
    x = torch.randn(1, 64, requires_grad=True)
    (gradient,) = torch.autograd.grad(model.conditioner(model.features(x, None))[0, -1].abs().sum(), x)
    assert int((gradient != 0).sum()) == 63


@pytest.mark.parametrize("place", ["density", "baseline"])
def test_a_model_without_a_density_is_refused_as_a_density(place):
    part = NESTED | {"inverter": "gradient"}
    with pytest.raises(ConfigError, match="its inverter has no density"):
        smoothgen.fit(config(**{place: part}))


def test_the_baselines_median_is_found_too(tmp_path):
    baseline = NESTED | {"kernel": {"type": "gaussian", "sigma": "median"}}
    result = smoothgen.fit(config(baseline=baseline), tmp_path / "run")
    assert isinstance(result.config.baseline.kernel.sigma, float)
    assert RunDirectory(tmp_path / "run").stored_config().baseline == result.config.baseline


def test_sixteen_bits_are_levels_too():
    event = EventSpec(shape=(1,), low=-1.0, high=1.0, levels=65536)
    x = (torch.arange(65536, dtype=torch.float64)[:, None] * event.bin_width - 1.0).float()
    event.check(x)
    with pytest.raises(DataError, match="on none of the 65536 levels"):
        event.check(x[:-1] + 0.3 * event.bin_width)


def test_missing_test_data_are_found_before_the_training(tmp_path):
    np.save(tmp_path / "data.npy", np.random.default_rng(0).normal(size=(100, 2)))
    data = {"type": "array", "path": str(tmp_path / "data.npy"), "test_fraction": 0.0}
    with pytest.raises(DataError, match="test"):
        smoothgen.fit(config(data=data), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    result = smoothgen.fit(config(data=data, evaluate={"metrics": []}), tmp_path / "run")
    assert result.metrics["likelihoods"] == {}


def test_resuming_before_the_first_checkpoint_starts_afresh(tmp_path):
    smoothgen.fit(config(), tmp_path / "run")
    (tmp_path / "run/checkpoint.safetensors").unlink()
    lines = len(RunDirectory(tmp_path / "run").metrics())
    with pytest.raises(ConfigError, match="started with another trainer"):
        smoothgen.fit(config(trainer=QUICK | {"learning_rate": 0.5}), tmp_path / "run", resume=True)
    smoothgen.fit(config(), tmp_path / "run", resume=True)
    assert len(RunDirectory(tmp_path / "run").metrics()) == lines


def test_odd_file_names_and_a_host_that_uses_omegaconf(tmp_path):
    path = tmp_path / "my rings (2).yaml"
    path.write_text(OmegaConf.to_yaml(OmegaConf.create({k: v for k, v in config().items() if k != "name"})))
    assert smoothgen.load_config(path).name == "my-rings-2"
    assert OmegaConf.has_resolver("oc.env")


def test_a_relative_path_is_found_again_from_elsewhere(tmp_path, monkeypatch):
    np.save(tmp_path / "data.npy", np.random.default_rng(0).normal(size=(100, 2)))
    monkeypatch.chdir(tmp_path)
    smoothgen.fit(config(data={"type": "array", "path": "data.npy"}), "run")
    monkeypatch.chdir("/")
    stored = RunDirectory(tmp_path / "run").stored_config()
    assert len(stored.data.build().split("test")) == 10


def test_a_resumed_run_is_measured_without_dropout(tmp_path):
    parts = config(density=MADE | {"dropout": 0.5}, baseline=MADE | {"dropout": 0.5})
    first = smoothgen.fit(parts, tmp_path / "run").metrics
    again = smoothgen.fit(parts, tmp_path / "run", resume=True)
    assert not any(module.training for part in (again.model, again.baseline) for module in part.modules())
    assert again.metrics == first


def test_no_examples_and_a_single_one(tmp_path):
    result = smoothgen.fit(config(evaluate={"max_examples": 1, "importance_examples": 1}), tmp_path / "run")
    stored = json.loads((tmp_path / "run/evaluation.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert stored["likelihoods"]["elbo"]["stderr"] is None
    with pytest.raises(ShapeError, match="no examples"):
        result.model.likelihood(torch.zeros(0, 2))
