"""Safetensors files, opened once their header is known to be of a size that can be parsed."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

from safetensors import safe_open

from smoothgen.limits import JSON_BYTES
from smoothgen.regular_file import open_regular


def open_tensors(path: Path, framework: str) -> Any:
    """`safetensors.safe_open` of a regular file whose header is short enough.

    The library checks the rest: that tensors lie inside the file, one after the other, and fit their shapes.
    Raises OSError, ValueError, SafetensorError.
    """
    with open_regular(path) as file:
        start = file.read(8)
    if len(start) < 8:
        raise ValueError(f"{len(start)} bytes are no safetensors file; it is cut short")
    (length,) = struct.unpack("<Q", start)
    if excess := JSON_BYTES.excess(length):
        raise ValueError(f"its header promises {length} bytes, {excess}")
    return safe_open(path, framework)
