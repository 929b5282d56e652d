"""One file of an array, of which any rows can be read, and from which none are kept."""

from __future__ import annotations

import math
import os
import tempfile
from abc import ABC, abstractmethod
from array import array as compact
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from smoothgen.errors import DataError
from smoothgen.tables import Column, CsvFormat, Table, check_keyless, check_path, csv_rows, read_table
from smoothgen_datasets.layout import NotStreamableError, read_layout
from smoothgen_datasets.pieces import read_pieces
from smoothgen_datasets.stamp import Stamp, vanished

PACKED_AT_ONCE = 2**16
"""Numbers of a csv file that are parsed before they are written down."""


class RowFile(ABC):
    """stamp: of the file when it was opened. count: its rows. shape, dtype: of a row, as in the file.

    names: of the wanted columns, or empty.
    """

    def __init__(self, path: Path, stamp: Stamp, shape: tuple[int, ...], dtype: np.dtype) -> None:
        self.path, self.stamp = path, stamp
        self.count, self.shape = shape[0], shape[1:]
        # as `read_array`: native, and no wider than float64
        self.dtype = dtype.newbyteorder("=") if dtype.itemsize <= 8 else np.dtype(np.float64)
        self.names: tuple[str, ...] = ()

    @abstractmethod
    def table(self, rows: np.ndarray) -> Table:
        """These rows, in ascending order, with the wanted columns. Raises DataError where the file has changed."""


def open_rows(
    path: Path, key: str | None, columns: Sequence[Column] | None, form: CsvFormat, may_load: bool
) -> RowFile:
    """The rows of a file; of arrays, from its headers alone. Raises DataError.

    may_load: keep in memory what is laid out so that single rows cannot be read, instead of refusing it.
    """
    check_path(path)
    stamp = Stamp.of(path)
    if path.suffix.lower() == ".csv":
        check_keyless(path, key)
        return PackedCsv(path, stamp, columns, form)
    try:
        layout = read_layout(path, key, stamp.size)
    except NotStreamableError:
        if not may_load:
            raise
        return LoadedRows(path, stamp, key, columns, form)
    return ArrayRows(path, stamp, layout.shape, layout.dtype, layout.offset, columns)


class ArrayRows(RowFile):
    """Rows that lie one after the other in a file.

    They are read by position, not mapped into memory: where a file gets shorter under a map the process is killed, and
    pages of a map count as the process's own memory.
    """

    def __init__(
        self,
        path: Path,
        stamp: Stamp,
        shape: tuple[int, ...],
        dtype: np.dtype,
        offset: int,
        columns: Sequence[Column] | None,
    ) -> None:
        super().__init__(path, stamp, shape, dtype)
        self._stored, self._offset, self._columns = dtype, offset, columns

    def table(self, rows: np.ndarray) -> Table:
        values = read_rows(self.path, self.stamp, rows, self.shape, self._stored, self._offset)
        self.stamp.check(self.path)
        return Table(self.path, values.astype(self.dtype, copy=False), rows=rows).select(self._columns)


class LoadedRows(RowFile):
    """Rows of a file that has to be read whole: they are kept."""

    def __init__(
        self, path: Path, stamp: Stamp, key: str | None, columns: Sequence[Column] | None, form: CsvFormat
    ) -> None:
        self._whole = read_table(path, key, columns, form)
        super().__init__(path, stamp, self._whole.values.shape, self._whole.values.dtype)

    def table(self, rows: np.ndarray) -> Table:
        return Table(self.path, self._whole.values[rows], self._whole.names, rows=rows)


class PackedCsv(RowFile):
    """The wanted columns of a csv file, written once as float64 to a temporary file that goes with the process."""

    def __init__(self, path: Path, stamp: Stamp, columns: Sequence[Column] | None, form: CsvFormat) -> None:
        self._lines = LineNumbers()
        self._file = tempfile.NamedTemporaryFile(prefix="smoothgen-", suffix=".f64")  # noqa: SIM115
        numbers, first = compact("d"), None
        for row in csv_rows(path, columns, form):
            first = first or row
            self._lines.append(row.line)
            numbers.extend(row.numbers)
            if len(numbers) >= PACKED_AT_ONCE:
                self._write(numbers, path)
                numbers = compact("d")
        self._write(numbers, path)
        self._packed = Path(self._file.name)
        self._packed_stamp = Stamp.of(self._packed)
        assert first is not None  # a file without rows is refused
        super().__init__(path, stamp, (len(self._lines), len(first.numbers)), np.dtype(np.float64))
        stamp.check(path)
        self.names = first.names

    def _write(self, numbers: compact[float], path: Path) -> None:
        try:
            self._file.write(numbers)
            self._file.flush()
        except OSError as error:
            raise DataError(
                f"{path}: its numbers cannot be kept in {tempfile.gettempdir()}: {error.strerror}; make room there, "
                "set TMPDIR to another folder, or convert the file to .npy"
            ) from error

    def table(self, rows: np.ndarray) -> Table:
        values = read_rows(self._packed, self._packed_stamp, rows, self.shape, self.dtype, 0)
        self.stamp.check(self.path)
        return Table(self.path, values, self.names, tuple(self._lines[int(row)] for row in rows), rows)


class LineNumbers:
    """The line of each row of a csv file, kept as the rows where the difference of the two changes."""

    def __init__(self) -> None:
        self._count = 0
        self._rows, self._shifts = compact("q"), compact("q")

    def __len__(self) -> int:
        return self._count

    def append(self, line: int) -> None:
        """The line of the next row."""
        shift = line - self._count
        if not self._shifts or self._shifts[-1] != shift:
            self._rows.append(self._count)
            self._shifts.append(shift)
        self._count += 1

    def __getitem__(self, row: int) -> int:
        return row + self._shifts[bisect_right(self._rows, row) - 1]


def read_rows(
    path: Path, stamp: Stamp, rows: np.ndarray, shape: tuple[int, ...], dtype: np.dtype, offset: int
) -> np.ndarray:
    """Rows of an array that begins `offset` bytes into a file, (k, *shape), as they are stored.

    rows: (k,), ascending. Neighbours are read together. Raises DataError where the file is another one by now.
    """
    size = math.prod(shape) * dtype.itemsize
    first = np.flatnonzero(np.diff(rows, prepend=-2) != 1)
    values = np.empty((len(rows), *shape), dtype)
    try:
        with path.open("rb", buffering=0) as file:
            stamp.compare(Stamp.from_status(os.fstat(file.fileno())), path)
            places, sizes = offset + rows[first] * size, np.diff(first, append=len(rows)) * size
            read = read_pieces(file, places, sizes, values.reshape(-1).view(np.uint8))
    except OSError as error:
        raise vanished(path, error) from error
    if read < values.nbytes:
        row = int(rows[read // size])
        raise DataError(f"{path} ends in row {row} (the first is 0): it was cut short; put it back, then resume")
    return values
