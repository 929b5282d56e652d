"""Exact sampling of PixelCNN++ against naive sampling with the same weights.

Naive: a whole forward pass of the plain network for every pixel, without its sampler, timed over a few passes and
multiplied by the number of pixels, as they all cost the same. For p(x | x_tilde) it runs on x_tilde above x.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch
from pixelcnn import PlainPixelCNNPP, Shape, operations
from timing import Row, Rows, Settings, compared, interleaved
from torch import Generator, Tensor

from smoothgen.event import ContextSpec, EventSpec
from smoothgen.logistic_mixture import logit_uniform
from smoothgen_pixelcnnpp import samplers
from smoothgen_pixelcnnpp.pixelcnnpp import PixelCNNPP, PixelCNNPPConfig
from smoothgen_pixelcnnpp.samplers import Request

GOALS = {1: (100, 350), 16: (400, 700), 64: (600, 850)}


def built(shape: Shape, filters: int, conditioning: str | None, settings: Settings) -> PixelCNNPP:
    """p(x) continuous, p(x | x_tilde) over 256 levels, as in the two stages of an image model."""
    torch.manual_seed(0)
    context = None if conditioning is None else ContextSpec(noisy_copy=shape)
    event = EventSpec(shape=shape) if conditioning is None else EventSpec(shape=shape, low=-1.0, high=1.0, levels=256)
    model = PixelCNNPPConfig(filters=filters, conditioning=conditioning or "aligned").build(event, context).eval()
    assert isinstance(model, PixelCNNPP)
    return model.to(settings.device)


def head_share(model: PixelCNNPP, sample: Any) -> float:
    """Which part of sampling in torch is spent on the pixels' distributions."""
    draw, spent = model.pixel.draw, 0.0

    def timed(*arguments: Any) -> Any:
        nonlocal spent
        began = time.perf_counter()
        result = draw(*arguments)
        spent += time.perf_counter() - began
        return result

    model.pixel.draw = timed  # type: ignore[method-assign]
    began = time.perf_counter()
    sample()
    whole = time.perf_counter() - began
    model.pixel.draw = draw  # type: ignore[method-assign]
    return spent / whole


def head_seconds(model: PixelCNNPP, batch: int, settings: Settings) -> float:
    """CPU seconds of drawing all pixels in C: sampling with the head's work doubled, less sampling.

    The C loop cannot be stopped between network and head, so a second model whose network has one block of one filter
    is sampled: nearly all that it does is draw.
    """
    config = PixelCNNPPConfig(filters=1, blocks=1, resolutions=1, components=model.pixel.components)
    head = config.build(model.event).eval()
    channels, height, width = model.image_shape
    assert isinstance(head, PixelCNNPP)
    with torch.inference_mode():
        logit_u = logit_uniform((batch, height, width, channels), head.unit)
        request = Request(logit_u, head.given(None))
        times = interleaved({"head": lambda: samplers.compiled(head, request, lambda share: None)}, settings)
    return statistics.median(times["head"])


@torch.no_grad()
def measured(shape: Shape, filters: int, batch: int, conditioning: str | None, goals: Any, settings: Settings) -> Rows:
    model = built(shape, filters, conditioning, settings)
    plain = PlainPixelCNNPP(model.network).to(settings.device)
    height = 2 * shape[1] if conditioning else shape[1]
    stacked = torch.randn(batch, shape[0], height, shape[2], device=settings.device)
    given = torch.randn(batch, *shape, device=settings.device) if conditioning else None

    def sample() -> Tensor:
        generator = Generator(settings.device).manual_seed(0)
        return model.sample(batch, given, generator=generator)

    def in_torch() -> Tensor:
        before, model.sampler = model.sampler, "cached"
        drawn = sample()
        model.sampler = before
        return drawn

    contenders = {"ours": sample, "baseline": lambda: plain(stacked), "in torch": in_torch}
    times = interleaved(contenders, settings, settings.fewer(3 if batch >= 64 or filters > 100 else 5))
    name = f"{filters} filters {shape[0]}x{shape[1]}x{shape[2]} B{batch}"
    name += "" if conditioning is None else f", given x_tilde ({conditioning})"
    pixels = float(shape[1] * shape[2])
    row = compared("sampling", name, times, least=goals[0], aim=goals[1], baseline_scale=pixels)
    row.notes["in torch"] = compared("", "", times, ours="in torch", baseline_scale=pixels).ratio
    row.notes["head in torch"] = head_share(model, in_torch)
    row.notes["gflops"] = batch * operations(model, *shape[1:]) / row.ours / 1e9
    if settings.device.type == "cpu" and conditioning is None:
        row.notes["head"] = head_seconds(model, batch, settings) / row.ours
    yield row


@torch.no_grad()
def equality(settings: Settings, filters: int, shape: Shape) -> Rows:
    """How far the algorithms' samples are from naive sampling's parameters replayed, and how many passes they took."""
    model = built(shape, filters, None, settings)
    generator = Generator(settings.device).manual_seed(0)
    logit_u = logit_uniform((1, shape[1], shape[2], shape[0]), model.unit, generator)
    request = Request(logit_u, model.given(None))

    def tell(share: float) -> None:
        del share

    with torch.inference_mode():
        drawn = {
            name: getattr(samplers, name)(model, request, tell)
            for name in ("compiled_where_possible", "cached", "fixed_point", "fixed_point_rows")
        }
        whole = drawn["compiled_where_possible"].image
        raw = model.parameters_of(whole.movedim(-1, 1), request.given)
        replay = model.pixel.draw(logit_u, raw, model.shift, model.unit)
    notes: dict[str, Any] = {"unit": "units of x"} | {
        f"{name} off": (s.image - replay).abs().max().item() for name, s in drawn.items()
    }
    notes |= {f"{name} passes": s.passes for name, s in drawn.items()}
    yield Row(
        "sampling",
        f"{filters} filters, largest difference from the replay",
        max(notes[f"{name} off"] for name in drawn),
        notes=notes,
    )


def rows(settings: Settings) -> Rows:
    if settings.quick:
        yield from equality(settings, 4, (1, 6, 6))
        for conditioning in (None, "aligned", "stack"):
            yield from measured((1, 8, 8), 8, 2, conditioning, GOALS[1], settings)
        return
    yield from equality(settings, 40, (1, 28, 28))
    for conditioning in (None, "aligned", "stack"):
        for batch, goals in GOALS.items():
            yield from measured((1, 28, 28), 40, batch, conditioning, goals, settings)
    for batch, goals in ((1, (150, 350)), (8, (600, 850))):
        yield from measured((3, 32, 32), 160, batch, None, goals, settings)
