"""Many files read as one long array."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from smoothgen.errors import DataError
from smoothgen.regular_file import is_regular
from smoothgen.tables import ENDINGS, Table
from smoothgen_datasets.row_files import RowFile


def find_files(path: Path) -> list[Path]:
    """The files that a path means: itself, those of a folder, or those that fit a pattern, in natural order.

    Of a folder, its own files with an ending known here, without what begins with a dot. Raises DataError where there
    are none, or of several endings.
    """
    if os.path.isdir(path):
        found = [each for each in path.iterdir() if each.suffix.lower() in ENDINGS and not each.name.startswith(".")]
        if not found:
            deeper = any(map(Path.is_dir, path.iterdir()))
            remedy = f"for those of subfolders, set path to {path}/**/*.npy" if deeper else "put some there"
            raise DataError(f"{path} is a folder without {', '.join(ENDINGS)} files; {remedy}")
    elif glob.has_magic(str(path)) and not os.path.exists(path):
        found = [Path(each) for each in glob.glob(str(path), recursive=True)]
        found = [each for each in found if is_regular(each)]
        if not found:
            raise DataError(f"{path}: no file fits this pattern; mend it, or put files there")
    else:
        return [path]
    endings = sorted({each.suffix.lower() for each in found})
    if len(endings) > 1:
        raise DataError(
            f"{path} means files of {', '.join(endings)}, which may hold the same examples; choose one: "
            f"{path if path.is_dir() else path.parent}/*{endings[0]}"
        )
    return sorted(found, key=natural_order)


def natural_order(path: Path) -> tuple[list[tuple[int, str]], str]:
    """Sorts numbers in names by value: part-2 before part-10."""
    pieces = re.split(r"(\d+)", str(path))
    return [(int(piece), "") if index % 2 else (-1, piece) for index, piece in enumerate(pieces)], str(path)


class Shards:
    """The rows of some files, one file after the other, as one array. Files may differ in how many rows they hold.

    shape, dtype, names: of a row, the same in every file. Raises DataError where a file differs from the first.
    """

    def __init__(self, files: Sequence[RowFile]) -> None:
        self.files = list(files)
        first = self.files[0]
        for other in self.files[1:]:
            if (other.shape, other.dtype) != (first.shape, first.dtype):
                raise DataError(
                    f"{other.path}: rows of shape {other.shape} and type {other.dtype}, but those of {first.path} have "
                    f"shape {first.shape} and type {first.dtype}; make them alike, or move the file away"
                )
            if other.names != first.names:
                raise DataError(
                    f"{other.path}: columns {', '.join(other.names) or 'without names'}, but those of {first.path} are "
                    f"{', '.join(first.names) or 'without names'}; make them alike, or move the file away"
                )
        self.starts = np.cumsum([0, *(file.count for file in self.files)])

    def __len__(self) -> int:
        return int(self.starts[-1])

    @property
    def row_bytes(self) -> int:
        """Of one row, in memory."""
        first = self.files[0]
        return int(np.prod(first.shape, dtype=np.int64)) * first.dtype.itemsize

    @property
    def total_bytes(self) -> int:
        """Of the files."""
        return sum(file.stamp.size for file in self.files)

    def tables(self, rows: np.ndarray) -> Iterator[Table]:
        """The rows with these numbers, ascending, a table for each file that holds some. Raises DataError."""
        which = np.searchsorted(self.starts, rows, side="right") - 1
        edges = np.flatnonzero(np.diff(which, prepend=-1))
        for begin, end in zip(edges, [*edges[1:], len(rows)], strict=True):
            number = int(which[begin])
            yield self.files[number].table(rows[begin:end] - self.starts[number])
