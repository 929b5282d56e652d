"""Pieces of a file, many in one call: in C where there is a compiler, else one after the other."""

from __future__ import annotations

import ctypes
import os
from functools import cache
from io import FileIO
from pathlib import Path

import numpy as np

from smoothgen.native import NativeError, library

DIRECTORY = Path(__file__).parent / "native"


def read_pieces(file: FileIO, places: np.ndarray, sizes: np.ndarray, out: np.ndarray) -> int:
    """Reads sizes[i] bytes from places[i] on, one piece after the other, into out, uint8.

    The system is told of all pieces before it is asked for the first, so that a disk can fetch many at once: six times
    as fast where they are not in memory yet. Returns how many bytes were read before the file ended. Raises OSError.
    """
    native = _native()
    if native is None:
        return read_one_by_one(file, places, sizes, out)
    where, how_many = (np.ascontiguousarray(each, dtype=np.int64) for each in (places, sizes))
    read = int(native.read_pieces(file.fileno(), len(where), where.ctypes.data, how_many.ctypes.data, out.ctypes.data))
    if read < 0:
        raise OSError(-read, os.strerror(-read))
    return read


def read_one_by_one(file: FileIO, places: np.ndarray, sizes: np.ndarray, out: np.ndarray) -> int:
    """The same without compiled code."""
    pieces = list(zip(places.tolist(), sizes.tolist(), strict=True))
    if hasattr(os, "posix_fadvise") and len(pieces) > 1:
        for place, size in pieces:
            os.posix_fadvise(file.fileno(), place, size, os.POSIX_FADV_WILLNEED)
    total = 0
    for place, size in pieces:
        file.seek(place)
        end = total + size
        while total < end:
            step = file.readinto(out.data[total:end])
            if not step:
                return total
            total += step
    return total


@cache
def _native() -> ctypes.CDLL | None:
    try:
        native = library(DIRECTORY, "rows.c")
    except NativeError:
        return None
    native.read_pieces.restype = ctypes.c_int64
    native.read_pieces.argtypes = [ctypes.c_int, ctypes.c_int64, *[ctypes.c_void_p] * 3]
    return native
