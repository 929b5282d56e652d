"""A likelihood worked out by hand: every number, the text and the summary; what it refuses."""

from __future__ import annotations

import math
import warnings

import pytest
import torch

from smoothgen.errors import MeasureError
from smoothgen.likelihood import Likelihood, standard_error

pytestmark = pytest.mark.usefixtures("float64")

LOG_2 = math.log(2.0)
PER_EXAMPLE = [-2.0 * LOG_2, -4.0 * LOG_2, -6.0 * LOG_2]
"""Mean -4 ln 2; deviations +-2 ln 2, so the standard error is 2 ln 2 / sqrt(3)."""
TERMS = {"one": [1.0, 2.0, 3.0], "rest": [-1.0, -1.0, 5.0]}
"""Means 2 and 1; standard errors 1 / sqrt(3) and sqrt(12) / sqrt(3) = 2."""


def likelihood(measure="discrete", draws=0, sizes=None) -> Likelihood:
    terms = {name: torch.tensor(values) for name, values in TERMS.items()}
    sizes = None if sizes is None else torch.tensor(sizes)
    return Likelihood(torch.tensor(PER_EXAMPLE), 2, measure, "lower bound", terms, draws, sizes)


def test_numbers_by_hand():
    result = likelihood()
    assert result.n == 3
    assert result.nats == pytest.approx(-4.0 * LOG_2, rel=1e-14)
    assert result.stderr == pytest.approx(2.0 * LOG_2 / math.sqrt(3.0), rel=1e-14)
    assert result.bits_per_dim == pytest.approx(2.0, rel=1e-14), "4 bits over two dimensions"
    assert result.bits_per_dim_stderr == pytest.approx(1.0 / math.sqrt(3.0), rel=1e-14)


def test_the_whole_summary():
    third = 1.0 / math.sqrt(3.0)
    summary = likelihood(draws=4, sizes=[1.0, 2.0, 6.0]).summary()
    assert set(summary["terms"]) == {"one", "rest"}
    assert summary.pop("terms")["one"] == pytest.approx({"nats": 2.0, "stderr": third})
    words = {"kind": "lower bound", "measure": "discrete", "n": 3, "draws": 4, "dimensions": 2}
    assert {name: summary.pop(name) for name in words} == words
    assert summary == pytest.approx(
        {
            "nats": -4.0 * LOG_2,
            "stderr": 2.0 * LOG_2 * third,
            "bits_per_dim": 2.0,
            "bits_per_dim_stderr": third,
            "effective_sample_size": 3.0,
        }
    )
    assert likelihood("density").summary()["terms"]["rest"] == pytest.approx({"nats": 1.0, "stderr": 2.0})
    assert not {"bits_per_dim", "bits_per_dim_stderr", "effective_sample_size"} & likelihood("density").summary().keys()


@pytest.mark.parametrize("sizes", [None, [1.0, 2.0, 6.0]])
def test_its_tensors_make_a_likelihood_of_other_examples(sizes):
    """Every second example: what processes send each other."""
    whole = likelihood(draws=4, sizes=sizes)
    named = whole.tensors()
    assert named.keys() == {"per_example", "term one", "term rest"} | ({"draws"} if sizes else set())
    few = whole.with_tensors({name: values[::2] for name, values in named.items()})
    assert few.per_example.tolist() == PER_EXAMPLE[::2]
    assert {name: values.tolist() for name, values in few.terms.items()} == {"one": [1.0, 3.0], "rest": [-1.0, 5.0]}
    assert (few.effective_sample_size is None) if sizes is None else few.effective_sample_size.tolist() == [1.0, 6.0]
    assert (few.dimensions, few.measure, few.kind, few.draws) == (2, "discrete", "lower bound", 4)


def test_the_whole_text():
    """-4 ln 2 = -2.7726, its error 0.8004."""
    assert str(likelihood(draws=4, sizes=[1.0, 2.0, 6.0])) == (
        "2.0000 ± 0.5774 bits/dim (-2.7726 ± 0.8004 nats), lower bound, discrete, n = 3, 4 draws each\n"
        "  one: 2.0000 ± 0.5774\n"
        "  rest: 1.0000 ± 2.0000\n"
        "  effective sample size: 3.0 of 4"
    )
    assert str(likelihood("density", draws=1)).splitlines()[0] == (
        "-2.7726 ± 0.8004 nats, lower bound, density, n = 3, 1 draw each"
    )
    assert str(likelihood("density", draws=2)).splitlines()[0].endswith("n = 3, 2 draws each")
    exact = Likelihood(torch.tensor([-1.0, -2.0]), 1, "density", "exact")
    assert str(exact) == "-1.5000 ± 0.5000 nats, exact, density, n = 2"
    assert exact.terms == {} and exact.draws == 0
    assert exact.terms is not Likelihood(torch.zeros(1), 1, "density", "exact").terms


def test_bits_of_a_density_are_refused_with_the_way_out():
    with pytest.raises(MeasureError) as refusal:
        _ = likelihood("density").bits_per_dim
    assert str(refusal.value) == (
        "bits per dim are defined for discrete data only: this likelihood is a density per unit of the data, "
        "which any change of units shifts; use .nats, or give the event its levels"
    )


def test_standard_error():
    assert standard_error(torch.tensor([1.0, 3.0])) == pytest.approx(1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch warns of the standard deviation of one number
        assert math.isnan(standard_error(torch.tensor([1.0])))


def test_joining_keeps_everything_in_order():
    parts = [likelihood(draws=4, sizes=[1.0, 2.0, 6.0]), likelihood(draws=4, sizes=[3.0, 2.0, 1.0])]
    joined = Likelihood.join(parts)
    assert (joined.dimensions, joined.measure, joined.kind, joined.draws) == (2, "discrete", "lower bound", 4)
    assert joined.per_example.tolist() == PER_EXAMPLE * 2
    assert {name: term.tolist() for name, term in joined.terms.items()} == {k: v * 2 for k, v in TERMS.items()}
    assert joined.effective_sample_size is not None
    assert joined.effective_sample_size.tolist() == [1.0, 2.0, 6.0, 3.0, 2.0, 1.0]
    assert Likelihood.join([likelihood()] * 2).effective_sample_size is None
