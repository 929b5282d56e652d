"""Goals of rows: whether a number was reached, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from smoothgen.reproduction.rows import Goal, Row
from smoothgen.reproduction.tables import Estimate

NAMES = {
    "nll": "−ELBO or NLL",
    "iw_10": "IW-10",
    "iw_100": "IW-100",
    "iw_1000": "IW-1000",
    "off_support": "off support",
    "cpu_seconds": "CPU s",
    "gap": "gap",
    "mmd": "MMD²",
    "parameters": "parameters",
}
"""What the tables call a measure."""

Found = Mapping[str, Mapping[str, Estimate | None]]


def goals_of(row: Row, numbers: Found) -> str:
    """`−ELBO or NLL ≤ 2.68: met (2.664)` for each goal of a row: of the mean over seeds."""
    return "; ".join(_in_words(goal, row.name, numbers) for goal in row.goals)


def goals_met(rows: Sequence[Row], numbers: Found) -> str:
    """How many of all goals are met, and which are not."""
    every = [(row.name, goal) for row in rows for goal in row.goals]
    if not every:
        return ""
    missed = [(name, goal) for name, goal in every if not is_met(goal, name, numbers)]
    count = f"Goals: {len(every) - len(missed)} of {len(every)} met"
    return (
        f"{count}."
        if not missed
        else f"{count}; not "
        + ", ".join(f"{_condition(goal)} ({name}: {_value(goal, name, numbers)})" for name, goal in missed)
        + "."
    )


def is_met(goal: Goal, name: str, numbers: Found) -> bool:
    """Whether the row of that name reaches it."""
    value, limit = numbers[name].get(goal.measure), _limit(goal, numbers)
    return value is not None and limit is not None and value.mean <= limit


def _limit(goal: Goal, numbers: Found) -> float | None:
    if goal.beats is None:
        return goal.at_most
    other = numbers.get(goal.beats, {}).get(goal.measure)
    return None if other is None else other.mean - goal.by


def _in_words(goal: Goal, name: str, numbers: Found) -> str:
    met = "met" if is_met(goal, name, numbers) else "not met"
    return f"{_condition(goal)}: {met} ({_value(goal, name, numbers)})"


def _condition(goal: Goal) -> str:
    title = NAMES.get(goal.measure, goal.measure)
    if goal.beats is None:
        return f"{title} ≤ {_plain(goal.at_most or 0.0)}"
    margin = f" by {goal.by:g}" if goal.by else ""
    return f"{title} below {goal.beats}{margin}"


def _value(goal: Goal, name: str, numbers: Found) -> str:
    value = numbers[name].get(goal.measure)
    return "not measured" if value is None else _plain(value.mean)


def _plain(value: float) -> str:
    """As many digits as tell a value from its goal, without an exponent."""
    return f"{value:,.0f}" if abs(value) >= 1000.0 else f"{value:.{4 if abs(value) >= 10.0 else 5}g}"
