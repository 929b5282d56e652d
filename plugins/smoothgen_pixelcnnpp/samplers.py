"""Five ways to the same samples, from the same uniforms: naive, cached, cached in C, and two fixed-point iterations."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from smoothgen.native import NativeError, NativeWarning
from smoothgen.progress import report
from smoothgen_pixelcnnpp.cache import ActivationCache
from smoothgen_pixelcnnpp.compiled_rows import CompiledRows, compiled_library
from smoothgen_pixelcnnpp.head import Pinned
from smoothgen_pixelcnnpp.network import Tape

if TYPE_CHECKING:
    from smoothgen_pixelcnnpp.pixelcnnpp import PixelCNNPP

Algorithm = Literal["compiled", "cached", "naive", "fixed-point", "fixed-point-rows"]
MEMORY = 1 << 30
"""Bytes that sampling may take for activations; more images than fit are sampled one part after the other."""


class Given(NamedTuple):
    """What a context gives the network: x_tilde to stack above x, and what the blocks add."""

    above: Tensor | None
    added: list[tuple[Tensor, ...]] | None
    shifted: list[tuple[Tensor, ...]] | None


class Request(NamedTuple):
    """logit_u (n, H, W, C): one uniform for each value. pinned: values that are known already, the same shape."""

    logit_u: Tensor
    given: Given
    pinned: Pinned | None = None


class Sampled(NamedTuple):
    """image (n, H, W, C); passes: how many times a row, or the whole image, was computed."""

    image: Tensor
    passes: int


AfterRow = Callable[[int, Tensor, Tensor], Tensor | None]
"""Called after a row with its number, its pixels (n, W, C) and its raw parameters (n, W, size): image r goes on as a
copy of image answer[r], or every image as itself where the answer is None."""


def images_at_once(model: PixelCNNPP, algorithm: Algorithm | None = None) -> int:
    """How many images fit into `MEMORY`, by this algorithm, or in a forward pass without gradients where None.

    Counted in activations: `area` is the number of blocks of a stream, each times the pixels of its resolution.
    """
    _, height, width = model.image_shape
    area, filters = 0, model.network.filters
    for level, count in enumerate(model.network.counts):
        area += sum(count) * (-(-height >> level)) * (-(-width >> level))
    numbers = (2 if model.stacked else 1) * (6 * area + 20 * height * width)
    if algorithm in ("compiled", "cached", "fixed-point-rows"):
        numbers = 25 * (area // height + width) + (10 * area if model.stacked else 0)
    if model.encoder is not None:
        numbers += 4 * area
    return max(1, MEMORY // (numbers * filters * model.unit.element_size()))


def sample_images(
    model: PixelCNNPP, algorithm: Algorithm, request: Request, done: tuple[float, float] = (0.0, 1.0)
) -> Sampled:
    """Draws a batch of images. done: from which to which share of the whole work this batch goes."""
    functions = {
        "naive": naive,
        "cached": cached,
        "compiled": compiled_where_possible,
        "fixed-point": fixed_point,
        "fixed-point-rows": fixed_point_rows,
    }

    def tell(share: float) -> None:
        report(done[0] + (done[1] - done[0]) * share)

    with torch.inference_mode():
        image, passes = functions[algorithm](model, request, tell)
    return Sampled(image.clone(), passes)


def weighed_images(model: PixelCNNPP, request: Request, after_row: AfterRow) -> Tensor:
    """Draws images (n, H, W, C) of which `after_row` chooses those that go on. Always cached, and all at once."""
    function = compiled_where_possible if model.sampler == "compiled" else cached
    with torch.inference_mode():
        image = function(model, request, report, after_row).image
    return image.clone()


def naive(model: PixelCNNPP, request: Request, tell: Callable[[float], None]) -> Sampled:
    """The whole network for every pixel."""
    image, height, width = _empty(request)
    for row in range(height):
        for column in range(width):
            raw = model.parameters_of(image.movedim(-1, 1), request.given)[:, row, column]
            image[:, row, column] = _draw(model, request, raw, (slice(None), row, column))
        tell((row + 1) / height)
    return Sampled(image, height * width)


def cached(
    model: PixelCNNPP, request: Request, tell: Callable[[float], None], after_row: AfterRow | None = None
) -> Sampled:
    """Every activation once, pixel by pixel."""
    image, height, width = _empty(request)
    cache = start_cache(model, request)
    for row in range(height):
        cache.begin_row()
        raws = []
        for column in range(width):
            raw = cache.pixel(column)
            x = _draw(model, request, raw, (slice(None), row, column))
            image[:, row, column] = x
            cache.put(column, (x - model.shift) / model.unit)
            if after_row is not None:
                raws.append(raw)
        cache.end_row()
        ancestors = None if after_row is None else after_row(row, image[:, row], torch.stack(raws, 1))
        if ancestors is not None:
            image[:, : row + 1] = image[ancestors, : row + 1]
            cache.reindex(ancestors)
        tell((row + 1) / height)
    return Sampled(image, height * width)


def fixed_point(model: PixelCNNPP, request: Request, tell: Callable[[float], None]) -> Sampled:
    """All pixels at once from the last iterate, until nothing changes: exact after at most H W passes.

    Every pass settles at least the first pixel that was not settled; with the uniforms held fixed there is one fixed
    point, the sample. Source: Song et al. 2021 (arXiv 2002.03629).
    """
    image, height, width = _empty(request)
    for passes in range(1, height * width + 2):
        raw = model.parameters_of(image.movedim(-1, 1), request.given)
        new = _draw(model, request, raw, (slice(None),))
        settled = not _changed(model, image, new)
        image = new
        tell(passes / (height * width))
        if settled:
            break
    tell(1.0)
    return Sampled(image, passes)


def fixed_point_rows(model: PixelCNNPP, request: Request, tell: Callable[[float], None]) -> Sampled:
    """Row by row, each iterated until it no longer changes; the rows above are cached. At most W passes a row."""
    image, height, width = _empty(request)
    cache = start_cache(model, request)
    passes = 0
    for row in range(height):
        cache.begin_row()
        if row:
            image[:, row] = image[:, row - 1]  # a better start than nothing
        for _ in range(width + 1):
            cache.put_row(model.standardise(image[:, row].movedim(-1, 1).unsqueeze(2)).squeeze(2))
            new = _draw(model, request, cache.row(), (slice(None), row))
            passes += 1
            settled = not _changed(model, image[:, row], new)
            image[:, row] = new
            if settled:
                break
        cache.end_row()
        tell((row + 1) / height)
    return Sampled(image, passes)


def compiled_where_possible(
    model: PixelCNNPP, request: Request, tell: Callable[[float], None], after_row: AfterRow | None = None
) -> Sampled:
    """`compiled` on the CPU, and `cached` elsewhere, or with a warning where C cannot be compiled."""
    if request.logit_u.device.type != "cpu":
        return cached(model, request, tell, after_row)
    try:
        compiled_library(request.logit_u.dtype)
    except NativeError as error:
        warnings.warn(
            f"pixelcnnpp: sampling without compiled code, two to six times as long: {error} "
            "(sampler: cached does so without this warning)",
            NativeWarning,
            stacklevel=2,
        )
        return cached(model, request, tell, after_row)
    return compiled(model, request, tell, after_row)


def compiled(
    model: PixelCNNPP, request: Request, tell: Callable[[float], None], after_row: AfterRow | None = None
) -> Sampled:
    """As `cached`, with rows drawn in C."""
    height, width = request.logit_u.shape[1:3]
    cache = start_cache(model, request, twice=False)
    rows = CompiledRows(cache, model.pixel, model.shift, model.unit, request.logit_u)

    def after(row: int, raws: Tensor | None) -> None:
        ancestors = None if after_row is None or raws is None else after_row(row, rows.image[:, row], raws)
        if ancestors is not None:
            rows.image[:, : row + 1] = rows.image[ancestors, : row + 1]
            cache.reindex(ancestors)
        tell((row + 1) / height)

    return Sampled(rows.draw(request.pinned, after_row is not None, after), height * width)


def start_cache(model: PixelCNNPP, request: Request, twice: bool | None = None) -> ActivationCache:
    """The cache before the first row of x; with x_tilde stacked above, after one parallel pass over it."""
    given = request.given
    cache = ActivationCache(model.network, len(request.logit_u), model.image_shape[2], twice)
    cache.set_context(given.added, given.shifted)
    if given.above is not None:
        height = given.above.shape[2]
        kept = Tape()
        rest = -height % (1 << (model.network.resolutions - 1))
        padded = F.pad(given.above, (0, 0, 0, rest))
        model.network(padded, given.added, given.shifted, kept)
        cache.prime(kept, height)
    return cache


def _draw(model: PixelCNNPP, request: Request, raw: Tensor, where: tuple[slice | int, ...]) -> Tensor:
    pinned = request.pinned
    here = None if pinned is None else Pinned(pinned.values[where], pinned.known[where])
    return model.pixel.draw(request.logit_u[where], raw, model.shift, model.unit, here)


def _changed(model: PixelCNNPP, old: Tensor, new: Tensor) -> bool:
    """Whether any value moved: at all where values are levels, otherwise by more than rounding."""
    tolerance = 0.0 if model.pixel.discretized else 16.0 * torch.finfo(new.dtype).eps
    return bool(((new - old).abs() > tolerance * (old.abs() + model.unit)).any())


def _empty(request: Request) -> tuple[Tensor, int, int]:
    _, height, width, _ = request.logit_u.shape
    return torch.zeros_like(request.logit_u), height, width
