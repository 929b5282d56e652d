"""Arrays in files: npy, npz, csv, safetensors. Nothing is unpickled, and sizes are checked before memory is taken."""

from __future__ import annotations

import csv
import io
import math
import tokenize
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from safetensors import SafetensorError, safe_open
from torch import Tensor

from smoothgen.checkpoint import write_atomically
from smoothgen.component import nearest
from smoothgen.errors import ConfigError, DataError
from smoothgen.event import EventSpec

UNREADABLE = (
    OSError, ValueError, EOFError, TypeError, SyntaxError, NotImplementedError, RuntimeError, csv.Error,
    tokenize.TokenError, zipfile.BadZipFile, zlib.error, SafetensorError,
)  # fmt: skip
"""What damaged files make the readers of numpy, zipfile, csv and safetensors raise."""
ENDINGS = (".npy", ".npz", ".csv", ".safetensors")


@dataclass(frozen=True)
class Table:
    """values (n, ...), numeric; names of the columns of a csv file, otherwise empty."""

    values: np.ndarray
    names: tuple[str, ...] = ()


def read_array(path: Path, key: str | None = None) -> Table:
    """The array in a file, by the file's ending. key: which one, in a .npz or .safetensors file of several.

    Raises DataError: what is wrong, where, and what to do.
    """
    if not path.is_file():
        raise DataError(f"{path} does not exist (looked for {path.absolute()}); give the path of a data file")
    readers = {".npy": _read_npy, ".npz": _read_npz, ".csv": _read_csv, ".safetensors": _read_safetensors}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise DataError(f'{path}: unknown ending "{path.suffix}"; use one of {", ".join(ENDINGS)}')
    if key is not None and reader in (_read_npy, _read_csv):
        raise DataError(f'{path} holds a single array, so key "{key}" cannot be looked up; leave key out')
    try:
        table = reader(path, key)
    except DataError:
        raise
    except UNREADABLE as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path} cannot be read as {path.suffix}: {reason}; is it whole?") from error
    values = table.values
    if values.dtype.kind not in "biuf":
        raise DataError(f"{path}: values are of type {values.dtype}, not numbers; save a numeric array")
    if values.ndim == 0 or values.size == 0:
        raise DataError(f"{path}: the array has shape {values.shape}; it needs at least one example")
    plain = values.dtype.newbyteorder("=") if values.dtype.itemsize <= 8 else np.dtype(np.float64)
    return Table(values.astype(plain, copy=False), table.names)


def _read_npy(path: Path, key: str | None) -> Table:
    with path.open("rb") as file:
        return Table(_checked_npy(file, path.stat().st_size, str(path)))


def _read_npz(path: Path, key: str | None) -> Table:
    with zipfile.ZipFile(path) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        info = members[_choose(list(members), key, path)]
        with archive.open(info) as file:
            return Table(_checked_npy(file, info.file_size, f"{path}: {info.filename}"))


def _checked_npy(file: IO[bytes], size: int, name: str) -> np.ndarray:
    """Reads one .npy stream of `size` bytes, once its header promises no more than that."""
    version = np.lib.format.read_magic(file)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read_header(file)
    if dtype.hasobject:
        raise DataError(f"{name} holds Python objects, which only pickle could read; save a numeric array")
    wanted = math.prod(shape) * dtype.itemsize
    if wanted > size:
        raise DataError(f"{name}: its header promises {wanted} bytes, the file has {size}; it is cut short or damaged")
    data = file.read(wanted)
    if len(data) < wanted:
        raise DataError(f"{name}: {wanted} bytes expected, {len(data)} found; it is cut short")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")


def _read_safetensors(path: Path, key: str | None) -> Table:
    with safe_open(path, "np") as file:
        return Table(np.asarray(file.get_tensor(_choose(list(file.keys()), key, path))))


def _choose(keys: Sequence[str], key: str | None, path: Path) -> str:
    if key is None and len(keys) == 1:
        return keys[0]
    if key is None:
        raise DataError(f"{path} holds {len(keys)} arrays; choose one with key: {', '.join(keys) or 'none'}")
    if key not in keys:
        raise DataError(f'{path} has no array "{key}"{nearest(key, keys)}; it holds {", ".join(keys)}')
    return key


def _read_csv(path: Path, key: str | None) -> Table:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not text in UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8"
        ) from error
    rows = [row for row in csv.reader(io.StringIO(text)) if row]
    if not rows:
        raise DataError(f"{path} is empty; it needs one example a row")
    header = not all(_is_number(cell) for cell in rows[0])
    names = tuple(cell.strip() for cell in rows[0]) if header else ()
    body = rows[1:] if header else rows
    for number, row in enumerate(body, start=1 + header):
        if len(row) != len(rows[0]):
            raise DataError(f"{path}: row {number} has {len(row)} cells, the first row {len(rows[0])}; mend that row")
    try:
        return Table(np.array(body, dtype=np.float64).reshape(len(body), len(rows[0])), names)
    except ValueError:
        for number, row in enumerate(body, start=1 + header):
            for column, cell in enumerate(row):
                if not _is_number(cell):
                    where = f'column "{names[column]}"' if names else f"column {column}"
                    raise DataError(
                        f"{path}: row {number}, {where}: {cell!r} is not a number; fill or remove it, "
                        "or leave the column out with columns"
                    ) from None
        raise


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def write_array(path: Path, arrays: dict[str, Tensor], event: EventSpec) -> None:
    """Writes named arrays (n, *event_shape), atomically, in the format of the file's ending.

    .npz and .safetensors hold all of them by name; .npy, .csv (a row per example, with a header) and .png (a picture)
    hold one. Raises ConfigError for another ending, or several arrays in a file of one.
    """
    from smoothgen.evaluation.pictures import save_panels

    values = {name: value.detach().cpu() for name, value in arrays.items()}
    ending = path.suffix.lower()
    if ending in (".npy", ".csv") and len(values) > 1:
        raise ConfigError(f"{path}: a {ending} file holds one array, not {', '.join(values)}; use .npz or .safetensors")
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
    elif ending == ".csv":
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(event.names or [f"x{index}" for index in range(event.dimensions)])
        writer.writerows(next(iter(values.values())).flatten(1).tolist())
        write_atomically(path, text.getvalue().encode())
    else:
        raise ConfigError(f'{path}: unknown ending "{ending}"; use .npy, .npz, .csv, .safetensors or .png')
