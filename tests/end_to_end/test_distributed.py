"""Two gloo processes started by torchrun against one process: the same weights, resumable, DDP and FSDP2."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from command_line import TINY, run
from safetensors.torch import load_file

CONFIG = TINY | {
    "kernel": {"type": "gaussian", "sigma": 0.3, "learnable": True},
    "trainer": TINY["trainer"] | {"max_steps": 20, "validate_every": 10, "checkpoint_every": 6, "clip_norm": 0.0},
}


def torchrun(cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "smoothgen",
         *arguments],
        cwd=cwd, capture_output=True, text=True, timeout=240, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def difference(first: Path, second: Path) -> float:
    one, other = load_file(first / "model.safetensors"), load_file(second / "model.safetensors")
    assert one.keys() == other.keys()
    return max((one[name] - other[name]).abs().max().item() for name in one if one[name].numel())


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """One process with two micro-batches: what two processes must reproduce."""
    folder = tmp_path_factory.mktemp("distributed")
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    answer = run("train", "config.yaml", "--run-dir", "alone", "trainer.accumulate=2", cwd=folder)
    assert answer.code == 0, answer.err
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_equal_one(alone, strategy):
    # without clipping, since FSDP adds up the gradient's norm in another order
    done = torchrun(alone, "train", "config.yaml", "--run-dir", strategy, f"device.strategy={strategy}")
    assert done.returncode == 0, done.stderr
    assert difference(alone / "alone", alone / strategy) <= 1e-6


def test_a_strategy_without_processes_is_refused(tmp_path):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    answer = run("train", "config.yaml", "--run-dir", "x", "device.strategy=fsdp", cwd=tmp_path)
    assert answer.code == 2
    assert "torchrun" in answer.err
