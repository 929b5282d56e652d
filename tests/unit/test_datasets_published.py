"""MNIST's idx files and CIFAR-10's batches: byte by byte, in every way they can be bad, and the real ones."""

from __future__ import annotations

import gzip
import hashlib
import re
import struct
import tracemalloc
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from smoothgen.data_source import DataSource
from smoothgen.errors import DataError
from smoothgen_datasets.cifar10 import CIFAR10Config
from smoothgen_datasets.idx import CHECKSUMS, MNISTConfig
from smoothgen_datasets.pixels import DataWarning

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
RANDOM = np.random.default_rng(0)
IMAGES = {part: RANDOM.integers(0, 256, (n, 28, 28), dtype=np.uint8) for part, n in (("train", 30), ("t10k", 12))}
LABELS = {part: RANDOM.integers(0, 10, len(images), dtype=np.uint8) for part, images in IMAGES.items()}
BATCHES = {**{f"data_batch_{number}": 4 for number in range(1, 6)}, "test_batch": 7}
RECORDS = {name: RANDOM.integers(0, 256, (count, 3073), dtype=np.uint8) for name, count in BATCHES.items()}
for _records in RECORDS.values():
    _records[:, 0] %= 10
TRAIN = "train-images-idx3-ubyte"


@pytest.fixture(autouse=True)
def _small_files_are_expected():
    """The files made here are not the published ones, and said to be so; tests of that turn it on again."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        yield


def gzipped(data: bytes) -> bytes:
    """The same bytes at every moment, so that they may name a test: gzip writes the time into its header."""
    return gzip.compress(data, mtime=0)


def idx(values: np.ndarray) -> bytes:
    """The idx file of an array of unsigned bytes."""
    return bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


def mnist(folder: Path, form: str = "{}", pack: bool = False) -> Path:
    """A folder with four small files; form: what becomes of their names."""
    for part in IMAGES:
        for name, values in ((f"{part}-images-idx3-ubyte", IMAGES[part]), (f"{part}-labels-idx1-ubyte", LABELS[part])):
            data = idx(values)
            (folder / form.format(name)).write_bytes(gzip.compress(data) if pack else data)
    return folder


def cifar10(folder: Path, ending: str = ".bin") -> Path:
    for name, records in RECORDS.items():
        data = records.tobytes()
        (folder / f"{name}{ending}").write_bytes(gzip.compress(data) if ending.endswith(".gz") else data)
    return folder


def build_mnist(folder: Path, **keys: Any) -> DataSource:
    return MNISTConfig(path=folder, **{"validation_examples": 6, **keys}).build()


def build_cifar10(folder: Path, **keys: Any) -> DataSource:
    return CIFAR10Config(path=folder, **{"validation_examples": 5, **keys}).build()


def refused(build: Any, folder: Path, culprit: str, *parts: str, **keys: Any) -> None:
    """The folder is refused in one line that names the culprit's path and says what the parts say."""
    with pytest.raises(DataError) as caught:
        build(folder, **keys)
    message = str(caught.value)
    assert "\n" not in message
    for part in (str(folder / culprit), *parts):
        assert part in message, message


def assert_bytes(x: torch.Tensor, expected: np.ndarray) -> None:
    """x is k / 127.5 - 1 of the expected bytes, as exactly as float32 can."""
    assert x.dtype == torch.float32
    np.testing.assert_array_equal(x.numpy(), (expected.astype(np.float64) / 127.5 - 1.0).astype(np.float32))


def levels_of(source: DataSource, name: Any) -> np.ndarray:
    return source.event.levels_of(source.split(name).x).numpy()


@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize("form", ["{}", "dotted", "{}.gz", "dotted.gz"])
def test_mnist_reads_every_name_and_packing(tmp_path, form, pack):
    """What the bytes say counts, not the ending: browsers unpack .gz files without renaming them."""
    mnist(tmp_path, "{}", pack)
    for path in sorted(tmp_path.iterdir()):
        dotted = path.name.replace("-idx", ".idx") if "dotted" in form else path.name
        path.rename(tmp_path / (dotted + (".gz" if form.endswith(".gz") else "")))
    source = build_mnist(tmp_path, labels=True)
    assert (source.event.shape, source.event.low, source.event.high, source.event.levels) == ((1, 28, 28), -1, 1, 256)
    assert source.features == 10
    expected = {
        "train": (IMAGES["train"][:24], LABELS["train"][:24]),
        "validation": (IMAGES["train"][24:], LABELS["train"][24:]),
        "test": (IMAGES["t10k"], LABELS["t10k"]),
    }
    for name, (images, labels) in expected.items():
        split = source.split(name)
        assert_bytes(split.x[:, 0], images)
        np.testing.assert_array_equal(split.context.numpy(), np.eye(10, dtype=np.float32)[labels])
        source.event.check(split.x)


def test_mnist_without_labels_needs_no_labels(tmp_path):
    mnist(tmp_path)
    for path in tmp_path.glob("*labels*"):
        path.unlink()
    source = build_mnist(tmp_path, most=5, validation_examples=28)
    assert source.features == 0 and source.split("train").context is None
    assert [len(source.split(name)) for name in ("train", "validation", "test")] == [2, 28, 12]
    source = build_mnist(tmp_path, most=5, validation_examples=0)
    assert_bytes(source.split("train").x[:, 0], IMAGES["train"][:5])
    with pytest.raises(DataError, match="validation split is empty"):
        source.split("validation")
    refused(build_mnist, tmp_path, TRAIN, "30 images", "leave 1 to train on", validation_examples=29)
    refused(build_mnist, tmp_path, "", "train-labels-idx1-ubyte, t10k-labels-idx1-ubyte", labels=True)


def test_missing_folders_say_what_to_put_where(tmp_path):
    refused(
        build_mnist, tmp_path / "no", "", "does not exist", TRAIN, "t10k-images-idx3-ubyte", "nothing is downloaded"
    )
    refused(build_cifar10, tmp_path / "no", "", "does not exist", "data_batch_1.bin", "test_batch.bin", "set path")
    (tmp_path / "raw").mkdir()
    mnist(tmp_path / "raw")
    refused(build_mnist, tmp_path, "", f"such files are in {tmp_path / 'raw'}")
    (tmp_path / "raw" / TRAIN).unlink()
    refused(build_mnist, tmp_path / "raw", "", f"lacks {TRAIN};")
    refused(build_mnist, tmp_path / "raw" / "t10k-images-idx3-ubyte", "", "is a file")
    (tmp_path / "raw" / TRAIN).mkdir()
    refused(build_mnist, tmp_path / "raw", "", f"lacks {TRAIN};")


HEADER = bytes([0, 0, 8, 3])


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (b"", ["is empty"]),
        (b"\0", ["cut short"]),
        (HEADER, ["cut short"]),
        (idx(IMAGES["train"])[:15], ["15 bytes", "cut short"]),
        (idx(IMAGES["train"])[:16], ["promises 23520 bytes", "cut short"]),
        (idx(IMAGES["train"])[:-1], ["promises 23520 bytes", "cut short"]),
        (idx(IMAGES["train"]) + b"\0", ["more than the 23520 bytes"]),
        (b"\x89PNG" + bytes(40), ["begins with 89504e47", "expected 00000803"]),
        (bytes([0, 0, 13, 3]) + bytes(40), ["begins with 00000d03"]),
        (idx(LABELS["train"]), ["begins with 00000801"]),
        (idx(IMAGES["train"][:, :27]), ["holds 30 x 27 x 28 bytes", "expected n x 28 x 28"]),
        (idx(IMAGES["train"][:0]), ["holds 0 x 28 x 28"]),
        (HEADER + struct.pack(">3I", 2**32 - 1, 28, 28), ["promises 3367254359280 bytes"]),
        (HEADER + struct.pack(">3I", 10**6, 28, 28) + bytes(99), ["promises 784000000 bytes", "115 bytes"]),
        (b"\x1f\x8b" + bytes(30), ["cannot be read"]),
        (gzipped(idx(IMAGES["train"])[:-1]), ["promises 23520 bytes", "23519 follow"]),
        (gzipped(idx(IMAGES["train"]) + b"\0"), ["more than the 23520 bytes"]),
        (gzipped(HEADER + struct.pack(">3I", 10**6, 28, 28)), ["promises 784000000 bytes", "cut short"]),
    ],
)
def test_bad_idx_files_are_refused_in_one_line(tmp_path, content, parts):
    (mnist(tmp_path) / TRAIN).write_bytes(content)
    refused(build_mnist, tmp_path, TRAIN, *parts)


def test_packed_files_that_are_cut_or_damaged(tmp_path):
    mnist(tmp_path, "{}.gz", pack=True)
    path = tmp_path / f"{TRAIN}.gz"
    whole = path.read_bytes()
    for size in (3, 10, 40, len(whole) // 2, len(whole) - 9, len(whole) - 1):
        path.write_bytes(whole[:size])
        refused(build_mnist, tmp_path, path.name, "ends early")
    for position in range(100, len(whole), 997):
        damaged = bytearray(whole)
        damaged[position] ^= 0xFF
        path.write_bytes(damaged)
        refused(build_mnist, tmp_path, path.name)


def peak_memory(call: Any, *arguments: Any) -> int:
    tracemalloc.start()
    call(*arguments)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_a_bomb_is_not_unpacked(tmp_path):
    """300 MB of zeros behind a header that promises 24 kB: one byte more than promised is read, and no further."""
    bomb = gzip.compress(idx(IMAGES["train"]) + bytes(300_000_000), compresslevel=1)
    (mnist(tmp_path) / TRAIN).write_bytes(bomb)
    assert peak_memory(refused, build_mnist, tmp_path, TRAIN, "more than the 23520 bytes") < 3_000_000 + len(bomb)
    (tmp_path / "cifar").mkdir()
    path = cifar10(tmp_path / "cifar", ".bin.gz") / "data_batch_3.bin.gz"
    path.write_bytes(gzip.compress(bytes(700_000_000), compresslevel=1))
    most = 2 * 100_000 * 3073 + 3_000_000
    assert peak_memory(refused, build_cifar10, tmp_path / "cifar", path.name, "more than 307300000 bytes") < most


def test_labels_must_fit_images_and_classes(tmp_path):
    path = mnist(tmp_path) / "t10k-labels-idx1-ubyte"
    path.write_bytes(idx(LABELS["t10k"][:11]))
    refused(build_mnist, tmp_path, path.name, "11 labels for the 12 images", labels=True)
    wrong = LABELS["t10k"].copy()
    wrong[4] = 10
    path.write_bytes(idx(wrong))
    refused(build_mnist, tmp_path, path.name, "label 10 of image 4", "0 to 9", labels=True)
    assert build_mnist(tmp_path).features == 0


def test_a_difference_from_the_published_files_is_told(tmp_path, monkeypatch):
    mnist(tmp_path, "{}.gz", pack=True)
    with pytest.warns(DataWarning) as told:
        build_mnist(tmp_path)
    assert [str(item.message).partition(":")[0] for item in told] == [
        str(tmp_path / f"{part}-images-idx3-ubyte.gz") for part in ("train", "t10k")
    ]
    refused(build_mnist, tmp_path, f"{TRAIN}.gz", "differ", "check: auto", check=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build_mnist(tmp_path, check=False)
        contents = {
            f"{part}-images-idx3-ubyte": (None, hashlib.sha256(idx(IMAGES[part])).hexdigest()) for part in IMAGES
        }
        monkeypatch.setitem(CHECKSUMS, "mnist", contents)
        build_mnist(tmp_path, check=True)  # whatever compressed it, the contents are right
        packed = {
            name: (hashlib.md5((tmp_path / f"{name}.gz").read_bytes()).hexdigest(), None)
            for name in ("train-images-idx3-ubyte", "t10k-images-idx3-ubyte")
        }
        monkeypatch.setitem(CHECKSUMS, "fashion-mnist", packed)
        build_mnist(tmp_path, check=True, variant="fashion-mnist")
    (tmp_path / f"{TRAIN}.gz").write_bytes(gzip.compress(idx(IMAGES["train"]), compresslevel=1))
    with pytest.warns(DataWarning, match="packed again may be right"):
        build_mnist(tmp_path, variant="fashion-mnist")


@pytest.mark.parametrize("ending", [".bin", ".bin.gz"])
def test_cifar10_reads_planes_and_labels(tmp_path, ending):
    source = build_cifar10(cifar10(tmp_path, ending), labels=True)
    assert (source.event.shape, source.event.levels, source.features) == ((3, 32, 32), 256, 10)
    train = np.concatenate([RECORDS[f"data_batch_{i}"] for i in range(1, 6)])
    for name, records in (("train", train[:15]), ("validation", train[15:]), ("test", RECORDS["test_batch"])):
        split = source.split(name)
        assert_bytes(split.x.flatten(1), records[:, 1:])
        np.testing.assert_array_equal(split.context.argmax(1).numpy(), records[:, 0])
    pixel = source.event.levels_of(source.split("train").x)[6, 1, 5, 9].item()
    assert pixel == RECORDS["data_batch_2"][2, 1 + 1024 + 5 * 32 + 9]
    limited = build_cifar10(tmp_path, most=3)
    assert limited.features == 0 and limited.split("train").context is None
    assert_bytes(limited.split("train").x.flatten(1), train[:3, 1:])
    refused(build_cifar10, tmp_path, "", "20 images", "leave 0 to train on", validation_examples=25)


def with_label(label: int) -> bytes:
    records = RECORDS["data_batch_2"].copy()
    records[3, 0] = label
    return records.tobytes()


WHOLE = RECORDS["data_batch_2"].tobytes()


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (b"", ["is empty"]),
        (WHOLE[:1], ["1 bytes are no multiple of 3073"]),
        (WHOLE[:3072], ["3072 bytes are no multiple"]),
        (WHOLE[:-1], [f"{len(WHOLE) - 1} bytes are no multiple"]),
        (WHOLE + b"\0", ["no multiple"]),
        (gzipped(WHOLE[:-1]), ["no multiple"]),
        (gzipped(WHOLE)[:-5], ["ends early"]),
        (gzipped(b""), ["0 bytes"]),
        (with_label(10), ["label 10 of record 3", "0 to 9"]),
        (with_label(255), ["label 255 of record 3"]),
    ],
)
def test_bad_batches_are_refused_in_one_line(tmp_path, content, parts):
    (cifar10(tmp_path) / "data_batch_2.bin").write_bytes(content)
    refused(build_cifar10, tmp_path, "data_batch_2.bin", *parts)


def test_the_pickled_version_is_refused_with_the_reason(tmp_path):
    (tmp_path / "data_batch_1").write_bytes(b"\x80\x02}q\x01.")
    refused(build_cifar10, tmp_path, "data_batch_1", "python version", "unpickling runs", "cifar-10-binary.tar.gz")
    (tmp_path / "data_batch_1").unlink()
    (tmp_path / "cifar-10-batches-py").mkdir()
    refused(build_cifar10, tmp_path, "cifar-10-batches-py", "python version")
    cifar10(tmp_path)
    build_cifar10(tmp_path)


def test_batches_of_another_length_are_told(tmp_path):
    with pytest.warns(DataWarning, match=re.escape(f"{tmp_path / 'test_batch.bin'}: 7 records; the published")):
        build_cifar10(cifar10(tmp_path))


def test_lossy_test_images_are_left_out_and_it_is_said(tmp_path):
    listing = cifar10(tmp_path) / "test_batch.lossy_indices.txt"
    listing.write_text("# zero-based\n5\n\n2  # a comment\n5\n")
    with pytest.warns(DataWarning, match="2 of 7 test images are copies with losses, and are left out"):
        source = build_cifar10(tmp_path, labels=True)
    kept = RECORDS["test_batch"][[0, 1, 3, 4, 6]]
    assert_bytes(source.split("test").x.flatten(1), kept[:, 1:])
    np.testing.assert_array_equal(source.split("test").context.argmax(1).numpy(), kept[:, 0])
    assert len(source.notes) == 1 and str(listing) in source.notes[0]
    source = build_cifar10(tmp_path, lossy="keep")
    assert len(source.split("test")) == 7 and "are kept" in source.notes[0]
    for line in ("7", "-1", "1.0", "x", "²", "1 2", "9" * 5000):
        listing.write_text(f"1\n{line}\n")
        refused(build_cifar10, tmp_path, listing.name, "line 2", "no index from 0 to 6")
    listing.write_bytes(b"\xff\xfe\n")
    refused(build_cifar10, tmp_path, listing.name, "line 1")


@pytest.mark.skipif(not (SHARED / "mnist").is_dir(), reason=f"MNIST is not in {SHARED}")
def test_the_real_mnist():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        source = MNISTConfig(path=SHARED / "mnist", labels=True, check=True).build()
    assert [len(source.split(name)) for name in ("train", "validation", "test")] == [55000, 5000, 10000]
    counts = torch.cat([source.split(name).context for name in ("train", "validation")]).sum(0).tolist()
    assert counts == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert source.split("train").context[:5].argmax(1).tolist() == [5, 0, 4, 1, 9]
    pixels = np.concatenate([levels_of(source, "train"), levels_of(source, "validation")])
    assert pixels.mean() / 255.0 == pytest.approx(0.1307, abs=5e-5)  # the mean that everyone normalises by
    assert pixels.std() / 255.0 == pytest.approx(0.3081, abs=5e-5)
    with pytest.raises(DataError, match="fashion-mnist file of that name"):
        MNISTConfig(path=SHARED / "mnist", variant="fashion-mnist", check=True).build()


@pytest.mark.skipif(not (SHARED / "cifar10").is_dir(), reason=f"CIFAR-10 is not in {SHARED}")
def test_the_real_cifar10():
    source = CIFAR10Config(path=SHARED / "cifar10", labels=True).build()
    assert [len(source.split(name)) for name in ("train", "validation")] == [45000, 5000]
    counts = torch.cat([source.split(name).context for name in ("train", "validation")]).sum(0)
    assert counts.tolist() == [5000] * 10
    mean = sum(source.split(name).x.double().sum((0, 2, 3)) for name in ("train", "validation")) / (50000 * 1024)
    expected = torch.tensor([0.4914, 0.4822, 0.4465], dtype=torch.float64)  # the means that everyone normalises by
    torch.testing.assert_close((mean + 1.0) / 2.0, expected, atol=1e-4, rtol=0.0)
    listed = (SHARED / "cifar10" / "test_batch.lossy_indices.txt").exists()
    assert len(source.split("test")) == (9980 if listed else 10000) and len(source.notes) == listed
    kept = CIFAR10Config(path=SHARED / "cifar10", labels=True, lossy="keep").build().split("test")
    assert kept.context.sum(0).tolist() == [1000] * 10
