"""Where the rows of an array lie in a .npy, .npz or .safetensors file, from its headers alone."""

from __future__ import annotations

import math
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from smoothgen.arrays import choose_key, members_of, read_header
from smoothgen.documents import parse_json
from smoothgen.errors import DataError
from smoothgen.regular_file import open_regular
from smoothgen.tensor_file import open_tensors

SAFETENSORS = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BOOL": "|b1", "U8": "|u1", "I8": "|i1",
    "I16": "<i2", "U16": "<u2", "I32": "<i4", "U32": "<u4", "I64": "<i8", "U64": "<u8",
}  # fmt: skip
LOCAL_HEADER = 30
"""Bytes of a zip member's own header before its name. Source: PKWARE APPNOTE.TXT 6.3.10, section 4.3.7."""


class NotStreamableError(DataError):
    """An array that lies in its file in no way that single rows can be read from."""


@dataclass(frozen=True)
class Layout:
    """An array (n, ...) in C order, `offset` bytes into a file."""

    shape: tuple[int, ...]
    dtype: np.dtype
    offset: int

    @property
    def row_bytes(self) -> int:
        return math.prod(self.shape[1:]) * self.dtype.itemsize


def read_layout(path: Path, key: str | None, size: int) -> Layout:
    """The layout of the array that `smoothgen.arrays.read_array` would read from a file of `size` bytes.

    Raises NotStreamableError for compressed members and Fortran order, DataError for what is damaged or no numbers.
    """
    finder = {".npy": _npy, ".npz": _npz, ".safetensors": _safetensors}[path.suffix.lower()]
    with _damage(path):
        layout, end = finder(path, key, size)
    if layout.dtype.kind not in "biuf":
        raise DataError(f"{path}: values are of type {layout.dtype}, not numbers; save a numeric array")
    if not layout.shape or not math.prod(layout.shape):
        raise DataError(f"{path}: the array has shape {layout.shape}; it needs at least one example")
    wanted = math.prod(layout.shape) * layout.dtype.itemsize
    if wanted > end - layout.offset:
        raise DataError(
            f"{path}: its header promises {wanted} bytes, {max(0, end - layout.offset)} follow; it is cut short or "
            "damaged"
        )
    return layout


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # damaged bytes make zipfile, numpy's header parser and safetensors raise anything
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise DataError(
            f"{path} cannot be read as {path.suffix}: {reason}; it is damaged, or holds a type that numpy lacks: "
            "write it again as plain numbers"
        ) from error


def _npy(path: Path, key: str | None, size: int) -> tuple[Layout, int]:
    if key is not None:
        raise DataError(f'{path} holds a single array, so key "{key}" cannot be looked up; leave key out')
    with open_regular(path) as file:
        return _npy_stream(file, str(path)), size


def _npz(path: Path, key: str | None, size: int) -> tuple[Layout, int]:
    with open_regular(path) as packed, zipfile.ZipFile(packed) as archive:
        members = members_of(archive, path)
        info = members[choose_key(list(members), key, path)]
    if info.compress_type != zipfile.ZIP_STORED:
        raise NotStreamableError(
            f"{path}: {info.filename} is compressed, so its rows cannot be read one by one; save it with np.savez, or "
            "as .npy, or set stream: never"
        )
    with open_regular(path) as file:
        file.seek(info.header_offset)
        header = file.read(LOCAL_HEADER)
        name, extra = struct.unpack("<HH", header[26:30])
        start = info.header_offset + LOCAL_HEADER + name + extra
        file.seek(start)
        return _npy_stream(file, f"{path}: {info.filename}"), min(size, start + info.file_size)


def _npy_stream(file: IO[bytes], name: str) -> Layout:
    shape, fortran, dtype = read_header(file, name)
    if fortran and len(shape) > 1:
        raise NotStreamableError(
            f"{name} is in Fortran order, so its rows are scattered over the file; save np.ascontiguousarray(x), or "
            "set stream: never"
        )
    return Layout(shape, dtype, file.tell())


def _safetensors(path: Path, key: str | None, size: int) -> tuple[Layout, int]:
    with open_tensors(path, "np") as file:  # checks the header: offsets in order, in the file, of the right length
        name = choose_key(list(file.keys()), key, path)
        tensor = file.get_slice(name)
        shape, kind = tuple(tensor.get_shape()), tensor.get_dtype()
    if kind not in SAFETENSORS:
        raise DataError(f"{path}: numpy lacks the type {kind}; write it again as plain numbers")
    with open_regular(path) as raw:
        (length,) = struct.unpack("<Q", raw.read(8))
        begin, end = parse_json(raw.read(length).decode())[name]["data_offsets"]
    return Layout(shape, np.dtype(SAFETENSORS[kind]), 8 + length + begin), 8 + length + end
