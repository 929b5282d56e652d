"""Log densities of mixtures in C and in torch: the same values and derivatives, near and far."""

from __future__ import annotations

from unittest.mock import patch

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Generator, Tensor

from smoothgen import gaussian_mixture, logistic_mixture, mixture_density

LOG_DENSITY = {"logistic": logistic_mixture.log_density, "gaussian": gaussian_mixture.log_density}
needs_compiler = pytest.mark.skipif(
    not mixture_density.OPERATIONS.exist_for(torch.float64), reason="no C compiler here"
)


def in_torch():
    """The same operations, asked not to run in C."""
    return patch.object(mixture_density, "_fits", return_value=False)


def drawn(
    shape: tuple[int, ...], count: int, spread: float, apart: bool, seed: int, dtype=torch.float64
) -> list[Tensor]:
    """x and parameters; apart: in one tensor, as a network gives them."""
    generator = Generator().manual_seed(seed)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, dtype=torch.float64, generator=generator).to(dtype)

    x = spread * normal(*shape)
    if apart:
        parameters = list(normal(*shape, 3 * count).requires_grad_().chunk(3, -1))
    else:
        parameters = [normal(*shape, count).requires_grad_() for _ in range(3)]
    return [x.requires_grad_(), *parameters]


def outcome(family: str, inputs: list[Tensor]) -> list[Tensor]:
    out = LOG_DENSITY[family](*inputs)
    weights = torch.linspace(-1.0, 2.0, out.numel(), dtype=out.dtype).reshape(out.shape)
    return [out, *torch.autograd.grad((out * weights).sum(), inputs)]


@needs_compiler
@given(
    family=st.sampled_from(sorted(LOG_DENSITY)),
    shape=st.lists(st.integers(1, 4), min_size=0, max_size=3).map(tuple),
    count=st.integers(1, 12),
    spread=st.sampled_from([1.0, 30.0, 1e4]),
    apart=st.booleans(),
    seed=st.integers(0, 999),
)
def test_c_computes_what_torch_computes(family, shape, count, spread, apart, seed):
    inputs = drawn(shape, count, spread, apart, seed)
    assert mixture_density._fits(*inputs)
    in_c = outcome(family, inputs)
    with in_torch():
        wanted = outcome(family, inputs)
    for a, b in zip(in_c, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


@needs_compiler
@pytest.mark.parametrize("family", sorted(LOG_DENSITY))
def test_float32_agrees_to_rounding(family):
    inputs = drawn((500, 2), 6, 3.0, True, 4, torch.float32)
    in_c = outcome(family, inputs)
    exact = outcome(family, [t.detach().double().requires_grad_() for t in inputs])
    with in_torch():
        plain = outcome(family, inputs)
    for a, b, c in zip(in_c, plain, exact, strict=True):
        assert (a - c).abs().max() <= 2.0 * (b - c).abs().max() + 1e-6 * (1.0 + c.abs().max())


@pytest.mark.parametrize("family", sorted(LOG_DENSITY))
def test_derivatives_of_both_orders(family):
    inputs = drawn((3,), 3, 1.0, False, 6)
    assert torch.autograd.gradcheck(LOG_DENSITY[family], inputs)
    assert torch.autograd.gradgradcheck(LOG_DENSITY[family], inputs)


@needs_compiler
@pytest.mark.parametrize("family", sorted(LOG_DENSITY))
def test_what_is_not_a_number_stays_so_and_shapes_that_spread_go_to_torch(family):
    x, logits, loc, log_scale = (t.detach() for t in drawn((4,), 3, 1.0, False, 6))
    x[1] = float("nan")
    out = LOG_DENSITY[family](x, logits, loc, log_scale)
    assert out[1].isnan() and out[[0, 2, 3]].isfinite().all()
    assert not mixture_density._fits(x, logits[:1], loc[:1], log_scale[:1])
    assert LOG_DENSITY[family](x, logits[:1], loc[:1], log_scale[:1]).shape == (4,)
    assert LOG_DENSITY[family](x[:0], logits[:0], loc[:0], log_scale[:0]).shape == (0,)
