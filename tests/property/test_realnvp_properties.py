"""RealNVP for every combination of keys: it inverts, its log-determinant is autograd's, and it survives JSON."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from smoothgen.event import ContextSpec, EventSpec
from smoothgen_realnvp import RealNVPConfig
from smoothgen_realnvp.coupling import CouplingStack

pytestmark = pytest.mark.usefixtures("float64")

CONTEXTS = ("none", "features", "noisy copy", "noise known", "noise known and features")

configs = st.builds(
    RealNVPConfig,
    layers=st.integers(2, 5),
    hidden=st.lists(st.integers(1, 9), min_size=1, max_size=3).map(tuple),
    activation=st.sampled_from(["silu", "relu", "tanh"]),
    max_log_scale=st.floats(0.5, 4.0),
    actnorm=st.booleans(),
    fourier=st.integers(0, 3),
    fourier_period=st.none() | st.floats(1.0, 20.0),
    split=st.sampled_from(["alternate", "halves", "random"]),
    split_seed=st.integers(0, 99),
    anchor=st.booleans(),
)


def spec_of(kind: str, size: int) -> ContextSpec | None:
    return {
        "none": None,
        "features": ContextSpec(features=3),
        "noisy copy": ContextSpec(noisy_copy=(size,)),
        "noise known": ContextSpec(noisy_copy=(size,), noise_std=(0.3,) * size),
        "noise known and features": ContextSpec(noisy_copy=(size,), noise_std=(0.3,) * size, features=2),
    }[kind]


def drawn(config: RealNVPConfig, size: int, kind: str, seed: int, device: torch.device):
    """A flow with weights far from their start, initialised on 32 rows; those rows; their context."""
    torch.manual_seed(seed)
    spec = spec_of(kind, size)
    model = config.build(EventSpec(shape=(size,)), spec)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    x = 1.0 + 2.0 * torch.randn(32, size)
    context = None if spec is None else torch.randn(32, *spec.shape)
    if spec is not None and spec.noisy_copy is not None:
        context[:, :size] = x + 0.3 * torch.randn_like(x)
    model, x, context = model.to(device), x.to(device), None if context is None else context.to(device)
    model.initialize(x, context)
    return model, x, context


def to_noise(model, x, context):
    frame = model.frame
    return model.flow.inverse((x - frame.anchor(context)) / frame.unit, frame.conditions(context))


def to_data(model, z, context):
    frame = model.frame
    return frame.anchor(context) + frame.unit * model.flow(z, frame.conditions(context))


@given(configs, st.integers(2, 7), st.sampled_from(CONTEXTS), st.integers(0, 999))
def test_the_inverse_undoes_the_flow_both_ways(device, config, size, kind, seed):
    model, x, context = drawn(config, size, kind, seed, device)
    torch.testing.assert_close(to_data(model, to_noise(model, x, context), context), x, rtol=1e-10, atol=1e-10)
    z = torch.randn_like(x)
    torch.testing.assert_close(to_noise(model, to_data(model, z, context), context), z, rtol=1e-10, atol=1e-10)


@given(configs, st.integers(2, 7), st.sampled_from(CONTEXTS), st.integers(0, 999))
def test_log_prob_is_the_change_of_variables_by_autograd(device, config, size, kind, seed):
    model, x, context = drawn(config, size, kind, seed, device)
    row = None if context is None else context[:1]
    jacobian = torch.autograd.functional.jacobian(lambda v: to_noise(model, v[None], row)[0], x[0])
    base = -0.5 * to_noise(model, x[:1], row).square().sum() - 0.5 * size * math.log(2.0 * math.pi)
    expected = base + torch.linalg.slogdet(jacobian)[1]
    torch.testing.assert_close(model.log_prob(x[:1], row)[0], expected, rtol=1e-10, atol=1e-10)


@given(configs, st.integers(2, 7), st.sampled_from(CONTEXTS[1:]), st.integers(0, 999))
def test_every_coordinate_of_a_sample_moves_with_every_number_of_the_context(device, config, size, kind, seed):
    config = config.model_copy(update={"activation": "silu"})  # a dead ReLU may hide a dependence
    model, x, context = drawn(config, size, kind, seed, device)
    z = torch.randn_like(x[:8])
    rows = context[:8].clone().requires_grad_(True)
    moved = to_data(model, z, rows)
    for index in range(size):
        (gradient,) = torch.autograd.grad(moved[:, index].sum(), rows, retain_graph=True)
        assert (gradient.abs().amax(0) > 0).all(), f"coordinate {index} ignores some of the context"


@given(configs)
def test_the_configuration_survives_json(config):
    assert RealNVPConfig.model_validate_json(config.model_dump_json()) == config


@given(st.integers(2, 9), st.integers(2, 6), st.sampled_from(["alternate", "halves", "random"]), st.integers(0, 99))
def test_every_coordinate_moves_in_the_first_two_couplings(size, layers, split, seed):
    config = RealNVPConfig(layers=layers, hidden=(2,), split=split, split_seed=seed)
    model = config.build(EventSpec(shape=(size,)))
    stacks = [flow for flow in reversed(model.flow.flows) if isinstance(flow, CouplingStack)]
    kept = stacks[0].first.coordinates.tolist() + stacks[0].second.coordinates.tolist()
    assert sorted(kept) == list(range(size))
    assert sum(stack.count for stack in stacks) == layers
