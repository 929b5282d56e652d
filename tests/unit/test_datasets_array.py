"""The user's own files: every format, every unit, and every way they can be bad."""

from __future__ import annotations

import io
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from smoothgen.errors import DataError
from smoothgen_datasets.array import Array, ArrayConfig

RANDOM = np.random.default_rng(0)
TABLE = RANDOM.normal(size=(60, 3)) * [1.0, 20.0, 0.1] + [0.0, 100.0, -3.0]
IMAGES = RANDOM.integers(0, 256, size=(30, 6, 5), dtype=np.uint8)
NAMES = ("width", "height", "depth")


def build(path: Path, **keys: Any) -> Array:
    source = ArrayConfig(path=path, **keys).build()
    assert isinstance(source, Array)
    return source


def together(source: Array) -> torch.Tensor:
    """All rows, in the model's coordinates, sorted by their first coordinate."""
    parts = []
    for name in ("train", "validation", "test"):
        try:
            parts.append(source.split(name).x)
        except DataError:
            continue
    x = torch.cat(parts).flatten(1)
    return x[x[:, 0].argsort()]


def write_csv(path: Path, rows: list[list[Any]], header: tuple[str, ...] = (), delimiter: str = ",") -> Path:
    lines = [delimiter.join(header)] if header else []
    path.write_text("\n".join([*lines, *(delimiter.join(map(str, row)) for row in rows)]) + "\n")
    return path


def write(folder: Path, ending: str, values: np.ndarray) -> Path:
    path = folder / f"data{ending}"
    if ending == ".npy":
        np.save(path, values)
    elif ending == ".npz":
        np.savez(path, x=values)
    elif ending == ".safetensors":
        save_file({"x": torch.from_numpy(values)}, path)
    else:
        write_csv(path, values.tolist())
    return path


@pytest.mark.parametrize("ending", [".npy", ".npz", ".safetensors", ".csv"])
def test_every_format_gives_the_same_standardised_table(tmp_path, ending):
    source = build(write(tmp_path, ending, TABLE))
    train = source.split("train").x
    assert train.dtype == torch.float32 and source.event.shape == (3,)
    torch.testing.assert_close(train.mean(0), torch.zeros(3), atol=1e-6, rtol=0.0)
    torch.testing.assert_close(train.std(0), torch.ones(3), atol=1e-6, rtol=0.0)
    assert [len(source.split(name)) for name in ("train", "validation", "test")] == [48, 6, 6]
    data = source.event.to_data(together(source).double())
    expected = torch.from_numpy(TABLE[TABLE[:, 0].argsort()])
    torch.testing.assert_close(data, expected, rtol=1e-5, atol=1e-5)
    scale = train.new_tensor(source.event.scale)
    assert source.event.log_scale == pytest.approx(scale.log().sum().item(), rel=1e-5)


def test_shift_and_scale_come_from_the_training_rows_alone(tmp_path):
    np.save(tmp_path / "train.npy", TABLE)
    np.save(tmp_path / "test.npy", TABLE + 1000.0)
    source = build(tmp_path / "train.npy", test_path=tmp_path / "test.npy", validation_fraction=0.0)
    np.testing.assert_allclose(source.event.shift, TABLE.mean(0), rtol=1e-12)
    np.testing.assert_allclose(source.event.scale, TABLE.std(0, ddof=1), rtol=1e-12)
    test = source.split("test").x.double()
    np.testing.assert_allclose(test.numpy(), (TABLE + 1000.0 - TABLE.mean(0)) / TABLE.std(0, ddof=1), rtol=1e-6)
    with pytest.raises(DataError, match=r"validation split is empty.*validation_fraction"):
        source.split("validation")


def test_the_seed_decides_the_splits(tmp_path):
    path = write(tmp_path, ".npy", TABLE)
    first, again, other = build(path), build(path), build(path, split_seed=1)
    for name in ("train", "validation", "test"):
        assert torch.equal(first.split(name).x, again.split(name).x)
    assert not torch.equal(first.event.to_data(first.split("test").x), other.event.to_data(other.split("test").x))
    assert len(build(path, validation_fraction=0.25, test_fraction=0.5).split("train")) == 15


def test_without_standardising_the_values_stay(tmp_path):
    source = build(write(tmp_path, ".npy", TABLE), standardize=False)
    assert source.event.scale == ()
    np.testing.assert_array_equal(together(source).numpy(), TABLE[TABLE[:, 0].argsort()].astype(np.float32))


def test_any_event_shape_and_a_plain_list(tmp_path):
    values = RANDOM.normal(size=(20, 2, 3, 4))
    np.save(tmp_path / "cube.npy", values)
    source = build(tmp_path / "cube.npy")
    assert source.event.shape == (2, 3, 4) and source.split("train").x.shape[1:] == (2, 3, 4)
    np.save(tmp_path / "list.npy", RANDOM.normal(size=20))
    assert build(tmp_path / "list.npy").event.shape == (1,)


@pytest.mark.parametrize("dtype", ["float16", ">f4", "float32", "int16", "uint32", ">i8"])
def test_numeric_types(tmp_path, dtype):
    values = (10.0 * RANDOM.normal(size=(30, 2)) + 40.0).astype(dtype)
    np.save(tmp_path / "data.npy", values)
    source = build(tmp_path / "data.npy", standardize=False)
    np.testing.assert_allclose(np.sort(together(source).numpy(), 0), np.sort(values.astype(np.float32), 0))


def test_fortran_order(tmp_path):
    np.save(tmp_path / "data.npy", np.asfortranarray(TABLE))
    data = together(build(tmp_path / "data.npy", standardize=False))
    np.testing.assert_allclose(data.numpy(), TABLE[TABLE[:, 0].argsort()], rtol=1e-6)


@pytest.mark.parametrize("ending", [".npy", ".npz", ".safetensors"])
def test_eight_bit_images_are_discrete(tmp_path, ending):
    source = build(write(tmp_path, ending, IMAGES))
    assert source.event.shape == (1, 6, 5)
    assert (source.event.levels, source.event.low, source.event.high) == (256, -1.0, 1.0)
    levels = source.event.levels_of(torch.cat([source.split(n).x for n in ("train", "validation", "test")]))
    assert sorted(map(tuple, levels.flatten(1).tolist())) == sorted(map(tuple, IMAGES.reshape(30, -1).tolist()))


def test_channels_come_first(tmp_path):
    colours = RANDOM.integers(0, 256, size=(12, 6, 5, 3), dtype=np.uint8)
    np.save(tmp_path / "last.npy", colours)
    np.save(tmp_path / "first.npy", np.moveaxis(colours, 3, 1))
    last, first = build(tmp_path / "last.npy"), build(tmp_path / "first.npy")
    assert last.event.shape == (3, 6, 5)
    assert torch.equal(last.split("train").x, first.split("train").x)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    image = colours[sorted(order[2:].tolist())[0]]
    assert last.event.levels_of(last.split("train").x)[0, 2, 4, 1].item() == image[4, 1, 2]


def test_levels_of_integers_and_of_other_values(tmp_path):
    grey = RANDOM.integers(0, 17, size=(20, 4, 4))
    np.save(tmp_path / "grey.npy", grey)
    np.save(tmp_path / "unit.npy", grey / 16.0)
    first = build(tmp_path / "grey.npy", levels=17)
    second = build(tmp_path / "unit.npy", levels=17, low=0.0, high=1.0)
    assert first.event.shape == (1, 4, 4) and first.event.levels == 17
    assert torch.equal(first.split("train").x, second.split("train").x)
    assert set(first.event.levels_of(together(first)).unique().tolist()) == set(np.unique(grey).tolist())
    np.save(tmp_path / "bits.npy", grey > 8)
    assert build(tmp_path / "bits.npy").event.levels == 2
    continuous = build(write(tmp_path, ".npy", IMAGES), levels=None)
    assert continuous.event.levels is None and continuous.event.shape == (6, 5)


def test_columns_and_context(tmp_path):
    rows = [[*row, f"person {i}"] for i, row in enumerate(TABLE.tolist())]
    path = write_csv(tmp_path / "data.csv", rows, (*NAMES, "who"))
    source = build(path, columns=["depth", "width"])
    assert source.event.names == ("depth", "width")
    data = source.event.to_data(source.split("train").x.double()).numpy()
    for row in data:
        assert np.abs(TABLE[:, [2, 0]] - row).max(1).min() < 1e-5
    given = build(path, columns=["width"], context_columns=["height"])
    split = given.split("train")
    assert given.features == 1 and given.event.names == ("width",) and split.context.shape == (48, 1)
    torch.testing.assert_close(split.context.mean(0), torch.zeros(1), atol=1e-6, rtol=0.0)
    torch.testing.assert_close(split.context.std(0), torch.ones(1), atol=1e-6, rtol=0.0)
    assert given.context_names == ("height",)
    pairs = torch.cat(
        [given.event.to_data(split.x), split.context * given.context_scale[0] + given.context_shift[0]], 1
    )
    known = {round(float(row[0]), 4): float(row[1]) for row in TABLE}
    for width, height in pairs.tolist():
        assert known[round(width, 4)] == pytest.approx(height, rel=1e-5)


def test_context_without_columns_leaves_the_rest_to_model(tmp_path):
    path = write_csv(tmp_path / "data.csv", TABLE.tolist(), NAMES)
    assert build(path, context_columns=["width"]).event.names == ("height", "depth")
    source = build(write(tmp_path, ".npy", TABLE), context_columns=[0], columns=[2])
    assert source.event.shape == (1,) and source.context_names == ("0",)
    np.testing.assert_allclose(source.event.shift, TABLE[:, 2].mean(), rtol=0.05)


def test_headers_and_delimiters(tmp_path):
    body = TABLE.tolist()
    assert build(write_csv(tmp_path / "a.csv", body)).event.names == ()
    assert build(write_csv(tmp_path / "b.csv", body, NAMES)).event.names == NAMES
    assert build(write_csv(tmp_path / "c.csv", body, NAMES, ";"), delimiter=";").event.names == NAMES
    years = write_csv(tmp_path / "d.csv", body, ("2019", "2020", "2021"))
    assert len(together(build(years))) == 61
    assert build(years, header=True).event.names == ("2019", "2020", "2021")
    assert build(years, columns=["2020"]).event.names == ("2020",)
    quoted = tmp_path / "e.csv"
    quoted.write_text('\ufeff"a, b", c \r\n' + "".join(f'"{i}", {i * i}\r\n\r\n' for i in range(20)), encoding="utf-8")
    source = build(quoted)
    assert source.event.names == ("a, b", "c") and len(together(source)) == 20


def test_a_key_chooses_among_arrays(tmp_path):
    np.savez_compressed(tmp_path / "two.npz", first=TABLE, second=TABLE[:, :2])
    assert build(tmp_path / "two.npz", key="second").event.shape == (2,)
    save_file({"first": torch.zeros(3, 3), "second": torch.from_numpy(TABLE)}, tmp_path / "two.safetensors")
    assert build(tmp_path / "two.safetensors", key="second").event.shape == (3,)


def refused(path: Path, *parts: str, **keys: Any) -> str:
    """The one line with which a file is refused."""
    with pytest.raises(DataError) as caught:
        build(path, **keys)
    message = str(caught.value)
    assert "\n" not in message
    assert path.name in message
    for part in parts:
        assert part in message, message
    return message


def npy(shape: str, dtype: str = "<f8", body: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    """A .npy file with a header of our choosing."""
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY" + version + len(header).to_bytes(2, "little") + header + body


def test_missing_files_folders_and_formats(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(Path("gone.npy"), str(tmp_path / "gone.npy"), "does not exist")
    (tmp_path / "folder.npy").mkdir()
    refused(Path("folder.npy"), "is a folder", str(tmp_path / "folder.npy"))
    Path("data.xlsx").write_bytes(b"PK")
    refused(Path("data.xlsx"), ".xlsx", ".safetensors")
    np.save("data.npy", TABLE)
    refused(Path("data.npy"), 'key "x"', key="x")


@pytest.mark.parametrize("ending", [".npy", ".npz", ".csv", ".safetensors"])
def test_empty_and_foreign_files(tmp_path, ending):
    path = tmp_path / f"data{ending}"
    path.write_bytes(b"")
    refused(path, "empty")
    path.write_bytes(bytes(range(256)) * 4)
    refused(path)


@pytest.mark.parametrize("ending", [".npy", ".npz", ".safetensors"])
def test_truncated_files(tmp_path, ending):
    path = write(tmp_path, ending, TABLE)
    whole = path.read_bytes()
    for size in (5, 30, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        refused(path)


def test_damage_within_a_compressed_archive(tmp_path):
    path = tmp_path / "data.npz"
    np.savez_compressed(path, x=TABLE)
    whole = bytearray(path.read_bytes())
    for position in range(60, len(whole) - 200, 97):
        damaged = bytearray(whole)
        damaged[position] ^= 0xFF
        path.write_bytes(damaged)
        refused(path)


def test_sizes_are_checked_before_memory_is_taken(tmp_path):
    path = tmp_path / "data.npy"
    for shape in ("(1000000000000, 4)", "(4, 1000000000000)", "(99999999999999999999, 99999999999999999999)"):
        path.write_bytes(npy(shape, body=b"\0" * 64))
        refused(path, "promises")
    for shape in ("(-4, 2)", "(4, 'x')", "4", "(True,)"):
        path.write_bytes(npy(shape, body=b"\0" * 64))
        refused(path)
    path.write_bytes(npy("(" + "1, " * 12000 + ")"))
    refused(path)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("x.npy", npy("(1000000000000, 4)", body=b"\0" * 64))
    (tmp_path / "data.npz").write_bytes(buffer.getvalue())
    refused(tmp_path / "data.npz", "promises")


@pytest.mark.parametrize(
    ("values", "parts"),
    [
        (np.array([{"a": 1}], dtype=object), ["pickle"]),
        (np.array(["a", "b"]), ["not numbers"]),
        (np.zeros((9, 2), dtype=complex), ["complex128", "not numbers"]),
        (np.zeros(9, dtype=[("a", "f8"), ("b", "f8")]), ["not numbers"]),
        (np.float64(3.0), ["shape ()"]),
        (np.zeros((0, 3)), ["shape (0, 3)"]),
        (np.zeros((3, 0)), ["shape (3, 0)"]),
        (np.zeros((1, 2)), ["1 rows leave 1 to train on", "at least 2"]),
    ],
)
def test_arrays_that_are_not_examples(tmp_path, values, parts):
    np.save(tmp_path / "data.npy", values, allow_pickle=True)
    refused(tmp_path / "data.npy", *parts)


def test_archives_that_are_not_arrays(tmp_path):
    np.savez(tmp_path / "several.npz", first=TABLE, second=TABLE)
    refused(tmp_path / "several.npz", "2 arrays", "first, second", "key")
    refused(tmp_path / "several.npz", 'no array "frst"', 'did you mean "first"', key="frst")
    np.savez(tmp_path / "none.npz")
    refused(tmp_path / "none.npz")
    with zipfile.ZipFile(tmp_path / "text.npz", "w") as archive:
        archive.writestr("readme.txt", "hello")
    refused(tmp_path / "text.npz")
    save_file({"x": torch.zeros(4, 2, dtype=torch.bfloat16)}, tmp_path / "half.safetensors")
    refused(tmp_path / "half.safetensors", "bfloat16")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(tmp_path, bad):
    values = TABLE.copy()
    values[41, 1] = bad
    np.save(tmp_path / "data.npy", values)
    refused(tmp_path / "data.npy", "row 41 (the first is 0), column 1", "not finite", "fill or remove")
    write_csv(tmp_path / "data.csv", values.tolist(), NAMES)
    refused(tmp_path / "data.csv", 'row 43, column "height"', "not finite")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a,b\n1,2\n3,x\n", ["row 3", 'column "b"', "'x' is not a number"]),
        ("1,2\n\n3,x\n", ["row 3", "column 1", "'x' is not a number"]),
        ("a,b\n1,2\n3,\n", ["row 3", 'column "b"', "the cell is empty"]),
        ("1,2\n3,4\n5,6,7\n", ["row 3 has 3 cells", "2"]),
        ("a,b,c\n1,2,3\n4,5\n", ["row 3 has 2 cells", "3"]),
        ("a,b\n", ["header and no rows"]),
        ("\n  \n", ["is empty"]),
        ("1,abc\n2,3\n", ["'abc'", "header: true or header: false"]),
        ("a,b,a\n1,2,3\n", ['two columns are called "a"']),
        ("a;b\n1;2\n3;4\n", ["row 2", "set delimiter: ';'"]),
        ("1,2\n", ["1 rows leave 1 to train on"]),
    ],
)
def test_bad_tables(tmp_path, text, parts):
    (tmp_path / "data.csv").write_text(text)
    refused(tmp_path / "data.csv", *parts)


def test_text_that_is_not_utf8(tmp_path):
    (tmp_path / "data.csv").write_bytes("größe,x\n1,2\n".encode("latin-1"))
    refused(tmp_path / "data.csv", "UTF-8")
    (tmp_path / "data.csv").write_bytes("a,b\n1,2\n".encode("utf-16"))
    refused(tmp_path / "data.csv", "UTF-8")


def test_columns_that_are_not_there(tmp_path):
    path = write_csv(tmp_path / "data.csv", TABLE.tolist(), NAMES)
    refused(path, 'no column "heigth"', 'did you mean "height"', "width, height, depth", columns=["heigth"])
    refused(path, 'no column "3"', columns=[0, 3])
    refused(path, "no column", "without names", columns=["width"], header=False)
    refused(path, "same column", columns=["width", "height"], context_columns=[1])
    refused(path, "nothing to model", context_columns=NAMES)
    np.save(tmp_path / "cube.npy", np.zeros((4, 2, 2)))
    refused(tmp_path / "cube.npy", "(4, 2, 2)", columns=[0])


def test_constant_columns(tmp_path):
    values = TABLE.copy()
    values[:, 2] = 0.1
    path = write_csv(tmp_path / "data.csv", values.tolist(), NAMES)
    refused(path, 'column "depth" is constant, 0.1', "standardize: false")
    refused(path, 'column "depth" is constant', "context_columns", columns=["width"], context_columns=["depth"])
    assert build(path, standardize=False).event.scale == ()
    np.save(tmp_path / "cube.npy", np.stack([TABLE, values], 1))
    refused(tmp_path / "cube.npy", "column 1, 2 is constant")
    np.save(tmp_path / "huge.npy", TABLE * 1e300)
    refused(tmp_path / "huge.npy", "too large")


def test_values_off_their_levels_and_bounds(tmp_path):
    np.save(tmp_path / "data.npy", np.arange(40.0).reshape(20, 2))
    refused(tmp_path / "data.npy", "row 8 (the first is 0), column 1: 17 is none of the integers 0 to 16", levels=17)
    np.save(tmp_path / "half.npy", np.array([[0.0], [0.5], [1.0]]))
    refused(tmp_path / "half.npy", "0.5 is none of the integers 0 to 1", levels=2)
    refused(tmp_path / "half.npy", "0.5 is none of 2 levels 0 to 1.5", levels=2, low=0.0, high=1.5)
    refused(tmp_path / "half.npy", "low 5 must be below high 1", levels=2, low=5.0)
    refused(tmp_path / "data.npy", "outside [0.0, 10.0]", low=0.0, high=10.0)
    refused(write(tmp_path, ".npz", IMAGES), "is none of the integers 0 to 15", levels=16)


def test_splits_in_files_that_do_not_match(tmp_path):
    train, other = write(tmp_path, ".npy", TABLE), tmp_path / "other.npy"
    np.save(other, TABLE[:, :2])
    with pytest.raises(DataError, match=r"other\.npy: examples of shape \(2,\).*\(3,\)"):
        build(train, validation_path=other)
    first = write_csv(tmp_path / "first.csv", TABLE.tolist(), NAMES)
    second = write_csv(tmp_path / "second.csv", TABLE.tolist(), ("width", "depth", "height"))
    with pytest.raises(DataError, match=r"second\.csv: columns width, depth, height, but"):
        build(first, test_path=second)
    assert build(first, test_path=second, columns=NAMES).event.names == NAMES
    with pytest.raises(DataError, match=re.escape(str(tmp_path / "gone.npy"))):
        build(train, test_path=tmp_path / "gone.npy")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"columns": []}, "columns is empty"),
        ({"columns": ["a"], "context_columns": ["a"]}, "both name 'a'"),
        ({"low": 2.0, "high": 1.0}, "low 2.0 must be below high 1.0"),
        ({"validation_fraction": 0.5, "test_fraction": 0.5}, "leave 0 of the rows"),
        ({"levels": 1}, "greater than or equal to 2"),
        ({"delimiter": "ab"}, "at most 1 character"),
        ({"validation_fraction": -0.1}, "greater than or equal to 0"),
    ],
)
def test_bad_keys_are_refused(keys, message):
    with pytest.raises(ValueError, match=message):
        ArrayConfig(path=Path("data.npy"), **keys)


@pytest.mark.parametrize(("bad", "shown"), [(300, "300"), (-1, "-1"), (0.5, "0.5"), (256, "256")])
def test_what_claims_to_be_eight_bit_must_be(tmp_path, bad, shown):
    values = RANDOM.integers(0, 256, (20, 4, 4)).astype(np.float64)
    np.save(tmp_path / "data.npy", values)
    source = build(tmp_path / "data.npy", levels=256)
    assert source.event.levels == 256
    np.save(tmp_path / "bytes.npy", values.astype(np.uint8))
    assert torch.equal(source.split("train").x, build(tmp_path / "bytes.npy").split("train").x)
    values[7, 2, 1] = bad
    np.save(tmp_path / "data.npy", values)
    where = f"row 7 (the first is 0), column 2, 1: {shown} is none of the integers 0 to 255"
    refused(tmp_path / "data.npy", str(tmp_path / "data.npy"), where, levels=256)
