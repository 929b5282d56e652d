"""The user's own file: a table, vectors, or images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
import torch
from pydantic import Field, NonNegativeInt, model_validator
from torch import Tensor

from smoothgen.data_source import DataSource, DataSourceConfig, Split, SplitName
from smoothgen.errors import DataError
from smoothgen.event import EventSpec
from smoothgen.tables import CsvFormat, Table, choose, column_name, read_table
from smoothgen_datasets.files import DataPath
from smoothgen_datasets.pixels import from_bytes

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
Columns = tuple[NonNegativeInt | str, ...]
MOST_CHANNELS = 4


class ArrayConfig(DataSourceConfig):
    """Examples from .npy, .npz, .csv or .safetensors, one for each row of the first axis.

    path: the file. key: which array of a .npz or .safetensors file that holds several.
    columns: of a table, the ones to model, by name or number (the first is 0); all if not given.
    context_columns: the ones to condition on instead; they are standardised.
    header, delimiter: of a csv file; header null finds out whether the first row names the columns.
    validation_path, test_path: files of those splits. Without them, validation_fraction and test_fraction of the rows,
    drawn by split_seed.
    standardize: model (x - mean) / std, with the training rows' mean and sample standard deviation of every coordinate,
    and report densities in the data's own units. For continuous data only.
    levels: how many equally spaced values discrete data take; "auto" is 256 for 8-bit integers, 2 for booleans and
    none (continuous) for the rest. Discrete data are mapped to [-1, 1]. Images (n, H, W) become (n, 1, H, W) and
    (n, H, W, C), C up to 4, become (n, C, H, W).
    low, high: of discrete data, the values of the first and the last level (0 and levels - 1 if not given); of
    continuous data, bounds that every value must keep.
    """

    type: Literal["array"] = "array"
    path: DataPath
    key: str | None = None
    columns: Columns | None = None
    context_columns: Columns = ()
    header: bool | None = None
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] = ","
    validation_path: DataPath | None = None
    test_path: DataPath | None = None
    validation_fraction: Fraction = 0.1
    test_fraction: Fraction = 0.1
    split_seed: NonNegativeInt = 0
    standardize: bool = True
    levels: Annotated[int, Field(ge=2)] | Literal["auto"] | None = "auto"
    low: float | None = None
    high: float | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.columns is not None and not self.columns:
            raise ValueError("columns is empty; name at least one, or leave it out for all")
        both = set(self.columns or ()) & set(self.context_columns)
        if both:
            raise ValueError(f"columns and context_columns both name {sorted(map(str, both))[0]!r}; keep it in one")
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise ValueError(f"low {self.low} must be below high {self.high}")
        held_out = (0.0 if self.validation_path else self.validation_fraction) + (
            0.0 if self.test_path else self.test_fraction
        )
        if held_out >= 1.0:
            raise ValueError(f"validation_fraction and test_fraction leave {1.0 - held_out:g} of the rows to train on")
        return self

    def build(self) -> DataSource:
        return Array(self)


@dataclass(frozen=True)
class Examples:
    """What one file holds: x (n, *event) and context (n, features) or None, in the file's own units and order."""

    path: Path
    x: Tensor
    names: tuple[str, ...]
    levels: int | None
    context: Tensor | None
    context_names: tuple[str, ...]

    def rows(self, which: Tensor) -> Examples:
        """Some of the examples."""
        context = None if self.context is None else self.context[which]
        return Examples(self.path, self.x[which], self.names, self.levels, context, self.context_names)


class Array(DataSource):
    """A file's examples, checked, split and mapped to the model's coordinates.

    context_names, context_shift, context_scale: what the features are; a feature is (value - shift) / scale.
    """

    def __init__(self, config: ArrayConfig) -> None:
        parts = _split(config)
        train = parts["train"]
        super().__init__(_event(config, train))
        self.features = len(train.context_names)
        self.context_names = train.context_names
        self.context_shift, self.context_scale = (
            ((), ())
            if train.context is None
            else _moments(train.context, train.context_names, train.path, "leave it out of context_columns")
        )
        self._splits = {name: self._placed(part, name) for name, part in parts.items()}

    def split(self, name: SplitName) -> Split:
        """The examples of a split. Raises DataError where it has none."""
        split = self._splits[name]
        if not len(split):
            raise DataError(f"the {name} split is empty; raise data.{name}_fraction or give data.{name}_path")
        return split

    def _placed(self, part: Examples, name: str) -> Split:
        x = self.event.to_model(part.x).to(torch.float32)
        context = None
        if part.context is not None:
            shift, scale = (
                torch.tensor(values, dtype=torch.float64) for values in (self.context_shift, self.context_scale)
            )
            context = ((part.context - shift) / scale).to(torch.float32)
        return Split(self.event.standard().check(x, f"{part.path} ({name} split)"), context)


def _split(config: ArrayConfig) -> dict[str, Examples]:
    """Rows drawn at random for the splits that have no file of their own; the rest of the first file to train on."""
    whole = _examples(config, config.path)
    order = torch.randperm(len(whole.x), generator=torch.Generator().manual_seed(config.split_seed))
    files = {"validation": config.validation_path, "test": config.test_path}
    fractions = {"validation": config.validation_fraction, "test": config.test_fraction}
    parts, taken = {}, 0
    for name, path in files.items():
        if path is not None:
            parts[name] = _alike(_examples(config, path), whole)
        else:
            count = round(fractions[name] * len(order))
            parts[name] = whole.rows(order[taken : taken + count].sort().values)
            taken += count
    if len(order) - taken < 2:
        raise DataError(f"{config.path}: {len(order)} rows leave {len(order) - taken} to train on; it needs at least 2")
    return parts | {"train": whole.rows(order[taken:].sort().values)}


def _alike(other: Examples, train: Examples) -> Examples:
    if other.x.shape[1:] != train.x.shape[1:] or other.levels != train.levels:
        raise DataError(
            f"{other.path}: examples of shape {tuple(other.x.shape[1:])} and {other.levels or 'no'} levels, but those "
            f"of {train.path} have shape {tuple(train.x.shape[1:])} and {train.levels or 'no'} levels"
        )
    if (other.names, other.context_names) != (train.names, train.context_names):
        raise DataError(
            f"{other.path}: columns {', '.join(other.names + other.context_names) or 'without names'}, but those of "
            f"{train.path} are {', '.join(train.names + train.context_names) or 'without names'}"
        )
    return other


def _examples(config: ArrayConfig, path: Path) -> Examples:
    """Reads a file; discrete values come out on [-1, 1]."""
    table, given = _tables(config, path)
    values = table.values[:, None] if table.values.ndim == 1 else table.values
    table = Table(table.path, values, table.names, table.lines)
    for each in (table, given):
        if each is not None:
            _refuse(each, ~np.isfinite(each.values), "is not finite; fill or remove such rows")
    automatic = {"u1": 256, "b1": 2}.get(values.dtype.str[1:])
    levels = automatic if config.levels == "auto" else config.levels
    x = _continuous(config, table) if levels is None else _images(_discrete(config, table, levels))
    context = None if given is None else torch.from_numpy(given.values.astype(np.float64))
    names = table.names if x.dim() == 2 else ()
    return Examples(table.path, x, names, levels, context, () if given is None else _labels(config, given))


def _labels(config: ArrayConfig, given: Table) -> tuple[str, ...]:
    return given.names or tuple(str(column) for column in config.context_columns)


def _tables(config: ArrayConfig, path: Path) -> tuple[Table, Table | None]:
    """The columns to model and those to condition on."""
    form = CsvFormat(config.delimiter, config.header)
    if not config.context_columns:
        return read_table(path, config.key, config.columns, form), None
    wanted = None if config.columns is None else config.columns + config.context_columns
    whole = read_table(path, config.key, wanted, form)
    if whole.values.ndim != 2:
        raise DataError(f"{path}: context_columns need a table (n, D), not shape {whole.values.shape}")
    count = whole.values.shape[1]
    if wanted is not None:
        split = len(wanted) - len(config.context_columns)
        first, last = list(range(split)), list(range(split, count))
    else:
        last = choose(config.context_columns, whole.names, count, path)
        first = [column for column in range(count) if column not in last]
    if set(_take(whole, first).names) & set(_take(whole, last).names):
        raise DataError(f"{path}: columns and context_columns choose the same column; keep it in one of them")
    if not first:
        raise DataError(f"{path}: every column is a context column, so there is nothing to model; leave one out")
    return _take(whole, first), _take(whole, last)


def _take(table: Table, columns: list[int]) -> Table:
    names = tuple(table.names[column] for column in columns) if table.names else ()
    return Table(table.path, table.values[:, columns], names, table.lines)


def _continuous(config: ArrayConfig, table: Table) -> Tensor:
    low = -np.inf if config.low is None else config.low
    high = np.inf if config.high is None else config.high
    outside = (table.values < low) | (table.values > high)
    _refuse(table, outside, f"is outside [{config.low}, {config.high}]; mend it, or low and high")
    return torch.from_numpy(table.values.astype(np.float64))


def _discrete(config: ArrayConfig, table: Table, levels: int) -> Tensor:
    """Level k, the value low + k (high - low) / (levels - 1), becomes -1 + 2 k / (levels - 1); float32."""
    low = 0.0 if config.low is None else config.low
    high = levels - 1.0 if config.high is None else config.high
    if not low < high:
        raise DataError(
            f"{table.path}: low {low:g} must be below high {high:g}, the value of the last of {levels} levels"
        )
    if table.values.dtype == np.uint8 and (low, high, levels) == (0.0, 255.0, 256):
        return from_bytes(torch.tensor(table.values))
    level = (table.values.astype(np.float64) - low) * ((levels - 1) / (high - low))
    nearest_level = np.rint(level)
    wrong = (np.abs(level - nearest_level) > 1e-3) | (nearest_level < 0) | (nearest_level > levels - 1)
    what = (
        f"the integers 0 to {high:g}" if (low, high) == (0.0, levels - 1.0) else f"{levels} levels {low:g} to {high:g}"
    )
    _refuse(table, wrong, f"is none of {what}; mend it, or levels, low and high")
    return torch.from_numpy(nearest_level).mul_(2.0 / (levels - 1)).sub_(1.0).to(torch.float32)


def _images(x: Tensor) -> Tensor:
    """Images with their channels first."""
    if x.dim() == 3:
        return x[:, None]
    if x.dim() == 4 and x.shape[3] <= MOST_CHANNELS < x.shape[1]:
        return x.movedim(3, 1).contiguous()
    return x


def _refuse(table: Table, bad: np.ndarray, why: str) -> None:
    if bad.any():
        first = tuple(int(index) for index in np.argwhere(bad)[0])
        count = f" ({bad.sum()} such values)" if bad.sum() > 1 else ""
        raise DataError(f"{table.path}: {table.where(first)}: {float(table.values[first]):g} {why}{count}")


def _event(config: ArrayConfig, train: Examples) -> EventSpec:
    shape = tuple(train.x.shape[1:])
    if train.levels is not None:
        return EventSpec(shape=shape, low=-1.0, high=1.0, levels=train.levels, names=train.names)
    if not config.standardize:
        return EventSpec(shape=shape, low=config.low, high=config.high, names=train.names)
    shift, scale = _moments(
        train.x.flatten(1), train.names, train.path, "choose other columns, or set standardize: false", shape
    )
    return EventSpec(shape=shape, shift=shift, scale=scale, names=train.names)


def _moments(
    values: Tensor, names: tuple[str, ...], path: Path, remedy: str, shape: tuple[int, ...] | None = None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and sample standard deviation of every column of (n, D). Raises DataError for a constant column."""
    mean, std = values.mean(0), values.std(0)
    constant = (std <= 1e-12 * values.abs().amax(0)).nonzero().flatten().tolist()
    if constant:
        column = column_name(names, tuple(int(i) for i in np.unravel_index(constant[0], shape or (values.shape[1],))))
        more = f" ({len(constant)} such columns)" if len(constant) > 1 else ""
        raise DataError(
            f"{path}: {column} is constant, {values[0, constant[0]].item():g} in every training row{more}; {remedy}"
        )
    if not bool(std.isfinite().all()):
        raise DataError(
            f"{path}: values up to {values.abs().max().item():g} are too large to standardise; rescale them"
        )
    return tuple(mean.tolist()), tuple(std.tolist())
