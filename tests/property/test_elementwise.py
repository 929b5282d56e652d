"""Between the convolutions of a gated block: C and torch compute the same, and the same derivatives."""

from __future__ import annotations

from unittest.mock import patch

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Generator, Tensor

from smoothgen_pixelcnnpp import elementwise
from smoothgen_pixelcnnpp.elementwise import activate_sum, gate

needs_compiler = pytest.mark.skipif(not elementwise.OPERATIONS.exist_for(torch.float64), reason="no C compiler here")
sizes = st.integers(1, 4)


def drawn(generator: Generator, *shape: int, layout: str = "last", dtype=torch.float64) -> Tensor:
    """Values around zero, zero among them; channels last, or a piece of something larger, or channels first."""
    value = torch.randn(shape, dtype=dtype, generator=generator)
    value[torch.rand(shape, generator=generator) < 0.1] = 0.0
    if layout == "last":
        value = value.contiguous(memory_format=torch.channels_last)
    if layout == "piece":
        larger = torch.cat([value, value + 1.0], dim=1).contiguous(memory_format=torch.channels_last)
        value = larger[:, : shape[1]]
    return value.requires_grad_()


def in_torch():
    """The same operations, asked not to run in C."""
    return patch.object(elementwise, "_fused", return_value=False)


def outcome(function, inputs):
    """Outputs and gradients, through functions of the outputs that tell them apart."""
    outputs = function(*inputs)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    weights = [torch.linspace(-1.0, 2.0, o.numel(), dtype=o.dtype).reshape(o.shape) for o in outputs]
    total = sum((o * w).sum() for o, w in zip(outputs, weights, strict=True))
    return [*outputs, *torch.autograd.grad(total, inputs)]


@needs_compiler
@given(
    n=sizes,
    batch=sizes,
    height=sizes,
    width=sizes,
    more=st.tuples(st.integers(0, 1), st.integers(0, 2)),
    terms=st.integers(1, 9),
    layout=st.sampled_from(["last", "piece", "first"]),
    seed=st.integers(0, 999),
)
def test_sums_activate_alike(n, batch, height, width, more, terms, layout, seed):
    generator = Generator().manual_seed(seed)
    larger = (height + more[0], width + more[1])
    inputs = [
        drawn(generator, batch, n, *(larger if t % 2 == 0 else (height, width)), layout=layout) for t in range(terms)
    ]

    def function(*values):
        return activate_sum(values, height, width)

    fused = outcome(function, inputs)
    with in_torch():
        plain = outcome(function, inputs)
    for a, b in zip(fused, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@needs_compiler
@given(
    n=sizes,
    batch=sizes,
    height=sizes,
    width=sizes,
    more=st.tuples(st.integers(0, 1), st.integers(0, 2)),
    shifted=st.booleans(),
    layout=st.sampled_from(["last", "piece"]),
    which=st.sampled_from(["both", "first", "second"]),
    seed=st.integers(0, 999),
)
def test_gates_alike(n, batch, height, width, more, shifted, layout, which, seed):
    generator = Generator().manual_seed(seed)
    inputs = [
        drawn(generator, batch, n, height, width, layout=layout),
        drawn(generator, batch, 2 * n, height + more[0], width + more[1], layout=layout),
    ]
    if shifted:
        inputs.append(torch.randn(batch, 2 * n, 1, 1, dtype=torch.float64, generator=generator, requires_grad=True))

    def function(*values):
        return {"both": lambda o: o, "first": lambda o: o[0], "second": lambda o: o[1]}[which](gate(*values))

    fused = outcome(function, inputs)
    with in_torch():
        plain = outcome(function, inputs)
    for a, b in zip(fused, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_derivatives_of_both_orders():
    generator = Generator().manual_seed(1)
    a, b = drawn(generator, 2, 3, 2, 3), drawn(generator, 2, 3, 3, 3)
    with torch.no_grad():
        a += 0.3 * a.sign() + 0.1  # away from the kink
    value, gates = drawn(generator, 2, 3, 2, 3), drawn(generator, 2, 6, 3, 4)
    shift = torch.randn(2, 6, 1, 1, dtype=torch.float64, generator=generator, requires_grad=True)
    for function, inputs in ((lambda *t: activate_sum(t, 2, 3), (a, b)), (gate, (value, gates, shift))):
        assert torch.autograd.gradcheck(function, inputs)
        assert torch.autograd.gradgradcheck(function, inputs)


@needs_compiler
def test_float32_agrees_to_rounding_also_far_out():
    value = torch.cat([torch.linspace(-120.0, 120.0, 4001), torch.tensor([0.0, -0.0, 1e-30, -1e-8])])
    value = value.reshape(1, 1, 1, -1).contiguous(memory_format=torch.channels_last)
    gates = torch.cat([value, value.flip(-1)], dim=1).contiguous(memory_format=torch.channels_last)
    assert elementwise._fused(value, gates)
    fused = (activate_sum([value], 1, value.shape[3]), *gate(value, gates))
    with in_torch():
        plain = (activate_sum([value], 1, value.shape[3]), *gate(value, gates))
    for a, b in zip(fused, plain, strict=True):
        assert ((a - b).abs() <= 3e-7 * (1.0 + b.abs())).all()


@needs_compiler
def test_what_is_not_a_number_stays_so():
    value = torch.full((1, 1, 1, 2), float("nan"))
    gates = torch.full((1, 2, 1, 2), float("nan"))
    assert activate_sum([value], 1, 2).isnan().all()
    assert all(part.isnan().all() for part in gate(value, gates))


def test_other_dtypes_and_transforms_go_to_torch():
    value = torch.randn(1, 2, 3, 3).contiguous(memory_format=torch.channels_last)
    assert not elementwise._fused(value.bfloat16())
    assert not elementwise._fused(value, value.double())

    def inside(x):
        assert not elementwise._fused(x)
        return activate_sum([x], 3, 3).sum()

    torch.func.grad(inside)(value)
