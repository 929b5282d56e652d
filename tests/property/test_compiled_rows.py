"""The sampler in C draws what the one in torch draws, in every case it takes, and says so where it cannot."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_pixelcnnpp import CONTEXTS, context_of, event_of, inputs, model_of
from torch import Generator

from smoothgen.native import NativeError, NativeWarning
from smoothgen_pixelcnnpp import samplers
from smoothgen_pixelcnnpp.compiled_rows import compiled_library
from smoothgen_pixelcnnpp.head import Pinned
from smoothgen_pixelcnnpp.samplers import Request, cached, compiled


def there_is_a_compiler() -> bool:
    try:
        compiled_library(torch.float32)
    except NativeError:
        return False
    return True


needs_compiler = pytest.mark.skipif(not there_is_a_compiler(), reason="no C compiler here")


def both(model, logit_u, context=None, pinned=None):
    """What the sampler in torch draws, and what the one in C does."""
    with torch.inference_mode():
        request = Request(logit_u, model.given(context), pinned)
        return [draw(model, request, lambda share: None).image for draw in (cached, compiled)]


@needs_compiler
@settings(max_examples=40)
@given(
    filters=st.sampled_from([1, 3, 8, 13, 40]),
    resolutions=st.integers(1, 4),
    blocks=st.integers(1, 2),
    channels=st.integers(1, 4),
    height=st.integers(1, 6),
    width=st.integers(1, 7),
    batch=st.sampled_from([1, 2, 5, 17]),
    levels=st.sampled_from([None, 2, 256]),
    context=st.sampled_from(CONTEXTS),
    conditioning=st.sampled_from(["aligned", "stack"]),
    threads=st.integers(1, 3),
    pinned=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_c_draws_what_torch_draws(
    filters,
    resolutions,
    blocks,
    channels,
    height,
    width,
    batch,
    levels,
    context,
    conditioning,
    threads,
    pinned,
    seed,
):
    shape = (channels, height, width)
    event, given_ = event_of(shape, levels), context_of(context, shape)
    keys = {"filters": filters, "resolutions": resolutions, "blocks": blocks, "conditioning": conditioning}
    model = model_of(event, given_, **keys)
    x, c = inputs(event, given_, batch)
    generator = Generator().manual_seed(seed)
    logit_u = 2.0 * torch.randn(batch, height, width, channels, dtype=torch.float64, generator=generator)
    known = torch.rand(logit_u.shape, generator=generator) < 0.3
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        torch_drew, c_drew = both(model, logit_u, c, Pinned(x.movedim(1, -1), known) if pinned else None)
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(c_drew, torch_drew, rtol=1e-9, atol=1e-9)
    if pinned:
        assert torch.equal(c_drew[known], x.movedim(1, -1)[known])


@needs_compiler
def test_float32_agrees_to_rounding():
    event = event_of((2, 9, 8), None)
    model = model_of(event, noise=0.05, dtype=torch.float32, filters=40, blocks=2)
    logit_u = torch.randn(7, 9, 8, 2, generator=Generator().manual_seed(0))
    torch_drew, c_drew = both(model, logit_u)
    assert (torch_drew - c_drew).abs().max() < 2e-5


@needs_compiler
@pytest.mark.parametrize("levels", [None, 16])
def test_the_tails_are_reached(levels):
    """One pixel, mixtures far apart, uniforms to the last digit: C's own root finding against torch's."""
    event = event_of((1, 1, 1), levels)
    model = model_of(event, components=4)
    generator = Generator().manual_seed(8)
    logit_u = torch.linspace(-36.0, 36.0, 1001, dtype=torch.float64).reshape(-1, 1, 1, 1)
    for _ in range(5):
        with torch.no_grad():
            model.network.out.bias.copy_(6.0 * torch.randn(12, dtype=torch.float64, generator=generator))
        torch_drew, c_drew = both(model, logit_u)
        assert (torch_drew - c_drew).abs().max() < 1e-8 * (1.0 + torch_drew.abs().max())
        assert (c_drew.flatten().diff() >= 0).all()


def test_without_a_compiler_the_same_is_drawn_and_said(monkeypatch):
    event = event_of((1, 4, 4), 17)
    model = model_of(event, sampler="compiled")
    model.sampler = "cached"
    wanted = model.sample(3, generator=Generator().manual_seed(1))

    def missing(dtype):
        raise NativeError("no C compiler found")

    monkeypatch.setattr(samplers, "compiled_library", missing)
    model.sampler = "compiled"
    with pytest.warns(NativeWarning, match=r"no C compiler found.*sampler: cached"):
        drawn = model.sample(3, generator=Generator().manual_seed(1))
    assert torch.equal(drawn, wanted)


def test_half_precision_is_refused_by_name():
    with pytest.raises(NativeError, match=r"float32 and float64, not torch\.bfloat16"):
        compiled_library(torch.bfloat16)
