"""The user's own file: a table, vectors, or images."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
import torch
from pydantic import Field, NonNegativeInt, model_validator
from torch import Tensor

from smoothgen.data_source import DataSource, DataSourceConfig, Split, SplitName
from smoothgen.errors import DataError
from smoothgen.event import EventSpec
from smoothgen.tables import Column, CsvFormat, Table, choose, column_name, read_table
from smoothgen_datasets.division import divide
from smoothgen_datasets.files import DataPath
from smoothgen_datasets.moments import Moments, chunks
from smoothgen_datasets.pixels import from_bytes

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
Columns = tuple[NonNegativeInt | str, ...]
MOST_CHANNELS = 4
SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")


class ArrayConfig(DataSourceConfig):
    """Examples from .npy, .npz, .csv or .safetensors, one for each row of the first axis.

    path: the file, or a folder or a pattern with * whose files are read one after the other as one long array, in
    natural order (part-2 before part-10). stream: read rows when they are needed instead of keeping them in memory;
    "auto" does so from 1 GiB of files on. key: which array of a .npz or .safetensors file that holds several.
    columns: of a table, the ones to model, by name or number (the first is 0); all if not given.
    context_columns: the ones to condition on instead; they are standardised.
    header, delimiter: of a csv file; header null finds out whether the first row names the columns.
    validation_path, test_path: files of those splits. Without them, validation_fraction and test_fraction of the rows,
    drawn by split_seed.
    standardize: model (x - mean) / std, with the training rows' mean and sample standard deviation of every coordinate,
    and report densities in the data's own units. For continuous data only.
    levels: how many equally spaced values discrete data take; "auto" is 256 for 8-bit integers, 2 for booleans and
    none (continuous) for the rest. Discrete data are modelled on [-1, 1], and come back as the file's own values.
    Images (n, H, W) become (n, 1, H, W) and (n, H, W, C), C up to 4, become (n, C, H, W).
    low, high: of discrete data, the values of the first and the last level (0 and levels - 1 if not given); of
    continuous data, bounds that every value must keep.
    """

    type: Literal["array"] = "array"
    path: DataPath
    stream: Literal["auto", "always", "never"] = "auto"
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
        from smoothgen_datasets.streamed_array import open_array  # which is made of the parts below

        return open_array(self)

    @property
    def form(self) -> CsvFormat:
        """How csv files are written."""
        return CsvFormat(self.delimiter, self.header)

    @property
    def wanted(self) -> tuple[Column, ...] | None:
        """The columns to read: those to model, then those to condition on; None for all."""
        return None if self.columns is None else self.columns + self.context_columns

    def drawn(self, n: int) -> dict[SplitName, int]:
        """How many of n rows are drawn for each split that has no file. Raises DataError if too few are left."""
        given: dict[SplitName, tuple[Path | None, float]] = {
            "validation": (self.validation_path, self.validation_fraction),
            "test": (self.test_path, self.test_fraction),
        }
        counts = {name: round(fraction * n) for name, (path, fraction) in given.items() if path is None}
        left = n - sum(counts.values())
        if left < 2:
            raise DataError(f"{self.path}: {n} rows leave {left} to train on; it needs at least 2")
        return counts


@dataclass(frozen=True)
class ArrayExamples:
    """What one file holds, or some rows of it: x (n, *event) and context (n, features) or None, in the file's own units
    and order."""

    path: Path
    x: Tensor
    names: tuple[str, ...]
    levels: int | None
    context: Tensor | None
    context_names: tuple[str, ...]

    def rows(self, which: Tensor | slice) -> ArrayExamples:
        """Some of the examples."""
        context = None if self.context is None else self.context[which]
        return ArrayExamples(self.path, self.x[which], self.names, self.levels, context, self.context_names)


class Array(DataSource):
    """A file's examples, checked, split and mapped to the model's coordinates.

    context_names, context_shift, context_scale: what the features are; a feature is (value - shift) / scale.
    """

    def __init__(self, config: ArrayConfig) -> None:
        whole = read_examples(config, config.path)
        given: dict[SplitName, Path | None] = {"validation": config.validation_path, "test": config.test_path}
        others = {name: alike(read_examples(config, path), whole) for name, path in given.items() if path is not None}
        division = divide(len(whole.x), config.drawn(len(whole.x)), config.split_seed)
        moments = TrainingMoments(config, whole)
        for start, stop in chunks(len(whole.x), moments.columns):
            moments.add(whole.rows(slice(start, stop)), division.training(start, stop))
        units = moments.units()
        super().__init__(units.event)
        self.features = len(whole.context_names)
        self.context_names = whole.context_names
        self.context_shift, self.context_scale = units.context_shift, units.context_scale
        parts = dict(others)
        for name in SPLITS:
            if name not in others:
                rows = division.rows(name, np.arange(division.count(name)))
                parts[name] = whole.rows(torch.from_numpy(rows))
        self._splits = {name: units.to_model(part, name) for name, part in parts.items()}

    def split(self, name: SplitName) -> Split:
        """The examples of a split. Raises DataError where it has none."""
        split = self._splits[name]
        refuse_empty(name, len(split))
        return split


def refuse_empty(name: SplitName, n: int) -> None:
    """Raises DataError for a split without examples."""
    if not n:
        raise DataError(f"the {name} split is empty; raise data.{name}_fraction or give data.{name}_path")


@dataclass(frozen=True)
class Units:
    """The model's coordinates: the event of x, and the scale of each number of context."""

    event: EventSpec
    context_shift: tuple[float, ...] = ()
    context_scale: tuple[float, ...] = ()

    @cached_property
    def _standard(self) -> EventSpec:
        return self.event.standard()

    @cached_property
    def _scales(self) -> tuple[Tensor, ...]:
        own = (torch.tensor(values, dtype=torch.float64) for values in (self.event.shift, self.event.scale))
        given = (torch.tensor(values, dtype=torch.float64) for values in (self.context_shift, self.context_scale))
        return (*(values.reshape(self.event.shape) if len(values) > 1 else values for values in own), *given)

    def to_model(self, part: ArrayExamples, name: str) -> Split:
        """Examples in the file's units -> the model's coordinates, float32, checked."""
        shift, scale, context_shift, context_scale = self._scales
        standardised = bool(self.event.scale) and self.event.levels is None  # levels were read as [-1, 1]
        x = (((part.x - shift) / scale) if standardised else part.x).to(torch.float32)
        context = None
        if part.context is not None:
            context = ((part.context - context_shift) / context_scale).to(torch.float32)
        return Split(self._standard.check(x, f"{part.path} ({name} split)"), context)


class TrainingMoments:
    """What the training rows say of units: the moments that `standardize`, and the context, ask for.

    head: examples of the data, from whose shape, names and levels all else follows.
    """

    def __init__(self, config: ArrayConfig, head: ArrayExamples) -> None:
        self.config, self.head = config, head
        values, features = head.x[0].numel(), len(head.context_names)
        self.columns = values + features
        self.x = Moments(values) if config.standardize and head.levels is None else None
        self.context = Moments(features) if features else None

    def add(self, part: ArrayExamples, training: np.ndarray) -> None:
        """Rows in the order of the file, and which of them are training rows."""
        mask = torch.from_numpy(training)
        if self.x is not None:
            self.x.add(part.x[mask].flatten(1))
        if self.context is not None and part.context is not None:
            self.context.add(part.context[mask])

    def units(self) -> Units:
        """Raises DataError for a constant column, or numbers too large to square."""
        head, config, shape = self.head, self.config, tuple(self.head.x.shape[1:])
        if head.levels is not None:
            low, high = _ends(config, head.levels)
            own = {} if (low, high) == (-1.0, 1.0) else {"shift": ((low + high) / 2,), "scale": ((high - low) / 2,)}
            event = EventSpec(shape=shape, low=-1.0, high=1.0, levels=head.levels, names=head.names, **own)
        elif self.x is None:
            event = EventSpec(shape=shape, low=config.low, high=config.high, names=head.names)
        else:
            remedy = "choose other columns, or set standardize: false"
            shift, scale = _shift_and_scale(self.x, head.names, head.path, remedy, shape)
            event = EventSpec(shape=shape, shift=shift, scale=scale, names=head.names)
        if self.context is None:
            return Units(event)
        names = head.context_names
        return Units(event, *_shift_and_scale(self.context, names, head.path, "leave it out of context_columns"))


def alike(other: ArrayExamples, train: ArrayExamples) -> ArrayExamples:
    """The other examples, once they are of the same kind as the training ones. Raises DataError."""
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


def read_examples(config: ArrayConfig, path: Path) -> ArrayExamples:
    """All that a file holds, checked; discrete values come out on [-1, 1]. Raises DataError."""
    return examples_of(config, read_table(path, config.key, config.wanted, config.form))


def examples_of(config: ArrayConfig, whole: Table) -> ArrayExamples:
    """The wanted columns of a file, or some of its rows, as examples, each row by itself. Raises DataError."""
    table, given = _divided(config, whole)
    values = table.values[:, None] if table.values.ndim == 1 else table.values
    table = replace(table, values=values)
    for each in (table, given):
        if each is not None:
            _refuse(each, ~np.isfinite(each.values), "is not finite; fill or remove such rows")
    automatic = {"u1": 256, "b1": 2}.get(values.dtype.str[1:])
    levels = automatic if config.levels == "auto" else config.levels
    x = _continuous(config, table) if levels is None else _images(_discrete(config, table, levels))
    context = None if given is None else torch.from_numpy(given.values.astype(np.float64))
    names = table.names if x.dim() == 2 else ()
    return ArrayExamples(table.path, x, names, levels, context, () if given is None else _labels(config, given))


def _labels(config: ArrayConfig, given: Table) -> tuple[str, ...]:
    return given.names or tuple(str(column) for column in config.context_columns)


def _divided(config: ArrayConfig, whole: Table) -> tuple[Table, Table | None]:
    """The columns to model and those to condition on, of the wanted ones."""
    path, wanted = whole.path, config.wanted
    if not config.context_columns:
        return whole, None
    if whole.values.ndim != 2:
        raise DataError(f"{path}: context_columns need a table (n, D), not shape {whole.values.shape}")
    count = whole.values.shape[1]
    if wanted is not None:
        split = len(wanted) - len(config.context_columns)
        first, last = list(range(split)), list(range(split, count))
    else:
        last = choose(config.context_columns, whole.names, count, path)
        first = [column for column in range(count) if column not in last]
    if set(whole.take(first).names) & set(whole.take(last).names):
        raise DataError(f"{path}: columns and context_columns choose the same column; keep it in one of them")
    if not first:
        raise DataError(f"{path}: every column is a context column, so there is nothing to model; leave one out")
    return whole.take(first), whole.take(last)


def _continuous(config: ArrayConfig, table: Table) -> Tensor:
    low = -np.inf if config.low is None else config.low
    high = np.inf if config.high is None else config.high
    outside = (table.values < low) | (table.values > high)
    _refuse(table, outside, f"is outside [{config.low}, {config.high}]; mend it, or low and high")
    return torch.from_numpy(table.values.astype(np.float64))


def _discrete(config: ArrayConfig, table: Table, levels: int) -> Tensor:
    """Level k, the value low + k (high - low) / (levels - 1), becomes -1 + 2 k / (levels - 1); float32."""
    low, high = _ends(config, levels)
    if not 0.0 < (high - low) / 2 < math.inf:
        raise DataError(
            f"{table.path}: low {low:g} must be below high {high:g}, the value of the last of {levels} levels; "
            "both, and what lies between them, must be numbers of double precision"
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


def _ends(config: ArrayConfig, levels: int) -> tuple[float, float]:
    """The file's values of the first level and of the last."""
    return 0.0 if config.low is None else config.low, levels - 1.0 if config.high is None else config.high


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


def _shift_and_scale(
    moments: Moments, names: tuple[str, ...], path: Path, remedy: str, shape: tuple[int, ...] | None = None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and sample standard deviation of every column. Raises DataError for a constant column."""
    mean, std = moments.mean, moments.std
    constant = (std <= 1e-12 * moments.largest).nonzero().flatten().tolist()
    if constant:
        column = column_name(names, tuple(int(i) for i in np.unravel_index(constant[0], shape or (len(std),))))
        more = f" ({len(constant)} such columns)" if len(constant) > 1 else ""
        raise DataError(
            f"{path}: {column} is constant, {moments.first[constant[0]].item():g} in every training row{more}; {remedy}"
        )
    if not bool(std.isfinite().all()):
        raise DataError(
            f"{path}: values up to {moments.largest.max().item():g} are too large to standardise; rescale them"
        )
    return tuple(mean.tolist()), tuple(std.tolist())
