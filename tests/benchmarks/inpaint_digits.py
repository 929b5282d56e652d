"""What particles do for inpainted digits: python tests/benchmarks/inpaint_digits.py RUN (of `smoothgen train digits`).

Half of each test image is drawn anew. A support vector machine trained on the training images (0.995 on whole test
images) then reads the completed digits; the second number is the mean squared error of the drawn pixels.
"""

from __future__ import annotations

import sys
import time

import torch
from sklearn.datasets import load_digits
from sklearn.svm import SVC
from torch import Generator, Tensor

import smoothgen

LABELS = dict(zip(map(tuple, load_digits().data.astype(int).tolist()), load_digits().target.tolist(), strict=True))


def labels(x: Tensor) -> list[int]:
    """The digit of every image; no two images of different digits are equal."""
    return [LABELS[tuple(row)] for row in ((x.flatten(1) + 1.0) * 8.0).round().int().tolist()]


def main(run: str) -> None:
    model = smoothgen.load(run)
    source = smoothgen.load_config("digits").data.build()
    train, test = source.split("train").x, source.split("test").x[:200]
    reader = SVC().fit(train.flatten(1).numpy(), labels(train))
    truth = labels(test)
    for name, known_rows in (("bottom half known", slice(4, 8)), ("top half known", slice(0, 4))):
        known = torch.zeros(model.event_shape, dtype=torch.bool)
        known.view(8, 8)[known_rows] = True
        for particles, noise_draws in ((1, 1), (16, 1), (64, 1), (16, 4)):
            start, read, error = time.perf_counter(), [], []
            for seed in range(3):
                x = model.inpaint(
                    test,
                    known,
                    particles=particles,
                    noise_draws=noise_draws,
                    generator=Generator().manual_seed(seed),
                )
                read.append(reader.score(x.flatten(1).numpy(), truth))
                error.append((x - test)[:, ~known].square().mean().item())
            seconds = (time.perf_counter() - start) / 3.0
            print(
                f"{name}, particles {particles}, noise draws {noise_draws}: read right {sum(read) / 3:.3f}, "
                f"squared error {sum(error) / 3:.3f}, {seconds:.1f} s",
                flush=True,
            )


if __name__ == "__main__":
    main(sys.argv[1])
