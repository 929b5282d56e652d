"""The user's own file: a table, vectors, or 8-bit images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor

from smoothgen.arrays import Table, read_array
from smoothgen.component import nearest
from smoothgen.data_source import DataSource, DataSourceConfig, Split, SplitName
from smoothgen.errors import ConfigError, DataError
from smoothgen.event import EventSpec

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]


class ArrayConfig(DataSourceConfig):
    """Examples from .npy, .npz, .csv or .safetensors, one per row of the first axis.

    path: the file; key: which array of several. columns: the columns of a csv file to model, by name or number;
    context_columns: those to condition on instead. validation_path and test_path, or else the fractions of the rows
    that `split_seed` draws for those splits. standardize: model (x - mean) / std of the training rows, and report
    densities in the data's own units; for continuous data only.
    levels: the values are the integers 0 .. levels - 1, mapped evenly to [-1, 1]; 8-bit arrays have 256 by themselves.
    low, high: bounds of continuous values, checked. Images of 8 bits, (n, H, W) or (n, H, W, C), become (n, C, H, W).
    """

    type: Literal["array"] = "array"
    path: Path
    key: str | None = None
    columns: tuple[str | NonNegativeInt, ...] | None = None
    context_columns: tuple[str | NonNegativeInt, ...] = ()
    validation_path: Path | None = None
    test_path: Path | None = None
    validation_fraction: Fraction = 0.1
    test_fraction: Fraction = 0.1
    split_seed: NonNegativeInt = 0
    standardize: bool = True
    levels: PositiveInt | None = None
    low: float | None = None
    high: float | None = None

    def build(self) -> DataSource:
        if self.levels is not None and (self.low is not None or self.high is not None):
            raise ConfigError("data: levels maps the values to [-1, 1]; leave low and high out")
        return Array(self)


class Array(DataSource):
    """A file's examples, split, checked and mapped to the model's coordinates."""

    def __init__(self, config: ArrayConfig) -> None:
        tables = self._read(config)
        values = {name: table.values for name, table in tables.items()}
        levels = config.levels or (256 if values["train"].dtype == np.uint8 else None)
        chosen, names = _columns(config.columns, config.context_columns, tables["train"], config.path)
        given, _ = _columns(config.context_columns, (), tables["train"], config.path)
        x = {name: _numbers(_examples(value, chosen), config.path, name) for name, value in values.items()}
        train = x["train"]
        if levels is None:
            event = self._continuous(config, train, names)
        else:
            event = EventSpec(shape=tuple(train.shape[1:]), low=-1.0, high=1.0, levels=levels, names=names)
            x = {name: _from_integers(value, levels, config.path) for name, value in x.items()}
        super().__init__(event)
        self.features = len(given)
        context = {
            name: _numbers(value[:, given], config.path, name).float() if given else None
            for name, value in values.items()
        }
        standard = event.standard()
        self.splits = {
            name: Split(standard.check(event.to_model(value).float(), f"{config.path} ({name})"), context[name])
            for name, value in x.items()
        }

    @staticmethod
    def _read(config: ArrayConfig) -> dict[str, Table]:
        """The file's rows for each split; separate files are not split."""
        whole = read_array(config.path, config.key)
        others = {"validation": config.validation_path, "test": config.test_path}
        fractions = {"validation": config.validation_fraction, "test": config.test_fraction}
        generator = torch.Generator().manual_seed(config.split_seed)
        order = torch.randperm(len(whole.values), generator=generator).numpy()
        tables, taken = {}, 0
        for name, path in others.items():
            if path is not None:
                tables[name] = read_array(path, config.key)
                if tables[name].values.shape[1:] != whole.values.shape[1:]:
                    raise DataError(
                        f"{path}: examples have shape {tables[name].values.shape[1:]}, those of {config.path} "
                        f"{whole.values.shape[1:]}"
                    )
            else:
                count = round(fractions[name] * len(order))
                tables[name] = Table(whole.values[order[taken : taken + count]], whole.names)
                taken += count
        rest = order[taken:]
        if len(rest) < 2:
            raise DataError(f"{config.path}: {len(order)} rows leave {len(rest)} to train on; it needs at least 2")
        return tables | {"train": Table(whole.values[rest], whole.names)}

    @staticmethod
    def _continuous(config: ArrayConfig, train: Tensor, names: tuple[str, ...]) -> EventSpec:
        shape = tuple(train.shape[1:])
        EventSpec(shape=shape, low=config.low, high=config.high).check(train, str(config.path))
        if not config.standardize:
            return EventSpec(shape=shape, low=config.low, high=config.high, names=names)
        flat = train.flatten(1)
        mean, std = flat.mean(0), flat.std(0)
        constant = (std <= 1e-12 * (1.0 + mean.abs())).nonzero().flatten().tolist()
        if constant:
            name = f'"{names[constant[0]]}"' if names else str(constant[0])
            raise DataError(
                f"{config.path}: column {name} is constant over the training rows, so it has no density; leave it out "
                f"({len(constant)} such)"
            )
        return EventSpec(shape=shape, shift=tuple(mean.tolist()), scale=tuple(std.tolist()), names=names)

    def split(self, name: SplitName) -> Split:
        split = self.splits[name]
        if not len(split):
            raise DataError(f"the {name} split is empty; raise data.{name}_fraction or give data.{name}_path")
        return split


def _columns(
    wanted: tuple[str | int, ...] | None, without: tuple[str | int, ...], table: Table, path: Path
) -> tuple[list[int] | None, tuple[str, ...]]:
    """Indices and names of the wanted columns; None keeps arrays that are no tables as they are."""
    if wanted is None and not without:
        return None, table.names
    if table.values.ndim != 2:
        raise DataError(f"{path}: columns can be chosen from a table, not from shape {table.values.shape}")
    count = table.values.shape[1]

    def index(column: str | int) -> int:
        if isinstance(column, str) and column in table.names:
            return table.names.index(column)
        if isinstance(column, int) and column < count:
            return column
        known = ", ".join(table.names) if table.names else f"0 .. {count - 1}"
        raise DataError(f'{path} has no column "{column}"{nearest(column, table.names)}; it has {known}')

    left_out = {index(column) for column in without}
    chosen = [i for i in range(count) if i not in left_out] if wanted is None else [index(c) for c in wanted]
    if left_out & set(chosen):
        raise DataError(f"{path}: a column is both modelled and conditioned on; name it in one of the two only")
    return chosen, tuple(table.names[i] for i in chosen) if table.names else ()


def _examples(values: np.ndarray, columns: list[int] | None) -> np.ndarray:
    """(n, *event): chosen columns, a plain list as one coordinate, 8-bit images with their channels first."""
    if columns is not None:
        return values[:, columns]
    if values.ndim == 1:
        return values[:, None]
    if values.dtype == np.uint8 and values.ndim == 3:
        return values[:, None]
    if values.dtype == np.uint8 and values.ndim == 4 and values.shape[-1] <= 4:
        return np.moveaxis(values, -1, 1)
    return values


def _numbers(values: np.ndarray, path: Path, split: str) -> Tensor:
    """float64, all finite."""
    numbers = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float64))
    bad = ~numbers.isfinite()
    if bool(bad.any()):
        row, *column = bad.nonzero()[0].tolist()
        raise DataError(
            f"{path}: {int(bad.sum())} values are not finite, the first in row {row} of the {split} split, column "
            f"{', '.join(map(str, column))}; fill or remove such rows"
        )
    return numbers


def _from_integers(values: Tensor, levels: int, path: Path) -> Tensor:
    wrong = (values < 0) | (values > levels - 1) | (values != values.round())
    if bool(wrong.any()):
        culprit = values[wrong][0].item()
        raise DataError(
            f"{path}: {culprit:g} is none of the integers 0 .. {levels - 1}; mend data.levels or the values"
        )
    return values * (2.0 / (levels - 1)) - 1.0
