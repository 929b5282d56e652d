"""How cost grows with a size, against the law expected: the exponent between the largest sizes, and the times."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable

import torch
from plane import MADE
from timing import Row, Rows, Settings, Work, interleaved
from torch import Generator

from smoothgen.config import load_config
from smoothgen.event import EventSpec
from smoothgen.experiment import assemble
from smoothgen_made.made import MADEConfig
from smoothgen_pixelcnnpp.pixelcnnpp import PixelCNNPPConfig


def pixelcnn_step(side: int, filters: int, batch: int, settings: Settings) -> Work:
    torch.manual_seed(0)
    model = PixelCNNPPConfig(filters=filters, blocks=2).build(EventSpec(shape=(1, side, side))).to(settings.device)
    x = torch.randn(batch, 1, side, side, device=settings.device)
    return lambda: (-model.log_prob(x).mean()).backward()


def pixelcnn_sample(side: int, filters: int, batch: int, settings: Settings) -> Work:
    torch.manual_seed(0)
    model = (
        PixelCNNPPConfig(filters=filters, blocks=2).build(EventSpec(shape=(1, side, side))).to(settings.device).eval()
    )
    return lambda: model.sample(batch, generator=Generator(settings.device).manual_seed(0))


def made_step(dimensions: int, settings: Settings) -> Work:
    torch.manual_seed(0)
    model = MADEConfig(hidden=(256, 256)).build(EventSpec(shape=(dimensions,))).to(settings.device)
    x = torch.randn(256, dimensions, device=settings.device)
    return lambda: (-model.log_prob(x).mean()).backward()


def made_sample(dimensions: int, settings: Settings) -> Work:
    torch.manual_seed(0)
    model = MADEConfig(hidden=(256, 256)).build(EventSpec(shape=(dimensions,))).to(settings.device).eval()
    return lambda: model.sample(256, generator=Generator(settings.device).manual_seed(0))


def weighted_bound(draws: int, settings: Settings) -> Work:
    config = load_config(MADE | {"inverter": {"type": "conditional", "density": MADE["density"]}})
    source = config.data.build()
    _, model, _ = assemble(config, source)
    model.to(settings.device).eval()
    x = source.split("test").x[:100].to(settings.device)
    generator = Generator(settings.device).manual_seed(0)
    return lambda: model.likelihood_at(x, importance_samples=draws, generator=generator)


def grown(name: str, law: float, sizes: list[int], work: Callable[[int], Work], settings: Settings) -> Row:
    """law: the exponent expected where the arithmetic rules."""
    times = interleaved({str(size): work(size) for size in sizes}, settings, settings.fewer(5))
    medians = [statistics.median(times[str(size)]) for size in sizes]
    exponent = math.log(medians[-1] / medians[-2]) / math.log(sizes[-1] / sizes[-2])
    notes = {"sizes": sizes, "seconds": medians, "expected exponent": law, "unit": "exponent"}
    return Row("growth", name, exponent, notes=notes)


def rows(settings: Settings) -> Rows:
    if settings.quick:
        yield grown("PixelCNN++ step, image side", 2.0, [4, 8], lambda s: pixelcnn_step(s, 8, 2, settings), settings)
        yield grown("importance-weighted bound, K", 1.0, [1, 10], lambda k: weighted_bound(k, settings), settings)
        return
    sides, filters, batches = [8, 16, 32, 64], [16, 32, 64, 128], [1, 4, 16, 64]
    yield grown("PixelCNN++ step, image side", 2.0, sides, lambda s: pixelcnn_step(s, 32, 4, settings), settings)
    yield grown("PixelCNN++ step, filters", 2.0, filters, lambda n: pixelcnn_step(16, n, 4, settings), settings)
    yield grown("PixelCNN++ step, batch", 1.0, batches, lambda b: pixelcnn_step(16, 32, b, settings), settings)
    yield grown("PixelCNN++ sampling, image side", 2.0, sides, lambda s: pixelcnn_sample(s, 32, 4, settings), settings)
    yield grown("PixelCNN++ sampling, filters", 2.0, filters, lambda n: pixelcnn_sample(16, n, 4, settings), settings)
    yield grown("PixelCNN++ sampling, batch", 1.0, batches, lambda b: pixelcnn_sample(16, 32, b, settings), settings)
    dimensions = [2, 16, 128, 1024]
    yield grown("MADE step, dimension", 1.0, dimensions, lambda d: made_step(d, settings), settings)
    # every coordinate runs the hidden layers once more, on D inputs
    yield grown("MADE sampling, dimension", 2.0, dimensions[:3], lambda d: made_sample(d, settings), settings)
    yield grown(
        "importance-weighted bound, K", 1.0, [1, 10, 100, 1000], lambda k: weighted_bound(k, settings), settings
    )
