"""The bijection is one, depends on its seed, and is random by every statistic that training could notice."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, chi2

from smoothgen.permutation import Bijection
from smoothgen.row_order import DRAWN, PAGE, chosen, page, page_length, spread


@given(st.integers(1, 3000), st.integers(0, 2**63 - 1))
def test_every_number_comes_once_and_is_found_again(n, seed):
    order = Bijection(n, seed)
    values = order(np.arange(n))
    assert np.array_equal(np.sort(values), np.arange(n))
    assert np.array_equal(order.inverse(values), np.arange(n))


@given(st.integers(1, 2**62 - 1), st.integers(0, 2**63 - 1), st.lists(st.integers(0, 2**62), max_size=50))
def test_far_numbers_are_found_again(n, seed, places):
    where = np.array([0, n - 1, *(place % n for place in places)])
    order = Bijection(n, seed)
    values = order(where)
    assert values.min() >= 0 and values.max() < n
    assert np.array_equal(order.inverse(values), where)


def test_a_part_of_the_order_is_the_order():
    order = Bijection(10**9, 5)
    whole = order(np.arange(1000, 3000))
    assert np.array_equal(whole[[7, 1500, 7]], order(np.array([1007, 2500, 1007])))


def test_another_seed_is_another_order():
    n = 10**9
    first, second = (Bijection(n, seed)(np.arange(10_000)) for seed in (1, 2))
    assert (first == second).sum() <= 2
    assert len(np.intersect1d(first, second)) <= 3


def uniform(counts: np.ndarray, expected: np.ndarray | float) -> float:
    """The chance of counts at least as uneven as these."""
    statistic = ((counts - expected) ** 2 / expected).sum()
    return float(chi2.sf(statistic, counts.size - 1))


def place_by_value(values: np.ndarray, n: int) -> float:
    """Whether where a number stands says where it comes to stand: 32 x 32 cells."""
    cells = (np.arange(n) * 32 // n) * 32 + values * 32 // n
    counts = np.bincount(cells, minlength=1024).astype(float)
    # both margins are fixed, so 31 x 31 degrees of freedom are left
    return float(chi2.sf(((counts - n / 1024) ** 2 / (n / 1024)).sum(), 31 * 31))


def neighbours(values: np.ndarray, n: int) -> float:
    """Whether a number says which one follows it: the difference to the next, modulo n, in 256 cells."""
    return uniform(np.bincount((np.diff(values) % n) * 256 // n, minlength=256), (n - 1) / 256)


def triples(values: np.ndarray, n: int) -> float:
    """The order within groups of three: each of the six as often."""
    ranks = values[: n // 3 * 3].reshape(-1, 3).argsort(1)
    return uniform(np.bincount(ranks @ [9, 3, 1], minlength=27)[[5, 7, 11, 15, 19, 21]], n // 3 / 6)


def batches(values: np.ndarray, n: int) -> float:
    """How many numbers below n / 4 a batch of 64 holds, against the binomial, which drawing without repetition from
    so many hardly leaves."""
    counts = (values[: n // 64 * 64].reshape(-1, 64) < n // 4).sum(1)
    edges = np.arange(8, 25)
    observed = np.bincount(np.clip(counts, edges[0], edges[-1]) - edges[0], minlength=len(edges))
    mass = binom.pmf(edges, 64, (n // 4) / n)
    mass[0], mass[-1] = binom.cdf(edges[0], 64, 0.25), binom.sf(edges[-1] - 1, 64, 0.25)
    return uniform(observed.astype(float), n // 64 * mass)


def low_digits(values: np.ndarray, n: int) -> float:
    """Whether the place modulo 16 says the value modulo 16."""
    counts = np.bincount((np.arange(n) % 16) * 16 + values % 16, minlength=256).astype(float)
    return float(chi2.sf(((counts - n / 256) ** 2 / (n / 256)).sum(), 15 * 15))


STATISTICS = [place_by_value, neighbours, triples, batches, low_digits]


def p_values(draw: Callable[[int], np.ndarray], n: int, statistic: Callable[[np.ndarray, int], float]) -> list[float]:
    return [statistic(draw(seed), n) for seed in range(12)]


@pytest.mark.parametrize("statistic", STATISTICS, ids=lambda each: each.__name__)
def test_it_is_random(statistic):
    """Of twelve seeds none is unlikely beyond 1e-5, and they are not all unlikely together (Fisher's method)."""
    n = 200_003
    found = np.array(p_values(lambda seed: Bijection(n, seed)(np.arange(n)), n, statistic))
    assert found.min() > 1e-5, found
    assert 1e-4 < chi2.sf(-2.0 * np.log(np.maximum(found, 1e-300)).sum(), 2 * len(found)) < 1 - 1e-6, found


@pytest.mark.parametrize("statistic", STATISTICS, ids=lambda each: each.__name__)
def test_the_statistics_tell_an_order_from_a_poor_one(statistic):
    """Each of them refuses a multiplication modulo a prime, the cheapest bijection there is."""
    n = 200_003
    poor = p_values(lambda seed: np.arange(n) * (seed + 3) % n, n, statistic)
    assert min(poor) < 1e-10


def test_small_orders_all_occur():
    """Of four numbers, all 24 orders, as the hash draws each step anew from the seed."""
    seen = {tuple(Bijection(4, seed)(np.arange(4))) for seed in range(600)}
    assert seen == set(itertools.permutations(range(4)))


def test_pages_make_up_the_order():
    n = DRAWN + 5 * PAGE + 17
    order = torch.cat([page(n, index, 3) for index in range(-(-n // page_length(n)))])
    assert torch.equal(order.sort().values, torch.arange(n))
    short = page(1000, 0, 3)
    assert page_length(1000) == 1000 and torch.equal(short.sort().values, torch.arange(1000))


@pytest.mark.parametrize("n", [10, DRAWN, DRAWN + 1, 10**12])
def test_a_choice_repeats_nothing(n):
    first, again, other = (chosen(n, 1000, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert len(first.unique()) == len(first) == min(n, 1000)
    assert int(first.min()) >= 0 and int(first.max()) < n


def test_impossible_sizes_are_refused():
    for n in (0, 2**62):
        with pytest.raises(ValueError, match="n must be between"):
            Bijection(n, 0)


@pytest.mark.parametrize("n", [1, 2, 100, 60_000, 2**24 + 1, 2**25 - 1, 10**12])
def test_an_even_choice_stays_inside_and_reaches_both_ends(n):
    rows = spread(n, 2000)
    assert len(rows) == min(n, 2000)
    assert rows[0] == 0 and rows[-1] == n - 1
    assert bool((rows.diff() > 0).all())
