"""Tables and arrays from files: csv with the columns that are wanted, every other format by `arrays`."""

from __future__ import annotations

import contextlib
import csv
import io
import os
from array import array as compact
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from smoothgen.arrays import ENDINGS as ARRAY_ENDINGS
from smoothgen.arrays import read_array
from smoothgen.component import nearest
from smoothgen.errors import DataError
from smoothgen.regular_file import home_expanded, is_regular, open_regular

Column = str | int
ENDINGS = (*ARRAY_ENDINGS, ".csv")


@dataclass(frozen=True)
class Table:
    """values (n, ...), numeric; names of the columns, or empty; lines: where in the file each row is, or empty.

    rows: which of the file's rows these are, (n,) integers; None for all, from the first.
    """

    path: Path
    values: np.ndarray
    names: tuple[str, ...] = ()
    lines: tuple[int, ...] = ()
    rows: np.ndarray | None = None

    def where(self, index: tuple[int, ...]) -> str:
        """How a person finds the value values[index] in the file."""
        row, *coordinate = index
        number = row if self.rows is None else int(self.rows[row])
        place = f"row {self.lines[row]}" if self.lines else f"row {number} (the first is 0)"
        if not coordinate:
            return place
        return f"{place}, {column_name(self.names, tuple(coordinate))}"

    def select(self, columns: Sequence[Column] | None) -> Table:
        """Some columns of a table (n, D), by name or number; all where None. Raises DataError."""
        if columns is None:
            return self
        if self.values.ndim != 2:
            raise DataError(
                f"{self.path}: columns can be chosen from a table (n, D), not from shape {self.values.shape}"
            )
        return self.take(choose(columns, self.names, self.values.shape[1], self.path))

    def take(self, columns: list[int]) -> Table:
        """The columns with these numbers."""
        names = tuple(self.names[column] for column in columns) if self.names else ()
        return Table(self.path, self.values[:, columns], names, self.lines, self.rows)


@dataclass(frozen=True)
class CsvFormat:
    """header: whether the first row names the columns; None to find out. empty: what an empty cell is; None for an
    error."""

    delimiter: str = ","
    header: bool | None = None
    empty: float | None = None


class CsvRow(NamedTuple):
    """The wanted cells of a row: the names of their columns or nothing, the line of the file, the numbers."""

    names: tuple[str, ...]
    line: int
    numbers: list[float]


def column_name(names: Sequence[str], coordinate: tuple[int, ...]) -> str:
    """`column "height"`, or `column 3` where columns have no names; the first is 0."""
    if names and len(coordinate) == 1:
        return f'column "{names[coordinate[0]]}"'
    return f"column {', '.join(map(str, coordinate))}"


def read_table(
    path: Path,
    key: str | None = None,
    columns: Sequence[Column] | None = None,
    form: CsvFormat = CsvFormat(),
) -> Table:
    """The array in a file, of a csv file only the wanted columns (all where None).

    Raises DataError: what is wrong, where, and what to do.
    """
    path = home_expanded(path)
    check_path(path)
    if path.suffix.lower() == ".csv":
        check_keyless(path, key)
        return read_csv(path, columns, form)
    return Table(path, read_array(path, key)).select(columns)


def read_named(path: Path, key: str | None, names: Sequence[str], form: CsvFormat = CsvFormat()) -> Table:
    """The columns with these names of a csv file that has a header, in this order; every other file as it is.

    Raises DataError, as `read_table` does.
    """
    path = home_expanded(path)
    check_path(path)
    by_name = bool(names) and path.suffix.lower() == ".csv" and bool(csv_header(path, form))
    return read_table(path, key, names if by_name else None, form)


def check_path(path: Path) -> None:
    """Raises DataError for what is no file of an ending known here, or empty."""
    if os.path.isdir(path):
        raise DataError(f"{path} is a folder ({path.absolute()}); give the path of one file: {', '.join(ENDINGS)}")
    if not is_regular(path):
        raise DataError(f"{path} does not exist (looked for {path.absolute()}); give the path of a data file")
    if path.suffix.lower() not in ENDINGS:
        raise DataError(f'{path}: unknown ending "{path.suffix}"; use one of {", ".join(ENDINGS)}')
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty ({path.absolute()} has no bytes); write it again")


def check_keyless(path: Path, key: str | None) -> None:
    """Raises DataError where an array is asked for by name in a file of one."""
    if key is not None:
        raise DataError(f'{path} holds a single array, so key "{key}" cannot be looked up; leave key out')


def choose(columns: Sequence[Column], names: Sequence[str], count: int, path: Path) -> list[int]:
    """Indices of columns given by name or number. Raises DataError for one that is not there."""
    indices = []
    for column in columns:
        if isinstance(column, str) and column in names:
            indices.append(list(names).index(column))
        elif isinstance(column, int) and column < count:
            indices.append(column)
        else:
            known = ", ".join(names) if names else f"0 to {count - 1}, without names"
            raise DataError(f'{path} has no column "{column}"{nearest(column, names)}; its columns: {known}')
    return indices


def read_csv(path: Path, columns: Sequence[Column] | None, form: CsvFormat) -> Table:
    """Reads line by line; cells that are not wanted may hold anything. Row numbers are lines of the file."""
    numbers, lines = compact("d"), []
    names: tuple[str, ...] = ()
    for row in csv_rows(path, columns, form):
        numbers.extend(row.numbers)
        lines.append(row.line)
        names = row.names
    values = np.frombuffer(numbers, dtype=np.float64).reshape(len(lines), -1)
    return Table(path, values, names, tuple(lines))


def csv_rows(path: Path, columns: Sequence[Column] | None, form: CsvFormat) -> Iterator[CsvRow]:
    """Every row, one at least, parsed as it is asked for. Raises DataError."""
    with _opened(path, form) as rows:
        yield from _parse(rows, path, columns, form)


def csv_header(path: Path, form: CsvFormat) -> tuple[str, ...]:
    """The names of the columns, or nothing where the first row holds numbers. Raises DataError."""
    with _opened(path, form) as rows:
        return _header(_first(rows, path), path, None, form)


@contextlib.contextmanager
def _opened(path: Path, form: CsvFormat) -> Iterator[Iterator[tuple[int, list[str]]]]:
    """The rows of a file, as `_rows`. Raises DataError."""
    try:
        with io.TextIOWrapper(open_regular(path), encoding="utf-8-sig", newline="") as file:
            yield _rows(csv.reader(file, delimiter=form.delimiter))
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not text in UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8"
        ) from error
    except DataError:
        raise
    except (csv.Error, OSError, ValueError, TypeError) as error:  # the last two for impossible delimiters
        raise DataError(f"{path} cannot be read as .csv: {error}") from error


def _rows(reader: Iterator[list[str]]) -> Iterator[tuple[int, list[str]]]:
    """(line, cells) of every row that is not blank."""
    for cells in reader:
        if len(cells) > 1 or (cells and cells[0].strip()):
            yield reader.line_num, [cell.strip() for cell in cells]  # type: ignore[attr-defined]


def _parse(
    rows: Iterator[tuple[int, list[str]]], path: Path, columns: Sequence[Column] | None, form: CsvFormat
) -> Iterator[CsvRow]:
    first = _first(rows, path)
    width = len(first[1])
    names = _header(first, path, columns, form)
    wanted = list(range(width)) if columns is None else choose(columns, names, width, path)
    chosen = tuple(names[column] for column in wanted) if names else ()
    line = None
    for line, cells in rows if names else _again(first, rows):
        if len(cells) != width:
            raise DataError(
                f"{path}: row {line} has {len(cells)} cells, the first row {width}; mend that row{_hint(cells, form)}"
            )
        try:
            numbers = [_number(cells[column], form.empty) for column in wanted]
        except ValueError:
            raise _no_number(path, line, cells, wanted, names, form) from None
        yield CsvRow(chosen, line, numbers)
    if line is None:
        raise DataError(f"{path} holds a header and no rows; it needs a row for each example")


def _first(rows: Iterator[tuple[int, list[str]]], path: Path) -> tuple[int, list[str]]:
    first = next(rows, None)
    if first is None:
        raise DataError(f"{path} is empty; it needs a row for each example")
    return first


def _again(first: tuple[int, list[str]], rows: Iterator[tuple[int, list[str]]]) -> Iterator[tuple[int, list[str]]]:
    yield first
    yield from rows


def _header(
    first: tuple[int, list[str]], path: Path, columns: Sequence[Column] | None, form: CsvFormat
) -> tuple[str, ...]:
    """The names of the columns, or nothing where the first row holds numbers."""
    line, cells = first
    texts = [cell for cell in cells if not _is_number(cell)]
    if form.empty is not None and len(texts) < len(cells):
        texts = [cell for cell in texts if cell]
    by_name = any(isinstance(column, str) for column in columns or ())
    header = form.header if form.header is not None else by_name or len(texts) == len(cells)
    if not header and form.header is None and texts:
        raise DataError(
            f"{path}: row {line} holds numbers and text ({texts[0]!r}): the names of the columns, or a bad row? "
            "Set header: true or header: false"
        )
    if not header:
        return ()
    names = tuple(cell or f"column {index}" for index, cell in enumerate(cells))
    repeated = next((name for index, name in enumerate(names) if name in names[:index]), None)
    if repeated is not None:
        raise DataError(f'{path}: two columns are called "{repeated}"; rename one')
    return names


def _no_number(
    path: Path, line: int, cells: list[str], wanted: list[int], names: tuple[str, ...], form: CsvFormat
) -> DataError:
    column = next(
        index for index in wanted if not (_is_number(cells[index]) or (form.empty is not None and not cells[index]))
    )
    what = f"{cells[column]!r:.40} is not a number" if cells[column] else "the cell is empty"
    return DataError(
        f"{path}: row {line}, {column_name(names, (column,))}: {what}; fill or remove it, or choose other columns"
        f"{_hint(cells, form)}"
    )


def _hint(cells: list[str], form: CsvFormat) -> str:
    """What to say where the whole row came as one cell."""
    for delimiter in (",", ";", "\t"):
        if len(cells) == 1 and delimiter != form.delimiter and delimiter in cells[0]:
            return f"; if {delimiter!r} separates the cells, set delimiter: {delimiter!r}"
    return ""


def _number(cell: str, empty: float | None) -> float:
    return float(cell) if cell or empty is None else empty


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
