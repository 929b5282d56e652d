"""The device policy: what it refuses, and that seeds are functions of their key."""

from __future__ import annotations

import pytest
import torch

from smoothgen.device import DeviceConfig, DevicePolicy, derived_seed, seed_everything
from smoothgen.errors import ConfigError, DeviceError


@pytest.mark.parametrize(
    ("device", "present"), [("cuda", torch.cuda.is_available()), ("mps", torch.backends.mps.is_available())]
)
def test_an_absent_device_is_an_error(device, present):
    if present:
        assert DevicePolicy(DeviceConfig(device=device)).type == device
        return
    with pytest.raises(DeviceError, match=f'"{device}" was asked for, but torch .* finds no such device'):
        DevicePolicy(DeviceConfig(device=device))


def test_auto_takes_what_there_is():
    expected = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    assert DevicePolicy().type == expected


def test_a_distributed_strategy_needs_processes(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(ConfigError, match="needs several processes"):
        DevicePolicy(DeviceConfig(device="cpu", strategy="ddp"))


def test_tf32_is_off_unless_asked_for():
    DevicePolicy(DeviceConfig(device="cpu", tf32=True))
    assert torch.get_float32_matmul_precision() == "high"
    DevicePolicy(DeviceConfig(device="cpu"))
    assert torch.get_float32_matmul_precision() == "highest"


def test_seeds_depend_on_every_part_of_the_key_in_order():
    keys = [(0, "a", 1), (0, "a", 2), (0, "b", 1), (1, "a", 1), ("a", 0, 1), (0, "a"), (0, "a", 1, 0)]
    seeds = [derived_seed(*key) for key in keys]
    assert len(set(seeds)) == len(seeds)
    assert derived_seed(0, "a", 1) == seeds[0]
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_ranks_draw_different_noise_and_the_same_key_draws_the_same():
    draws = []
    for key in [(0, "stage", 5, 0), (0, "stage", 5, 1), (0, "stage", 5, 0)]:
        seed_everything(*key)
        draws.append(torch.randn(4))
    assert not torch.equal(draws[0], draws[1])
    assert torch.equal(draws[0], draws[2])


def test_autocast_follows_the_precision():
    with DevicePolicy(DeviceConfig(device="cpu", precision="bf16-mixed")).autocast():
        assert torch.nn.Linear(2, 2)(torch.randn(3, 2)).dtype == torch.bfloat16
    with DevicePolicy(DeviceConfig(device="cpu")).autocast():
        assert torch.nn.Linear(2, 2)(torch.randn(3, 2)).dtype == torch.float32


@pytest.mark.slow
def test_compiled_training_equals_eager(tmp_path):
    import smoothgen

    config = {
        "data": {"type": "rings", "train_size": 200, "validation_size": 50, "test_size": 50},
        "kernel": {"type": "gaussian", "sigma": 0.3},
        "density": {"type": "made", "hidden": [8]},
        "inverter": "gradient",
        "trainer": {"max_steps": 5, "batch_size": 20},
        "device": {"device": "cpu"},
    }
    eager = smoothgen.fit(config).model.state_dict()
    compiled = smoothgen.fit(config, overrides=["device.compile=true"]).model.state_dict()
    assert eager.keys() == compiled.keys()
    for name in eager:
        torch.testing.assert_close(eager[name], compiled[name], atol=1e-5, rtol=1e-4)
