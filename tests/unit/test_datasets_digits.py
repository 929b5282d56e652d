"""scikit-learn's digits: levels, splits, labels."""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits

from smoothgen_datasets.digits import DigitsConfig


def test_digits_are_seventeen_levels_from_minus_one_to_one():
    source = DigitsConfig().build()
    assert (source.event.shape, source.event.low, source.event.high, source.event.levels) == ((1, 8, 8), -1.0, 1.0, 17)
    x = source.split("train").x
    assert x.dtype == torch.float32
    source.event.check(x)
    assert set(source.event.levels_of(x).unique().tolist()) == set(range(17))
    assert source.entropy is None and source.features == 0 and not source.fresh


def test_the_splits_are_all_digits_once_and_the_same_every_time():
    source, again = DigitsConfig().build(), DigitsConfig().build()
    parts = [source.split(name).x for name in ("train", "validation", "test")]
    assert [len(part) for part in parts] == [1297, 200, 300]
    for name, part in zip(("train", "validation", "test"), parts, strict=True):
        assert torch.equal(again.split(name).x, part)

    def as_rows(images: torch.Tensor) -> list[tuple[int, ...]]:
        return sorted(tuple(row) for row in images.reshape(len(images), 64).long().tolist())

    together = as_rows((torch.cat(parts) + 1.0) * 8.0)
    assert together == as_rows(torch.from_numpy(load_digits().images))


def test_labels_are_one_hot_and_belong_to_their_image():
    source = DigitsConfig(labels=True).build()
    assert source.features == 10
    bunch = load_digits()
    label_of = {
        tuple(image.flatten().astype(int)): int(label) for image, label in zip(bunch.images, bunch.target, strict=True)
    }
    for name in ("train", "validation", "test"):
        split = source.split(name)
        assert split.context.shape == (len(split), 10) and split.context.dtype == torch.float32
        assert torch.equal(split.context.sum(1), torch.ones(len(split)))
        images = ((split.x + 1.0) * 8.0).round().long().flatten(1).tolist()
        assert [label_of[tuple(image)] for image in images] == split.context.argmax(1).tolist()
        assert (split.context.sum(0) / len(split) - 0.1).abs().max() < 0.08
