"""Single-step denoising by the whole score against the truncated one, and by p(x | x_tilde), of a trained run.

python tests/benchmarks/denoising.py RUN --images 500

Mean squared error per value, in the model's coordinates, on noisy test images; standard errors over images.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import smoothgen
from smoothgen.likelihood import standard_error
from smoothgen.run_directory import RunDirectory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="+")
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results = [measure(run, arguments.images) for run in arguments.run]
    if arguments.out:
        arguments.out.write_text(json.dumps(results, indent=2) + "\n")


def measure(run: Path, images: int) -> dict[str, Any]:
    """The errors of one run."""
    config, model = RunDirectory(run).stored_config(), smoothgen.load(run)
    x = config.data.build().split("test").x[:images]
    noisy = model.smooth(x, generator=torch.Generator().manual_seed(1))
    denoised = {
        "noise itself": noisy,
        "whole score": model.denoise(noisy, method="single-step"),
        "truncated score": model.denoise(noisy, method="single-step", score="causal"),
        "draw from p(x | x_tilde)": model.denoise(noisy, generator=torch.Generator().manual_seed(2)),
    }
    errors = {name: (value - x).square().flatten(1).mean(1).double() for name, value in denoised.items()}
    result: dict[str, Any] = {
        "run": run.name,
        "seed": config.seed,
        "images": len(x),
        "sigma": model.kernel.sigma.item(),
    }
    result |= {name: {"mse": e.mean().item(), "stderr": standard_error(e)} for name, e in errors.items()}
    result["truncated / whole"] = _ratio(errors["truncated score"], errors["whole score"])
    for name, value in result.items():
        print(f"{name}: {value}")
    return result


def _ratio(a: Tensor, b: Tensor) -> dict[str, float]:
    """Ratio of two means over the same images, with its standard error (delta method)."""
    ratio = (a.mean() / b.mean()).item()
    return {"ratio": ratio, "stderr": standard_error((a - ratio * b) / b.mean())}


if __name__ == "__main__":
    main()
