"""Files opened without waiting for them: a pipe, a device or a folder in place of a file is refused."""

from __future__ import annotations

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path

from smoothgen.limits import Limit


def home_expanded(path: Path) -> Path:
    """The path with a leading ~ replaced; left as it is where there is no such home."""
    try:
        return path.expanduser()
    except RuntimeError:
        return path


def is_regular(path: Path) -> bool:
    """Whether a file is there, of any path: too long ones and ones that no file system can hold are none."""
    return os.path.isfile(path)


def open_regular(path: Path) -> BufferedReader:
    """The file, open for reading bytes. Raises OSError, also for what is no regular file, without blocking on it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except ValueError as error:  # a NUL, or a character that the file system cannot encode
        raise OSError(errno.EINVAL, "the path holds a character that no file name can hold") from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "is a folder, a pipe or a device, not a regular file")
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_bytes(path: Path, limit: Limit) -> bytes:
    """The file's content, of at most `limit` bytes; no more is read. Raises OSError."""
    most = limit.value
    with open_regular(path) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, f"has {limit.excess(len(content))}")
    return content
