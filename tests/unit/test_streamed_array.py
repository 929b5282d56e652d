"""Streamed arrays: which files, in which order, what is refused, what is kept, and what happens when files change."""

from __future__ import annotations

import os
import re
import shutil
import zipfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from smoothgen.data_source import DataSource
from smoothgen.errors import DataError
from smoothgen_datasets import kept_units, pieces, streamed_array
from smoothgen_datasets.array import Array, ArrayConfig
from smoothgen_datasets.pieces import read_one_by_one, read_pieces
from smoothgen_datasets.row_files import LineNumbers
from smoothgen_datasets.shards import find_files
from smoothgen_datasets.streamed_array import HeldArray, StreamedArray

TABLE = np.random.default_rng(0).normal(size=(60, 3))


def build(path: Path | str, **keys: Any) -> DataSource:
    return ArrayConfig.model_validate({"path": str(path), "stream": "always"} | keys).build()


def shards(folder: Path, lengths: tuple[int, ...] = (20, 1, 39), values: np.ndarray = TABLE) -> Path:
    folder.mkdir(parents=True)
    edges = np.cumsum([0, *lengths])
    for index, (start, stop) in enumerate(pairwise(edges)):
        np.save(folder / f"part-{index + 8}.npy", values[start:stop])
    return folder


def refused(message: str, path: Path | str, **keys: Any) -> None:
    with pytest.raises(DataError, match=message) as caught:
        build(path, **keys)
    assert "\n" not in str(caught.value)


def test_files_come_in_natural_order(tmp_path):
    for name in ("part-10.npy", "part-9.npy", "part-09.npy", "b-1.npy", ".part-1.npy", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    order = ["b-1.npy", "part-09.npy", "part-9.npy", "part-10.npy"]
    assert [path.name for path in find_files(tmp_path)] == order
    assert [path.name for path in find_files(tmp_path / "part-*.npy")] == order[1:]
    assert find_files(tmp_path / "b-1.npy") == [tmp_path / "b-1.npy"]


def test_a_pattern_reaches_subfolders(tmp_path):
    shards(tmp_path / "a" / "b")
    refused(r"is a folder without .* set path to .*/\*\*/\*\.npy", tmp_path)
    assert len(build(f"{tmp_path}/**/*.npy").split("train")) == 48


def test_files_of_several_kinds_are_refused(tmp_path):
    shards(tmp_path / "a")
    (tmp_path / "a" / "part-1.csv").write_text("1,2,3\n")
    refused(r"\.csv, \.npy, which may hold the same examples; choose one: .*/a/\*\.csv", tmp_path / "a")


def test_nothing_to_read_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    refused("is a folder without .* files; put some there", tmp_path / "empty")
    refused("no file fits this pattern", tmp_path / "*.npy")
    refused("does not exist", tmp_path / "missing.npy")


def test_small_files_stay_in_memory(tmp_path, monkeypatch):
    folder = shards(tmp_path / "a")
    assert isinstance(build(folder / "part-8.npy", stream="auto"), Array)
    assert isinstance(build(folder, stream="auto"), HeldArray)
    monkeypatch.setattr(streamed_array, "STREAM_FROM", 400)
    assert isinstance(build(folder / "part-8.npy", stream="auto"), StreamedArray)
    assert isinstance(build(folder / "part-8.npy", stream="never"), Array)
    assert isinstance(build(folder, stream="never"), HeldArray)


def test_other_splits_may_be_folders(tmp_path):
    train, test = shards(tmp_path / "train"), shards(tmp_path / "test", (10, 2), TABLE[:12] + 1.0)
    for stream in ("always", "never"):
        source = build(train, test_path=str(test), stream=stream, standardize=False)
        assert len(source.examples("test")) == 12 and len(source.examples("train")) == 54
        assert torch.equal(source.split("test").x, torch.from_numpy(TABLE[:12] + 1.0).float())


def test_shards_that_differ_are_refused(tmp_path):
    folder = shards(tmp_path / "shape")
    np.save(folder / "part-9.npy", TABLE[:5, :2])
    refused(r"part-9\.npy: rows of shape \(2,\) .*part-8\.npy have shape \(3,\)", folder)
    folder = shards(tmp_path / "type")
    np.save(folder / "part-9.npy", TABLE[:5].astype(np.float32))
    refused(r"part-9\.npy: rows of shape \(3,\) and type float32", folder)
    folder = tmp_path / "names"
    folder.mkdir()
    (folder / "1.csv").write_text("a,b\n1,2\n3,5\n5,1\n")
    (folder / "2.csv").write_text("a,c\n1,2\n3,5\n")
    refused(r"2\.csv: columns a, c, but those of .*1\.csv are a, b", folder)


def test_what_cannot_be_streamed_is_kept_or_refused(tmp_path):
    np.savez_compressed(tmp_path / "packed.npz", x=TABLE)
    np.save(tmp_path / "columns.npy", np.asfortranarray(TABLE))
    refused("is compressed, so its rows cannot be read one by one; save it with np.savez", tmp_path / "packed.npz")
    refused("is in Fortran order", tmp_path / "columns.npy")
    whole = ArrayConfig(path=tmp_path / "packed.npz", stream="never").build()
    for name in ("packed.npz", "columns.npy"):
        (tmp_path / name[:3]).mkdir()
        os.rename(tmp_path / name, tmp_path / name[:3] / name)
        for stream in ("auto", "never"):
            held = ArrayConfig(path=tmp_path / name[:3], stream=stream).build()
            assert torch.equal(held.split("train").x, whole.split("train").x)


def test_one_array_of_several(tmp_path):
    np.savez(tmp_path / "x.npz", other=np.zeros(3), x=TABLE)
    save_file({"other": torch.zeros(3), "x": torch.from_numpy(TABLE)}, tmp_path / "x.safetensors")
    for name in ("x.npz", "x.safetensors"):
        refused("holds 2 arrays; choose one with key", tmp_path / name)
        refused('has no array "y"', tmp_path / name, key="y")
        whole = ArrayConfig(path=tmp_path / name, key="x", stream="never").build()
        assert torch.equal(build(tmp_path / name, key="x").split("test").x, whole.split("test").x)
    np.save(tmp_path / "x.npy", TABLE)
    refused('holds a single array, so key "x"', tmp_path / "x.npy", key="x")


@pytest.mark.parametrize("ending", [".npy", ".npz", ".safetensors"])
def test_files_cut_short_or_damaged_are_refused(tmp_path, ending):
    path = tmp_path / f"x{ending}"
    if ending == ".npy":
        np.save(path, TABLE)
    elif ending == ".npz":
        np.savez(path, x=TABLE)
    else:
        save_file({"x": torch.from_numpy(TABLE)}, path)
    whole = path.read_bytes()
    for length in (1, 5, 60, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        refused(re.escape(str(path)), path)


def test_other_types_are_refused(tmp_path):
    np.save(tmp_path / "text.npy", np.array([["a", "b"]] * 5))
    refused("not numbers; save a numeric array", tmp_path / "text.npy")
    save_file({"x": torch.zeros(5, 2, dtype=torch.bfloat16)}, tmp_path / "x.safetensors")
    refused("numpy lacks the type BF16", tmp_path / "x.safetensors")
    np.save(tmp_path / "empty.npy", np.zeros((0, 2)))
    refused("it needs at least one example", tmp_path / "empty.npy")


def test_a_member_that_lies_about_its_size_is_refused(tmp_path):
    """The array's header promises more than the member holds, while the file goes on after it."""
    np.savez(tmp_path / "x.npz", a=np.zeros((2, 2)), b=np.zeros((4000, 2)))
    raw = (tmp_path / "x.npz").read_bytes()
    assert raw.count(b"(2, 2)") == 1
    (tmp_path / "x.npz").write_bytes(raw.replace(b"(2, 2)", b"(9, 2)"))
    refused("its header promises 144 bytes, 32 follow", tmp_path / "x.npz", key="a")
    with zipfile.ZipFile(tmp_path / "x.npz") as archive:
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_bad_value_is_named_by_file_and_row(tmp_path, bad):
    values = TABLE.copy()
    values[45, 1] = bad
    folder = shards(tmp_path / "a", values=values)
    for stream in ("always", "never"):
        refused(r"part-10\.npy: row 24 \(the first is 0\), column 1: (nan|inf) is not finite", folder, stream=stream)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "1.csv").write_text("a,b\n1,2\n\n3,5\n")
    (tmp_path / "b" / "2.csv").write_text(f"a,b\n1,2\n\n4,{bad}\n5,6\n")
    refused(r'2\.csv: row 4, column "b": (nan|inf) is not finite', tmp_path / "b")


def test_levels_and_bounds_are_checked(tmp_path):
    levels = np.random.default_rng(0).integers(0, 5, (60, 2))
    levels[41, 0] = 5
    folder = shards(tmp_path / "levels", values=levels)
    refused(r"part-10\.npy: row 20 .* 5 is none of the integers 0 to 4", folder, levels=5)
    folder = shards(tmp_path / "bounds")
    refused(r"part-8\.npy: row \d+ .* is outside \[None, 0\.5\]", folder, high=0.5)
    constant = TABLE.copy()
    constant[:, 2] = 4.0
    refused("column 2 is constant, 4 in every training row", shards(tmp_path / "constant", values=constant))


def test_a_csv_file_is_packed_for_its_wanted_columns(tmp_path):
    lines = ["name,x,y", *(f"thing {i},{a!r},{b!r}" for i, (a, b) in enumerate(TABLE[:, :2].tolist()))]
    (tmp_path / "x.csv").write_text("\n".join(lines) + "\n")
    keys: dict[str, Any] = {"columns": ["y", "x"], "standardize": False}
    source = build(tmp_path / "x.csv", **keys)
    assert source.event.names == ("y", "x")
    whole = ArrayConfig(path=tmp_path / "x.csv", stream="never", columns=("y", "x"), standardize=False).build()
    assert torch.equal(source.split("validation").x, whole.split("validation").x)
    refused("looked up; leave key out", tmp_path / "x.csv", key="x")


def test_lines_of_rows():
    numbers, lines = LineNumbers(), [2, 3, 4, 7, 8, 10, 11]
    for line in lines:
        numbers.append(line)
    assert [numbers[row] for row in range(len(numbers))] == lines


def test_files_that_change_are_named(tmp_path):
    folder = shards(tmp_path / "a")
    path = folder / "part-10.npy"
    stored, status = path.read_bytes(), path.stat()
    examples = build(folder).examples("train")
    before = examples.rows(torch.arange(len(examples))).x

    def broken(message: str) -> None:
        with pytest.raises(DataError, match=message):
            examples.rows(torch.arange(len(examples)))

    path.write_bytes(stored[:-100])
    broken(r"part-10\.npy had \d+ bytes and now has \d+")
    path.unlink()
    broken(r"part-10\.npy can no longer be read: No such file")
    path.write_bytes(stored)
    os.utime(path, ns=(0, status.st_mtime_ns + 1))
    broken(r"part-10\.npy was written again")
    os.utime(path, ns=(0, status.st_mtime_ns))
    assert torch.equal(examples.rows(torch.arange(len(examples))).x, before)


def test_a_file_cut_short_while_it_is_read_is_named(tmp_path, monkeypatch):
    """Between the look at its size and the reading: no crash, as a memory map would have."""
    np.save(tmp_path / "x.npy", TABLE)
    examples = build(tmp_path / "x.npy").examples("train")
    monkeypatch.setattr("smoothgen_datasets.stamp.Stamp.compare", lambda *arguments: None)
    with (tmp_path / "x.npy").open("r+b") as file:
        file.truncate(128 + 24 * 30 + 5)
    with pytest.raises(DataError, match=r"x\.npy ends in row (3\d|4\d|5\d) \(the first is 0\): it was cut short"):
        examples.rows(torch.arange(len(examples)))


def test_what_a_pass_found_is_kept_until_files_change(tmp_path, monkeypatch):
    monkeypatch.setenv("SMOOTHGEN_CACHE", str(tmp_path / "cache"))
    folder = shards(tmp_path / "a")
    build(folder)
    assert not (tmp_path / "cache").exists()  # so little is measured again
    monkeypatch.setattr(kept_units, "KEEP_FROM", 1)
    event = build(folder).event
    (kept,) = (tmp_path / "cache" / "data").iterdir()
    calls = []
    measured = streamed_array._measured
    monkeypatch.setattr(streamed_array, "_measured", lambda *given: calls.append(1) or measured(*given))
    assert build(folder).event == event and not calls
    build(folder, split_seed=1)
    assert len(calls) == 1
    kept.write_text("{}")
    assert build(folder).event == event and len(calls) == 2
    np.save(folder / "part-9.npy", TABLE[:1] + 5.0)
    assert build(folder).event != event and len(calls) == 3


def test_results_that_cannot_be_kept_are_found_again(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SMOOTHGEN_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(kept_units, "KEEP_FROM", 1)
    assert len(build(shards(tmp_path / "a")).examples("train")) == 48


def test_a_cache_that_cannot_be_written_stops_nothing(tmp_path, monkeypatch):
    (tmp_path / "kept").mkdir()  # a folder where the file should be
    monkeypatch.setattr(kept_units, "_place", lambda *_: tmp_path / "kept")
    monkeypatch.setattr(kept_units, "KEEP_FROM", 1)
    assert len(build(shards(tmp_path / "a")).examples("train")) == 48


def test_a_split_beyond_memory_is_refused(tmp_path, monkeypatch):
    source = build(shards(tmp_path / "a"))
    monkeypatch.setattr("smoothgen_datasets.memory.memory", lambda: 100)
    with pytest.raises(DataError, match=r"the train split takes .* ask for its examples"):
        source.split("train")
    assert source.examples("train").first(3).x.shape == (3, 3)
    assert source.examples("train").sketch(7).x.shape == (7, 3)
    assert source.examples("train").rows(torch.arange(0)).x.shape == (0, 3)


def test_empty_splits_are_refused(tmp_path):
    folder = shards(tmp_path / "a")
    for stream in ("always", "never"):
        with pytest.raises(DataError, match="the validation split is empty"):
            build(folder, validation_fraction=0.0, stream=stream).examples("validation")
    refused("2 rows leave 1 to train on", shards(tmp_path / "b", (2,), TABLE[:2]), validation_fraction=0.5)


def test_bytes_need_no_pass(tmp_path, monkeypatch):
    """Every byte is a level."""
    monkeypatch.setattr(streamed_array, "chunks", lambda *given: pytest.fail("the data were read"))
    images = np.random.default_rng(0).integers(0, 256, (60, 4, 4), dtype=np.uint8)
    source = build(shards(tmp_path / "a", values=images))
    assert source.event.levels == 256 and source.examples("test").first(6).x.shape == (6, 1, 4, 4)


@pytest.mark.parametrize("read", [read_pieces, read_one_by_one])
def test_pieces_of_a_file_come_one_after_the_other(tmp_path, read):
    """In C and without: any pieces, in any order; and how much there was where the file ends too early."""
    raw = np.random.default_rng(0).integers(0, 256, 10_000, dtype=np.uint8)
    (tmp_path / "file").write_bytes(raw.tobytes())
    places, sizes = np.array([5000, 0, 17, 9000, 100]), np.array([100, 1, 0, 1000, 4000])
    expected = np.concatenate([raw[place : place + size] for place, size in zip(places, sizes, strict=True)])
    out = np.zeros(len(expected), dtype=np.uint8)
    with (tmp_path / "file").open("rb", buffering=0) as file:
        assert read(file, places, sizes, out) == len(expected)
        assert np.array_equal(out, expected)
        assert read(file, np.array([0, 9995, 0]), np.array([3, 10, 3]), out) == 8
    with (
        (tmp_path / "other").open("wb", buffering=0) as file,
        pytest.raises(OSError, match=r"Bad file descriptor|read"),
    ):
        read(file, places, sizes, out)


def test_compiled_code_reads_where_there_is_a_compiler():
    if shutil.which("cc") is None:
        pytest.skip("no C compiler here")
    assert pieces._native() is not None


def test_without_a_compiler_rows_are_the_same(tmp_path, monkeypatch):
    np.save(tmp_path / "x.npy", TABLE)
    source = build(tmp_path / "x.npy")
    compiled = source.split("train").x
    monkeypatch.setattr(pieces, "_native", lambda: None)
    assert torch.equal(source.split("train").x, compiled)


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    """Where the numbers of a csv file find no room."""

    class Full:
        name = str(tmp_path / "full")

        def write(self, numbers: object) -> None:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.NamedTemporaryFile", lambda **keys: Full())
    (tmp_path / "x.csv").write_text("1,2\n3,5\n5,1\n")
    refused("its numbers cannot be kept in .*: No space left on device; make room there", tmp_path / "x.csv")


def test_python_objects_and_passwords_are_refused(tmp_path):
    np.save(tmp_path / "x.npy", np.array([[None, 1]] * 5, dtype=object), allow_pickle=True)
    refused("holds Python objects", tmp_path / "x.npy")
    np.savez(tmp_path / "x.npz", x=TABLE)
    raw = bytearray((tmp_path / "x.npz").read_bytes())
    raw[raw.index(b"PK\x01\x02") + 8] |= 1  # the flag of an encrypted member
    (tmp_path / "x.npz").write_bytes(bytes(raw))
    refused("is encrypted; write the arrays again", tmp_path / "x.npz")


def test_many_numbers_of_a_csv_file_are_packed_a_piece_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr("smoothgen_datasets.row_files.PACKED_AT_ONCE", 7)
    (tmp_path / "x.csv").write_text("".join(f"{a!r},{b!r}\n" for a, b in TABLE[:, :2].tolist()))
    whole = ArrayConfig(path=tmp_path / "x.csv", stream="never").build()
    assert torch.equal(build(tmp_path / "x.csv").split("train").x, whole.split("train").x)
