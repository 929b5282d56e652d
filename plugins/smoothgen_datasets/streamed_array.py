"""Arrays that stay in their files: rows are read, checked and scaled when a batch asks for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from smoothgen.data_source import DataSource, Examples, Split, SplitName
from smoothgen.regular_file import is_regular
from smoothgen_datasets.array import (
    SPLITS,
    Array,
    ArrayConfig,
    ArrayExamples,
    TrainingMoments,
    Units,
    alike,
    examples_of,
    refuse_empty,
)
from smoothgen_datasets.division import Division, divide
from smoothgen_datasets.kept_units import keep_units, kept_units
from smoothgen_datasets.memory import refuse_beyond_memory
from smoothgen_datasets.moments import chunks
from smoothgen_datasets.row_files import open_rows
from smoothgen_datasets.shards import Shards, find_files

STREAM_FROM = 2**30
"""Bytes of files from which on `stream: auto` streams."""
READ_AT_ONCE = 2**24
"""Bytes of rows that a pass over the data reads at a time."""


def open_array(config: ArrayConfig) -> DataSource:
    """The source that fits: in memory for one small file, streamed for large ones. Raises DataError."""
    paths: dict[SplitName, Path | None] = {
        "train": config.path, "validation": config.validation_path, "test": config.test_path
    }  # fmt: skip
    files = {name: find_files(path) for name, path in paths.items() if path is not None}
    size = sum(path.stat().st_size for part in files.values() for path in part if is_regular(path))
    streams = config.stream == "always" or (config.stream == "auto" and size >= STREAM_FROM)
    if not streams and all(part == [paths[name]] for name, part in files.items()):
        return Array(config)
    source = StreamedArray(config, files)
    return source if streams else HeldArray(source)


class StreamedArray(DataSource):
    """The examples of one or many files; the same, in the same splits and units, as in memory.

    Everything is read once to check it and to measure the training rows; what that found is kept for files that have
    not changed since. parts: every split, which may be empty. context_names, context_shift, context_scale: as in
    `Array`.
    """

    def __init__(self, config: ArrayConfig, files: Mapping[SplitName, list[Path]]) -> None:
        parts = {name: _open(config, paths) for name, paths in files.items()}
        whole = parts["train"]
        division = divide(len(whole), config.drawn(len(whole)), config.split_seed)
        reader = RowReader(config, whole)
        others: dict[SplitName, RowReader] = {
            name: RowReader(config, shards) for name, shards in parts.items() if name != "train"
        }
        for other in others.values():
            alike(other.head, reader.head)
        units = kept_units(config, parts)
        if units is None:
            units = _measured(config, reader, others, division)
            keep_units(config, parts, units)
        super().__init__(units.event)
        self.features = len(reader.head.context_names)
        self.context_names = reader.head.context_names
        self.context_shift, self.context_scale = units.context_shift, units.context_scale
        self.parts: dict[SplitName, StreamedRows] = {
            name: StreamedRows(others[name], units, None, name)
            if name in others
            else StreamedRows(reader, units, division, name)
            for name in SPLITS
        }

    def examples(self, name: SplitName) -> StreamedRows:
        """The examples of a split, in their files. Raises DataError where it has none."""
        found = self.parts[name]
        refuse_empty(name, len(found))
        return found

    def split(self, name: SplitName) -> Split:
        """The examples of a split, in memory. Raises DataError where it has none, or memory could not hold them."""
        examples = self.examples(name)
        refuse_beyond_memory(name, examples, self.event)
        return examples.all()


class HeldArray(DataSource):
    """The examples of many files, in memory."""

    def __init__(self, source: StreamedArray) -> None:
        super().__init__(source.event)
        self.features, self.context_names = source.features, source.context_names
        self.context_shift, self.context_scale = source.context_shift, source.context_scale
        self._splits = {name: source.parts[name].all() for name in SPLITS}

    def split(self, name: SplitName) -> Split:
        """The examples of a split. Raises DataError where it has none."""
        split = self._splits[name]
        refuse_empty(name, len(split))
        return split


class RowReader:
    """Examples of the rows of some files, in the files' own units. head: the first, from which their kind follows."""

    def __init__(self, config: ArrayConfig, shards: Shards) -> None:
        self.config, self.shards = config, shards
        (self.head,) = self.read(np.zeros(1, dtype=np.int64))

    def read(self, rows: np.ndarray) -> Iterator[ArrayExamples]:
        """Rows in ascending order, the part of each file by itself. Raises DataError that names file and row."""
        for table in self.shards.tables(rows):
            yield examples_of(self.config, table)

    def range(self, start: int, stop: int) -> ArrayExamples:
        """Rows start .. stop - 1 together, read a bounded number of bytes at a time."""
        step = max(1, READ_AT_ONCE // self.shards.row_bytes)
        starts = range(start, stop, step)
        parts = [part for at in starts for part in self.read(np.arange(at, min(stop, at + step)))]
        return joined(parts)


class StreamedRows(Examples):
    """A split whose examples are read when they are asked for. division: None where the files are the split's own."""

    streamed: ClassVar[bool] = True

    def __init__(self, reader: RowReader, units: Units, division: Division | None, name: SplitName) -> None:
        self.reader, self.units, self.division, self.name = reader, units, division, name

    def __len__(self) -> int:
        return len(self.reader.shards) if self.division is None else self.division.count(self.name)

    def rows(self, which: Tensor) -> Split:
        numbers = which.cpu().numpy()
        rows = numbers if self.division is None else self.division.rows(self.name, numbers)
        if not len(rows):
            return self.units.to_model(self.reader.head, self.name).rows(which)
        ascending, places = np.unique(rows, return_inverse=True)
        parts = [self.units.to_model(part, self.name) for part in self.reader.read(ascending)]
        return stacked(parts).rows(torch.from_numpy(places))

    def sketch(self, most: int) -> Split:
        return self.spread(most)

    def all(self) -> Split:
        """Every example, in memory."""
        step = max(1, READ_AT_ONCE // self.reader.shards.row_bytes)
        starts = range(0, max(1, len(self)), step)
        return stacked([self.rows(torch.arange(at, min(len(self), at + step))) for at in starts])


def stacked(parts: list[Split]) -> Split:
    """Splits, one after the other."""
    contexts = [part.context for part in parts if part.context is not None]
    return Split(torch.cat([part.x for part in parts]), torch.cat(contexts) if contexts else None)


def joined(parts: list[ArrayExamples]) -> ArrayExamples:
    """Examples, one after the other."""
    first = parts[0]
    contexts = [part.context for part in parts if part.context is not None]
    return ArrayExamples(
        first.path,
        torch.cat([part.x for part in parts]),
        first.names,
        first.levels,
        torch.cat(contexts) if contexts else None,
        first.context_names,
    )


def _open(config: ArrayConfig, paths: list[Path]) -> Shards:
    may_load = config.stream != "always"
    return Shards([open_rows(path, config.key, config.wanted, config.form, may_load) for path in paths])


def _cannot_be_bad(config: ArrayConfig, reader: RowReader) -> bool:
    """Whether every value that the files' type can take is a level, and there is nothing to measure."""
    dtype, levels = reader.shards.files[0].dtype, reader.head.levels
    all_of = {"u1": 256, "b1": 2}.get(dtype.str[1:])
    bounds_fit = config.low in (None, 0.0) and (config.high is None or config.high == (levels or 0) - 1.0)
    return levels is not None and levels == all_of and bounds_fit and not config.context_columns


def _measured(
    config: ArrayConfig, reader: RowReader, others: Mapping[SplitName, RowReader], division: Division
) -> Units:
    """One pass over all rows of all files: every value is checked, the training rows are measured."""
    moments = TrainingMoments(config, reader.head)
    if _cannot_be_bad(config, reader):
        return moments.units()
    for start, stop in chunks(len(reader.shards), moments.columns):
        moments.add(reader.range(start, stop), division.training(start, stop))
    units = moments.units()
    for other in others.values():
        for start, stop in chunks(len(other.shards), moments.columns):
            other.range(start, stop)
    return units
