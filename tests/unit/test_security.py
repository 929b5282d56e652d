"""What a foreign file cannot do: run code, read the environment, reach other files, take memory or time without bound.

Each case failed once, in a review or under the fuzzer (tests/fuzz).
"""

from __future__ import annotations

import copy
import io
import itertools
import json
import os
import stat
import struct
import sys
import threading
import time
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import smoothgen
from smoothgen import EventSpec, limits
from smoothgen.checkpoint import read_tensors, write_tensors
from smoothgen.checkpoint_metadata import check_metadata
from smoothgen.config import load_config
from smoothgen.documents import parse_json, parse_yaml, read_json_lines, to_yaml
from smoothgen.errors import CheckpointError, ConfigError, DataError, DocumentError, RunDirectoryError, SmoothgenError
from smoothgen.experiment import assemble
from smoothgen.masks import read_mask
from smoothgen.run_directory import RunDirectory
from smoothgen.smoothed_model import SmoothedConfig
from smoothgen.tables import read_table
from smoothgen.trainer import trainer_of
from smoothgen_datasets.array import ArrayConfig
from smoothgen_datasets.cifar10 import read_indices
from smoothgen_datasets.files import PromisedFile
from smoothgen_datasets.images import ImagesConfig
from smoothgen_datasets.pictures import read_header

HEADER = "data: rings\ndensity: made\ninverter: gradient\nkernel: {type: gaussian, sigma: 0.3}\n"


def peak_growth(function, *arguments) -> int:
    """Bytes of Python's own allocations at their highest, while the call is refused."""
    import tracemalloc

    tracemalloc.start()
    try:
        with pytest.raises(SmoothgenError):
            function(*arguments)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


class TestYAML:
    """Values, and nothing else."""

    @pytest.mark.parametrize(
        "text",
        [
            "seed: ${oc.env:SECRET}",
            "seed: ${ oc.env:SECRET }",
            "name: x${oc.env:SECRET}",
            'seed: "\\u0024{oc.env:SECRET}"',
            "seed: >-\n  ${oc.env:SECRET}",
            "description: oc.env\nseed: ${${description}:SECRET}",
            "seed: ${oc.decode:1}",
            "seed: ${env:SECRET}",
            "? ${oc.env:SECRET}\n: 1",
        ],
    )
    def test_the_environment_stays_out_however_it_is_written(self, tmp_path, monkeypatch, text):
        monkeypatch.setenv("SECRET", "42")
        (tmp_path / "a.yaml").write_text(HEADER + text + "\n")
        with pytest.raises(ConfigError) as caught:
            load_config(tmp_path / "a.yaml")
        assert "42" not in str(caught.value)

    def test_nor_does_it_come_in_by_an_override(self, monkeypatch):
        monkeypatch.setenv("SECRET", "42")
        with pytest.raises(ConfigError, match="no environment variables"):
            load_config("digits", ["seed=${oc.env:SECRET}"])

    @pytest.mark.parametrize(
        "text",
        [
            "!!python/object/apply:os.system [x]",
            "!!python/name:os.system",
            "!!binary aGk=",
            "!!set {a}",
            "!!omap [a: 1]",
            "!!timestamp 2020-01-01",
            "!x 1",
            "!!int x",
            "!!int ''",
            "!!float x",
            "!!bool x",
            '"\\U00110000"',
            '"\\ud800"',
            "\0",
            "[1, 2",
            "a: 1\na: 2",
            "{<<: 1}",
            "&a [*a]",
            "*a",
            "1: 2",
            "[a]: 1",
            "null: 1",
            "9" * 30,
            "0x" + "f" * 17,
            "!!int " + "9" * 5000,
            "${a}",
            "a: ${a}",
            "a: ${b}\nb: ${a}",
            "a:\n  b: ${a}",
            "a: ${a.b.c}",
            "a: [1]\nb: ${a.1}",
            "a: ${",
            "a: ${}",
            "a: ${.b}",
            "a: [1]\nb: x${a}",
            "a: true\nb: x${a}",
            "--- 1\n--- 2",
            "[" * 5000,
            "{a: " * 5000,
            "- " * 5000,
            "a: " + "[" * 65 + "]" * 65,
        ],
    )
    def test_what_is_no_plain_value_is_refused(self, text):
        with pytest.raises(DocumentError) as caught:
            parse_yaml(text)
        assert str(caught.value).isprintable()

    def test_plain_values_and_references(self):
        text = (
            "a: 1e-3\nb: ${a}\nc: x${a}-${d.1.e}\nd: [0x1F, {e: on, f: 017}]\ng: ${d}\nh: 1:30:00\ni: \\${a}\nj: 1_000"
        )
        with pytest.raises(DocumentError, match="only texts and numbers"):
            parse_yaml(text)
        assert parse_yaml(text.replace("on", "3")) == {
            "a": 0.001, "b": 0.001, "c": "x0.001-3", "d": [31, {"e": 3, "f": 17}], "g": [31, {"e": 3, "f": 17}],
            "h": "1:30:00", "i": "${a}", "j": 1000,
        }  # fmt: skip

    def test_what_is_written_is_read_back(self):
        value = {
            "texts": [
                "1e3",
                "${x}",
                "\\${x}",
                "on",
                "1.0",
                "0x1f",
                "",
                "é",
                "2020-01-01",
                "1:30",
                ".inf",
                "null",
                "a\nb",
            ],
            "numbers": [1, -2, 2.5, 1e-7, 1e300, 2**63, True, None],
        }
        assert parse_yaml(to_yaml(value)) == value

    @pytest.mark.parametrize(
        "line",
        ["{n}: &{n} [*{b},*{b},*{b},*{b},*{b}]", "{n}: &{n} {{<<: [*{b},*{b},*{b},*{b},*{b}]}}"],
        ids=["list", "merge"],
    )
    def test_aliases_cannot_multiply(self, line):
        names = [f"k{i}" for i in range(30)]
        lines = [line.format(n=name, b=before) for before, name in itertools.pairwise(names)]
        text = "\n".join(["k0: &k0 {a: 1}", *lines])
        start = time.process_time()
        with pytest.raises(DocumentError, match="more than the 100000 values"):
            parse_yaml(text)
        assert time.process_time() - start < 2.0

    @pytest.mark.parametrize("first", ["[1]", "x" * 16], ids=["values", "characters"])
    def test_references_cannot_multiply(self, first):
        one = "    - ${{k{0}}}\n" if first == "[1]" else "${{k{0}}}"
        lines = [f"k0: {first}"]
        for i in range(30):
            five = one.format(i) * 5
            lines.append(f"k{i + 1}:\n{five}" if first == "[1]" else f"k{i + 1}: {five}")
        start = time.process_time()
        with pytest.raises(DocumentError, match="more than the 100000 values"):
            parse_yaml("\n".join(lines))
        assert time.process_time() - start < 2.0

    def test_chains_of_references_do_not_exhaust_the_stack(self):
        lines = [f"k{i}: ${{k{i + 1}}}" for i in range(5000)]
        with pytest.raises(DocumentError, match="nested more than"):
            parse_yaml("\n".join([*lines, "k5000: 1"]))

    @pytest.mark.parametrize(
        "digits", ["9" * 200_000 + "x", "9" * 100_000 + "." + "9" * 100_000 + "x", "1" + "_" * 200_000 + "x"]
    )
    def test_numbers_are_recognised_in_linear_time(self, digits):
        start = time.process_time()
        assert parse_yaml(f"a: {digits}") == {"a": digits}
        assert time.process_time() - start < 2.0

    def test_unknown_keys_are_named_in_linear_time(self, tmp_path):
        path = tmp_path / "a.yaml"
        path.write_text(json.dumps({f"key{i}": 1 for i in range(20_000)}))
        start = time.process_time()
        with pytest.raises(ConfigError, match="unknown key"):
            load_config(path)
        assert time.process_time() - start < 10.0

    def test_long_and_foreign_files(self, tmp_path):
        (tmp_path / "long.yaml").write_bytes(b"#" * (limits.YAML_BYTES.default + 1))
        (tmp_path / "latin.yaml").write_bytes(b"a: \xff")
        for name, message in (("long.yaml", "more than the 1048576 bytes"), ("latin.yaml", "not text in UTF-8")):
            with pytest.raises(ConfigError, match=message):
                load_config(tmp_path / name)


class TestJSON:
    """config.json, metrics.jsonl, sigma_search.json and the metadata of tensors."""

    @pytest.mark.parametrize(
        "text",
        [
            "[" * 100_000,
            '{"a":' * 100_000,
            "[" * 65 + "]" * 65,
            '{"a": 1, "a": 2}',
            "[NaN]",
            "[Infinity]",
            "[1e999]",
            "9" * 5000,
            str(2**64),
            str(-(2**63) - 1),
            '"\\ud800"',
            '{"\\udc00": 1}',
            "",
            "{",
            "nul",
            '"\x01"',
            "\ufeff{}",
            "[1,]",
        ],
    )
    def test_what_is_no_plain_document_is_refused(self, text):
        with pytest.raises(DocumentError):
            parse_json(text)

    def test_what_is_one_is_read(self):
        assert parse_json('{"a": [1, -9223372036854775808, 18446744073709551615, 0.1, null, true, "é"]}') == {
            "a": [1, -(2**63), 2**64 - 1, 0.1, None, True, "é"]
        }
        assert parse_json("[Infinity]", finite=False) == [float("inf")]

    def test_too_many_values(self):
        with pytest.raises(DocumentError, match="more than the 1000000 values"):
            parse_json("[" + "1," * 1_000_000 + "1]")

    def test_a_log_names_its_bad_line_and_forgives_the_cut_one(self, tmp_path):
        path = tmp_path / "metrics.jsonl"
        path.write_text('{"a": 1}\n{"a": NaN}\n{"a"')
        assert len(read_json_lines(path)) == 2
        path.write_text('{"a": 1}\n{"a"\n{"a": 3}\n')
        with pytest.raises(DocumentError, match="line 2"):
            read_json_lines(path)

    @pytest.mark.parametrize(
        "line",
        [
            "[]",
            "1",
            "{}",
            '{"stage": 1, "step": 1}',
            '{"stage": "a", "step": -1}',
            '{"stage": "a", "step": 1, "loss": [1]}',
        ],
    )
    def test_a_log_holds_records(self, tmp_path, line):
        (tmp_path / "metrics.jsonl").write_text(line + "\n")
        with pytest.raises(RunDirectoryError, match=r"metrics\.jsonl is damaged"):
            RunDirectory(tmp_path).metrics()

    @pytest.mark.parametrize("text", ["[]", "{}", "{", '{"sigma": "x"}'])
    def test_a_search_that_is_none(self, tmp_path, text):
        (tmp_path / "sigma_search.json").write_text(text)
        with pytest.raises(RunDirectoryError, match=r"sigma_search\.json is damaged"):
            RunDirectory(tmp_path).search()

    def test_a_stored_experiment_that_is_none(self, tmp_path):
        (tmp_path / "experiment.yaml").write_text("data: 1\n")
        with pytest.raises(ConfigError, match=r"experiment\.yaml"):
            RunDirectory(tmp_path).stored_config()


def test_limits_are_raised_by_who_sets_the_environment(monkeypatch):
    text = "[" * 70 + "]" * 70
    with pytest.raises(DocumentError, match="more than 64 levels"):
        parse_json(text)
    monkeypatch.setenv("SMOOTHGEN_MAX_DOCUMENT_DEPTH", "100")
    parse_json(text)
    for bad in ("0", "-1", "x", "1e9", "9" * 30):
        monkeypatch.setenv("SMOOTHGEN_MAX_DOCUMENT_DEPTH", bad)
        with pytest.raises(ConfigError, match="no positive whole number"):
            parse_json(text)
    assert len({limit.variable for limit in limits.LIMITS}) == len(limits.LIMITS)


ROOT = Path(__file__).parents[2]


def test_the_page_lists_every_limit():
    page = (ROOT / "docs" / "concepts" / "security.md").read_text()
    for limit in limits.LIMITS:
        assert f"| `{limit.variable}` | {limit.default} |" in page


def test_the_page_shows_the_results_of_the_fuzzer():
    from fuzz.__main__ import with_table
    from fuzz.readers import READERS

    results = json.loads((ROOT / "tests" / "fuzz" / "results.json").read_text())
    assert set(results["readers"]) == {reader.name for reader in READERS}
    for each in results["readers"].values():
        assert each["inputs"] == each["accepted"] + sum(each["refused"].values()) >= 100_000
        assert each["failures"] == 0
    page = (ROOT / "docs" / "concepts" / "security.md").read_text()
    assert page == with_table(page, results)


def test_messages_cannot_command_a_terminal():
    error = DataError("a\x1b[2Jb\nc\u202ed\ud800é")
    assert str(error) == "a\\x1b[2Jb\\nc\\u202ed\\ud800é"
    assert len(str(DataError("x" * 10**6))) < 5000


class TestOddFiles:
    """Pipes, devices, folders and impossible names: refused at once."""

    @pytest.fixture
    def pipe(self, tmp_path) -> Path:
        path = tmp_path / "pipe"
        os.mkfifo(path)
        return path

    READERS = {  # noqa: RUF012
        "yaml": lambda path: load_config(path),
        "npy": lambda path: read_table(path.with_name(f"{path.name}.npy")),
        "npz": lambda path: read_table(path.with_name(f"{path.name}.npz")),
        "csv": lambda path: read_table(path.with_name(f"{path.name}.csv")),
        "safetensors": lambda path: read_table(path.with_name(f"{path.name}.safetensors")),
        "mask": lambda path: read_mask(path.with_name(f"{path.name}.npy"), EventSpec(shape=(2,)), 1),
        "picture": lambda path: read_header(path),
        "promised": lambda path: PromisedFile(path),
        "indices": lambda path: read_indices(path, 3),
        "tensors": lambda path: read_tensors(path, "model"),
        "array": lambda path: ArrayConfig(path=path.with_name(f"{path.name}.csv")).build(),
        "streamed": lambda path: ArrayConfig(path=path.with_name(f"{path.name}.npy"), stream="always").build(),
        "folder": lambda path: ImagesConfig(path=path).build(),
        "model": lambda path: smoothgen.load(path.parent),
    }

    @pytest.mark.parametrize("kind", ["pipe", "folder", "device", "memory", "loop"])
    @pytest.mark.parametrize("reader", READERS)
    def test_what_is_no_file(self, tmp_path, kind, reader):
        for suffix in ("", ".npy", ".npz", ".csv", ".safetensors"):
            path = tmp_path / f"x{suffix}"
            if kind == "pipe":
                os.mkfifo(path)
            elif kind == "folder":
                path.mkdir()
            else:
                path.symlink_to({"device": "/dev/zero", "memory": "/proc/self/mem", "loop": path}[kind])
        (tmp_path / "config.json").symlink_to(tmp_path / "x")
        outcome: list[BaseException] = []

        def call() -> None:
            try:
                self.READERS[reader](tmp_path / "x")
            except BaseException as error:
                outcome.append(error)

        thread = threading.Thread(target=call, daemon=True)
        thread.start()
        thread.join(60)
        assert not thread.is_alive(), "it waits"
        assert [isinstance(error, SmoothgenError) for error in outcome] == [True]

    @pytest.mark.parametrize("name", ["a\0b", "x" * 5000, "\ud800", "a/" * 3000, "~nobody-at-all/x"])
    @pytest.mark.parametrize("reader", READERS)
    def test_impossible_names(self, name, reader):
        with pytest.raises(SmoothgenError) as caught:
            self.READERS[reader](Path(name))
        assert str(caught.value).isprintable()

    def test_pipes_in_a_folder_of_pictures(self, tmp_path):
        for number in range(3):
            os.mkfifo(tmp_path / f"{number}.png")
        with pytest.raises(DataError, match="no regular file"):
            ImagesConfig(path=tmp_path).build()


def npy(header: str, body: bytes = b"\0" * 64, version: int = 1) -> bytes:
    text = header.encode()
    return b"\x93NUMPY" + bytes((version, 0)) + struct.pack("<H" if version == 1 else "<I", len(text)) + text + body


class TestArrays:
    """Headers that promise what the file has not, and archives with more than arrays."""

    @pytest.mark.parametrize(
        "shape",
        ["(1000000000000,)", "(-8,)", "(True, 2)", f"({2**63},)", "(" + "1," * 70 + ")", "(1.0,)", "'8'", "[8]"],
    )
    def test_impossible_shapes(self, tmp_path, shape):
        (tmp_path / "a.npy").write_bytes(npy(f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}}}"))
        assert peak_growth(read_table, tmp_path / "a.npy") < 10_000_000

    @pytest.mark.parametrize("descr", ["'|V0'", "'|S0'", "'<U0'", "'|O'", "[('a', '|O')]", "'<M8[s]'", "'<c16'"])
    def test_types_that_are_no_numbers(self, tmp_path, descr):
        shape = "(1000000000000000000,)" if "0'" in descr else "(2,)"
        (tmp_path / "a.npy").write_bytes(npy(f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}"))
        assert peak_growth(read_table, tmp_path / "a.npy") < 10_000_000

    @pytest.mark.parametrize("header", ["[" * 9000, "(" * 9000, "{'a':" * 1900, "-" * 9000, "1" * 9000, "\0"])
    def test_headers_that_are_hard_to_parse(self, tmp_path, header):
        (tmp_path / "a.npy").write_bytes(npy(header))
        with pytest.raises(DataError) as caught:
            read_table(tmp_path / "a.npy")
        assert str(caught.value).isprintable()

    def archive(self, path: Path, **changes) -> Path:
        buffer = io.BytesIO()
        np.save(buffer, np.ones((4, 2)))
        info = zipfile.ZipInfo(changes.pop("name", "x.npy"))
        info.compress_type = changes.pop("method", zipfile.ZIP_DEFLATED)
        info.external_attr = changes.pop("mode", 0) << 16
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(info, changes.pop("content", buffer.getvalue()))
            if changes.pop("twice", False):
                with pytest.warns(UserWarning, match="Duplicate name"):
                    archive.writestr(info, buffer.getvalue())
        return path

    def test_a_sound_archive_is_read(self, tmp_path):
        assert read_table(self.archive(tmp_path / "a.npz")).values.shape == (4, 2)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"name": "../x.npy"}, "no plain name"),
            ({"name": "/etc/x.npy"}, "no plain name"),
            ({"name": "a/../../x.npy"}, "no plain name"),
            ({"name": "x\x1b.npy"}, "no plain name"),
            ({"mode": stat.S_IFLNK | 0o777}, "a folder, a link or a device"),
            ({"mode": stat.S_IFCHR | 0o777}, "a folder, a link or a device"),
            ({"name": "x.npy/"}, "a folder, a link or a device"),
            ({"method": zipfile.ZIP_LZMA}, "packed in a way"),
            ({"method": zipfile.ZIP_BZIP2}, "packed in a way"),
            ({"twice": True}, "is given twice"),
        ],
    )
    def test_odd_members(self, tmp_path, changes, message):
        with pytest.raises(DataError, match=message):
            read_table(self.archive(tmp_path / "a.npz", **changes))

    def test_sizes_that_are_lies(self, tmp_path):
        path = self.archive(tmp_path / "a.npz")
        data = bytearray(path.read_bytes())
        at = data.rindex(b"PK\x01\x02")
        data[at + 24 : at + 28] = struct.pack("<I", 4_000_000_000)
        path.write_bytes(data)
        with pytest.raises(DataError, match="cannot hold the 4000000000 bytes"):
            read_table(path)

    def test_a_bomb(self, tmp_path, monkeypatch):
        monkeypatch.setenv("SMOOTHGEN_MAX_UNPACKED_BYTES", "1000000")
        header = npy("{'descr': '|u1', 'fortran_order': False, 'shape': (3000000, 1)}", b"")
        path = self.archive(tmp_path / "a.npz", content=header + bytes(3_000_000))
        assert path.stat().st_size < 10_000
        assert peak_growth(read_table, path) < 1_000_000
        with pytest.raises(DataError, match="SMOOTHGEN_MAX_UNPACKED_BYTES"):
            read_table(path)

    @pytest.mark.parametrize("length", [2**63, 2**64 - 1, 10**12, 1 << 25])
    def test_headers_of_tensors(self, tmp_path, length):
        (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", length) + b"{}" + bytes(100))
        assert peak_growth(read_table, tmp_path / "a.safetensors") < 10_000_000
        with pytest.raises(CheckpointError, match=r"header promises|damaged"):
            read_tensors(tmp_path / "a.safetensors", "model")

    @pytest.mark.parametrize("delimiter", ["\n", "\r", '"', "\0", " "])
    def test_odd_delimiters(self, tmp_path, delimiter):
        (tmp_path / "a.csv").write_text('"1"x2\n3x4\n')
        with pytest.raises(SmoothgenError):
            ArrayConfig(path=tmp_path / "a.csv", delimiter=delimiter).build()


class TestPictures:
    """Sizes in headers."""

    def png(self, path: Path, width: int, height: int) -> Path:
        def chunk(kind: bytes, data: bytes) -> bytes:
            return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

        header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
        body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
        return path

    def test_more_pixels_than_are_read(self, tmp_path, monkeypatch):
        path = self.png(tmp_path / "0.png", 8000, 8000)
        with pytest.raises(
            DataError, match=r"64000000 pixels, more than the 33554432 pixels that are read.*PICTURE_PIXELS"
        ):
            read_header(path)
        monkeypatch.setenv("SMOOTHGEN_MAX_PICTURE_PIXELS", "64000000")
        assert read_header(path).size == (8000, 8000)

    def test_all_pictures_together(self, tmp_path, monkeypatch):
        from PIL import Image

        for number in range(4):
            Image.new("L", (4, 4), number).save(tmp_path / f"{number}.png")
        with pytest.raises(DataError, match="SMOOTHGEN_MAX_PICTURE_PIXELS"):
            ImagesConfig(path=tmp_path, size=(100_000, 100_000), resize="centre-crop-resize").build()
        monkeypatch.setenv("SMOOTHGEN_MAX_UNPACKED_BYTES", "20")
        source = ImagesConfig(path=tmp_path, stream="never").build()
        with pytest.raises(DataError, match="SMOOTHGEN_MAX_UNPACKED_BYTES"):
            source.split("train")


MODEL = {
    "kernel": {"type": "gaussian", "sigma": 0.3},
    "density": {"type": "made", "hidden": [8]},
    "inverter": {"type": "conditional", "density": {"type": "made", "hidden": [8]}},
}


class TestModels:
    """A description that promises more than its weights."""

    @pytest.fixture
    def saved(self, tmp_path) -> Path:
        SmoothedConfig.model_validate(MODEL).build(EventSpec(shape=(2,))).save_pretrained(tmp_path)
        return tmp_path

    def change(self, directory: Path, where: str, value: object) -> None:
        path = directory / "config.json"
        tree = json.loads(path.read_text())
        *above, last = where.split(".")
        node = tree
        for key in above:
            node = node[key]
        node[last] = value
        path.write_text(json.dumps(tree))

    @pytest.mark.parametrize(
        ("where", "value", "message"),
        [
            ("event.shape", [10**12], "event.shape"),
            ("event.shape", [2**31 - 1, 2**31 - 1], "more than the 1048576 coordinates"),
            ("event.shape", [1] * 10_000, "event.shape"),
            ("event.shape", [2**19], "far more memory"),
            ("model.density.hidden", [10**9], "far more memory"),
            ("model.density.hidden", [10**5, 10**5], "far more memory"),
            ("model.density.components", 10**9, "far more memory"),
            ("model.density.fourier", 10**9, "far more memory"),
            ("model.density.hidden", [1] * 30_000, "far more operations"),
            ("model.density", {"type": "realnvp", "layers": 10**9}, "far more operations"),
            ("features", 10**12, "features"),
            ("features", 2**30, "more than the 1048576 coordinates"),
            ("noisy_copy", [3], "is not of an event"),
            ("noise_std", [0.1], "is not of an event"),
            ("noise_std", [-1.0, 0.0], "noise_std"),
            ("model.density.hidden", [], "hidden needs at least one layer"),
            ("model.kernel.sigma", [0.1, 0.2, 0.3], "cannot be built"),
        ],
    )
    def test_is_refused_before_memory_is_taken(self, saved, where, value, message):
        import resource

        self.change(saved, where, value)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start = time.process_time()
        with pytest.raises(CheckpointError, match=message):
            smoothgen.load(saved)
        assert time.process_time() - start < 20.0
        if sys.platform == "linux":
            assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 700_000  # kilobytes

    def test_a_budget_can_be_raised(self, saved, monkeypatch):
        self.change(saved, "model.density.hidden", [4000, 4000])
        monkeypatch.setenv("SMOOTHGEN_MAX_BUILD_BYTES", "1000000")
        with pytest.raises(CheckpointError, match="SMOOTHGEN_MAX_BUILD_BYTES"):
            smoothgen.load(saved)
        monkeypatch.setenv("SMOOTHGEN_MAX_BUILD_BYTES", "1000000000")
        with pytest.raises(CheckpointError, match="it holds the weights of another model"):
            smoothgen.load(saved)

    def test_loading_needs_no_compiler_of_torchs(self, saved):
        import subprocess

        code = f"import smoothgen, sys; smoothgen.load({str(saved)!r}); print('torch._dynamo' in sys.modules)"
        out = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
        assert out.stdout.strip() == "False"

    def test_whole_numbers_are_no_weights(self, saved):
        weights = load_file(saved / "model.safetensors")
        name = "density.conditioner.layers.0.weight"
        tensors = weights | {name: weights[name].to(torch.int64)}
        write_tensors(saved / "model.safetensors", tensors, {"kind": "model", "format": 1})
        with pytest.raises(CheckpointError, match=r"is torch\.int64"):
            smoothgen.load(saved)


class TestCheckpoints:
    """A checkpoint whose values would fail, or worse, at a later step."""

    @pytest.fixture(scope="class")
    @classmethod
    def trainer(cls, tmp_path_factory):
        experiment = {
            "data": {"type": "rings", "train_size": 32, "test_size": 8},
            **copy.deepcopy(MODEL),
            "trainer": {"max_steps": 2, "batch_size": 4, "checkpoint_every": 1, "validate_every": 1},
        }
        config = load_config(experiment)
        source = config.data.build()
        run = RunDirectory(tmp_path_factory.mktemp("run"))
        trainer = trainer_of(*assemble(config, source), source, smoothgen.DevicePolicy(config.device), run)
        saved = []
        save = trainer._save

        def keep(index, training):
            save(index, training)
            saved.append(run.checkpoint.read_bytes())

        trainer._save = keep
        trainer.train()
        trainer._save = save
        trainer.sound = saved[0]
        return trainer

    def resume(self, trainer, tensors, metadata) -> None:
        trainer.run.former_checkpoint.unlink(missing_ok=True)  # which a damaged newest one would fall back on
        write_tensors(trainer.run.checkpoint, tensors, metadata)
        saved = trainer._read_checkpoint()
        trainer._start(trainer.stages[saved[1]["stage"]], saved)

    def sound(self, trainer):
        trainer.run.checkpoint.write_bytes(trainer.sound)
        return read_tensors(trainer.run.checkpoint, "checkpoint")

    def test_a_sound_one_is_restored(self, trainer):
        self.resume(trainer, *self.sound(trainer))

    @pytest.mark.parametrize(
        ("where", "value"),
        [
            ("stage", 7),
            ("stage", -1),
            ("stage", "0"),
            ("stages", []),
            ("stages", "ab"),
            ("records", -1),
            ("records", 2**70),
            ("position", []),
            ("position", {"step": 1}),
            ("position.step", -1),
            ("position.step", 1.5),
            ("position.best_loss", float("nan")),
            ("position.extra", 1),
            ("micro_batches", 1),
            ("micro_batches", [0, 1]),
            ("micro_batches", [1]),
            ("micro_batches", [3, 3]),
            ("optimizer_groups", {}),
            ("optimizer_groups", []),
            ("optimizer_groups.0.betas", [5, 5]),
            ("optimizer_groups.0.betas", "x"),
            ("optimizer_groups.0.maximize", True),
            ("optimizer_groups.0.maximize", 0),
            ("optimizer_groups.0.amsgrad", 0.0),
            ("optimizer_groups.0.unheard", 1),
            ("optimizer_groups.0.params", ["x"]),
        ],
    )
    def test_odd_metadata(self, trainer, where, value):
        tensors, metadata = self.sound(trainer)
        *above, last = where.split(".")
        node = metadata
        for key in above:
            node = node[int(key) if key.isdigit() else key]
        node[last] = value
        with pytest.raises(CheckpointError) as caught:
            self.resume(trainer, tensors, metadata)
        assert str(caught.value).isprintable()

    @pytest.mark.parametrize("section", ["weights", "average", "optimizer", "trainees"])
    @pytest.mark.parametrize("change", ["missing", "shape", "extra"])
    def test_odd_tensors(self, trainer, section, change):
        tensors, metadata = self.sound(trainer)
        name = next(name for name in tensors if name.startswith(f"{section}/") and tensors[name].dim() == 2)
        if change == "missing":
            del tensors[name]
        elif change == "shape":
            tensors[name] = torch.zeros(3, 5)
        else:
            tensors[f"{section}/nobody.weight/exp_avg"] = torch.zeros(1)
        with pytest.raises(CheckpointError):
            self.resume(trainer, tensors, metadata)

    def test_how_the_optimizer_computes_is_not_taken_from_the_file(self, trainer):
        tensors, metadata = self.sound(trainer)
        metadata["optimizer_groups"][0] |= {"fused": "x", "foreach": "y", "capturable": True}
        write_tensors(trainer.run.checkpoint, tensors, metadata)
        saved = trainer._read_checkpoint()
        (group,) = trainer._start(trainer.stages[saved[1]["stage"]], saved).optimizer.param_groups
        assert (group["fused"], group["foreach"], group["capturable"]) == (True, None, False)

    def test_metadata_of_other_versions_may_say_more(self, trainer):
        _, metadata = self.sound(trainer)
        check_metadata(metadata | {"checksum": "x"}, [stage.name for stage in trainer.stages], Path("x"))

    def test_metadata_nested_without_end(self, tmp_path):
        header = json.dumps({"__metadata__": {"smoothgen": "[" * 100_000}}).encode()
        (tmp_path / "m.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
        with pytest.raises(CheckpointError, match="is damaged"):
            read_tensors(tmp_path / "m.safetensors", "model")
