"""Every registered data source keeps its word; any table survives its file."""

from __future__ import annotations

import csv
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

import smoothgen
from smoothgen.component import ComponentConfig
from smoothgen.errors import DataError
from smoothgen.tables import CsvFormat, read_table
from smoothgen_datasets.array import ArrayConfig
from smoothgen_datasets.mixture import Mixture1DConfig

FINITE = st.floats(-1e30, 1e30, allow_subnormal=False)
EVERYTHING = CsvFormat()


def sources() -> list[type[ComponentConfig]]:
    """Our data sources that need no file."""
    found = smoothgen.installed().components["data"]
    return [
        cls
        for cls in found.values()
        if cls.__module__.startswith("smoothgen_datasets")
        and not any(field.is_required() for field in cls.model_fields.values())
    ]


@pytest.mark.parametrize("config", sources(), ids=lambda cls: cls.tag())
def test_every_source_keeps_the_contract(config):
    source, again = config().build(), config().build()
    for name in ("train", "validation", "test"):
        split = source.split(name)
        assert len(split) > 0 and split.x.dtype == torch.float32 and split.x.device.type == "cpu"
        source.event.standard().check(split.x, name)
        assert torch.equal(split.x, again.split(name).x)
        assert (split.context is None) == (source.features == 0)
    if source.fresh:
        drawn = source.draw(7, torch.Generator().manual_seed(0))
        assert drawn.x.shape == (7, *source.event.shape)


@pytest.mark.parametrize("config", sources(), ids=lambda cls: cls.tag())
def test_every_configuration_survives_json(config):
    before = config()
    assert config.model_validate_json(before.model_dump_json()) == before


@given(arrays(np.float64, array_shapes(min_dims=2, max_dims=2, max_side=6), elements=FINITE), st.booleans())
def test_csv_round_trip(values, header):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data.csv"
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            if header:
                writer.writerow([f"x {index}, raw" for index in range(values.shape[1])])
            writer.writerows(values.tolist())
        table = read_table(path, None, None, EVERYTHING)
    np.testing.assert_array_equal(table.values, values)
    assert len(table.names) == header * values.shape[1]
    assert table.lines == tuple(range(1 + header, len(values) + 1 + header))


@given(
    arrays(
        st.sampled_from([np.float64, np.float32, np.int16, np.uint8, np.bool_, np.dtype(">f8")]),
        array_shapes(min_dims=1, max_dims=4, max_side=4),
    ),
    st.booleans(),
)
@example(np.array([1.5, -2.0], dtype=">f8"), False)
def test_npy_and_npz_round_trip(values, fortran):
    values = np.asfortranarray(values) if fortran else values
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "data.npy", values)
        np.savez_compressed(Path(folder) / "data.npz", x=values)
        for name in ("data.npy", "data.npz"):
            table = read_table(Path(folder) / name, None, None, EVERYTHING)
            np.testing.assert_array_equal(table.values, values)
            assert table.values.dtype == values.dtype.newbyteorder("="), "in the machine's order, as torch needs it"


def assert_read_or_refused(path: Path) -> None:
    """Whatever is in the file: examples, or one clear line, and no other exception."""
    message = ""
    try:
        ArrayConfig(path=path).build()
    except DataError as error:
        message = str(error)
    assert "\n" not in message


@given(st.binary(max_size=400), st.sampled_from([".npy", ".npz", ".csv", ".safetensors"]))
def test_any_bytes_are_read_or_refused_in_one_line(data, ending):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"data{ending}"
        path.write_bytes(data)
        assert_read_or_refused(path)


@given(st.data(), st.sampled_from([".npy", ".npz", ".safetensors"]))
def test_damaged_files_are_read_or_refused(data, ending):
    """A byte of a good file changed: other numbers, or one clear line; never anything else."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"data{ending}"
        values = np.arange(24.0).reshape(12, 2)
        if ending == ".safetensors":
            from safetensors.numpy import save_file

            save_file({"x": values}, path)
        else:
            (np.save if ending == ".npy" else lambda file, x: np.savez_compressed(file, x=x))(path, values)
        whole = bytearray(path.read_bytes())
        position = data.draw(st.integers(0, len(whole) - 1))
        whole[position] = data.draw(st.integers(0, 255))
        path.write_bytes(whole)
        assert_read_or_refused(path)


@given(
    arrays(np.float64, st.tuples(st.integers(4, 12), st.integers(1, 4)), elements=st.floats(-1e6, 1e6)),
    st.integers(0, 3),
)
def test_standardising_comes_back(values, seed):
    values = np.sort(values, axis=0) + np.arange(len(values))[:, None] * 1e-2  # no constant column
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data.npy"
        np.save(path, values)
        source = ArrayConfig(path=path, split_seed=seed).build()
    train = source.event.to_data(source.split("train").x.double()).numpy()
    scale = np.array(source.event.scale)
    for row in train:
        assert (np.abs(values - row) / scale).max(1).min() < 1e-5


@given(
    st.lists(
        st.tuples(st.floats(-5, 5), st.floats(0.05, 2.0), st.floats(0.05, 1.0)), min_size=1, max_size=4, unique=True
    )
)
def test_any_mixture_has_mass_one_and_its_entropy(components):
    means, stds, weights = zip(*components, strict=True)
    source = Mixture1DConfig(means=means, stds=stds, weights=weights).build()
    x = torch.linspace(-30.0, 30.0, 12_001, dtype=torch.float64)
    log_p = source.log_prob(x[:, None])
    step = (x[1] - x[0]).item()
    assert log_p.exp().sum().item() * step == pytest.approx(1.0, abs=1e-9)
    entropy = -torch.special.xlogy(log_p.exp(), log_p.exp()).sum().item() * step
    assert source.entropy == pytest.approx(entropy, abs=1e-6)
