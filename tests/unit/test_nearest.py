"""Nearest neighbours against brute force, and the memorisation number on models that copy and that do not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from smoothgen.errors import DataError
from smoothgen.evaluation.nearest import draw_neighbours, memorisation, nearest_neighbours
from smoothgen.event import EventSpec


def images(n, seed, size=4):
    return torch.rand(n, 1, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize("size", [4, 20])  # 400 coordinates take the other way to distances
@pytest.mark.parametrize("rows", [7, 1024])
def test_neighbours_against_brute_force(rows, size):
    x, reference = images(30, 0, size), images(50, 1, size)
    found = nearest_neighbours(x, reference, 4, rows=rows)
    flat, flat_reference = (value.flatten(1).double().numpy() for value in (x, reference))
    distances = np.linalg.norm(flat[:, None] - flat_reference[None], axis=-1)
    order = np.argsort(distances, axis=1)[:, :4]
    assert np.array_equal(found.indices.numpy(), order)
    np.testing.assert_allclose(found.distances.numpy(), np.take_along_axis(distances, order, 1), rtol=1e-12)


@pytest.mark.parametrize("size", [4, 20])
def test_a_copy_is_exactly_nothing_away(size):
    reference = images(50, 1, size) + 1000
    found = nearest_neighbours(reference[[7, 3]], reference)
    assert found.indices.flatten().tolist() == [7, 3]
    assert found.distances.flatten().tolist() == [0.0, 0.0]


def test_more_neighbours_than_examples_are_refused():
    with pytest.raises(DataError, match="5 of 4 for 3 examples"):
        nearest_neighbours(images(3, 0), images(4, 1), 5)


def test_copies_stand_out():
    train, test = images(400, 0), images(200, 1)
    near = train[:100] + 0.01 * torch.randn(100, 1, 4, 4, generator=torch.Generator().manual_seed(2))
    sets = {"copies": train[:100], "nearly": near, "new": images(300, 3), "test": test}
    result = memorisation(sets, train)
    assert result["copies"]["copies"] == 1.0 and result["copies"]["mean"] == 0.0
    assert result["nearly"]["copies"] == 0.0 and result["nearly"]["ratio_to_test"] < 0.1
    error = result["new"]["stderr"] / result["new"]["mean"]
    assert abs(result["new"]["ratio_to_test"] - 1.0) < 6 * error < 0.2
    assert result["test"]["ratio_to_test"] == 1.0
    assert (result["new"]["n"], result["new"]["n_train"]) == (300, 400)


def test_a_picture_shows_each_sample_with_its_neighbours(tmp_path, monkeypatch):
    from smoothgen.evaluation import nearest

    drawn = {}
    monkeypatch.setattr(nearest, "save_panels", lambda path, panels, event: drawn.update(panels))
    event = EventSpec(shape=(1, 4, 4), low=-1.0, high=1.0)
    train = images(60, 0)
    samples = train[[5, 9, 11]] + 0.001
    means = samples.mean((1, 2, 3))[:, None], train.mean((1, 2, 3))[:, None]
    draw_neighbours(tmp_path / "n.png", samples, train, {"pixels": (samples, train), "means": means}, event)
    panel = drawn["sample | nearest in\npixels"]
    assert torch.equal(panel[[0, 8, 16]], samples)
    assert torch.equal(panel[[1, 9, 17]], train[[5, 9, 11]])
    assert len(panel) == 24
    monkeypatch.undo()
    draw_neighbours(tmp_path / "n.png", samples, train, {"pixels": (samples, train)}, event)
    assert (tmp_path / "n.png").stat().st_size > 1000
    with pytest.raises(DataError, match="needs images"):
        draw_neighbours(tmp_path / "n.png", train.flatten(1), train.flatten(1), {}, EventSpec(shape=(16,)))
