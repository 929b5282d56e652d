"""Files of published data sets: where they are, gzipped or not, and no more bytes of them than were promised."""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import AfterValidator

from smoothgen.errors import DataError
from smoothgen.regular_file import home_expanded, is_regular, open_regular

DataPath = Annotated[Path, AfterValidator(lambda path: home_expanded(path).absolute())]
"""Absolute from the start, so that a run finds its data again from anywhere."""
GZIP_MAGIC = b"\x1f\x8b"
GZIP_RATIO = 1032
"""No gzip file holds more than this many bytes for each of its own. Source: zlib's technical details, "Maximum
Compression Factor"."""


def locate(folder: Path, names: Iterable[str], alternatives: Callable[[str], tuple[str, ...]]) -> dict[str, Path]:
    """The path of every named file in the folder, under the first of its alternative names that is there.

    Raises DataError that lists what is missing, and where such files were seen instead.
    """
    names = tuple(names)
    if is_regular(folder):
        raise DataError(f"{folder} is a file; give the folder that holds {', '.join(names)}")
    found = {name: _first(folder, alternatives(name)) for name in names}
    missing = [name for name, path in found.items() if path is None]
    if missing:
        there = os.path.isdir(folder)
        what = f"lacks {', '.join(missing)}; put them" if there else f"does not exist; put {', '.join(names)}"
        near = sorted({path.parent for name in names for other in alternatives(name) for path in _below(folder, other)})
        hint = f"; such files are in {near[0]}: set path to it" if near else ""
        raise DataError(
            f"{folder} {what} there, gzipped or not, or set path to the folder that holds them "
            f"(nothing is downloaded){hint}"
        )
    return {name: path for name, path in found.items() if path is not None}


def _first(folder: Path, names: tuple[str, ...]) -> Path | None:
    return next((folder / name for name in names if is_regular(folder / name)), None)


def _below(folder: Path, name: str) -> list[Path]:
    """The file in folders of the folder, and theirs: where unpacking an archive leaves it."""
    return [path for pattern in (f"*/{name}", f"*/*/{name}") for path in folder.glob(pattern)]


@contextmanager
def damage(path: Path) -> Iterator[None]:
    """Turns what reading a damaged or forbidden file raises into one line that names it."""
    try:
        yield
    except EOFError as error:
        raise DataError(f"{path}: its gzip stream ends early; it is cut short: copy it again") from error
    except (OSError, zlib.error) as error:
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise DataError(f"{path} cannot be read: {reason}; copy it again") from error


class PromisedFile:
    """A file open for reading, gzipped or not (its first bytes tell), that is read no further than asked.

    Damage of any kind is a DataError that names the path. Use as a context manager.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with damage(path):
            self._raw = open_regular(path)
            self.size = os.fstat(self._raw.fileno()).st_size
            self.packed = self._raw.read(2) == GZIP_MAGIC
            self._raw.seek(0)
            self._file: gzip.GzipFile | BufferedReader = gzip.GzipFile(fileobj=self._raw) if self.packed else self._raw
        if self.size == 0:
            self._raw.close()
            raise DataError(f"{path} is empty; copy it again")

    def __enter__(self) -> PromisedFile:
        return self

    def __exit__(self, *reason: object) -> None:
        self._file.close()
        self._raw.close()

    def read(self, count: int) -> bytes:
        """Up to `count` bytes."""
        with damage(self.path):
            return self._file.read(count)

    def up_to(self, most: int) -> bytes:
        """Everything in the file. Raises DataError if that is more than `most` bytes, without reading on."""
        chunks, left = [], most + 1
        while left > 0 and (chunk := self.read(min(left, 1 << 20))):
            chunks.append(chunk)
            left -= len(chunk)
        if left <= 0:
            raise DataError(f"{self.path}: more than {most} bytes; it is another file, or damaged")
        return b"".join(chunks)

    def fill(self, count: int) -> np.ndarray:
        """Exactly `count` bytes, uint8, and the end of the file after them. Looks one byte further, never more.

        Sizes are compared before memory is taken: of a plain file with the file's, of a gzipped one with what gzip can
        hold at all. Raises DataError.
        """
        self._refuse_promise(count)
        values = np.empty(count, dtype=np.uint8)
        view, done = values.data, 0
        with damage(self.path):
            while done < count:
                step = self._file.readinto(view[done : done + (1 << 20)])
                if not step:
                    raise DataError(
                        f"{self.path}: its header promises {count} bytes, {done} follow; it is cut short: copy it again"
                    )
                done += step
            if self._file.read(1):
                raise DataError(
                    f"{self.path}: more than the {count} bytes that its header promises; it is another file or damaged"
                )
        return values

    def _refuse_promise(self, count: int) -> None:
        most = self.size * GZIP_RATIO if self.packed else self.size
        if count > most:
            raise DataError(
                f"{self.path}: its header promises {count} bytes, a file of {self.size} bytes holds {most} at most; "
                "it is cut short or damaged: copy it again"
            )
