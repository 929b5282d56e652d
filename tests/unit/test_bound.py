"""A bound over several draws, from terms with known values: the value, its terms, the passes, the refusals."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from smoothgen.bound import bound
from smoothgen.errors import ConfigError, ShapeError
from smoothgen.event import EventSpec

pytestmark = pytest.mark.usefixtures("float64")

PLANE = EventSpec(shape=(2,))
METRIC = EventSpec(shape=(2,), shift=(1.0, 2.0), scale=(2.0, 8.0))
NAMES = ("first", "second")


class Draws:
    """Terms (a x_0 + noise, context or x_1): the k-th draw of an example is heavier by log k than its first.

    Remembers the rows and the contexts of every pass.
    """

    def __init__(self) -> None:
        self.passes: list[tuple[Tensor, Tensor | None]] = []
        self.drawn: dict[float, int] = {}

    def __call__(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        self.passes.append((x, context))
        weights = []
        for key in x[:, 0].tolist():
            self.drawn[key] = self.drawn.get(key, 0) + 1
            weights.append(math.log(self.drawn[key]))
        return x[:, 0] + torch.tensor(weights), x[:, 1] if context is None else context[:, 0]


def examples(n: int) -> Tensor:
    """(n, 2): 0, 1, 2, ... and -10 times that."""
    first = torch.arange(float(n))
    return torch.stack([first, -10.0 * first], 1)


def run(n: int, draws: int, rows_at_once: int, event: EventSpec = PLANE, context: Tensor | None = None, terms=None):
    terms = terms or Draws()
    return bound(terms, NAMES, examples(n), context, event, "density", draws, rows_at_once)


@pytest.mark.parametrize("rows_at_once", [1, 2, 3, 4, 5, 7, 8, 100])
@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize("draws", [1, 2, 4])
def test_value_terms_and_sample_size_by_hand(n, draws, rows_at_once):
    """Draws 1 .. K weigh 1 .. K: the mean weight is (K + 1) / 2, the effective size (sum k)^2 / sum k^2."""
    terms = Draws()
    result = run(n, draws, rows_at_once, terms=terms)
    x = examples(n)
    numbers = range(1, draws + 1)
    base = x.sum(1)
    log_mean = math.log((draws + 1) / 2)
    mean_log = sum(map(math.log, numbers)) / draws
    assert torch.allclose(result.per_example, base + log_mean, rtol=1e-12)
    assert torch.allclose(result.terms["first"], x[:, 0] + mean_log, rtol=1e-12)
    assert torch.allclose(result.terms["second"], x[:, 1])
    assert (result.n, result.draws, result.dimensions) == (n, draws, 2)
    assert (result.measure, result.kind) == ("density", "lower bound")
    if draws == 1:
        assert result.effective_sample_size is None and list(result.terms) == list(NAMES)
    else:
        size = sum(numbers) ** 2 / sum(k * k for k in numbers)
        assert list(result.terms) == [*NAMES, "importance weighting"]
        assert result.effective_sample_size is not None
        assert torch.allclose(result.effective_sample_size, torch.full((n,), size))
        assert torch.allclose(result.terms["importance weighting"], torch.full((n,), log_mean - mean_log))
    assert set(terms.drawn.values()) == {draws} and len(terms.drawn) == n
    assert max(len(rows) for rows, _ in terms.passes) <= rows_at_once


@pytest.mark.parametrize(
    ("n", "draws", "rows_at_once", "sizes"),
    [
        (5, 2, 4, [4, 4, 2]),  # two examples a pass with both draws, the fifth alone
        (2, 5, 2, [2, 2, 1, 2, 2, 1]),  # example by example, its draws in twos
        (3, 1, 3, [3]),
        (2, 3, 6, [6]),
        (1, 4, 3, [3, 1]),
        (2, 2, 1, [1, 1, 1, 1]),
    ],
)
def test_passes_are_as_large_as_they_may_be(n, draws, rows_at_once, sizes):
    terms = Draws()
    run(n, draws, rows_at_once, terms=terms)
    assert [len(rows) for rows, _ in terms.passes] == sizes


@pytest.mark.parametrize("rows_at_once", [1, 2, 3, 100])
def test_every_row_has_the_context_of_its_example(rows_at_once):
    terms = Draws()
    context = torch.tensor([[5.0, 0.0], [6.0, 0.0], [7.0, 0.0]])
    result = run(3, 2, rows_at_once, context=context, terms=terms)
    assert result.terms["second"].tolist() == [5.0, 6.0, 7.0]
    for rows, given in terms.passes:
        assert given is not None and torch.equal(given[:, 0], rows[:, 0] + 5.0)


def test_events_and_contexts_of_several_axes_are_repeated_whole():
    shapes = []

    def terms(x: Tensor, context: Tensor | None) -> list[Tensor]:
        assert context is not None
        shapes.append((tuple(x.shape), tuple(context.shape)))
        assert torch.equal(x[:, 0, 0, 0], context[:, 0, 0])
        return [x.flatten(1).sum(1)]

    x = torch.arange(24.0).reshape(2, 1, 3, 4)
    context = x[:, 0, :2, :2].clone()
    picture = EventSpec(shape=(1, 3, 4))
    result = bound(terms, ["sum"], x, context, picture, "density", 3, 100)
    assert shapes == [((6, 1, 3, 4), (6, 2, 2))]
    assert torch.allclose(result.per_example, x.flatten(1).sum(1)) and result.dimensions == 12


def test_a_density_is_per_unit_of_the_data():
    """log |d data / d x| = log 16 is taken off; the terms still sum to the value."""
    for draws in (1, 3):
        result, plain = run(4, draws, 100, METRIC), run(4, draws, 100)
        assert torch.allclose(result.per_example, plain.per_example - math.log(16.0))
        assert torch.allclose(result.terms["units of the data"], torch.full((4,), -math.log(16.0)))
        assert torch.allclose(sum(result.terms.values()), result.per_example)
        assert "units of the data" not in plain.terms


def test_values_are_kept_in_double_precision():
    x = torch.tensor([[1.0 / 3.0, 0.0]], dtype=torch.float32)
    result = bound(lambda x, _: [x[:, 0]], ["x"], x, None, PLANE, "discrete", 1, 10)
    assert result.per_example.dtype == torch.float64 and result.measure == "discrete"
    assert result.per_example.item() == x[0, 0].item()


def test_as_many_names_as_terms():
    with pytest.raises(ValueError, match="zip"):
        bound(Draws(), ["first"], examples(2), None, PLANE, "density", 1, 10)


def test_no_draws_and_no_examples_are_refused():
    with pytest.raises(ConfigError) as refusal:
        run(2, 0, 10)
    assert str(refusal.value) == "importance_samples must be at least 1, got 0"
    with pytest.raises(ShapeError) as empty:
        run(0, 1, 10)
    assert str(empty.value) == "likelihood: x holds no examples"
