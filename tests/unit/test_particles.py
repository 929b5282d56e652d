"""Weights, evidence and resampling against counts and sums by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Generator

from smoothgen.errors import NonFiniteError
from smoothgen.particles import Particles

pytestmark = pytest.mark.usefixtures("float64")


def particles(groups: int, count: int, seed: int = 0, threshold: float = 0.5) -> Particles:
    return Particles(groups, count, torch.zeros(()), threshold=threshold, generator=Generator().manual_seed(seed))


def test_weights_and_evidence_without_resampling():
    cloud = particles(2, 3, threshold=0.0)
    first = torch.tensor([[0.0, 1.0, 2.0], [5.0, 5.0, 5.0]])
    second = torch.tensor([[-1.0, 0.5, 0.0], [0.0, -3.0, 1.0]])
    assert cloud.weigh(first.flatten()) is None
    assert cloud.weigh(second.flatten()) is None
    total = first + second
    assert torch.allclose(cloud.log_weights, torch.log_softmax(total, 1))
    assert torch.allclose(cloud.log_evidence, torch.logsumexp(total, 1) - math.log(3))
    weights = torch.softmax(total, 1)
    assert torch.allclose(cloud.effective_sample_size, 1.0 / weights.square().sum(1))


def test_only_poor_groups_are_resampled():
    cloud = particles(3, 4)
    increments = torch.tensor([[0.0, 0.0, 0.0, 9.0], [0.0, 0.1, 0.0, 0.1], [9.0, 0.0, 9.0, 0.0]])
    ancestors = cloud.weigh(increments.flatten()).reshape(3, 4)
    assert ancestors[0].tolist() == [3, 3, 3, 3]
    assert ancestors[1].tolist() == [4, 5, 6, 7]
    assert ancestors[2].tolist() == [8, 9, 10, 11], "an effective sample size of 2 of 4 is not below half"
    assert torch.allclose(cloud.log_weights[0], torch.tensor(-math.log(4.0)))
    assert not torch.allclose(cloud.log_weights[1], torch.tensor(-math.log(4.0)))


@pytest.mark.parametrize("count", [1, 2, 5, 40])
def test_systematic_resampling_is_unbiased_and_of_least_spread(count):
    """Expected counts are count * weight; each count is a neighbouring integer; a weight of 0 is never drawn."""
    groups = 40_000
    log_weights = torch.randn(count, generator=Generator().manual_seed(3)) * 1.5
    if count > 2:
        log_weights[[0, -1]] = -math.inf
    cloud = particles(groups, count, threshold=2.0)
    ancestors = cloud.weigh(log_weights.repeat(groups)).reshape(groups, count) - count * torch.arange(groups)[:, None]
    counts = torch.nn.functional.one_hot(ancestors, count).sum(1).double()
    expected = count * torch.softmax(log_weights, 0)
    assert (counts >= expected.floor() - 1e-9).all() and (counts <= expected.ceil() + 1e-9).all()
    error = counts.std(0) / math.sqrt(groups)
    assert ((counts.mean(0) - expected).abs() <= 4.5 * error + 1e-9).all()


def test_a_lineage_follows_every_resampling_since_it_began():
    cloud = particles(2, 8, threshold=2.0)
    generator = Generator().manual_seed(1)
    value = torch.arange(16)
    cloud.weigh(torch.randn(16, generator=generator))
    lineage = cloud.lineage()
    for _ in range(3):
        value = value[cloud.weigh(torch.randn(16, generator=generator))]
    assert torch.equal(lineage.rows, value)
    assert (lineage.rows[:8] < 8).all() and (lineage.rows[8:] >= 8).all(), "no group takes from another"


def test_a_row_is_chosen_by_evidence_and_weight():
    examples, together, count = 30_000, 2, 3
    cloud = particles(examples * together, count, threshold=0.0)
    increments = torch.tensor([[0.0, 1.0, -1.0], [0.5, 0.5, 2.0]])
    cloud.weigh(increments.flatten().repeat(examples))
    chosen = cloud.choose(Generator().manual_seed(5), together=together)
    assert (chosen // 6 == torch.arange(examples)).all()
    shares = torch.bincount(chosen % 6, minlength=6) / examples
    expected = torch.softmax(increments.flatten(), 0)
    assert ((shares - expected).abs() < 4.5 * (expected * (1 - expected) / examples).sqrt()).all()
    alone = cloud.choose(Generator().manual_seed(5))
    assert (alone // 3 == torch.arange(2 * examples)).all()


@pytest.mark.parametrize("bad", [-math.inf, math.nan])
def test_a_group_without_weight_is_refused_in_the_end(bad):
    cloud = particles(2, 2)
    cloud.weigh(torch.tensor([0.0, 0.0, bad, bad]))
    cloud.weigh(torch.zeros(4))
    assert cloud.log_weights.isfinite().all()
    with pytest.raises(NonFiniteError, match="example 1"):
        cloud.choose()
    # of two copies one may fail
    copies = particles(2, 2)
    copies.weigh(torch.tensor([-math.inf, -math.inf, 0.0, 0.0]))
    assert copies.choose(together=2).item() in (2, 3)


def test_float32_rows_are_weighed_in_float64():
    cloud = Particles(1, 2, torch.zeros((), dtype=torch.float32))
    cloud.weigh(torch.tensor([1e8, 1e8 + 16], dtype=torch.float32))
    assert cloud.log_weights.dtype == torch.float64
    assert cloud.log_weights[0].softmax(0)[1] > 0.999
