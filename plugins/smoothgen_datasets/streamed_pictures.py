"""Pictures that stay in their files: decoded by several threads when a batch asks for them, some of them kept."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from smoothgen.data_source import DataSource, Examples, Split, SplitName
from smoothgen.errors import DataError
from smoothgen_datasets.memory import refuse_beyond_memory
from smoothgen_datasets.pictures import CHANNELS, Mode, Size, read_pixels
from smoothgen_datasets.pixels import Pixels, pixel_event
from smoothgen_datasets.stamp import Stamp

THREADS = min(8, os.cpu_count() or 1)
"""Pillow decodes without Python's lock, so threads share the work."""


class KeptPictures:
    """Decoded pictures, up to a number of bytes. What came first stays: an epoch asks for every picture once, in random
    order, so that one picture is as good as another, and those used last are the last to come again."""

    def __init__(self, most: int) -> None:
        self._room = most
        self._kept: dict[int, np.ndarray] = {}
        self._lock = Lock()

    def get(self, number: int) -> np.ndarray | None:
        """(C, H, W), uint8, if it is kept."""
        return self._kept.get(number)

    def offer(self, number: int, pixels: np.ndarray) -> None:
        """Keeps the picture if there is room for it."""
        with self._lock:
            if number not in self._kept and pixels.nbytes <= self._room:
                self._room -= pixels.nbytes
                self._kept[number] = pixels.copy()


class StreamedPictures(Examples):
    """Some pictures, each decoded when it is asked for. labels: (n,) classes, or (0,); classes: how many there are.

    A picture that is damaged, or has changed since its header was read, is a DataError that names it.
    """

    streamed: ClassVar[bool] = True

    def __init__(
        self,
        paths: Sequence[Path],
        stamps: Sequence[Stamp],
        labels: np.ndarray,
        classes: int,
        mode: Mode,
        size: Size,
        keep: int,
    ) -> None:
        self.paths, self.stamps, self.labels, self.classes = list(paths), list(stamps), labels, classes
        self.mode, self.size = mode, size
        self._kept = KeptPictures(keep)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="smoothgen-decode")

    def __len__(self) -> int:
        return len(self.paths)

    def rows(self, which: Tensor) -> Split:
        numbers, places = np.unique(which.cpu().numpy(), return_inverse=True)
        images = np.empty((len(numbers), CHANNELS[self.mode], *self.size), dtype=np.uint8)
        missing = []
        for index, number in enumerate(numbers.tolist()):
            kept = self._kept.get(number)
            if kept is None:
                missing.append((index, number))
            else:
                images[index] = kept
        decoded = self._threads.map(self._decode, [number for _, number in missing])
        for (index, number), pixels in zip(missing, decoded, strict=True):
            images[index] = pixels
            self._kept.offer(number, images[index])
        labels = self.labels[numbers] if len(self.labels) else self.labels
        return Pixels(images, labels).split(self.classes).rows(torch.from_numpy(places))

    def sketch(self, most: int) -> Split:
        return self.spread(most)

    def _decode(self, number: int) -> np.ndarray:
        path, stamp = self.paths[number], self.stamps[number]
        stamp.check(path)
        return read_pixels(path, self.mode, self.size)


class StreamedPictureSource(DataSource):
    """Images (C, H, W) that are decoded when they are asked for. classes: what the one-hot context means, or empty."""

    def __init__(
        self, shape: tuple[int, ...], parts: Mapping[SplitName, StreamedPictures], classes: tuple[str, ...] = ()
    ) -> None:
        super().__init__(pixel_event(shape))
        self.features, self.classes = len(classes), classes
        self._parts = dict(parts)

    def examples(self, name: SplitName) -> StreamedPictures:
        """The pictures of a split, in their files. Raises DataError where it has none."""
        part = self._parts[name]
        if not len(part):
            raise DataError(f"the {name} split is empty; keep images for it in the keys of data")
        return part

    def split(self, name: SplitName) -> Split:
        """The pictures of a split, in memory. Raises DataError where it has none, or memory could not hold them."""
        examples = self.examples(name)
        refuse_beyond_memory(name, examples, self.event)
        return examples.first(len(examples))
