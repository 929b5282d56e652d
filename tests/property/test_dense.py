"""Dense networks in C and in torch: the same outputs and derivatives for every shape, activation and joining."""

from __future__ import annotations

import itertools
from unittest.mock import patch

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Generator, Tensor

from smoothgen import dense as module
from smoothgen.dense import ACTIVATIONS, dense

needs_compiler = pytest.mark.skipif(not module.OPERATIONS.exist_for(torch.float64), reason="no C compiler here")


def in_torch():
    """The same operations, asked not to run in C."""
    return patch.object(module, "_fits", return_value=False)


def network(sizes: list[int], biased: bool, seed: int, dtype=torch.float64) -> tuple[list[Tensor], list[Tensor | None]]:
    generator = Generator().manual_seed(seed)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=dtype, generator=generator).requires_grad_()

    weights = [drawn(b, a) for a, b in itertools.pairwise(sizes)]
    return weights, [drawn(b) if biased or index % 2 else None for index, b in enumerate(sizes[1:])]


def gradients(function, x: Tensor, weights, biases, up: Tensor) -> list[Tensor]:
    out = function(x, weights, biases)
    asked = [p for p in (x, *weights, *biases) if p is not None and p.requires_grad]
    return [out, *torch.autograd.grad(out, asked, up)]


@needs_compiler
@given(
    inputs=st.integers(1, 20),
    hidden=st.lists(st.sampled_from([1, 5, 16, 17, 40]), min_size=1, max_size=3),
    repeat=st.booleans(),
    outputs=st.integers(1, 90),
    batch=st.sampled_from([1, 2, 7, 63, 64, 65, 130]),
    activation=st.sampled_from(sorted(ACTIVATIONS)),
    residual=st.booleans(),
    biased=st.booleans(),
    frozen=st.sampled_from(["nothing", "weights", "x"]),
    piece=st.booleans(),
    seed=st.integers(0, 999),
)
def test_c_computes_what_torch_computes(
    inputs, hidden, repeat, outputs, batch, activation, residual, biased, frozen, piece, seed
):
    hidden = [width for width in hidden for _ in range(1 + repeat)]
    weights, biases = network([inputs, *hidden, outputs], biased, seed)
    generator = Generator().manual_seed(seed + 1)
    x = torch.randn(batch, inputs + 3, dtype=torch.float64, generator=generator)
    x = (x[:, 1 : 1 + inputs] if piece else x[:, :inputs].contiguous()).requires_grad_(frozen != "x")
    if frozen == "weights":
        weights, biases = [w.detach() for w in weights], [b if b is None else b.detach() for b in biases]
    assert module._fits(x, weights, biases)
    up = torch.randn(batch, outputs, dtype=torch.float64, generator=generator)

    def function(x, weights, biases):
        return dense(x, weights, biases, activation, residual)

    fused = gradients(function, x, weights, biases, up)
    with in_torch():
        plain = gradients(function, x, weights, biases, up)
    for a, b in zip(fused, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@needs_compiler
@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
@pytest.mark.parametrize("residual", [False, True])
def test_float32_agrees_to_rounding(activation, residual):
    weights, biases = network([3, 50, 50, 50, 7], True, 5, torch.float32)
    weights = [(0.2 * w).detach().requires_grad_() for w in weights]
    x = torch.randn(300, 3, generator=Generator().manual_seed(0)).requires_grad_()
    up = torch.randn(300, 7, generator=Generator().manual_seed(1))

    def function(x, weights, biases):
        return dense(x, weights, biases, activation, residual)

    fused = gradients(function, x, weights, biases, up)
    with in_torch():
        plain = gradients(function, x, weights, biases, up)
    for a, b in zip(fused, plain, strict=True):
        assert (a - b).norm() <= 1e-5 * b.norm()


@pytest.mark.parametrize("activation", ["silu", "tanh"])
def test_derivatives_of_both_orders(activation):
    weights, biases = network([2, 4, 4, 3], True, 7)
    x = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)

    def function(x, *parameters):
        return dense(x, parameters[:3], parameters[3:], activation, residual=True)

    assert torch.autograd.gradcheck(function, (x, *weights, *biases))
    assert torch.autograd.gradgradcheck(function, (x, *weights, *biases))


def test_many_gradients_at_once():
    weights, biases = network([2, 4, 3], True, 9)
    x = torch.randn(2, dtype=torch.float64)

    def function(v):
        return dense(v[None], weights, biases, "tanh")[0]

    at_once = torch.autograd.functional.jacobian(function, x, vectorize=True)
    torch.testing.assert_close(at_once, torch.autograd.functional.jacobian(function, x))
    torch.testing.assert_close(torch.func.jacrev(function)(x), at_once)


def test_where_c_would_be_wrong_torch_is_asked():
    weights, biases = network([2, 4, 3], True, 1, torch.float32)
    x = torch.randn(5, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert dense(x, weights, biases, "relu").dtype == torch.bfloat16
    assert not module._fits(x.double(), weights, biases)
    assert not module._fits(x, [weights[0], weights[1].T.contiguous().T], biases)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        assert not module._fits(x, weights, biases)
    finally:
        torch.set_num_threads(before)


@needs_compiler
def test_what_is_not_a_number_stays_so():
    weights, biases = network([2, 4, 3], True, 1, torch.float32)
    x = torch.zeros(3, 2)
    x[1] = float("nan")
    for activation in ACTIVATIONS:
        out = dense(x, weights, biases, activation)
        assert out[1].isnan().all() and out[[0, 2]].isfinite().all()
