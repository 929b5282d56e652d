"""A whole stack of couplings in C: the same function, and the same derivatives, as coupling by coupling in torch."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Generator, Tensor

from smoothgen_realnvp import compiled_couplings
from smoothgen_realnvp.compiled_couplings import Conditions, runs_compiled
from smoothgen_realnvp.coupling import Couplings, CouplingStack

pytestmark = pytest.mark.skipif(not compiled_couplings.OPERATIONS.exist_for(torch.float64), reason="no C compiler here")


def stack_of(
    dimensions: int, count: int, features: int, fourier: int, hidden: tuple[int, ...], activation: str, seed: int
) -> CouplingStack:
    """Couplings with parameters far from where they start, in an order of the coordinates of their own."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        order = torch.randperm(dimensions).tolist()
        halves = order[: (dimensions + 1) // 2], order[(dimensions + 1) // 2 :]
        stack = CouplingStack(
            count,
            halves,
            lambda couplings, kept: Couplings(
                couplings,
                kept,
                dimensions,
                features,
                hidden=hidden,
                activation=activation,
                max_log_scale=2.0,
                fourier=fourier,
            ),
        ).double()
        with torch.no_grad():
            for parameter in stack.parameters():
                parameter += 0.3 * torch.randn_like(parameter)
    return stack


def conditions_of(batch: int, dimensions: int, features: int, fourier: int, shared: bool, seed: int) -> Conditions:
    generator = Generator().manual_seed(seed)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.float64, generator=generator).requires_grad_()

    given_ = drawn(batch, features) if features else None
    if not fourier:
        return Conditions(given_)
    return Conditions(given_, drawn(dimensions) if shared else drawn(batch, dimensions), drawn(dimensions).detach())


@given(
    dimensions=st.integers(2, 7),
    count=st.integers(1, 5),
    features=st.sampled_from([0, 1, 5]),
    fourier=st.sampled_from([0, 1, 4]),
    hidden=st.lists(st.sampled_from([1, 6, 17]), min_size=1, max_size=3),
    activation=st.sampled_from(["silu", "relu", "tanh"]),
    batch=st.sampled_from([1, 3, 64, 70]),
    shared=st.booleans(),
    far=st.sampled_from([1.0, 80.0]),
    seed=st.integers(0, 999),
)
def test_c_computes_what_torch_computes(
    dimensions, count, features, fourier, hidden, activation, batch, shared, far, seed
):
    stack = stack_of(dimensions, count, features, fourier, tuple(hidden), activation, seed)
    conditions = conditions_of(batch, dimensions, features, fourier, shared, seed)
    generator = Generator().manual_seed(seed + 1)
    z = (far * torch.randn(batch, dimensions, dtype=torch.float64, generator=generator)).requires_grad_()
    parameters = stack._stacked()
    assert runs_compiled(stack.plan, z, conditions, parameters)
    given_ = [*(t for t in conditions[:2] if t is not None), *parameters]
    ups = [torch.randn(shape, dtype=torch.float64, generator=generator) for shape in ((batch, dimensions), (batch,))]

    def found(function, at):
        outputs = function(at)
        return [*outputs, *torch.autograd.grad(outputs, [at, *given_], ups)]

    in_c = found(lambda at: stack.inverse(at, conditions), z)
    in_torch = found(lambda at: stack._in_torch(at, conditions, parameters), z)
    # deep waves magnify rounding: by as much as what moves when z does by a few of its last digits
    moved = found(lambda at: stack._in_torch(at, conditions, parameters), (z * (1.0 + 1e-14)).detach().requires_grad_())
    for a, b, c in zip(in_c, in_torch, moved, strict=True):
        assert (a - b).abs().max() <= 1e-9 * (1.0 + b.abs().max()) + (b - c).abs().max()


def test_what_c_gives_is_undone():
    stack, conditions = stack_of(5, 4, 2, 2, (9,), "silu", 3), conditions_of(8, 5, 2, 2, False, 4)
    z = torch.randn(8, 5, dtype=torch.float64)
    noise, log_det = stack.inverse(z, conditions)
    back, other = stack.forward(noise, conditions)
    torch.testing.assert_close(back, z)
    torch.testing.assert_close(other, -log_det)


@pytest.mark.parametrize("fourier", [0, 2])
def test_derivatives_of_both_orders(fourier):
    stack, conditions = stack_of(3, 3, 1, fourier, (4,), "tanh", 5), conditions_of(2, 3, 1, fourier, False, 6)
    z = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    inputs = [z, *(t for t in conditions[:2] if t is not None)]

    def function(z, *rest):
        given_ = Conditions(*rest, *([conditions.rate] if fourier else []))
        return stack.inverse(z, given_)

    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


def test_float32_agrees_to_rounding_with_many_turns():
    stack = stack_of(2, 4, 0, 6, (32, 32), "silu", 8)
    conditions = conditions_of(200, 2, 0, 6, True, 9)
    z = torch.randn(200, 2, dtype=torch.float64)
    exact = stack._in_torch(z, conditions, stack._stacked())[0]
    single = stack.float()
    given_ = Conditions(*(None if t is None else t.float() for t in conditions))
    parameters = single._stacked()
    assert runs_compiled(single.plan, z.float(), given_, parameters)
    in_c = (single.inverse(z.float(), given_)[0] - exact).abs().max()
    in_torch = (single._in_torch(z.float(), given_, parameters)[0] - exact).abs().max()
    assert in_c <= 2.0 * in_torch


def test_some_parameters_may_be_frozen():
    stack, conditions = stack_of(4, 2, 0, 0, (5,), "relu", 1), Conditions()
    stack.first.gain.requires_grad_(False)
    z = torch.randn(6, 4, dtype=torch.float64)
    stack.inverse(z, conditions)[1].sum().backward()
    assert stack.first.gain.grad is None and stack.second.gain.grad.abs().sum() > 0


def test_outliers_stay_finite():
    stack = stack_of(2, 4, 0, 0, (8,), "silu", 2)
    z = torch.tensor([[1e12, -1e12], [float("nan"), 0.0]], dtype=torch.float64)
    noise, log_det = stack.inverse(z, Conditions())
    assert noise[0].isfinite().all() and log_det[0].isfinite()
    assert noise[1].isnan().any()
