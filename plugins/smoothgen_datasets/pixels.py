"""8-bit images: the one rule that maps bytes to [-1, 1], and a data source that keeps them as bytes."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from smoothgen.data_source import DataSource, Split, SplitName
from smoothgen.errors import DataError, SmoothgenWarning
from smoothgen.event import EventSpec


class DataWarning(SmoothgenWarning):
    """Data that can be used, but are not quite what their name says."""


def from_bytes(pixels: Tensor) -> Tensor:
    """uint8 k -> k / 127.5 - 1 on [-1, 1], the nearest float32: 2 k - 255 is exact, so only the division rounds."""
    return pixels.to(torch.float32).mul_(2.0).sub_(255.0).div_(255.0)


def pixel_event(shape: tuple[int, ...]) -> EventSpec:
    """What `from_bytes` makes of images of this shape: 256 levels from -1 to 1."""
    return EventSpec(shape=shape, low=-1.0, high=1.0, levels=256)


@dataclass(frozen=True)
class Pixels:
    """images (n, C, H, W), uint8; labels (n,), the class of each as an integer, or (0,) where none were read."""

    images: np.ndarray
    labels: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.uint8))

    def __len__(self) -> int:
        return len(self.images)

    def rows(self, which: slice | np.ndarray) -> Pixels:
        """Some of the images."""
        return Pixels(self.images[which], self.labels[which] if len(self.labels) else self.labels)

    def split(self, classes: int) -> Split:
        """The images on [-1, 1], with their labels one-hot, (n, classes), if there are classes."""
        context = F.one_hot(torch.from_numpy(self.labels.astype(np.int64)), classes).float() if classes else None
        return Split(from_bytes(torch.from_numpy(self.images)), context)


class PixelSource(DataSource):
    """Images that stay bytes, a quarter of their float32, until a split is asked for.

    shape: (C, H, W). parts: what reads each split, called once, when it is first asked for.
    classes: what the labels mean, in the order of the one-hot context; empty without labels.
    notes: what a reader of results should know of these data, for example what was left out.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        parts: Mapping[SplitName, Callable[[], Pixels]],
        classes: tuple[str, ...] = (),
        notes: tuple[str, ...] = (),
    ) -> None:
        super().__init__(pixel_event(shape))
        self.features = len(classes)
        self.classes, self.notes = classes, notes
        self._parts = {name: cache(read) for name, read in parts.items()}
        for note in notes:
            warnings.warn(note, DataWarning, stacklevel=2)

    def split(self, name: SplitName) -> Split:
        """The images of a split. Raises DataError where it has none."""
        pixels = self._parts[name]()
        if not len(pixels):
            raise DataError(f"the {name} split is empty; keep images for it in the keys of data")
        return pixels.split(self.features)


def hold_out(whole: Pixels, count: int, most: int | None, where: str) -> tuple[Pixels, Pixels]:
    """(training images, the last `count` for validation): published sets come shuffled, so their end is a fair sample.

    most: how many of the training images to keep, the first ones. Raises DataError if fewer than two are left.
    """
    left = len(whole) - count
    if left < 2:
        raise DataError(
            f"{where}: {len(whole)} images and validation_examples {count} leave {max(left, 0)} to train on; "
            "it needs at least 2"
        )
    return whole.rows(slice(0, left if most is None else min(left, most))), whole.rows(slice(left, None))
