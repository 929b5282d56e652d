"""Streamed examples are the bits of those in memory, whatever the files, the shards and the batches."""

from __future__ import annotations

import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from smoothgen.data_source import DataSource
from smoothgen.testing import check
from smoothgen_datasets import moments, streamed_array
from smoothgen_datasets.array import Array, ArrayConfig
from smoothgen_datasets.division import Computed, Listed, divide
from smoothgen_datasets.moments import Moments, chunks
from smoothgen_datasets.streamed_array import StreamedArray

ENDINGS = (".npy", ".npz", ".safetensors", ".csv")
DTYPES = ("<f4", "<f8", ">f4", "<i2", "<f2")
SPLITS: tuple[Any, ...] = ("train", "validation", "test")


def write(path: Path, values: np.ndarray) -> None:
    if path.suffix == ".npy":
        np.save(path, values)
    elif path.suffix == ".npz":
        np.savez(path, x=values)
    elif path.suffix == ".safetensors":
        save_file({"x": torch.from_numpy(np.ascontiguousarray(values))}, path)
    else:
        path.write_text("".join(",".join(map(repr, row)) + "\n" for row in values.astype(float).tolist()))


def write_shards(folder: Path, ending: str, values: np.ndarray, cuts: list[int]) -> Path:
    folder.mkdir()
    edges = sorted({0, len(values), *(cut % len(values) for cut in cuts)})
    for index, (start, stop) in enumerate(pairwise(edges)):
        write(folder / f"part-{index}{ending}", values[start:stop])
    return folder


def assert_same(first: DataSource, second: DataSource) -> None:
    assert first.event == second.event and first.features == second.features
    for name in SPLITS:
        one, other = first.split(name), second.split(name)
        assert torch.equal(one.x, other.x)
        assert (one.context is None) == (other.context is None)
        if one.context is not None and other.context is not None:
            assert torch.equal(one.context, other.context)


@given(
    seed=st.integers(0, 1000),
    rows=st.integers(12, 60),
    width=st.integers(1, 4),
    cuts=st.lists(st.integers(1, 59), max_size=12),
    ending=st.sampled_from(ENDINGS),
    dtype=st.sampled_from(DTYPES),
    which=st.lists(st.integers(0, 10_000), min_size=1, max_size=200),
)
def test_shards_and_streams_hold_the_same_examples(seed, rows, width, cuts, ending, dtype, which):
    """One file in memory, many files in memory, one file streamed, many files streamed: equal bits; any batch too."""
    if ending == ".safetensors" and dtype[0] == ">":
        dtype = "<f4"
    values = (np.random.default_rng(seed).normal(size=(rows, width)) * 30 + 5).astype(dtype)
    values[:2] = [[3], [8]]  # no column is constant
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder / f"whole{ending}", values)
        write_shards(folder / "shards", ending, values, cuts)
        whole = ArrayConfig(path=folder / f"whole{ending}", validation_fraction=0.2, test_fraction=0.2).build()
        assert isinstance(whole, Array)
        for path in (folder / f"whole{ending}", folder / "shards"):
            for stream in ("always", "never"):
                config = ArrayConfig(path=path, stream=stream, validation_fraction=0.2, test_fraction=0.2)
                source = config.build()
                assert source.examples("train").streamed == (stream == "always")
                assert_same(source, whole)
                for split in SPLITS:
                    batch = torch.tensor(which) % len(whole.split(split))
                    assert torch.equal(source.examples(split).rows(batch).x, whole.split(split).x[batch])


@pytest.mark.parametrize(
    ("values", "keys"),
    [
        (np.random.default_rng(0).integers(0, 256, (40, 5, 6, 3), dtype=np.uint8), {}),
        (np.random.default_rng(0).integers(0, 256, (40, 5, 6), dtype=np.uint8), {"levels": 256, "low": 0, "high": 255}),
        (np.random.default_rng(0).integers(0, 17, (40, 8)).astype(np.int64), {"levels": 17}),
        (np.random.default_rng(0).random((40, 4)) > 0.5, {}),
        (np.random.default_rng(0).random(40), {}),
        (np.random.default_rng(0).random((40, 3)), {"standardize": False, "low": 0.0, "high": 1.0}),
        (np.random.default_rng(0).random((40, 3)), {"context_columns": (2,)}),
        (np.random.default_rng(0).random((40, 5)), {"columns": (4, 0), "context_columns": (2, 1)}),
        (np.random.default_rng(0).random((40, 2, 3)), {}),
    ],
    ids=["colours", "greys", "levels", "bits", "numbers", "bounded", "context", "columns", "blocks"],
)
def test_every_kind_of_data_streams(tmp_path, monkeypatch, values, keys):
    """With several chunks and several reads for each, as large files have."""
    monkeypatch.setattr(moments, "CHUNK", 16)
    monkeypatch.setattr(streamed_array, "READ_AT_ONCE", 3 * values[0].nbytes)
    np.save(tmp_path / "whole.npy", values)
    shards = write_shards(tmp_path / "shards", ".npy", values, [11, 12, 30])
    whole = ArrayConfig(path=tmp_path / "whole.npy", **keys).build()
    streamed = ArrayConfig(path=shards, stream="always", **keys).build()
    assert isinstance(whole, Array) and isinstance(streamed, StreamedArray)
    assert_same(streamed, whole)
    assert streamed.context_names == whole.context_names


def test_the_contract_holds_for_streams(tmp_path):
    values = np.random.default_rng(0).normal(size=(200, 3))
    shards = write_shards(tmp_path / "shards", ".npy", values, [50, 70])
    report = check(ArrayConfig(path=shards, stream="always"))
    assert "splits" in str(report) and "apart" in str(report)


@given(st.integers(2, 200), st.integers(1, 3), st.integers(0, 99), st.floats(-1e6, 1e6), st.integers(1, 50))
def test_moments_are_those_of_all_rows(rows, columns, seed, offset, size):
    values = torch.randn(rows, columns, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) + offset
    found = Moments(columns)
    for part in values.split(size):
        found.add(part[:0])
        found.add(part)
    assert found.count == rows
    assert torch.allclose(found.mean, values.mean(0), rtol=1e-14, atol=1e-14)
    # a number of size |offset| is known to 1e-16 of that
    assert torch.allclose(found.std, values.std(0), rtol=1e-12, atol=1e-15 * abs(offset))
    assert torch.equal(found.largest, values.abs().amax(0)) and torch.equal(found.first, values[0])


@given(st.integers(1, 10**6), st.integers(1, 10**7))
def test_chunks_cover_all_rows_once(n, columns):
    found = list(chunks(n, max(columns, n // 100)))
    assert found[0][0] == 0 and found[-1][1] == n
    assert all(stop == start for (_, stop), (start, _) in pairwise(found))


@pytest.mark.parametrize("kind", [Listed, Computed])
@given(data=st.data(), n=st.integers(2, 500), seed=st.integers(0, 99))
def test_every_row_is_in_one_split(kind, data, n, seed):
    held_out = data.draw(st.integers(0, n - 2))
    validation = data.draw(st.integers(0, held_out))
    division = kind(n, {"validation": validation, "test": held_out - validation}, seed)
    counts = {name: division.count(name) for name in SPLITS}
    assert counts == {"train": n - held_out, "validation": validation, "test": held_out - validation}
    rows = {name: division.rows(name, np.arange(counts[name])) for name in SPLITS}
    assert np.array_equal(np.sort(np.concatenate(list(rows.values()))), np.arange(n))
    assert set(np.flatnonzero(division.training(0, n))) == set(rows["train"].tolist())
    assert np.array_equal(division.training(n // 3, n), division.training(0, n)[n // 3 :])


def test_few_rows_are_listed_and_many_computed():
    assert isinstance(divide(2**20, {"validation": 5}, 0), Listed)
    many = divide(10**12, {"validation": 10**11, "test": 10**11}, 0)
    assert isinstance(many, Computed)
    rows = many.rows("test", np.arange(1000))
    assert len(np.unique(rows)) == 1000 and not many.training(int(rows[0]), int(rows[0]) + 1).any()
    assert many.training(0, 10_000).mean() == pytest.approx(0.8, abs=0.02)


def test_long_arrays_are_split_alike_in_memory_and_streamed(tmp_path, monkeypatch):
    """As those of more rows than a permutation is drawn for."""
    monkeypatch.setattr("smoothgen_datasets.division.DRAWN", 100)
    values = np.random.default_rng(0).normal(size=(300, 2))
    shards = write_shards(tmp_path / "shards", ".npy", values, [120, 250])
    np.save(tmp_path / "whole.npy", values)
    whole = ArrayConfig(path=tmp_path / "whole.npy").build()
    assert_same(ArrayConfig(path=shards, stream="always").build(), whole)
    together = torch.cat([whole.event.to_data(whole.split(name).x) for name in SPLITS])
    assert torch.allclose(together.sort(0).values, torch.from_numpy(values).sort(0).values, atol=1e-6)
