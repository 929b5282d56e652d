"""Successive halving and its parabola against scores that are known."""

from __future__ import annotations

import dataclasses
import json
import math
import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from smoothgen.errors import NonFiniteError
from smoothgen.successive_halving import Rung, refined, successive_halving, winner

EIGHT = tuple(0.1 * 1.5**i for i in range(8))


def rung(scores, candidates=EIGHT, steps=10):
    """What a rung measures where all examples of a candidate score the same."""
    return Rung.measured(steps, candidates, [torch.full((4,), score, dtype=torch.float64) for score in scores])


def halved(score, candidates=EIGHT, steps=10, done=()):
    """All rungs where score(candidate, steps) is known; and the calls that were made."""
    calls = []

    def measure(remaining, budget):
        calls.append((remaining, budget))
        return rung([score(candidate, budget) for candidate in remaining], remaining, budget)

    return list(successive_halving(candidates, steps, measure, done)), calls


def distance(target):
    return lambda candidate, steps: -((math.log(candidate) - math.log(target)) ** 2)


def test_the_better_half_goes_on_with_twice_the_steps():
    rungs, calls = halved(distance(EIGHT[5] * 1.02))
    assert calls == [(EIGHT, 10), (EIGHT[4:], 20), (EIGHT[5:7], 40)]
    assert [each.steps for each in rungs] == [10, 20, 40]
    assert winner(EIGHT, rungs) == EIGHT[5]


def test_a_candidate_that_gains_late_survives_if_it_is_in_the_better_half():
    rungs, _ = halved(lambda candidate, steps: EIGHT.index(candidate) * (1 if steps < 40 else -1))
    assert rungs[1].candidates == EIGHT[4:]
    assert winner(EIGHT, rungs) == EIGHT[6]


@pytest.mark.parametrize(("count", "sizes"), [(2, [2]), (3, [3, 2]), (5, [5, 3, 2]), (6, [6, 3, 2]), (8, [8, 4, 2])])
def test_odd_halves_are_rounded_up(count, sizes):
    rungs, _ = halved(distance(1.0), EIGHT[:count])
    assert [len(each.candidates) for each in rungs] == sizes


def test_one_candidate_is_the_winner_without_a_rung():
    rungs, calls = halved(distance(1.0), (0.3,))
    assert (rungs, calls) == ([], [])
    assert winner((0.3,), rungs) == refined((0.3,), rungs) == 0.3


def test_ties_keep_the_earlier_candidate():
    rungs, calls = halved(lambda candidate, steps: 1.0)
    assert [remaining for remaining, _ in calls] == [EIGHT, EIGHT[:4], EIGHT[:2]]
    assert winner(EIGHT, rungs) == EIGHT[0]


def test_rungs_that_are_done_are_not_measured_again():
    whole, _ = halved(distance(0.4))
    for number in range(4):
        rungs, calls = halved(distance(0.4), done=whole[:number])
        assert rungs == whole
        assert len(calls) == 3 - number


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_failed_candidates_are_dropped_whatever_their_place(bad):
    rungs, _ = halved(lambda candidate, steps: bad if candidate in EIGHT[2:] else candidate)
    assert rungs[0].scores == (EIGHT[0], EIGHT[1], *[None] * 6)
    assert rungs[1].candidates == EIGHT[:2]
    assert winner(EIGHT, rungs) == EIGHT[1]
    only, _ = halved(lambda candidate, steps: candidate if candidate == EIGHT[3] else bad)
    assert len(only) == 1
    assert winner(EIGHT, only) == refined(EIGHT, only) == EIGHT[3]


def test_nothing_finite_is_an_error_that_says_so():
    with pytest.raises(NonFiniteError, match=r"none of the candidates 0\.1, 0\.15 has a finite score after 10 steps"):
        halved(lambda candidate, steps: math.nan, EIGHT[:2])


@given(target=st.floats(0.13, 1.35), curvature=st.floats(0.1, 10.0))
def test_the_parabola_finds_the_top_of_a_parabola(target, curvature):
    rungs, _ = halved(lambda candidate, steps: 3.0 - curvature * math.log(candidate / target) ** 2)
    assert refined(EIGHT, rungs) == pytest.approx(target, rel=1e-6)


def test_the_parabola_takes_the_last_rung_with_all_three():
    """The top moves from rung to rung; the last one lacks a neighbour of the winner, the one before has all three."""
    tops = {10: 0.25, 20: 0.38, 40: 0.36}
    rungs, _ = halved(lambda candidate, steps: -(math.log(candidate / tops[steps]) ** 2))
    assert len(rungs[-1].candidates) == 2
    assert refined(EIGHT, rungs) == pytest.approx(0.38, rel=1e-6)


@pytest.mark.parametrize("end", [0, 7])
def test_a_winner_at_an_end_is_not_refined(end):
    rungs, _ = halved(distance(EIGHT[end]))
    assert refined(EIGHT, rungs) == EIGHT[end]


THREE = (0.5, 1.0, 2.0)
LAST = rung([1.0, 0.0], (1.0, 2.0))


@pytest.mark.parametrize("scores", [[0.0, 1.0, 1.01], [1.01, 1.0, 0.0], [0.0, -1.0, 5.0], [0.0, math.nan, 1.0]])
def test_a_rung_in_which_a_neighbour_leads_is_passed_over(scores):
    assert refined(THREE, [rung(scores, THREE), LAST]) == 1.0
    earlier = rung([-(math.log(value / 1.1) ** 2) for value in THREE], THREE)
    assert refined(THREE, [earlier, rung(scores, THREE), LAST]) == pytest.approx(1.1)


def test_equal_scores_leave_the_top_in_the_middle_of_them():
    assert refined(THREE, [rung([0.5, 0.5, 0.5], THREE), LAST]) == pytest.approx(1.0)
    assert refined(THREE, [rung([0.0, 0.5, 0.5], THREE), LAST]) == pytest.approx(math.sqrt(2.0))


def test_differences_are_paired_on_the_examples():
    """Scores that share a large part: the error of the difference knows nothing of it."""
    generator = torch.Generator().manual_seed(0)
    shared = 10.0 * torch.randn(500, generator=generator, dtype=torch.float64)
    own = 0.1 * torch.randn(500, generator=generator, dtype=torch.float64)
    measured = Rung.measured(5, (0.1, 0.2), [shared, shared - 0.3 + own])
    gaps = [0.3 - value for value in own.tolist()]
    assert measured.behind == (0.0, pytest.approx(statistics.fmean(gaps)))
    assert measured.stderr == (0.0, pytest.approx(statistics.stdev(gaps) / math.sqrt(500)))
    assert measured.scores[0] == pytest.approx(shared.mean().item())


def test_a_rung_survives_json():
    measured = rung([1.0, math.nan, 0.5], (0.1, 0.2, 0.3))
    assert Rung.restored(json.loads(json.dumps(dataclasses.asdict(measured)))) == measured
