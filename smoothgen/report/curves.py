"""Curves of training, as plain values for the page: every stage, and the terms of the bound."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from smoothgen.report.record import RunRecord

POINTS = 500
"""Most points of a curve; longer ones are averaged."""
STAGES = {
    "density": "Stage 1: p(x̃)",
    "inverter": "Stage 2: p(x|x̃)",
    "joint": "Joint stage: kernel, p(x̃), p(x|x̃)",
    "baseline": "Plain baseline: p(x)",
}
TERMS = {"log_smoothed": "E log p(x̃)", "minus_log_kernel": "−E log q(x̃|x)", "log_inverse": "E log p(x|x̃)"}
KERNEL_TERM = "−log q(x̃|x)"
"""What evaluation.json calls the kernel's term."""

Point = list[float | None]


def stage_charts(runs: Sequence[RunRecord]) -> list[dict[str, Any]]:
    """A group of charts for every stage that some run has begun: loss, gradient norm, learning rate.

    Each chart: title, unit, and series {run, name, dashed, points [[step, value], ...]}.
    """
    begun = list(dict.fromkeys(str(record["stage"]) for run in runs for record in run.metrics if "stage" in record))
    known = [stage for stage in STAGES if stage in begun]
    groups = []
    for stage in known + [stage for stage in begun if stage not in STAGES]:
        losses = []
        for number, run in enumerate(runs):
            losses.append(_series(number, "training", _points(run, stage, "loss")))
            losses.append(_series(number, "validation", _points(run, stage, "validation_loss"), dashed=True))
        charts = [_chart("Loss", "nats", losses)]
        for key, title, unit in (("gradient_norm", "Gradient norm", ""), ("learning_rate", "Learning rate", "")):
            series = [_series(number, title.lower(), _points(run, stage, key)) for number, run in enumerate(runs)]
            charts.append(_chart(title, unit, series))
        groups.append({"title": STAGES.get(stage, stage), "charts": [chart for chart in charts if chart["series"]]})
    return [group for group in groups if group["charts"]]


def term_charts(runs: Sequence[RunRecord]) -> list[dict[str, Any]]:
    """A chart for every term of the bound (Eq. 3) on the validation split, while its stage was trained.

    The stages' validation losses are minus the terms; a joint stage logs all three. The kernel's term does not change
    where its scale is fixed: the measured value is then drawn as a level line.
    """
    charts = []
    for key, title in TERMS.items():
        series = [_series(number, title, _term(run, key)) for number, run in enumerate(runs)]
        charts.append(_chart(title, "nats", series))
    return [chart for chart in charts if chart["series"]]


def _term(run: RunRecord, key: str) -> list[Point]:
    logged = _points(run, "joint", key)
    if logged:
        return logged
    if key == "minus_log_kernel":
        value = measured_term(run, KERNEL_TERM)
        steps = [point[0] for stage in ("density", "inverter") for point in _points(run, stage, "validation_loss")]
        return [[min(map(_number, steps)), value], [max(map(_number, steps)), value]] if steps and value else []
    stage = {"log_smoothed": "density", "log_inverse": "inverter"}[key]
    return [[step, None if value is None else -value] for step, value in _points(run, stage, "validation_loss")]


def measured_term(run: RunRecord, name: str) -> float | None:
    """A term of the bound as evaluation measured it on the test split, nats."""
    try:
        return finite(run.evaluation["likelihoods"]["elbo"]["terms"][name]["nats"])
    except (KeyError, TypeError):
        return None


def _points(run: RunRecord, stage: str, key: str) -> list[Point]:
    rows = [
        [finite(record.get("step")), finite(record[key])]
        for record in run.metrics
        if record.get("stage") == stage and key in record
    ]
    return thinned([row for row in rows if row[0] is not None])


def thinned(points: list[Point], most: int = POINTS) -> list[Point]:
    """At most so many points: the means of equal numbers of neighbours. A value that is not finite stays a gap."""
    if len(points) <= most:
        return points
    size = math.ceil(len(points) / most)
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [[_mean(point[0] for point in group), _mean(point[1] for point in group)] for group in groups]


def finite(value: Any) -> float | None:
    """A number as JSON can hold it, or None."""
    ok = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if ok else None


def _number(value: float | None) -> float:
    return 0.0 if value is None else value


def _mean(values: Iterable[float | None]) -> float | None:
    numbers = list(values)
    if any(number is None for number in numbers):
        return None
    return float(f"{sum(map(_number, numbers)) / len(numbers):.7g}")


def _series(run: int, name: str, points: list[Point], dashed: bool = False) -> dict[str, Any]:
    return {"run": run, "name": name, "dashed": dashed, "points": points}


def _chart(title: str, unit: str, series: list[dict[str, Any]], x: str = "step") -> dict[str, Any]:
    return {"title": title, "unit": unit, "x": x, "series": [one for one in series if one["points"]]}


def search_chart(search: dict[str, Any], number: int) -> dict[str, Any]:
    """The bound of every candidate sigma, a series for each rung."""
    series = []
    for rung in search.get("rungs", []):
        points = [[finite(c), finite(s)] for c, s in zip(rung["candidates"], rung["scores"], strict=False)]
        series.append(_series(number, f"{rung['steps']} steps", points) | {"marks": True})
    return _chart("Bound on the validation split", "nats", series, x="sigma")
