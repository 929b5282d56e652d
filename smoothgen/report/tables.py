"""The tables of the page: configurations side by side, likelihoods with errors, environments."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table as RichTable
from rich.text import Text

from smoothgen.evaluation import tables as measured
from smoothgen.report.curves import finite
from smoothgen.report.record import RunRecord

NOTHING = "–"


@dataclass(frozen=True)
class Row:
    """A key and its value in every run."""

    key: str
    values: tuple[str, ...]

    @property
    def differs(self) -> bool:
        """Whether the runs do not agree."""
        return len(set(self.values)) > 1


@dataclass(frozen=True)
class Grid:
    """A table of texts. The first column names the rows."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


def configuration(runs: Sequence[RunRecord]) -> list[Row]:
    """Every key of the configurations by its path, in their order."""
    return side_by_side([flattened(run.config) for run in runs])


def environment(runs: Sequence[RunRecord]) -> list[Row]:
    """Versions, platform, plugins and the command."""
    flat = []
    for run in runs:
        values = dict(run.environment)
        command = values.pop("command", None)
        if isinstance(command, list):
            values["command"] = " ".join(map(str, command))
        flat.append(flattened(values))
    return side_by_side(flat)


def side_by_side(documents: Sequence[dict[str, str]]) -> list[Row]:
    """A row for every key that some document has."""
    keys = list(dict.fromkeys(key for document in documents for key in document))
    return [Row(key, tuple(document.get(key, NOTHING) for document in documents)) for key in keys]


def flattened(node: Any, path: str = "") -> dict[str, str]:
    """{"trainer.max_steps": "100", ...}; lists stay one value."""
    if isinstance(node, dict) and node:
        found: dict[str, str] = {}
        for key, value in node.items():
            found |= flattened(value, f"{path}.{key}" if path else str(key))
        return found
    text = node if isinstance(node, str) else json.dumps(node, ensure_ascii=False, default=str)
    return {path or "value": text if len(text) <= 400 else text[:400] + "…"}


def number(value: Any, digits: int = 4) -> str:
    """A number for a reader, or a dash."""
    plain = finite(value)
    return NOTHING if plain is None else f"{plain:.{digits}f}".replace("-", "−")


def with_error(value: Any, error: Any, digits: int = 4) -> str:
    """`1.2345 ± 0.0067`."""
    shown = number(value, digits)
    return shown if finite(error) is None else f"{shown} ± {number(error, digits)}"


def likelihoods(run: RunRecord) -> Grid | None:
    """A row for every likelihood of evaluation.json: value with its error, unit, kind, how many draws and examples."""
    found = run.evaluation.get("likelihoods")
    if not isinstance(found, dict) or not found:
        return None
    gains = _dict(run.evaluation.get("gain_over_baseline"))
    wanted: list[tuple[str, Callable[[str, dict[str, Any]], str]]] = [
        ("bits per dim", lambda _, v: with_error(v.get("bits_per_dim"), v.get("bits_per_dim_stderr"))),
        ("log p(x), nats", lambda _, v: with_error(v.get("nats"), v.get("stderr"))),
        ("below the exact log p(x), nats", lambda _, v: with_error(v.get("gap"), v.get("gap_stderr"))),
        ("gain over the plain model, nats", lambda k, _: _pair(gains.get(k))),
        ("kind", lambda _, v: str(v.get("kind", NOTHING))),
        ("measure", lambda _, v: str(v.get("measure", NOTHING))),
        ("draws K", lambda _, v: str(v.get("draws") or NOTHING)),
        ("effective draws", lambda _, v: number(v.get("effective_sample_size"), 1)),
        ("examples n", lambda _, v: str(v.get("n", NOTHING))),
    ]
    entries = {name: value for name, value in found.items() if isinstance(value, dict)}
    rows = [(name, *(cell(name, value) for _, cell in wanted)) for name, value in entries.items()]
    titles = ("likelihood", *(title for title, _ in wanted))
    kept = [i for i in range(len(titles)) if i == 0 or any(row[i] != NOTHING for row in rows)]
    entropy = finite(run.evaluation.get("entropy"))
    note = "± is one standard error over the examples."
    if entropy is not None:
        note += f" The data's exact entropy is {number(entropy)} nats: no model's log p(x) has a mean above −entropy."
    columns = tuple(titles[i] for i in kept)
    return Grid("Likelihood of the test split", columns, tuple(tuple(row[i] for i in kept) for row in rows), note)


def terms(run: RunRecord) -> Grid | None:
    """What each likelihood is the sum of."""
    found = _dict(run.evaluation.get("likelihoods"))
    entries = {name: _dict(_dict(value).get("terms")) for name, value in found.items()}
    names = list(dict.fromkeys(term for own in entries.values() for term in own))
    if not names:
        return None
    rows = tuple(
        (name, *(_pair(own.get(term)) if term in own else NOTHING for term in names)) for name, own in entries.items()
    )
    note = "Means over the test examples. Their sum is log p(x)."
    return Grid("Terms, nats", ("likelihood", *names), rows, note)


def over_seeds(runs: Sequence[RunRecord]) -> list[Grid]:
    """For runs that differ in nothing but the seed: mean and standard error of every likelihood over the runs."""
    groups: dict[str, list[RunRecord]] = {}
    for run in runs:
        same = {key: value for key, value in run.config.items() if key not in ("seed", "name", "description", "device")}
        groups.setdefault(json.dumps(same, sort_keys=True, default=str), []).append(run)
    return [grid for group in groups.values() if len(group) > 1 for grid in _over_seeds(group)]


def _over_seeds(runs: Sequence[RunRecord]) -> list[Grid]:
    values: dict[str, list[float]] = {}
    unit = "nats"
    for run in runs:
        for name, entry in _dict(run.evaluation.get("likelihoods")).items():
            unit = "bits_per_dim" if "bits_per_dim" in _dict(entry) else unit
            value = finite(_dict(entry).get(unit))
            if value is not None:
                values.setdefault(name, []).append(value)
    rows = tuple(
        (name, with_error(*_mean_and_error(found)), str(len(found))) for name, found in values.items() if len(found) > 1
    )
    if not rows:
        return []
    labels = ", ".join(run.label for run in runs)
    columns = ("likelihood", "bits per dim" if unit == "bits_per_dim" else "log p(x), nats", "runs")
    return [Grid("Over seeds", columns, rows, f"Mean ± standard error over the runs {labels}.")]


def _mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    mean = sum(values) / len(values)
    variance = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return mean, math.sqrt(variance / len(values))


def sample_measures(run: RunRecord) -> list[Grid]:
    """The tables of sample quality, two-sample measures and neighbours that evaluation made."""
    makers = {
        "quality": ("Sample quality", measured.quality_table),
        "two_sample": ("Samples against data", measured.two_sample_table),
        "neighbours": ("Nearest training examples, as measured", measured.neighbour_table),
    }
    found = []
    for key, (title, maker) in makers.items():
        if isinstance(run.evaluation.get(key), dict):
            try:
                table = maker(run.evaluation[key])
            except (KeyError, TypeError, ValueError, AttributeError):
                continue  # of another version, or damaged; the file itself is named in the notes if it is unreadable
            found.append(_of_rich(title, table))
    return found


def _of_rich(title: str, table: RichTable) -> Grid:
    columns = tuple(_plain(column.header) for column in table.columns)
    cells = [[_plain(cell) for cell in column.cells] for column in table.columns]
    said = [_plain(text) for text in (table.title, table.caption) if text]
    note = " ".join(f"{text[:1].upper()}{text[1:]}." for text in said)
    return Grid(title, columns, tuple(zip(*cells, strict=True)), note)


def _plain(cell: Any) -> str:
    return cell.plain if isinstance(cell, Text) else str(cell)


def _pair(value: Any) -> str:
    own = _dict(value)
    return with_error(own.get("nats"), own.get("stderr")) if own else NOTHING


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
