"""Cached sampling of PixelCNN++ against naive sampling with the same weights, interleaved, one thread.

python tests/benchmarks/pixelcnn_sampling.py --out tests/benchmarks/results/pixelcnn_sampling.json

Two naive baselines, neither sampling more than the pixel in question: a plain PyTorch implementation
(tests/plain_pixelcnnpp.py) and our own network. Both are timed over a few whole forward passes and multiplied by the
number of pixels, as they all cost the same. Conditional sampling (p(x | x_tilde), `aligned` and `stack`) is compared
with the plain implementation on x_tilde stacked above x. CPU seconds; the medians of interleaved rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Generator

sys.path.insert(0, str(Path(__file__).parents[1]))
from plain_pixelcnnpp import PlainPixelCNNPP

from smoothgen.event import ContextSpec, EventSpec
from smoothgen_pixelcnnpp.pixelcnnpp import PixelCNNPP, PixelCNNPPConfig
from smoothgen_pixelcnnpp.samplers import Request, fixed_point, fixed_point_rows


def seconds(work: Callable[[], object]) -> float:
    """CPU seconds of one call."""
    began = time.process_time()
    work()
    return time.process_time() - began


def head_share(model: PixelCNNPP, sample: Callable[[], object]) -> float:
    """Which part of sampling is spent on the pixels' distributions."""
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


@torch.no_grad()
def measure(
    shape: tuple[int, int, int], filters: int, batch: int, conditioning: str | None, rounds: int
) -> dict[str, Any]:
    """One row of the table."""
    torch.manual_seed(0)
    context = None if conditioning is None else ContextSpec(noisy_copy=shape)
    event = EventSpec(shape=shape) if conditioning is None else EventSpec(shape=shape, low=-1.0, high=1.0, levels=256)
    model = PixelCNNPPConfig(filters=filters, conditioning=conditioning or "aligned").build(event, context).eval()
    assert isinstance(model, PixelCNNPP)
    plain = PlainPixelCNNPP(model.network)
    rows = 2 * shape[1] if conditioning else shape[1]
    stacked = torch.randn(batch, shape[0], rows, shape[2])
    given = torch.randn(batch, *shape) if context else None
    image = torch.randn(batch, *shape)

    def cached() -> torch.Tensor:
        return model.sample(batch, given, generator=Generator().manual_seed(0))

    times: dict[str, list[float]] = {"cached": [], "plain forward": [], "own forward": []}
    for _ in range(rounds):
        times["plain forward"].append(seconds(lambda: plain(stacked)))
        times["cached"].append(seconds(cached))
        times["own forward"].append(seconds(lambda: model.parameters_of(image, model.given(given))))
    medians = {name: statistics.median(values) for name, values in times.items()}
    pixels = shape[1] * shape[2]
    return {
        "shape": shape,
        "filters": filters,
        "batch": batch,
        "conditioning": conditioning or "none",
        "cached_seconds": medians["cached"],
        "naive_plain_seconds": pixels * medians["plain forward"],
        "naive_own_seconds": pixels * medians["own forward"],
        "ratio_plain": pixels * medians["plain forward"] / medians["cached"],
        "ratio_own": pixels * medians["own forward"] / medians["cached"],
        "spread": (max(times["cached"]) - min(times["cached"])) / medians["cached"],
        "head_share": head_share(model, cached),
        "rounds": rounds,
    }


@torch.no_grad()
def check(filters: int) -> dict[str, float]:
    """How far the algorithms are from each other on every pixel of one sample, and how many passes they took."""
    torch.manual_seed(0)
    model = PixelCNNPPConfig(filters=filters).build(EventSpec(shape=(1, 28, 28))).eval()
    assert isinstance(model, PixelCNNPP)
    generator = Generator().manual_seed(0)
    whole = model.sample(1, generator=generator)
    replay = model.parameters_of(whole, model.given(None))
    from smoothgen.logistic_mixture import logit_uniform

    logit_u = logit_uniform((1, 28, 28, 1), model.unit, Generator().manual_seed(0))
    again = model.pixel.draw(logit_u, replay, model.shift, model.unit).movedim(-1, 1)
    request = Request(logit_u, model.given(None))
    iterated, by_rows = (f(model, request, lambda share: None) for f in (fixed_point, fixed_point_rows))
    return {
        "replay": (again - whole).abs().max().item(),
        "fixed_point": (iterated.image.movedim(-1, 1) - whole).abs().max().item(),
        "fixed_point_rows": (by_rows.image.movedim(-1, 1) - whole).abs().max().item(),
        "fixed_point_passes": iterated.passes,
        "fixed_point_row_passes": by_rows.passes,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--conditioning", nargs="+", default=["none", "aligned", "stack"])
    parser.add_argument("--large", action="store_true", help="also 160 filters on 3 x 32 x 32, batches 1 and 8")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cases = [((1, 28, 28), 40, b, c) for c in arguments.conditioning for b in arguments.batches]
    cases += [((3, 32, 32), 160, b, "none") for b in (1, 8)] if arguments.large else []
    rows = []
    for shape, filters, batch, conditioning in cases:
        rounds = arguments.rounds if batch < 64 else max(2, arguments.rounds // 2)
        rows.append(measure(shape, filters, batch, None if conditioning == "none" else conditioning, rounds))
        row = rows[-1]
        print(
            f"{filters} filters {shape} B{batch:<3} {conditioning:8} cached {row['cached_seconds']:.3f} s "
            f"(± {100 * row['spread']:.0f} %), naive plain x{row['ratio_plain']:.0f}, own x{row['ratio_own']:.0f}, "
            f"head {100 * row['head_share']:.0f} %",
            flush=True,
        )
    result = {
        "torch": torch.__version__,
        "machine": platform.processor() or platform.machine(),
        "threads": 1,
        "load": os.getloadavg()[0],
        "rows": rows,
        "equality": check(40),
    }
    print(result["equality"])
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
