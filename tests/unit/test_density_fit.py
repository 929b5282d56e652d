"""fit_density: a plain density reaches the exact entropy, repeatably, and says what it took."""

from __future__ import annotations

import math

import pytest
import torch

import smoothgen
from smoothgen.errors import ConfigError, DataError

MADE = {"type": "made", "hidden": [32], "components": 2}
SHORT = {"max_steps": 400, "batch_size": 128, "warmup_steps": 10, "learning_rate": 1e-2, "ema_decay": 0.98}
DEVICE = {"device": "cpu", "threads": 1}


def test_a_plain_density_reaches_the_entropy_of_two_gaussians():
    data = {"type": "two_gaussians", "test_size": 4000}
    fitted = smoothgen.fit_density(MADE, data, trainer=SHORT, device=DEVICE)
    x = fitted.source.split("test").x
    with torch.no_grad():
        log_prob = fitted.density.log_prob(x).double()
    gap = (fitted.source.log_prob(x.double()) - log_prob).mean().item()
    assert -1e-3 < gap < 0.02  # two logistics for two Gaussians
    assert fitted.training.steps == 400 and fitted.training.cpu_seconds > 0.0
    assert not fitted.density.training


def test_the_seed_decides_everything():
    short = SHORT | {"max_steps": 5}

    def weights(seed: int, source: object, outside: int = 0) -> torch.Tensor:
        torch.manual_seed(outside)
        density = smoothgen.fit_density(MADE, source, trainer=short, seed=seed, device=DEVICE).density
        return torch.nn.utils.parameters_to_vector(density.parameters()).detach()

    source = smoothgen.installed().find("data", "rings")().build()
    assert torch.equal(weights(3, source), weights(3, "rings", outside=1))
    assert not torch.equal(weights(3, source), weights(4, source))


def test_patience_ends_early_and_the_stage_is_the_baselines():
    trainer = SHORT | {"max_steps": 4000, "baseline": {"patience": 2, "learning_rate": 0.05}, "validate_every": 20}
    data = {"type": "rings", "train_size": 20, "validation_size": 200}
    steps = smoothgen.fit_density(MADE, data, trainer=trainer, device=DEVICE).training.steps
    assert steps % 20 == 0 and steps < 2000


def test_errors_name_the_part_and_the_key():
    with pytest.raises(ConfigError, match=r"^density: .*hiden.*hidden"):
        smoothgen.fit_density({"type": "made", "hiden": [3]}, "rings")
    with pytest.raises(ConfigError, match=r'^data: .*unknown type "ring"'):
        smoothgen.fit_density("made", "ring")
    with pytest.raises(ConfigError, match=r"^trainer: .*max_step"):
        smoothgen.fit_density("made", "rings", trainer={"max_step": 3})
    with pytest.raises(ConfigError, match="multiple of accumulate"):
        smoothgen.fit_density("made", "rings", trainer={"batch_size": 3, "accumulate": 2}, device=DEVICE)
    with pytest.raises(DataError):
        smoothgen.fit_density("made", {"type": "array", "path": "/nowhere.npy"})


def test_discrete_data_are_dequantised_where_the_density_has_no_levels():
    fitted = smoothgen.fit_density(
        {"type": "realnvp", "layers": 2, "hidden": [8]}, "digits", trainer=SHORT | {"max_steps": 2}, device=DEVICE
    )
    assert fitted.density.measure == "discrete" and not fitted.density.exact
    x = fitted.source.split("test").x[:5]
    assert math.isfinite(fitted.density.log_prob(x).sum().item())
