"""The rows of a table as files that a person can read, change and run: rows/NAME.yaml, validated at load."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from pydantic import TypeAdapter, ValidationError, model_validator

from smoothgen.component import StrictModel, describe
from smoothgen.config import TrainerConfig, read_yaml
from smoothgen.data_source import AnyDataSource, DataSource
from smoothgen.density_model import AnyDensityModel
from smoothgen.dequantization import build_density
from smoothgen.errors import ConfigError, SmoothgenError
from smoothgen.inverter import AnyInverter
from smoothgen.noise_kernel import AnyNoiseKernel

FOLDER = Path(__file__).parent / "rows"
QUICK_STEPS = 10


class Goal(StrictModel):
    """What a row is to reach: a number of at most `at_most`, or one that `beats` the row of that name by `by`."""

    measure: str
    at_most: float | None = None
    beats: str | None = None
    by: float = 0.0

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if (self.at_most is None) == (self.beats is None):
            raise ValueError("a goal has either at_most (a number) or beats (another row's name)")
        return self


class Row(StrictModel):
    """One model: smoothed where it has a kernel and an inverter, plain where it has neither.

    optional: a row that may be left out where its density cannot be built, a peer that is not installed for example.
    """

    name: str
    kernel: AnyNoiseKernel | None = None
    density: AnyDensityModel
    inverter: AnyInverter | None = None
    trainer: TrainerConfig = TrainerConfig()
    goals: tuple[Goal, ...] = ()
    optional: bool = False

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.kernel is None) != (self.inverter is None):
            raise ValueError("a smoothed row has a kernel and an inverter, a plain one neither")
        return self

    @property
    def smoothed(self) -> bool:
        """Whether it is a smoothed model."""
        return self.kernel is not None

    def settings(self, quick: bool) -> dict[str, Any]:
        """What a job trains, as plain values. quick: in ten steps."""
        trainer = in_a_few_steps(self.trainer) if quick else self.trainer
        parts = self.model_dump(mode="json", include={"kernel", "density", "inverter"})
        return parts | {"trainer": trainer.model_dump(mode="json")}


def replaced(settings: Any, component: str, **changes: Any) -> Any:
    """A row's settings (or a part of them) with keys of every component of that type set, however deep it is."""
    if isinstance(settings, dict):
        deeper = {key: replaced(value, component, **changes) for key, value in settings.items()}
        return deeper | changes if settings.get("type") == component else deeper
    return [replaced(value, component, **changes) for value in settings] if isinstance(settings, list) else settings


@dataclass(frozen=True)
class RowSet:
    """The rows of a file. data: of all of them. skipped: optional rows that cannot run here, and why."""

    data: dict[str, Any]
    rows: tuple[Row, ...]
    skipped: dict[str, str]


def load_rows(name: str) -> RowSet:
    """The rows of rows/NAME.yaml: `data`, the rows' common `trainer`, and `rows`, each with its own changes to it.

    Raises ConfigError in one line: the file, the row, the key, what is wrong.
    """
    return read_rows(FOLDER / f"{name}.yaml")


def read_rows(path: Path) -> RowSet:
    """The same of any file."""
    document = read_yaml(path)
    unknown = document.keys() - {"data", "trainer", "rows", "shared"}
    if unknown or not isinstance(document.get("rows"), list) or "data" not in document:
        raise ConfigError(f"{path.name}: expected the keys data, trainer, shared and a list rows, got {list(document)}")
    common = document.get("trainer", {})
    rows: list[Row] = []
    skipped: dict[str, str] = {}
    for number, entry in enumerate(document["rows"]):
        title = str(entry.get("name", number))
        try:
            row = _row(entry | {"trainer": common | entry.get("trainer", {})}, f"{path.name}: row {title}")
            if row.optional:
                _build(row, document["data"])
            rows.append(row)
        except SmoothgenError as error:
            if not entry.get("optional"):
                raise
            skipped[title] = str(error)
    _check_names(path, rows, skipped)
    return RowSet(document["data"], tuple(rows), skipped)


def _row(entry: dict[str, Any], where: str) -> Row:
    try:
        return Row.model_validate(entry)
    except ValidationError as error:
        raise ConfigError(f"{where}: {describe(error)}") from error


def _build(row: Row, data: dict[str, Any]) -> None:
    """Raises where the row's density cannot be built."""
    build_density(row.density, open_data(data).event)


def open_data(data: Mapping[str, Any]) -> DataSource:
    """The data source of a configuration."""
    source: DataSource = TypeAdapter(AnyDataSource).validate_python(dict(data)).build()
    return source


def in_a_few_steps(trainer: TrainerConfig) -> TrainerConfig:
    """The same training in ten steps a stage."""
    unset = {"max_steps": None, "warmup_steps": None}
    names = ("density", "inverter", "joint", "baseline")
    stages = {name: getattr(trainer, name).model_copy(update=unset) for name in names}
    return trainer.model_copy(update={"max_steps": QUICK_STEPS, "warmup_steps": 2} | stages)


def _check_names(path: Path, rows: list[Row], skipped: dict[str, str]) -> None:
    names = [row.name for row in rows] + list(skipped)
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f'{path.name}: two rows are called "{name}"; rename one')
    for row in rows:
        for goal in row.goals:
            if goal.beats is not None and goal.beats not in names:
                raise ConfigError(f'{path.name}: row {row.name}: no row is called "{goal.beats}"')
