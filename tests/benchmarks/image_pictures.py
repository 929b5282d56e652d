"""Pictures of what a trained image run does: denoising and inpainting of test images.

python tests/benchmarks/image_pictures.py RUN --out docs/assets --name mnist
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Generator

import smoothgen
from smoothgen.evaluation.pictures import save_panels
from smoothgen.run_directory import RunDirectory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--images", type=int, default=32)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = smoothgen.load(arguments.run)
    x = RunDirectory(arguments.run).stored_config().data.build().split("test").x[: arguments.images]
    noisy = model.smooth(x, generator=Generator().manual_seed(1))
    denoised = {
        "test image": x,
        "noisy": noisy,
        "draw p(x|x̃)": model.denoise(noisy, generator=Generator().manual_seed(2)),
        "mean E[x|x̃]": model.denoise(noisy, method="single-step"),
        "truncated score": model.denoise(noisy, method="single-step", score="causal"),
    }
    save_panels(arguments.out / f"{arguments.name}-denoising.png", denoised, model.event)
    known = torch.ones(model.event_shape, dtype=torch.bool)
    known[:, model.event_shape[1] // 2 :] = False
    panels = {"test image": x}
    for name, mask in (("lower half", known), ("upper half", ~known)):
        panels[f"{name} hidden"] = torch.where(mask, x, torch.zeros_like(x))
        panels["filled in" if name == "lower half" else "16 particles"] = model.inpaint(
            x, mask, particles=1 if name == "lower half" else 16, generator=Generator().manual_seed(3)
        )
    save_panels(arguments.out / f"{arguments.name}-inpainting.png", panels, model.event)


if __name__ == "__main__":
    main()
