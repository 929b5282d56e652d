"""The same training on a GPU, where there is one."""

from __future__ import annotations

import copy

import pytest
import torch
from command_line import TINY

import smoothgen

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device"),
]


def on_gpu(**device):
    config = copy.deepcopy(TINY)
    config["device"] = {"device": "cuda", **device}
    return config


@pytest.mark.parametrize("device", [{}, {"precision": "bf16-mixed"}, {"tf32": True}, {"compile": True}])
def test_training_on_a_gpu_learns_what_it_learns_on_the_cpu(device):
    here = smoothgen.fit(TINY).metrics["likelihoods"]["elbo"]
    there = smoothgen.fit(on_gpu(**device)).metrics["likelihoods"]["elbo"]
    assert abs(here["nats"] - there["nats"]) < 0.5


def test_the_model_samples_and_denoises_where_it_lies():
    model = smoothgen.fit(on_gpu()).model
    x = model.sample(8, generator=torch.Generator("cuda").manual_seed(0))
    assert x.is_cuda
    assert model.denoise(model.smooth(x), method="single-step").is_cuda


def test_a_bad_step_is_found_without_waiting_for_every_step():
    config = on_gpu()
    config["trainer"] |= {"learning_rate": 1e30, "warmup_steps": 0, "clip_norm": 0.0}
    with pytest.raises(smoothgen.SmoothgenError, match="first not finite"):
        smoothgen.fit(config)
