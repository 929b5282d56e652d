"""A folder of pictures."""

from __future__ import annotations

import math
import os
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
import torch
from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from smoothgen.data_source import DataSource, DataSourceConfig, SplitName
from smoothgen.errors import DataError
from smoothgen.limits import PICTURE_PIXELS, UNPACKED_BYTES
from smoothgen_datasets.files import DataPath
from smoothgen_datasets.pictures import CHANNELS, ENDINGS, Header, Mode, Size, read_header, read_pixels
from smoothgen_datasets.pixels import DataWarning, Pixels, PixelSource
from smoothgen_datasets.stamp import Stamp
from smoothgen_datasets.streamed_pictures import StreamedPictures, StreamedPictureSource

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
STREAM_FROM = 2**30
"""Bytes of decoded pictures from which on `stream: auto` streams."""
SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")


class ImagesConfig(DataSourceConfig):
    """Pictures of a folder and its subfolders, in the order of their paths.

    path: the folder. labels: condition on the class, one-hot; the class is the subfolder that holds the picture.
    mode: channels; "auto" is the fewest that hold every picture without loss.
    size: (height, width) of the examples; null takes the first picture's.
    resize: what to do with pictures of another size: "refuse" them, or "centre-crop-resize".
    Subfolders called train, validation and test are those splits. Of the rest, or of train, validation_fraction and
    test_fraction are drawn by split_seed. most: train on so many images only, drawn by split_seed too.
    stream: decode pictures when they are needed instead of keeping them in memory; "auto" does so where they take
    1 GiB or more, a byte for each channel of a pixel. keep_mib: how much of the training pictures, decoded, to keep
    then.
    """

    type: Literal["images"] = "images"
    path: DataPath
    labels: bool = False
    mode: Literal["auto", "grey", "rgb", "rgba"] = "auto"
    size: tuple[PositiveInt, PositiveInt] | None = None
    resize: Literal["refuse", "centre-crop-resize"] = "refuse"
    validation_fraction: Fraction = 0.1
    test_fraction: Fraction = 0.1
    split_seed: NonNegativeInt = 0
    most: Annotated[int, Field(ge=2)] | None = None
    stream: Literal["auto", "always", "never"] = "auto"
    keep_mib: NonNegativeInt = 512

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.resize != "refuse" and self.size is None:
            raise ValueError(f"resize {self.resize} needs size: [height, width]")
        held_out = self.validation_fraction + self.test_fraction
        if held_out >= 1.0:
            raise ValueError(
                f"validation_fraction and test_fraction leave {1.0 - held_out:g} of the images to train on"
            )
        return self

    def build(self) -> DataSource:
        found = find_pictures(self.path)
        given = _given(self, found)
        splits = _drawn(self, given)
        used = {path for paths in splits.values() for path in paths}
        headers = {path: read_header(path) for path in found if path in used}
        stamps = {path: Stamp.of(path) for path in used} if self.stream != "never" else {}
        mode, size = _mode(self, headers), _size(self, headers)
        classes = _classes(self, given) if self.labels else ()

        labels = {name: _labels(self, paths, classes) for name, paths in splits.items()}
        shape = (CHANNELS[mode], *size)
        if self.stream == "always" or (self.stream == "auto" and len(used) * math.prod(shape) >= STREAM_FROM):
            parts = {
                name: StreamedPictures(
                    paths,
                    [stamps[path] for path in paths],
                    labels[name],
                    len(classes),
                    mode,
                    size,
                    self.keep_mib * 2**20 if name == "train" else 0,
                )
                for name, paths in splits.items()
            }
            return StreamedPictureSource(shape, parts, classes)

        def read(name: SplitName) -> Pixels:
            return Pixels(_decoded(splits[name], mode, size), labels[name])

        return PixelSource(shape, _readers(read), classes)


def _readers(read: Callable[[SplitName], Pixels]) -> dict[SplitName, Callable[[], Pixels]]:
    """What decodes each split when it is asked for; validation with training, so that what is broken in either is
    found before the training, which would go on without a validation split."""
    once = cache(read)

    def train() -> Pixels:
        once("validation")
        return once("train")

    return {"train": train, "validation": lambda: once("validation"), "test": lambda: once("test")}


def find_pictures(folder: Path) -> list[Path]:
    """Every picture in a folder and below, sorted by its path; what begins with a dot is passed over.

    Raises DataError where there are none, and for links that lead outside or to a folder.
    """
    endings = ", ".join(ENDINGS)
    if not os.path.isdir(folder):
        what = "is a file" if os.path.exists(folder) else "does not exist"
        raise DataError(f"{folder} {what}; set path to a folder with pictures ({endings}) (nothing is downloaded)")
    root = folder.resolve()
    found, others = [], Counter[str]()
    for parent, folders, files in os.walk(folder, onerror=_forbidden):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in folders:
            _refuse_link(Path(parent, name), root)
        for path in (Path(parent, name) for name in files if not name.startswith(".")):
            if path.suffix.lower() in ENDINGS:
                _refuse_link(path, root)
                found.append(path)
            else:
                others[path.suffix.lower() or "no ending"] += 1
    counted = ", ".join(f"{count} of {ending}" for ending, count in others.most_common(3))
    if not found:
        raise DataError(
            f"{folder} holds no pictures ({endings}){f', but files: {counted}' if others else ''}; put some there"
        )
    if others:
        warnings.warn(f"{folder}: files that are no pictures are passed over: {counted}", DataWarning, stacklevel=2)
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def _forbidden(error: OSError) -> None:
    raise DataError(f"{error.filename} cannot be read: {error.strerror}; allow it or remove it") from error


def _refuse_link(path: Path, root: Path) -> None:
    if not path.is_symlink():
        return
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise DataError(f"{path} is a link that leads nowhere; remove it") from error
    if not target.is_relative_to(root):
        raise DataError(f"{path} is a link to {target}, outside {root}; copy it there, or set path to where it leads")
    if target.is_dir():
        raise DataError(f"{path} is a link to the folder {target}, whose pictures would count twice; remove it")


def _given(config: ImagesConfig, paths: Sequence[Path]) -> dict[SplitName, list[Path]]:
    """The pictures of each split's subfolder; all of them under "train" where there are no such folders."""
    folders: list[SplitName] = [name for name in SPLITS if (config.path / name).is_dir()]
    if not folders:
        return {"train": list(paths)}
    if "train" not in folders:
        raise DataError(f"{config.path} has a subfolder {folders[0]} but none called train; add it, or rename that one")
    given = {name: [path for path in paths if path.relative_to(config.path).parts[0] == name] for name in folders}
    outside = next((path for path in paths if path.relative_to(config.path).parts[0] not in given), None)
    if outside is not None:
        raise DataError(f"{outside} lies outside the subfolders {', '.join(SPLITS)}; move it into one of them")
    return given


def _drawn(config: ImagesConfig, given: dict[SplitName, list[Path]]) -> dict[SplitName, list[Path]]:
    """Every split: those that have no subfolder are drawn from the training pictures."""
    whole = given["train"]
    order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(config.split_seed)).tolist()
    parts = dict(given)
    fractions: dict[SplitName, float] = {"validation": config.validation_fraction, "test": config.test_fraction}
    for name, fraction in fractions.items():
        if name not in given:
            count = round(fraction * len(whole))
            parts[name] = [whole[index] for index in sorted(order[:count])]
            order = order[count:]
    if len(order) < 2:
        raise DataError(f"{config.path}: {len(whole)} pictures leave {len(order)} to train on; it needs at least 2")
    parts["train"] = [whole[index] for index in sorted(order[: config.most])]
    return parts


def _mode(config: ImagesConfig, headers: dict[Path, Header]) -> Mode:
    if config.mode != "auto":
        return config.mode
    return max((header.mode for header in headers.values()), key=list(CHANNELS).index)


def _size(config: ImagesConfig, headers: dict[Path, Header]) -> Size:
    """The size of every example. Raises DataError with the first picture of another, unless they are resized."""
    first = next(iter(headers))
    size = config.size or headers[first].size
    if excess := PICTURE_PIXELS.excess(size[0] * size[1]):
        raise DataError(f"data.size {_by(size)} has {size[0] * size[1]} pixels, {excess}; or choose a smaller one")
    if config.resize == "refuse":
        off = [header for header in headers.values() if header.size != size]
        if off:
            whose = "data.size" if config.size else f"the size of {first.relative_to(config.path)}"
            more = f" ({len(off)} such pictures)" if len(off) > 1 else ""
            raise DataError(
                f"{off[0].path} is {_by(off[0].size)} (height x width), expected {_by(size)}, {whose}{more}; "
                f"mend it, or set size: [{size[0]}, {size[1]}] and resize: centre-crop-resize"
            )
    return size


def _by(size: Size) -> str:
    return f"{size[0]} x {size[1]}"


def _class_of(config: ImagesConfig, path: Path) -> str:
    """The subfolder, of the split's folder where there are such, that holds the picture."""
    parts = path.relative_to(config.path).parts
    inner = parts[1:] if (config.path / "train").is_dir() else parts
    if len(inner) < 2:
        raise DataError(f"{path} is in no subfolder, so it has no class; move it into one, or set labels: false")
    return inner[0]


def _classes(config: ImagesConfig, given: dict[SplitName, list[Path]]) -> tuple[str, ...]:
    """The classes, by name. Raises DataError where there is one alone, or another split has one that training lacks."""
    known = sorted({_class_of(config, path) for path in given["train"]})
    if len(known) < 2:
        raise DataError(
            f"{config.path}: labels need two subfolders at least, there is {', '.join(known)}; add them, or set "
            "labels: false"
        )
    for path in (path for paths in given.values() for path in paths):
        if _class_of(config, path) not in known:
            raise DataError(
                f'{path}: no training picture has the class "{_class_of(config, path)}"; there are {", ".join(known)}'
            )
    return tuple(known)


def _labels(config: ImagesConfig, paths: Sequence[Path], classes: tuple[str, ...]) -> np.ndarray:
    """(n,), the class of each picture, or (0,) where there are none."""
    numbers = {name: index for index, name in enumerate(classes)}
    return np.array([numbers[_class_of(config, path)] for path in paths] if classes else [], dtype=np.int64)


def _decoded(paths: Sequence[Path], mode: Mode, size: Size) -> np.ndarray:
    """(n, C, H, W), uint8."""
    wanted = len(paths) * CHANNELS[mode] * size[0] * size[1]
    if excess := UNPACKED_BYTES.excess(wanted):
        raise DataError(f"{len(paths)} pictures of {_by(size)} take {wanted} bytes, {excess}; or take fewer or smaller")
    images = np.empty((len(paths), CHANNELS[mode], *size), dtype=np.uint8)
    for index, path in enumerate(paths):
        images[index] = read_pixels(path, mode, size)
    return images
