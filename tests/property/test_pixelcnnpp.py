"""The laws of PixelCNN++: raster order, contexts that reach every pixel, one sample by every algorithm."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from plain_pixelcnnpp import PlainPixelCNNPP
from torch import Generator, Tensor

from smoothgen.event import ContextSpec, EventSpec
from smoothgen.particles import Particles
from smoothgen_pixelcnnpp.cache import ActivationCache
from smoothgen_pixelcnnpp.pixelcnnpp import PixelCNNPP, PixelCNNPPConfig
from smoothgen_pixelcnnpp.samplers import Request, cached, fixed_point, fixed_point_rows

SHAPES = [(1, 5, 7), (3, 4, 6), (2, 1, 5), (4, 5, 1), (1, 9, 6), (1, 1, 1), (5,), (3, 4)]
ALGORITHMS = ("naive", "compiled", "cached", "fixed-point", "fixed-point-rows")
CONTEXTS = ["none", "features", "noisy copy", "both"]


def context_of(kind: str, shape: tuple[int, ...]) -> ContextSpec | None:
    return {
        "none": None,
        "features": ContextSpec(features=3),
        "noisy copy": ContextSpec(noisy_copy=shape),
        "both": ContextSpec(noisy_copy=shape, features=2),
    }[kind]


def event_of(shape: tuple[int, ...], levels: int | None) -> EventSpec:
    return EventSpec(shape=shape) if levels is None else EventSpec(shape=shape, low=-1.0, high=1.0, levels=levels)


def model_of(
    event: EventSpec, context: ContextSpec | None = None, noise: float = 0.3, dtype: torch.dtype = torch.float64, **keys
) -> PixelCNNPP:
    """Small and lopsided: every parameter moved from where it starts."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        settings = {"filters": 5, "blocks": 1, "components": 3, "resolutions": 3} | keys
        model = PixelCNNPPConfig(**settings).build(event, context)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += noise * torch.randn_like(parameter)
    assert isinstance(model, PixelCNNPP)
    return model.to(dtype).eval()


def inputs(event: EventSpec, context: ContextSpec | None, n: int, dtype=torch.float64) -> tuple[Tensor, Tensor | None]:
    generator = Generator().manual_seed(2)
    x = event.quantize(torch.randn(n, *event.shape, generator=generator).clamp(-1, 1)).to(dtype)
    return x, None if context is None else torch.randn(n, *context.shape, generator=generator).to(dtype)


def jacobian(model: PixelCNNPP, image: Tensor, context: Tensor | None) -> Tensor:
    """|d parameters of pixel i / d pixel j|, (H W, H W), summed over parameters and channels."""
    given_ = model.given(context)
    _, height, width = model.image_shape
    weights = torch.randn(1, height, width, model.network.out.bias.numel(), dtype=image.dtype)  # no cancelling
    full = torch.autograd.functional.jacobian(
        lambda v: (model.parameters_of(v, given_) * weights).sum(-1)[0], image, vectorize=True
    )
    return full.squeeze(2).abs().sum(2).reshape(height * width, height * width)


@pytest.mark.parametrize("conditioning", ["aligned", "stack"])
@pytest.mark.parametrize("kind", CONTEXTS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_pixels_see_exactly_those_before_them(shape, kind, conditioning):
    event, context = event_of(shape, None), context_of(kind, shape)
    model = model_of(event, context, conditioning=conditioning)
    x, c = inputs(event, context, 1)
    seen = jacobian(model, model.image(x), c)
    assert torch.triu(seen).max() == 0.0
    assert (torch.tril(seen, -1) > 0).sum() == seen.shape[0] * (seen.shape[0] - 1) // 2


@pytest.mark.parametrize("conditioning", ["aligned", "stack"])
@pytest.mark.parametrize("kind", ["features", "noisy copy", "both"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_conditional_reacts_to_the_context(shape, kind, conditioning):
    event, context = event_of(shape, None), context_of(kind, shape)
    model = model_of(event, context, conditioning=conditioning)
    x, c = inputs(event, context, 1)
    image = model.image(x)
    reactions = torch.autograd.functional.jacobian(
        lambda v: model.parameters_of(image, model.given(v)).sum(-1)[0], c, vectorize=True
    ).abs()
    flat = reactions.flatten(2).reshape(reactions.shape[0] * reactions.shape[1], -1)
    own = flat if kind == "features" else flat[:, : event.dimensions]
    assert (own.sum(1) > 0).all()
    if kind == "both":
        assert (flat[:, event.dimensions :].sum(1) > 0).all()


@pytest.mark.parametrize("levels", [2, 17, 256])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_masses_of_a_discretised_channel_sum_to_one(channels, levels):
    event = event_of((channels, 1, 2), levels)
    model = model_of(event)
    x, _ = inputs(event, None, 3)
    raw = model.parameters_of(x, model.given(None))[:, 0, 1]
    pixel = x[:, :, 0, 1]
    values = torch.linspace(-1, 1, levels, dtype=x.dtype)
    for channel in range(channels):
        tried = pixel.repeat(levels, 1, 1)
        tried[:, :, channel] = values[:, None]
        log_channels = model.pixel.log_channels(tried, raw.expand(levels, *raw.shape), model.shift, model.unit)
        assert torch.allclose(log_channels[..., channel].exp().sum(0), torch.ones(3, dtype=x.dtype), atol=1e-10)
    every = model.pixel.log_channels(pixel, raw, model.shift, model.unit).sum(-1)
    assert torch.allclose(every, model.pixel.log_prob(pixel, raw, model.shift, model.unit), atol=1e-12)


@pytest.mark.parametrize("conditioning", ["aligned", "stack"])
@pytest.mark.parametrize("kind", CONTEXTS)
@pytest.mark.parametrize("shape", [(1, 5, 6), (3, 4, 3)], ids=str)
def test_full_score_is_the_derivative_of_log_prob(shape, kind, conditioning):
    event, context = event_of(shape, None), context_of(kind, shape)
    model = model_of(event, context, conditioning=conditioning)
    x, c = inputs(event, context, 2)
    score, step = model.score(x, c), 1e-5
    for index in itertools.product(*(range(0, size, 2) for size in shape)):
        moved = torch.zeros_like(x)
        moved[(slice(None), *index)] = step
        numeric = (model.log_prob(x + moved, c) - model.log_prob(x - moved, c)) / (2 * step)
        assert torch.allclose(score[(slice(None), *index)], numeric, rtol=1e-5, atol=1e-6)


def test_the_causal_score_is_that_of_every_pixels_own_conditional():
    event = event_of((3, 3, 4), None)
    model = model_of(event)
    x, _ = inputs(event, None, 1)
    causal, full = model.score(x, kind="causal"), model.score(x)
    raw = model.parameters_of(x, model.given(None))[:, 1, 2].detach()
    pixel = x[:, :, 1, 2].clone().requires_grad_(True)
    (own,) = torch.autograd.grad(model.pixel.log_prob(pixel, raw, model.shift, model.unit).sum(), pixel)
    assert torch.allclose(causal[:, :, 1, 2], own)
    assert torch.allclose(causal[:, :, -1, -1], full[:, :, -1, -1])  # nothing comes after the last pixel
    assert not torch.allclose(causal[:, :, 0, 0], full[:, :, 0, 0])


@pytest.mark.parametrize("twice", [True, False])
@pytest.mark.parametrize("resolutions", [1, 2, 3, 4])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("kind", "conditioning"), [("none", "aligned"), ("both", "aligned"), ("both", "stack")])
def test_the_cache_computes_what_the_network_computes(shape, kind, conditioning, resolutions, twice, monkeypatch):
    monkeypatch.setattr("smoothgen_pixelcnnpp.cache.TWICE_UP_TO", 8 if twice else 0)
    event, context = event_of(shape, None), context_of(kind, shape)
    model = model_of(event, context, conditioning=conditioning, resolutions=resolutions, blocks=1 + resolutions % 2)
    x, c = inputs(event, context, 3)
    wanted = model.parameters_of(model.image(x), model.given(c)).detach()
    from smoothgen_pixelcnnpp.samplers import start_cache

    pixels = model.image(x).movedim(1, -1)
    with torch.inference_mode():
        cache: ActivationCache = start_cache(model, Request(torch.zeros_like(pixels), model.given(c)))
        y = model.standardise(model.image(x))
        for row in range(model.image_shape[1]):
            cache.begin_row()
            cache.put_row(y[:, :, row])
            assert torch.allclose(cache.row(), wanted[:, row], atol=1e-10)
            for column in range(model.image_shape[2]):
                assert torch.allclose(cache.pixel(column), wanted[:, row, column], atol=1e-10)
                cache.put(column, y[:, :, row, column])
            cache.end_row()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("levels", [None, 256])
@pytest.mark.parametrize("conditioning", ["aligned", "stack"])
@pytest.mark.parametrize("kind", CONTEXTS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_algorithm_draws_the_same_sample(shape, kind, conditioning, levels, dtype, tolerance):
    event, context = event_of(shape, levels), context_of(kind, shape)
    model = model_of(event, context, dtype=dtype, conditioning=conditioning)
    _, c = inputs(event, context, 4, dtype)
    samples = {}
    for algorithm in ALGORITHMS:
        model.sampler = algorithm
        samples[algorithm] = model.sample(4, c, generator=Generator().manual_seed(1))
    for algorithm, sample in samples.items():
        assert (sample - samples["naive"]).abs().max() <= tolerance, algorithm


def test_samples_do_not_depend_on_how_memory_splits_them(monkeypatch):
    model = model_of(event_of((1, 4, 4), 17))
    whole = model.sample(9, generator=Generator().manual_seed(4))
    monkeypatch.setattr("smoothgen_pixelcnnpp.samplers.MEMORY", 1)
    parts = model.sample(9, generator=Generator().manual_seed(4))
    assert torch.equal(whole, parts)


def test_fixed_points_stop_early_and_never_late():
    event = event_of((1, 6, 6), 17)
    model = model_of(event, noise=0.1)
    request = Request(torch.randn(2, 6, 6, 1, dtype=torch.float64), model.given(None))
    with torch.inference_mode():
        exact = cached(model, request, lambda share: None)
        whole = fixed_point(model, request, lambda share: None)
        rows = fixed_point_rows(model, request, lambda share: None)
    assert whole.passes < exact.passes == 36 and rows.passes <= 36
    assert torch.equal(whole.image, exact.image) and torch.equal(rows.image, exact.image)


@given(seed=st.integers(0, 2**20), blocks=st.integers(1, 2), resolutions=st.integers(1, 3))
def test_a_plain_implementation_agrees(seed, blocks, resolutions):
    torch.manual_seed(seed)
    event = event_of((2, 8, 12), None)
    model = model_of(event, blocks=blocks, resolutions=resolutions)
    x = torch.randn(2, 2, 8, 12, dtype=torch.float64)
    plain = PlainPixelCNNPP(model.network).double()
    assert torch.allclose(plain(x), model.network(x).movedim(1, -1), atol=1e-12)


def test_data_dependent_initialisation_gives_every_layer_spread_one():
    event = event_of((1, 8, 8), None)
    x = torch.randn(64, 1, 8, 8) * 3.0 + 5.0
    model = PixelCNNPPConfig(filters=8, blocks=1, components=2).build(event)
    model.initialize(x)
    spreads = []
    for name, module in model.network.named_modules():
        if name.endswith("conv_in"):
            module.register_forward_hook(lambda m, i, o: spreads.append(o.detach().std((0, 2, 3), correction=0)))
    model.log_prob(x)
    assert torch.cat(spreads).mean().item() == pytest.approx(1.0, abs=0.15)
    assert model.log_prob(x).isfinite().all()


def test_constant_images_initialise_to_finite_weights():
    event = event_of((1, 6, 6), 256)
    model = PixelCNNPPConfig(filters=8, blocks=1, components=2).build(event)
    model.initialize(torch.full((16, 1, 6, 6), -1.0))
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert model.log_prob(torch.full((2, 1, 6, 6), -1.0)).isfinite().all()


@pytest.mark.parametrize("sampler", ["compiled", "cached"])
@pytest.mark.parametrize(("conditioning", "gain"), [("aligned", 5.0), ("stack", 1.0)])
def test_completion_with_particles_follows_the_models_conditional(conditioning, gain, sampler):
    """All 3^4 images by enumeration; what is known comes after what is not, so that one particle must miss."""
    shape = (1, 2, 2)
    event, context = event_of(shape, 3), context_of("both", shape)
    model = model_of(event, context, noise=1.0, conditioning=conditioning, resolutions=2, sampler=sampler)
    with torch.no_grad():
        model.network.out.gain.mul_(gain)  # pixels that depend strongly on each other
    images = torch.tensor(list(itertools.product([-1.0, 0.0, 1.0], repeat=4)), dtype=torch.float64).reshape(-1, *shape)
    c = inputs(event, context, 1)[1]
    log_prob = model.log_prob(images, c.expand(len(images), -1)).detach()
    assert log_prob.exp().sum() == pytest.approx(1.0, abs=1e-9)
    known = torch.tensor([[[False, False], [True, True]]])
    by_rows = log_prob.exp().reshape(9, 9)  # what is unknown, what is known
    posterior = by_rows / by_rows.sum(0)
    distance = 0.5 * (posterior - by_rows.sum(1, keepdim=True)).abs().sum(0)
    told = int(torch.where(by_rows.sum(0) > 0.005, distance, 0.0).argmax())  # the second row that tells most
    x, fits = images[told], torch.arange(81) % 9 == told
    exact = posterior[:, told]

    def drawn(count: int, groups: int) -> tuple[Tensor, Particles]:
        particles = Particles(groups, count, x, generator=Generator().manual_seed(3))
        generator, rows = Generator().manual_seed(1), groups * count
        done = model.complete(
            x.expand(rows, *shape).contiguous(), known, c.expand(rows, -1), particles=particles, generator=generator
        )
        chosen = done[particles.choose(generator)]
        counts = [(chosen == image).flatten(1).all(1).double().mean() for image in images[fits]]
        return torch.stack(counts), particles

    many, particles = drawn(64, 3000)
    few, _ = drawn(1, 3000)
    error = (exact * (1 - exact) / 3000).sqrt()
    assert ((many - exact).abs() < 4.5 * error + 0.01).all()
    assert ((few - exact).abs() > 6 * error + 0.02).any()
    evidence = particles.log_evidence.exp()
    truth = log_prob[fits].exp().sum()
    assert abs(evidence.mean() - truth) < 5 * evidence.std() / len(evidence) ** 0.5


def test_known_pixels_are_kept_by_every_algorithm():
    event = event_of((3, 4, 5), 256)
    model = model_of(event)
    x, _ = inputs(event, None, 2)
    known = torch.rand(2, 3, 4, 5, generator=Generator().manual_seed(0)) < 0.5  # single channels too
    done = []
    for algorithm in ALGORITHMS:
        model.sampler = algorithm
        done.append(model.complete(x, known, generator=Generator().manual_seed(6)))
        assert torch.equal(done[-1][known], x[known])
        assert torch.equal(done[-1], done[0])
    assert not torch.equal(done[0], x)
