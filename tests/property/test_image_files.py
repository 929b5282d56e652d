"""Any bytes in an image file are read or refused in one line; whatever is read lies on the 256 levels."""

from __future__ import annotations

import functools
import gzip
import io
import struct
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from smoothgen.data_source import DataSourceConfig
from smoothgen.errors import DataError
from smoothgen_datasets.cifar10 import CIFAR10Config
from smoothgen_datasets.idx import MNISTConfig
from smoothgen_datasets.images import ImagesConfig
from smoothgen_datasets.pixels import DataWarning

RANDOM = np.random.default_rng(0)
FORMATS = {".png": "PNG", ".jpg": "JPEG", ".bmp": "BMP", ".webp": "WEBP", ".gif": "GIF", ".ppm": "PPM"}


@functools.cache
def idx(count: int) -> bytes:
    header = bytes([0, 0, 8, 3]) + struct.pack(">3I", count, 28, 28)
    return header + RANDOM.integers(0, 256, count * 784, dtype=np.uint8).tobytes()


@functools.cache
def batch(count: int) -> bytes:
    records = RANDOM.integers(0, 256, (count, 3073), dtype=np.uint8)
    records[:, 0] %= 10
    return records.tobytes()


@functools.cache
def picture(ending: str, shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(RANDOM.integers(0, 256, (9, 7, 3), dtype=np.uint8) // 2 + shade).save(buffer, FORMATS[ending])
    return buffer.getvalue()


def files(kind: str) -> dict[str, bytes]:
    """A folder of the kind: content by name; the first is the one to damage."""
    if kind in FORMATS:
        return {f"{index}{kind}": picture(kind, index) for index in range(3)}
    pack = gzip.compress if kind.endswith(".gz") else bytes
    ending = ".gz" if kind.endswith(".gz") else ""
    if kind.startswith("mnist"):
        return {f"{part}-images-idx3-ubyte{ending}": pack(idx(4)) for part in ("train", "t10k")}
    return {f"{name}.bin{ending}": pack(batch(2)) for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")}


def config_of(kind: str, folder: Path) -> DataSourceConfig:
    if kind in FORMATS:
        return ImagesConfig(path=folder, validation_fraction=0.0, test_fraction=0.0)
    cls = MNISTConfig if kind.startswith("mnist") else CIFAR10Config
    return cls(path=folder, validation_examples=1)


def assert_read_or_refused(kind: str, content: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        everything = files(kind)
        first = next(iter(everything))
        for file, data in (everything | {first: content}).items():
            (folder / file).write_bytes(data)
        message = str(folder)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DataWarning)
            try:
                source = config_of(kind, folder).build()
                source.event.check(source.split("train").x)
            except DataError as error:
                message = str(error)
        assert "\n" not in message and str(folder) in message


KINDS = ["mnist", "mnist.gz", "cifar10", "cifar10.gz", *FORMATS]


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_damaged_files_are_read_or_refused(kind, data):
    """A byte of a good file changed, or its end cut off, or more behind it."""
    whole = bytearray(next(iter(files(kind).values())))
    position = data.draw(st.integers(0, min(len(whole), data.draw(st.sampled_from([40, len(whole)]))) - 1))
    change = data.draw(st.sampled_from(["byte", "cut", "longer"]))
    if change == "byte":
        whole[position] = data.draw(st.integers(0, 255))
    elif change == "cut":
        del whole[position:]
    else:
        whole += data.draw(st.binary(min_size=1, max_size=20))
    assert_read_or_refused(kind, bytes(whole))


@pytest.mark.parametrize("kind", KINDS)
@given(content=st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(kind, content):
    assert_read_or_refused(kind, content)
