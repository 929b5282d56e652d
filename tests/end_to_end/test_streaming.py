"""Training on streamed data: the weights of training in memory, through kills, on one and two processes; and what
happens to data that go bad on the way."""

from __future__ import annotations

import copy
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from command_line import TINY, run, start
from PIL import Image
from safetensors.torch import load_file

import smoothgen
from smoothgen.checkpoint import read_tensors

TABLE = np.random.default_rng(0).normal(size=(700, 2)).astype(np.float32) * [1.0, 20.0] + [0.0, 5.0]


def tiny(path: Path, stream: str, **trainer: Any) -> dict[str, Any]:
    config = copy.deepcopy(TINY)
    config["data"] = {"type": "array", "path": str(path), "stream": stream}
    config["trainer"] |= {"max_steps": 60} | trainer
    return config


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    folder = tmp_path / "shards"
    folder.mkdir()
    for index, part in enumerate(np.split(TABLE, [300, 301, 450])):
        np.save(folder / f"part-{index}.npy", part)
    return folder


def assert_same_bits(first: Path, second: Path) -> None:
    one, other = (load_file(path / "model.safetensors") for path in (first, second))
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


def test_streamed_training_ends_with_the_very_weights(tmp_path, shards):
    """With sigma and the standardisation measured from the data, accumulation, and a baseline."""
    np.save(tmp_path / "whole.npy", TABLE)
    for name, path, stream in (("whole", tmp_path / "whole.npy", "never"), ("streamed", shards, "always")):
        config = tiny(path, stream, accumulate=2) | {"baseline": {"type": "made", "hidden": [16]}}
        config["kernel"]["sigma"] = "median"
        smoothgen.fit(config, tmp_path / name)
    assert_same_bits(tmp_path / "whole", tmp_path / "streamed")
    first, second = (
        yaml.safe_load((tmp_path / name / "evaluation.json").read_text()) for name in ("whole", "streamed")
    )
    assert second.pop("training_reference") == {"reference": 560, "of": 560}
    assert first == second


def test_streamed_pictures_train_to_the_very_weights(tmp_path):
    for index, image in enumerate(np.random.default_rng(0).integers(0, 256, (60, 4, 4), dtype=np.uint8)):
        place = tmp_path / "pictures" / str(index % 2)
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place / f"{index}.png")
    for stream in ("always", "never"):
        config = tiny(tmp_path, stream, max_steps=20)
        config["data"] = {"type": "images", "path": str(tmp_path / "pictures"), "stream": stream, "labels": True}
        smoothgen.fit(config | {"evaluate": {"metrics": []}}, tmp_path / stream)
    assert_same_bits(tmp_path / "always", tmp_path / "never")


def wait_for(path: Path, process: subprocess.Popen[str], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_killed_and_resumed_it_ends_with_the_very_weights(tmp_path, shards):
    unmeasured = {"evaluate": {"metrics": []}}
    smoothgen.fit(tiny(shards, "never", max_steps=100) | unmeasured, tmp_path / "whole")
    config = tmp_path / "tiny.yaml"
    config.write_text(yaml.safe_dump(tiny(shards, "always", max_steps=100) | unmeasured))
    process = start("train", config, "--run-dir", "cut", cwd=tmp_path)
    wait_for(tmp_path / "cut/checkpoint.safetensors", process)
    time.sleep(random.Random(0).uniform(0.0, 0.2))
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    answer = run("train", config, "--run-dir", "cut", "--resume", cwd=tmp_path)
    assert answer.code == 0, answer.err
    assert_same_bits(tmp_path / "whole", tmp_path / "cut")


def torchrun(cwd: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "smoothgen",
         "train", *arguments],
        cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip


@pytest.mark.slow
def test_two_processes_stream_the_very_batches(tmp_path, shards):
    """Streamed on two processes, killed half way and resumed: the bits of two processes in memory."""
    for stream in ("never", "always"):
        config = tiny(shards, stream, max_steps=20, accumulate=2) | {"evaluate": {"metrics": []}}
        (tmp_path / f"{stream}.yaml").write_text(yaml.safe_dump(config))
    whole = torchrun(tmp_path, "never.yaml", "--run-dir", "whole")
    cut = torchrun(tmp_path, "always.yaml", "--run-dir", "cut")
    wait_for(tmp_path / "cut/checkpoint.safetensors", cut)
    os.killpg(cut.pid, signal.SIGKILL)
    cut.communicate()
    cut = torchrun(tmp_path, "always.yaml", "--run-dir", "cut", "--resume")
    for process in (whole, cut):
        _, err = process.communicate(timeout=200)
        assert process.returncode == 0, err
    assert_same_bits(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.parametrize("harm", ["vanishes", "shrinks", "is replaced"])
def test_a_shard_that_changes_in_training_is_named_and_nothing_hangs(tmp_path, shards, harm):
    config = tmp_path / "tiny.yaml"
    config.write_text(yaml.safe_dump(tiny(shards, "always", max_steps=100_000, checkpoint_every=1000)))
    process = start("train", config, "--run-dir", "run", cwd=tmp_path)
    wait_for(tmp_path / "run/metrics.jsonl", process)
    path = shards / "part-2.npy"
    whole = path.read_bytes()
    if harm == "vanishes":
        path.unlink()
    elif harm == "shrinks":
        with path.open("r+b") as file:
            file.truncate(len(whole) // 2)
    else:
        path.with_suffix(".new").write_bytes(whole)
        path.with_suffix(".new").replace(path)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    (line,) = [line for line in err.splitlines() if line.startswith("error:")]
    assert str(path) in line and "Traceback" not in err
    # and the steps up to there are not lost
    _, metadata = read_tensors(tmp_path / "run/checkpoint.safetensors", "checkpoint")
    assert metadata["position"]["step"] % 1000


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_ends_the_threads_and_resumes(tmp_path, shards, number):
    config = tmp_path / "tiny.yaml"
    config.write_text(yaml.safe_dump(tiny(shards, "always", max_steps=3000, checkpoint_every=100_000)))
    process = start("train", config, "--run-dir", "run", cwd=tmp_path)
    wait_for(tmp_path / "run/metrics.jsonl", process)
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 128 + number, err
    assert "--resume" in err and "Traceback" not in err
    assert (tmp_path / "run/checkpoint.safetensors").exists()
