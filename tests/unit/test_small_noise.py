"""Noise so small that rounding would swallow it: refused, and right where it is not."""

from __future__ import annotations

import contextlib
import math

import pytest
import torch

import smoothgen
from smoothgen.errors import ConfigError
from smoothgen.event import EventSpec
from smoothgen.rounding import check_resolved, least_sigma
from smoothgen_kernels.gaussian import GaussianConfig
from smoothgen_kernels.laplace import LaplaceConfig
from smoothgen_kernels.uniform import UniformConfig

MADE = {"type": "made", "hidden": [4], "components": 1}
SMALL = {
    "name": "small",
    "data": {"type": "rings", "train_size": 100, "validation_size": 20, "test_size": 20},
    "kernel": {"type": "gaussian", "sigma": 1e-9},
    "density": MADE,
    "inverter": {"type": "conditional", "density": MADE},
    "trainer": {"max_steps": 2, "sigma_search": {"low": 1e-10}},
    "evaluate": {"metrics": []},
    "device": {"device": "cpu", "threads": 1},
}


@pytest.mark.parametrize(("spacings", "refused"), [(15.0, True), (17.0, False)])
def test_noise_that_rounding_would_swallow_is_refused(spacings, refused):
    x = torch.linspace(-3.0, 4.0, 11)[:, None].repeat(1, 2)
    sigma = spacings * torch.finfo(x.dtype).eps * 4.0
    kernel = GaussianConfig(sigma=sigma).build(EventSpec(shape=(2,)))
    with pytest.raises(ConfigError, match=r"kernel.sigma: .* float32 can add") if refused else contextlib.nullcontext():
        check_resolved(kernel, x)
    check_resolved(kernel.double(), x.double())


def test_every_coordinate_has_a_smallest_noise_of_its_own():
    x = torch.tensor([[1.0, 1e-3], [-1.0, 2e-3]])
    check_resolved(GaussianConfig(sigma=(1e-5, 1e-8)).build(EventSpec(shape=(2,))), x)
    with pytest.raises(ConfigError, match=r"kernel.sigma: 1e-08"):
        check_resolved(GaussianConfig(sigma=(1e-8, 1e-5)).build(EventSpec(shape=(2,))), x)


@pytest.mark.parametrize("kind", [GaussianConfig, LaplaceConfig, UniformConfig])
def test_the_smallest_noise_has_the_density_that_it_says(kind):
    x = 1.0 - 1e-3 * torch.rand(100_000, 1, generator=torch.Generator().manual_seed(0))
    sigma = least_sigma(x).item()
    kernel = kind(sigma=sigma).build(EventSpec(shape=(1,)))
    x_tilde = kernel.sample(x, generator=torch.Generator().manual_seed(1))
    u = (x_tilde.double() - x.double()).flatten() / sigma
    assert abs(u.std().item() - 1.0) < 0.01
    entropy = {"gaussian": 1.4189385, "laplace": 1.3465736, "uniform": 1.2424533}[kind(sigma=1.0).type]
    found = kernel.log_prob(x_tilde, x).double()
    assert abs(found.mean().item() + entropy + math.log(sigma)) < 4 * found.std().item() / 100_000**0.5 + 2e-3


NESTED = {"type": "smoothed", **{key: SMALL[key] for key in ("kernel", "density", "inverter")}}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ([], "small: kernel.sigma: 1e-09 is below what float32 can add"),
        (["kernel.sigma=[0.1,1e-9]"], "small: kernel.sigma: 1e-09 is below"),
        (["kernel.sigma=auto"], "small: trainer.sigma_search.low: 1e-10 times the median rule's"),
    ],
)
def test_an_experiment_refuses_it_before_training(changes, reason):
    with pytest.raises(ConfigError, match=reason):
        smoothgen.fit(SMALL, overrides=changes)


def test_a_kernel_inside_a_density_is_judged_too():
    config = SMALL | {"kernel": {"type": "gaussian", "sigma": 0.1}, "density": NESTED}
    with pytest.raises(ConfigError, match=r"small: density\.kernel\.sigma: 1e-09 is below"):
        smoothgen.build(config)
