"""Arrays in files. Nothing is unpickled, and sizes are checked before memory is taken."""

from __future__ import annotations

import csv
import io
import math
import os
import stat
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from torch import Tensor

from smoothgen.checkpoint import check_writable, write_atomically
from smoothgen.component import nearest
from smoothgen.errors import ConfigError, DataError
from smoothgen.event import EventSpec
from smoothgen.limits import UNPACKED_BYTES
from smoothgen.regular_file import open_regular
from smoothgen.tensor_file import open_tensors

DEFLATE_RATIO = 1032
"""No deflated member holds more than this many bytes for each of its own. Source: zlib's technical details, "Maximum
Compression Factor"."""
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
ENDINGS = (".npy", ".npz", ".safetensors")


def read_array(path: Path, key: str | None = None) -> np.ndarray:
    """The numeric array in a file, by the file's ending. key: which one, in a .npz or .safetensors file of several.

    Raises DataError: what is wrong, where, and what to do.
    """
    readers = {".npy": _read_npy, ".npz": _read_npz, ".safetensors": _read_safetensors}
    reader = readers[path.suffix.lower()]
    if key is not None and reader is _read_npy:
        raise DataError(f'{path} holds a single array, so key "{key}" cannot be looked up; leave key out')
    try:
        values = reader(path, key)
    except DataError:
        raise
    except Exception as error:  # damaged bytes make zipfile, zlib, numpy's header parser and safetensors raise anything
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise DataError(
            f"{path} cannot be read as {path.suffix}: {reason}; it is damaged, or holds a type that numpy lacks: "
            "write it again as plain numbers"
        ) from error
    if values.dtype.kind not in "biuf":
        raise DataError(f"{path}: values are of type {values.dtype}, not numbers; save a numeric array")
    if values.ndim == 0 or values.size == 0:
        raise DataError(f"{path}: the array has shape {values.shape}; it needs at least one example")
    plain = values.dtype.newbyteorder("=") if values.dtype.itemsize <= 8 else np.dtype(np.float64)
    return values.astype(plain, copy=False)


def _read_npy(path: Path, key: str | None) -> np.ndarray:
    with open_regular(path) as file:
        return _checked_npy(file, os.fstat(file.fileno()).st_size, str(path))


def _read_npz(path: Path, key: str | None) -> np.ndarray:
    with open_regular(path) as packed, zipfile.ZipFile(packed) as archive:
        members = members_of(archive, path)
        info = members[choose_key(list(members), key, path)]
        with archive.open(info) as file:
            return _checked_npy(file, info.file_size, f"{path}: {info.filename}")


def members_of(archive: zipfile.ZipFile, path: Path) -> dict[str, zipfile.ZipInfo]:
    """The arrays of a .npz by name. Nothing is unpacked to disk, so a name is never a path; odd ones are refused."""
    members: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        name, kind = info.filename.removesuffix(".npy"), stat.S_IFMT(info.external_attr >> 16)
        most = info.compress_size * (DEFLATE_RATIO if info.compress_type == zipfile.ZIP_DEFLATED else 1)
        problem = (
            "is given twice" if name in members
            else "is no plain name" if ".." in name.split("/") or name.startswith("/") or not name.isprintable()
            else "is a folder, a link or a device" if info.is_dir() or kind not in (0, stat.S_IFREG)
            else "is encrypted" if info.flag_bits & 1
            else "is packed in a way that numpy does not" if info.compress_type not in METHODS
            else f"cannot hold the {info.file_size} bytes it promises" if info.file_size > most
            else UNPACKED_BYTES.excess(info.file_size)
        )  # fmt: skip
        if problem:
            raise DataError(f"{path}: member {info.filename!r:.60} {problem}; write the arrays again with numpy.savez")
        members[name] = info
    return members


def read_header(file: IO[bytes], name: str) -> tuple[tuple[int, ...], bool, np.dtype]:
    """The shape, whether it is in Fortran order, and the type of one .npy stream. Raises DataError for no array."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if dtype.hasobject:
        raise DataError(f"{name} holds Python objects, which only pickle could read; save a numeric array")
    if dtype.itemsize == 0 or len(shape) > 32 or any(type(axis) is not int or axis < 0 for axis in shape):
        raise DataError(
            f"{name}: its header promises shape {shape!r:.80} of {dtype}, which is no array; write it again"
        )
    return shape, fortran, dtype


def _checked_npy(file: IO[bytes], size: int, name: str) -> np.ndarray:
    """Reads one .npy stream of `size` bytes, once its header promises no more than that."""
    shape, fortran, dtype = read_header(file, name)
    wanted = math.prod(shape) * dtype.itemsize
    if wanted > size:
        raise DataError(f"{name}: its header promises {wanted} bytes, the file has {size}; it is cut short or damaged")
    data = file.read(wanted)
    if len(data) < wanted:
        raise DataError(f"{name}: {wanted} bytes expected, {len(data)} found; it is cut short")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")


def _read_safetensors(path: Path, key: str | None) -> np.ndarray:
    with open_tensors(path, "np") as file:
        return np.asarray(file.get_tensor(choose_key(list(file.keys()), key, path)))


def choose_key(keys: Sequence[str], key: str | None, path: Path) -> str:
    """Which of a file's arrays is meant. Raises DataError where that is not clear, or it is not there."""
    if key is None and len(keys) == 1:
        return keys[0]
    if key is None:
        raise DataError(f"{path} holds {len(keys)} arrays; choose one with key: {', '.join(keys) or 'none'}")
    if key not in keys:
        raise DataError(f'{path} has no array "{key}"{nearest(key, keys)}; it holds {", ".join(keys)}')
    return key


def check_target(path: Path, arrays: int) -> None:
    """Raises what `write_array` would of a file for so many arrays, before they are made."""
    ending = path.suffix.lower()
    if ending not in (".npy", ".npz", ".csv", ".safetensors", ".png"):
        raise ConfigError(f'{path}: unknown ending "{path.suffix}"; use .npy, .npz, .csv, .safetensors or .png')
    if ending in (".npy", ".csv") and arrays > 1:
        raise ConfigError(f"{path}: a {ending} file holds one array, not {arrays}; use .npz or .safetensors")
    check_writable(path)


def write_array(path: Path, arrays: dict[str, Tensor], event: EventSpec) -> None:
    """Writes named arrays (n, *event_shape), atomically, in the format of the file's ending.

    .npz and .safetensors hold all of them by name; .npy, .csv (a row per example, with a header) and .png (a picture)
    hold one. Raises ConfigError for another ending, or several arrays in a file of one.
    """
    from smoothgen.evaluation.pictures import save_panels

    values = {name: value.detach().cpu() for name, value in arrays.items()}
    ending = path.suffix.lower()
    check_target(path, len(values))
    if ending == ".png":
        save_panels(path, values, event)
    elif ending == ".safetensors":
        from safetensors.torch import save

        write_atomically(path, save({name: value.contiguous() for name, value in values.items()}))
    elif ending in (".npy", ".npz"):
        buffer = io.BytesIO()
        if ending == ".npz":
            named: dict[str, Any] = {name: value.numpy() for name, value in values.items()}
            np.savez(buffer, **named)
        else:
            np.save(buffer, next(iter(values.values())).numpy())
        write_atomically(path, buffer.getvalue())
    else:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(event.names or [f"x{index}" for index in range(event.dimensions)])
        rows = next(iter(values.values())).flatten(1)
        whole = event.levels is not None and bool((rows == rows.round()).all())  # counts are written as such
        writer.writerows((rows.long() if whole else rows).tolist())
        write_atomically(path, text.getvalue().encode())
