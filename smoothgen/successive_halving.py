"""The best of several candidates: all train a little, the better half twice as long, until one is left."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from smoothgen.errors import NonFiniteError
from smoothgen.likelihood import standard_error


@dataclass(frozen=True)
class Rung:
    """What candidates reached after the same number of steps; one entry for each candidate.

    scores: mean score, the higher the better; None where it is not finite. behind: the best score minus this one, and
    stderr: the standard error of that mean difference, paired on the examples. seconds: wall clock of the whole rung.
    """

    steps: int
    candidates: tuple[float, ...]
    scores: tuple[float | None, ...]
    behind: tuple[float | None, ...]
    stderr: tuple[float | None, ...]
    seconds: float = 0.0

    @classmethod
    def measured(cls, steps: int, candidates: Sequence[float], per_example: Sequence[Tensor]) -> Rung:
        """per_example: for each candidate, (n,) scores of the same examples, or anything not finite if it failed."""
        means = [_number(scores.mean().item()) for scores in per_example]
        order = _ranked(means)
        if not order:
            none = (None,) * len(means)
            return cls(steps, tuple(candidates), none, none, none)
        best = per_example[order[0]]
        finite = [mean is not None for mean in means]
        gaps = [best - scores if ok else None for scores, ok in zip(per_example, finite, strict=True)]
        behind = tuple(None if gap is None else _number(gap.mean().item()) for gap in gaps)
        stderr = tuple(None if gap is None else _number(standard_error(gap)) for gap in gaps)
        return cls(steps, tuple(candidates), tuple(means), behind, stderr)

    @classmethod
    def restored(cls, values: dict[str, Any]) -> Rung:
        """The rung that `dataclasses.asdict` and JSON made plain."""
        lists = {name: tuple(values[name]) for name in ("candidates", "scores", "behind", "stderr")}
        return cls(steps=values["steps"], seconds=values["seconds"], **lists)

    def survivors(self) -> tuple[float, ...]:
        """The better half (rounded up) in ascending order; of equal scores the earlier candidate's counts as better.

        Raises NonFiniteError where no score is finite.
        """
        order = _ranked(self.scores)
        if not order:
            raise NonFiniteError(
                f"none of the candidates {', '.join(f'{value:.4g}' for value in self.candidates)} has a finite score "
                f"after {self.steps} steps; lower trainer.learning_rate or clip_norm, or look for outliers in the data"
            )
        kept = order[: (len(self.candidates) + 1) // 2]
        return tuple(sorted(self.candidates[i] for i in kept))

    def score_of(self, candidate: float) -> float | None:
        """Its score, or None where it took no part or failed."""
        return dict(zip(self.candidates, self.scores, strict=True)).get(candidate)


Measure = Callable[[tuple[float, ...], int], Rung]
"""Trains the candidates for so many steps each, and scores them."""


def successive_halving(
    candidates: Sequence[float], steps: int, measure: Measure, done: Sequence[Rung] = ()
) -> Iterator[Rung]:
    """Yields rung after rung until one candidate is left; `done` ones are not measured again.

    The budget of a candidate doubles from rung to rung, so that every rung costs about the same.
    Source: Jamieson & Talwalkar 2016 (arXiv 1502.07943), Figure 3, with eta = 2.
    Raises NonFiniteError where every candidate failed.
    """
    remaining, number = tuple(candidates), 0
    while len(remaining) > 1:
        rung = done[number] if number < len(done) else measure(remaining, steps * 2**number)
        yield rung
        remaining = rung.survivors()
        number += 1


def winner(candidates: Sequence[float], rungs: Sequence[Rung]) -> float:
    """The candidate that is left."""
    return (rungs[-1].survivors() if rungs else tuple(candidates))[0]


def refined(candidates: Sequence[float], rungs: Sequence[Rung]) -> float:
    """The top of the parabola in log sigma through the winner and its two neighbours.

    Through their scores in the last rung that has all three and in which the winner leads them, so that the top lies
    between the neighbours; an early rung in which another leads is one that later ones have corrected. The winner
    itself where there is no such rung, or where it lies at an end of the ascending candidates.
    """
    best = winner(candidates, rungs)
    place = list(candidates).index(best)
    if not 0 < place < len(candidates) - 1:
        return best
    three = candidates[place - 1 : place + 2]
    for rung in reversed(rungs):
        scores = [score for score in map(rung.score_of, three) if score is not None]
        if len(scores) == 3 and scores[1] == max(scores):
            return _top([math.log(value) for value in three], scores)
    return best


def _top(positions: Sequence[float], scores: Sequence[float]) -> float:
    """exp of where the parabola through three points is highest; the middle one is as high as any."""
    (left, middle, right), (low, centre, high) = positions, scores
    rise, fall = (centre - low) / (middle - left), (high - centre) / (right - middle)
    if rise == fall:
        return math.exp(middle)
    # the slope is `rise` halfway between the first two points, `fall` halfway between the last two
    return math.exp(0.5 * (left + middle) + rise / (rise - fall) * 0.5 * (right - left))


def _ranked(scores: Sequence[float | None]) -> list[int]:
    """Indices of the finite scores, best first, ties in their order."""
    finite = [(-score, i) for i, score in enumerate(scores) if score is not None]
    return [i for _, i in sorted(finite)]


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
