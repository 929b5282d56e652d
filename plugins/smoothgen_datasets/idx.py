"""MNIST and what is distributed like it: images and labels in idx files."""

from __future__ import annotations

import hashlib
import math
import warnings
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, NonNegativeInt

from smoothgen.data_source import DataSource, DataSourceConfig
from smoothgen.errors import DataError
from smoothgen_datasets.files import DataPath, PromisedFile, locate
from smoothgen_datasets.pixels import DataWarning, Pixels, PixelSource, hold_out

SIDE = 28
MOST_BYTES = 1 << 30
"""More than any set of this kind has (EMNIST's largest file has 547 MB), and little enough to hold."""
CLASSES = {
    "mnist": tuple("0123456789"),
    "fashion-mnist": (
        "t-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
    ),
}  # fmt: skip
CHECKSUMS: dict[str, dict[str, tuple[str, str | None]]] = {
    "mnist": {
        "train-images-idx3-ubyte": (
            "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        ),
        "train-labels-idx1-ubyte": (
            "d53e105ee54ea40749a09fcbcd1e9432",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        ),
        "t10k-images-idx3-ubyte": (
            "9fb629c4189551a2d022fa330f9573f3",
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        ),
        "t10k-labels-idx1-ubyte": (
            "ec29112dd5afa0611ce80d1b7f02629c",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
    },
    "fashion-mnist": {
        "train-images-idx3-ubyte": ("8d4fb7e6c68d591d4c3dfef9ec88bf0d", None),
        "train-labels-idx1-ubyte": (
            "25c81989df183df01b3e8a0aad5dffbe",
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        ),
        "t10k-images-idx3-ubyte": ("bef4ecab320f06d8554ea6380940ec79", None),
        "t10k-labels-idx1-ubyte": (
            "bb300cfdad3c16e7a12a480ee83cd310",
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ),
    },
}
"""(MD5 of the gzipped file, as published; SHA-256 of what is in it, computed from files with that MD5, or None)."""


class MNISTConfig(DataSourceConfig):
    """28 x 28 grey images of ten classes, from the four idx files of MNIST, Fashion-MNIST or a set in their format.

    path: the folder of the files, gzipped or not. variant: whose checksums and class names they have.
    labels: condition on the class, one-hot; without it the files of labels need not be there.
    validation_examples: how many images from the end of the training file are kept for validation.
    most: train on the first so many images only.
    check: compare the files with the published ones: "auto" warns of a difference, true refuses it.
    """

    type: Literal["mnist"] = "mnist"
    path: DataPath
    variant: Literal["mnist", "fashion-mnist"] = "mnist"
    labels: bool = False
    validation_examples: NonNegativeInt = 5000
    most: Annotated[int, Field(ge=2)] | None = None
    check: bool | Literal["auto"] = "auto"

    def build(self) -> DataSource:
        kinds = ("images-idx3", "labels-idx1") if self.labels else ("images-idx3",)
        names = [f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in kinds]
        paths = locate(self.path, names, _alternatives)
        whole, test = (_read(self, paths, part) for part in ("train", "t10k"))
        where = str(paths["train-images-idx3-ubyte"])
        train, validation = hold_out(whole, self.validation_examples, self.most, where)
        classes = CLASSES[self.variant] if self.labels else ()
        return PixelSource(
            (1, SIDE, SIDE), {"train": lambda: train, "validation": lambda: validation, "test": lambda: test}, classes
        )


def _alternatives(name: str) -> tuple[str, ...]:
    """Unpacked before packed; some programs write train-images.idx3-ubyte."""
    dotted = name.replace("-idx", ".idx")
    return name, dotted, f"{name}.gz", f"{dotted}.gz"


def _read(config: MNISTConfig, paths: dict[str, Path], part: str) -> Pixels:
    """The images and labels of one part, checked against one another."""
    name = f"{part}-images-idx3-ubyte"
    images = read_idx(paths[name], (SIDE, SIDE))
    _compare(config, name, paths[name], images)
    if not config.labels:
        return Pixels(images[:, None])
    name = f"{part}-labels-idx1-ubyte"
    path = paths[name]
    labels = read_idx(path, ())
    _compare(config, name, path, labels)
    if len(labels) != len(images):
        raise DataError(f"{path}: {len(labels)} labels for the {len(images)} images of {part}; take both from one set")
    wrong = np.flatnonzero(labels >= len(CLASSES[config.variant]))
    if len(wrong):
        raise DataError(
            f"{path}: label {labels[wrong[0]]} of image {wrong[0]} (the first is 0) is none of 0 to 9; "
            "use a set of ten classes, or labels: false"
        )
    return Pixels(images[:, None], labels)


def read_idx(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """The array (n, *shape), uint8, of an idx file, gzipped or not; only as long as its header promises.

    The header is two zero bytes, a type (8 for unsigned bytes), the number of axes, and their lengths as big-endian
    32-bit integers. Raises DataError. Source: LeCun et al., the description of the idx format on MNIST's page.
    """
    axes = 1 + len(shape)
    with PromisedFile(path) as file:
        header = file.read(4 + 4 * axes)
        magic = header[:4]
        if len(magic) == 4 and magic != bytes([0, 0, 8, axes]):
            raise DataError(
                f"{path}: begins with {magic.hex()}, expected {bytes([0, 0, 8, axes]).hex()} (an idx file of unsigned "
                f"bytes with {axes} axes); it is another file, or in another format"
            )
        if len(header) < 4 + 4 * axes:
            raise DataError(f"{path}: {len(header)} bytes are no idx header of {axes} axes; it is cut short")
        count, *rest = (int(size) for size in np.frombuffer(header, ">u4", offset=4))
        if tuple(rest) != shape or count == 0:
            wanted = " x ".join(map(str, ("n", *shape)))
            raise DataError(f"{path}: holds {' x '.join(map(str, (count, *rest)))} bytes, expected {wanted}")
        total = count * math.prod(shape)
        if total > MOST_BYTES:
            raise DataError(f"{path}: its header promises {total} bytes, more than the {MOST_BYTES} that are read")
        return file.fill(total).reshape(count, *shape)


def _compare(config: MNISTConfig, name: str, path: Path, values: np.ndarray) -> None:
    """Compares what was read with the published file: its contents where their sum is known, else the packed file."""
    if config.check is False:
        return
    packed_sum, contents_sum = CHECKSUMS[config.variant][name]
    if contents_sum is not None:
        same = _sum_of_contents(values) == contents_sum
        problem = "its contents differ from those of the published file"
    else:
        with path.open("rb") as file:
            same = hashlib.file_digest(file, _md5).hexdigest() == packed_sum
        problem = "differs from the published .gz file; a copy that was unpacked or packed again may be right even so"
    if not same and config.check is True:
        raise DataError(f"{path}: {problem}; get the {config.variant} file of that name, or set check: auto")
    if not same:
        warnings.warn(
            f"{path}: {problem}; if it is not meant to be {config.variant}, set check: false", DataWarning, stacklevel=2
        )


def _sum_of_contents(values: np.ndarray) -> str:
    """SHA-256 of the unpacked idx file that holds these bytes."""
    digest = hashlib.sha256(bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes())
    digest.update(values.data)
    return digest.hexdigest()


def _md5() -> Any:
    """MD5 as a checksum, which systems that forbid it for security allow."""
    return hashlib.md5(usedforsecurity=False)
