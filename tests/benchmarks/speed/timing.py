"""Contenders that take turns, and what their times say."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

Work = Callable[[], object]


@dataclass(frozen=True)
class Settings:
    """device: where. rounds: how often every contender takes its turn; quick: fewer, smaller, to see that it runs."""

    device: torch.device
    rounds: int = 7
    quick: bool = False

    def fewer(self, most: int) -> int:
        """Rounds of what takes long."""
        return max(2, min(self.rounds, most)) if not self.quick else 2


@dataclass
class Row:
    """One line of the table: `ours` against `baseline`, in seconds for each repetition.

    ratio: median of the baseline over ours; low, high: quartiles of the ratios round by round. least and aim: what was
    asked for. notes: whatever else was measured, by name.
    """

    group: str
    name: str
    ours: float
    baseline: float | None = None
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    least: float | None = None
    aim: float | None = None
    notes: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


Rows = Iterator[Row]


def seconds(work: Work, device: torch.device) -> float:
    """CPU seconds of one call, or seconds by the clock on an accelerator."""
    if device.type == "cpu":
        began = time.process_time()
        work()
        return time.process_time() - began
    torch.accelerator.synchronize()
    began = time.perf_counter()
    work()
    torch.accelerator.synchronize()
    return time.perf_counter() - began


def interleaved(contenders: dict[str, Work], settings: Settings, rounds: int | None = None) -> dict[str, list[float]]:
    """Seconds of every contender, A B A B ..., after one turn of each that is not counted."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range((rounds or settings.rounds) + 1):
        for name, work in contenders.items():
            taken = seconds(work, settings.device)
            if turn:
                times[name].append(taken)
    return times


def repeated(step: Work, count: int) -> Work:
    """Several steps as one turn: one alone would be too short to time."""

    def work() -> None:
        for _ in range(count):
            step()

    return work


def compared(
    group: str,
    name: str,
    times: dict[str, list[float]],
    *,
    ours: str = "ours",
    baseline: str = "baseline",
    least: float | None = None,
    aim: float | None = None,
    scale: float = 1.0,
    baseline_scale: float | None = None,
    **notes: Any,
) -> Row:
    """A row from interleaved times. scale: from a turn's seconds to those to be shown."""
    other = scale if baseline_scale is None else baseline_scale
    ratios = [other * b / (scale * a) for a, b in zip(times[ours], times[baseline], strict=True)]
    middle, base = statistics.median(times[ours]), statistics.median(times[baseline])
    quartiles = statistics.quantiles(ratios, n=4) if len(ratios) > 2 else [min(ratios), 0.0, max(ratios)]
    return Row(
        group,
        name,
        scale * middle,
        other * base,
        other * base / (scale * middle),
        quartiles[0],
        quartiles[2],
        least,
        aim,
        notes,
    )
