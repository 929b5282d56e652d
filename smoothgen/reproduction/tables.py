"""Tables in Markdown: means over seeds with their standard errors, the best in bold where it surely is, goals."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Better = Literal["lower", "higher"]
SURE = 2.0
"""How many standard errors of a difference make it one."""


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and its standard error, nan for one seed."""

    mean: float
    stderr: float
    n: int

    @staticmethod
    def over(values: Iterable[float | None]) -> Estimate | None:
        """Of the numbers that are there; None where there are none."""
        found = [float(value) for value in values if value is not None]
        if not found:
            return None
        error = statistics.stdev(found) / math.sqrt(len(found)) if len(found) > 1 else math.nan
        return Estimate(statistics.fmean(found), error, len(found))

    def surely_below(self, other: Estimate) -> bool:
        """Whether it is smaller by more than two standard errors of the difference; never known of a single seed."""
        return self.mean + SURE * math.hypot(self.stderr, other.stderr) < other.mean


@dataclass(frozen=True)
class Column:
    """key: of the numbers. better: which way, where rows compete in it. scale multiplies what is shown.

    form: "number" with as many digits as its error allows (at most `digits` after the point), "count" in whole
    numbers, "text" as it is.
    """

    key: str
    title: str
    better: Better | None = None
    scale: float = 1.0
    digits: int = 4
    form: Literal["number", "count"] = "number"


@dataclass(frozen=True)
class TableRow:
    """A name, what was found by key, and text for further columns. competes: False for floors and references."""

    name: str
    found: Mapping[str, Estimate | None]
    text: tuple[str, ...] = ()
    competes: bool = True


def difference(one: Estimate, other: Estimate) -> tuple[str, bool]:
    """How far two estimates are apart, with the standard error, and whether that is more than two of them."""
    apart = Estimate(abs(one.mean - other.mean), math.hypot(one.stderr, other.stderr), min(one.n, other.n))
    return in_digits(apart), apart.mean > SURE * apart.stderr


def doubt(sure: bool, *values: Estimate) -> str:
    """Why a difference of these may be chance, in words; nothing where it is sure."""
    if sure:
        return ""
    return "within two standard errors" if all(value.n > 1 for value in values) else "from a single seed"


def in_digits(value: Estimate) -> str:
    """With two digits of the error, or four digits where there is none."""
    if not value.stderr > 0.0 or not math.isfinite(value.mean):
        return f"{value.mean:.4g}"
    places = max(1 - math.floor(math.log10(value.stderr)), 0)
    return f"{value.mean:.{places}f} ± {value.stderr:.{places}f}"


def markdown_table(
    columns: Sequence[Column], rows: Sequence[TableRow], head: str = "", more: Sequence[str] = ()
) -> str:
    """A row for each name, a column for each key, and `more` columns of text. Columns without a number are left out.

    A number over fewer seeds than others of its column says over how many.
    """
    shown = [column for column in columns if any(row.found.get(column.key) is not None for row in rows)]
    best = {column.key: best_row(column, rows) for column in shown}
    most = {column.key: max(_seeds(row.found.get(column.key)) for row in rows) for column in shown}
    titles = [head, *(column.title for column in shown), *more]
    lines = [line(titles), "|---" + "|---:" * len(shown) + "|---" * len(more) + "|"]
    for row in rows:
        cells = []
        for column in shown:
            value = row.found.get(column.key)
            text = cell(value, column)
            text = f"**{text}**" if best[column.key] is row else text
            fewer = f" ({_seeds(value)} of {most[column.key]} seeds)" if 0 < _seeds(value) < most[column.key] else ""
            cells.append(text + fewer)
        lines.append(line([row.name, *cells, *(row.text or ("",) * len(more))]))
    return "\n".join(lines)


def _seeds(value: Estimate | None) -> int:
    return 0 if value is None else value.n


def line(cells: Sequence[str]) -> str:
    """One line of a table; bars within cells, as in p(x|x̃), are escaped."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def best_row(column: Column, rows: Sequence[TableRow]) -> TableRow | None:
    """The one row that is better than every other by more than two standard errors of the difference, if there is."""
    if column.better is None:
        return None
    sign = 1.0 if column.better == "lower" else -1.0
    signed = []
    for row in rows:
        value = row.found.get(column.key)
        if value is not None and row.competes:
            signed.append((row, Estimate(sign * value.mean, value.stderr, value.n)))
    if len(signed) < 2:
        return None
    first = min(signed, key=lambda pair: pair[1].mean)
    surely = all(first[1].surely_below(value) for row, value in signed if row is not first[0])
    return first[0] if surely else None


def cell(value: Estimate | None, column: Column) -> str:
    """`2.6634 ± 0.0012`: the error with two digits, the mean with as many places; without it for one seed."""
    if value is None:
        return ""
    mean, error = value.mean * column.scale, value.stderr * column.scale
    if column.form == "count":
        return f"{mean:,.0f}"
    if not math.isfinite(mean):
        return str(mean)
    if math.isnan(error) or error == 0.0:
        return _no_minus_zero(f"{mean:.{column.digits}f}")
    places = min(max(1 - math.floor(math.log10(error)), 0), column.digits)
    return f"{_no_minus_zero(f'{mean:.{places}f}')} ± {error:.{places}f}"


def _no_minus_zero(text: str) -> str:
    return text[1:] if text.startswith("-") and not text.strip("-0.") else text
