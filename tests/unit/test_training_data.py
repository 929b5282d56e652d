"""Batches: every example once in an epoch, a function of the seed and the step alone, streamed as in memory."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from smoothgen import row_order
from smoothgen.data_source import DataSource, Examples, Split
from smoothgen.device import DeviceConfig, DevicePolicy
from smoothgen.event import EventSpec
from smoothgen.training_data import Request, TrainingData

N = 103


class Numbers(DataSource):
    """Example i is the number i."""

    features = 1

    def split(self, name):
        x = torch.arange(N, dtype=torch.float32)[:, None]
        return Split(x, -x)


class Streamed(Examples):
    """The same, a batch at a time."""

    streamed = True

    def __len__(self) -> int:
        return N

    def rows(self, which: Tensor) -> Split:
        x = which[:, None].float()
        return Split(x, -x)

    def sketch(self, most: int) -> Split:
        return self.spread(most)


class StreamedNumbers(Numbers):
    def examples(self, name):
        return Streamed()


def data(kind: type[DataSource], seed: int = 0) -> TrainingData:
    return TrainingData(kind(EventSpec(shape=(1,))), DevicePolicy(DeviceConfig(device="cpu")), seed)


def epochs(given: TrainingData, count: int, size: int = 10, micro_batches: int = 2) -> Tensor:
    batches = [
        given.batch("density", step, micro, size, micro_batches)
        for step in range(-(-count * N // (size * micro_batches)))
        for micro in range(micro_batches)
    ]
    assert all(torch.equal(batch.context, -batch.x) for batch in batches)
    return torch.cat([batch.x for batch in batches]).flatten().long()[: count * N].reshape(count, N)


@pytest.fixture(params=["drawn", "computed"])
def _order(request, monkeypatch):
    """Epochs that are drawn whole, and those of many examples, a page at a time."""
    if request.param == "computed":
        monkeypatch.setattr(row_order, "DRAWN", 10)
        monkeypatch.setattr(row_order, "PAGE", 16)


@pytest.mark.usefixtures("_order")
@pytest.mark.parametrize("kind", [Numbers, StreamedNumbers])
def test_every_epoch_holds_every_example_once_in_another_order(kind):
    given = data(kind)
    with given.reading():
        found = epochs(given, 4)
    assert torch.equal(found.sort(1).values, torch.arange(N).expand(4, N))
    assert all(not torch.equal(one, other) for one, other in itertools.combinations(found, 2))


@pytest.mark.usefixtures("_order")
def test_streamed_batches_are_those_in_memory_in_any_order_of_asking():
    whole, streamed = data(Numbers), data(StreamedNumbers)
    with streamed.reading():
        assert torch.equal(epochs(whole, 2), epochs(streamed, 2))
        for stage, step, micro in [("density", 7, 1), ("inverter", 7, 1), ("density", 0, 0), ("density", 1000, 2)]:
            one, other = (each.batch(stage, step, micro, 50, 3) for each in (whole, streamed))
            assert torch.equal(one.x, other.x) and torch.equal(one.context, other.context)
        assert torch.equal(whole.sample(7).x, streamed.sample(7).x)


@pytest.mark.usefixtures("_order")
def test_another_seed_or_stage_is_another_order():
    first = data(Numbers).batch("density", 0, 0, 50, 1).x
    assert not torch.equal(first, data(Numbers, seed=1).batch("density", 0, 0, 50, 1).x)
    assert not torch.equal(first, data(Numbers).batch("inverter", 0, 0, 50, 1).x)
    assert torch.equal(first, data(Numbers).batch("density", 0, 0, 50, 1).x)


@pytest.mark.parametrize(("processes", "accumulate"), [(1, 1), (1, 3), (2, 1), (2, 3)])
def test_what_follows_is_what_the_trainer_asks_next(processes, accumulate):
    parts = processes * accumulate
    for rank in range(processes):
        asked = [
            Request("density", step, k * processes + rank, 8, parts) for step in range(3) for k in range(accumulate)
        ]
        for one, following in itertools.pairwise(asked):
            assert one.after(processes) == following
