"""CIFAR-10 in its binary version: 32 x 32 colour images of ten classes."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, NonNegativeInt

from smoothgen.data_source import DataSource, DataSourceConfig
from smoothgen.errors import DataError
from smoothgen.limits import YAML_BYTES
from smoothgen.regular_file import read_bytes
from smoothgen_datasets.files import DataPath, PromisedFile, damage, locate
from smoothgen_datasets.pixels import DataWarning, Pixels, PixelSource, hold_out

SHAPE = (3, 32, 32)
RECORD = 1 + 3 * 32 * 32
"""A label, then the red, the green and the blue plane, each row by row."""
RECORDS = 10_000
MOST_RECORDS = 10 * RECORDS
TRAIN = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
TEST = "test_batch.bin"
LOSSY = "test_batch.lossy_indices.txt"
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


class CIFAR10Config(DataSourceConfig):
    """CIFAR-10, from the six files of its binary version. Source: Krizhevsky 2009; cs.toronto.edu/~kriz/cifar.html.

    path: the folder of the files, gzipped or not. labels: condition on the class, one-hot.
    validation_examples: how many images from the end of the last training batch are kept for validation.
    most: train on the first so many images only.
    lossy: what to do with test images that test_batch.lossy_indices.txt, if it is there, lists as copies with losses:
    "drop" leaves them out of the test split, "keep" keeps them.
    """

    type: Literal["cifar10"] = "cifar10"
    path: DataPath
    labels: bool = False
    validation_examples: NonNegativeInt = 5000
    most: Annotated[int, Field(ge=2)] | None = None
    lossy: Literal["drop", "keep"] = "drop"

    def build(self) -> DataSource:
        paths = _locate(self.path)
        batches = [_read(paths[name]) for name in TRAIN]
        whole = Pixels(
            np.concatenate([batch.images for batch in batches]), np.concatenate([batch.labels for batch in batches])
        )
        train, validation = hold_out(whole, self.validation_examples, self.most, str(self.path))
        test, notes = _without_lossy(_read(paths[TEST]), paths[TEST], self.lossy)
        classes = CLASSES if self.labels else ()
        return PixelSource(
            SHAPE, {"train": lambda: train, "validation": lambda: validation, "test": lambda: test}, classes, notes
        )


def _locate(folder: Path) -> dict[str, Path]:
    """The six files. Raises DataError, and says so where the pickled version lies instead."""
    try:
        return locate(folder, (*TRAIN, TEST), lambda name: (name, f"{name}.gz"))
    except DataError:
        pickled = [folder / "data_batch_1", folder / "cifar-10-batches-py"]
        found = next((path for path in pickled if path.exists()), None)
        if found is None:
            raise
        raise DataError(
            f"{found} is the python version of CIFAR-10: its batches are pickled, and unpickling runs whatever code a "
            "file holds; put the binary version's files there (cifar-10-binary.tar.gz, data_batch_1.bin and so on)"
        ) from None


def _read(path: Path) -> Pixels:
    """Images and labels of one batch, gzipped or not."""
    with PromisedFile(path) as file:
        data = file.up_to(MOST_RECORDS * RECORD)
    count, rest = divmod(len(data), RECORD)
    if rest or not count:
        raise DataError(
            f"{path}: {len(data)} bytes are no multiple of {RECORD} (a label and 3 x 32 x 32 pixels); "
            "it is cut short or no batch of CIFAR-10's binary version"
        )
    records = np.frombuffer(data, np.uint8).reshape(count, RECORD)
    wrong = np.flatnonzero(records[:, 0] >= len(CLASSES))
    if len(wrong):
        raise DataError(
            f"{path}: label {records[wrong[0], 0]} of record {wrong[0]} (the first is 0) is none of 0 to 9; "
            "it is no batch of CIFAR-10's binary version"
        )
    if count != RECORDS:
        warnings.warn(f"{path}: {count} records; the published batch has {RECORDS}", DataWarning, stacklevel=2)
    return Pixels(np.ascontiguousarray(records[:, 1:]).reshape(count, *SHAPE), records[:, 0])


def _without_lossy(test: Pixels, path: Path, lossy: Literal["drop", "keep"]) -> tuple[Pixels, tuple[str, ...]]:
    """The test images to measure on, and the note about those that are copies with losses."""
    listing = path.parent / LOSSY
    if not listing.exists():
        return test, ()
    indices = read_indices(listing, len(test))
    if lossy == "keep":
        return test, (f"{listing}: {len(indices)} of {len(test)} test images are copies with losses, and are kept",)
    note = f"{listing}: {len(indices)} of {len(test)} test images are copies with losses, and are left out"
    return test.rows(np.setdiff1d(np.arange(len(test)), indices)), (note,)


def read_indices(path: Path, count: int) -> np.ndarray:
    """The numbers in a text file, one a line, each from 0 to count - 1; a line may be a comment that begins with #.

    Raises DataError with the first line that is neither.
    """
    indices = set()
    with damage(path):
        lines = read_bytes(path, YAML_BYTES).decode("utf-8", errors="replace").splitlines()
    for number, line in enumerate(lines, start=1):
        text = line.partition("#")[0].strip()
        if text and not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) < count):
            raise DataError(f"{path}: line {number}: {text!r:.40} is no index from 0 to {count - 1}; mend that line")
        if text:
            indices.add(int(text))
    return np.array(sorted(indices), dtype=np.int64)
