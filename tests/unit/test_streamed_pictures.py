"""Folders of pictures decoded on demand: the same images as in memory, bounded, and named where they are bad."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from smoothgen.data_source import DataSource
from smoothgen.errors import DataError
from smoothgen.testing import check
from smoothgen_datasets import images as images_module
from smoothgen_datasets import streamed_pictures
from smoothgen_datasets.images import ImagesConfig
from smoothgen_datasets.pixels import PixelSource
from smoothgen_datasets.streamed_pictures import KeptPictures, StreamedPictureSource

PIXELS = np.random.default_rng(0).integers(0, 256, (24, 6, 5, 3), dtype=np.uint8)
SPLITS: tuple[Any, ...] = ("train", "validation", "test")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for index, image in enumerate(PIXELS):
        place = tmp_path / "pictures" / ("cats" if index % 2 else "dogs")
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place / f"{index:02}.png")
    return tmp_path / "pictures"


def build(folder: Path, **keys: Any) -> DataSource:
    return ImagesConfig.model_validate({"path": folder, "stream": "always"} | keys).build()


@pytest.mark.parametrize("labels", [False, True])
@pytest.mark.parametrize("keep_mib", [0, 1])
def test_streamed_pictures_are_those_in_memory(folder, labels, keep_mib):
    streamed, whole = build(folder, labels=labels, keep_mib=keep_mib), build(folder, labels=labels, stream="never")
    assert isinstance(streamed, StreamedPictureSource) and isinstance(whole, PixelSource)
    assert streamed.event == whole.event and streamed.features == whole.features and streamed.classes == whole.classes
    for name in SPLITS:
        one, other = streamed.split(name), whole.split(name)
        assert torch.equal(one.x, other.x)
        assert (one.context is None) == (other.context is None) == (not labels)
        for seed in range(3):
            rows = torch.randint(len(other), (40,), generator=torch.Generator().manual_seed(seed))
            batch = streamed.examples(name).rows(rows)
            assert torch.equal(batch.x, other.x[rows])
            if batch.context is not None and other.context is not None:
                assert torch.equal(batch.context, other.context[rows])


def test_the_contract_holds(folder):
    assert "splits" in str(check(ImagesConfig(path=folder, stream="always")))


def test_large_folders_stream_by_themselves(folder, monkeypatch):
    assert isinstance(build(folder, stream="auto"), PixelSource)
    monkeypatch.setattr(images_module, "STREAM_FROM", 24 * 90)
    assert isinstance(build(folder, stream="auto"), StreamedPictureSource)
    monkeypatch.setattr(images_module, "STREAM_FROM", 24 * 90 + 1)
    assert isinstance(build(folder, stream="auto"), PixelSource)


def test_pictures_are_decoded_once_where_there_is_room(folder, monkeypatch):
    count = []
    read = streamed_pictures.read_pixels
    monkeypatch.setattr(streamed_pictures, "read_pixels", lambda *given: count.append(given[0]) or read(*given))
    examples = build(folder, keep_mib=1).examples("train")
    for _ in range(3):
        examples.rows(torch.arange(len(examples)))
    assert len(count) == len(set(count)) == len(examples)
    examples = build(folder, keep_mib=0).examples("train")
    count.clear()
    for _ in range(3):
        examples.rows(torch.tensor([1, 1, 0]))
    assert len(count) == 6


def test_no_more_is_kept_than_asked():
    kept = KeptPictures(100)
    for number in range(5):
        kept.offer(number, np.full(40, number, dtype=np.uint8))
    assert [number for number in range(5) if kept.get(number) is not None] == [0, 1]
    kept.offer(5, np.zeros(20, dtype=np.uint8))
    kept.offer(5, np.zeros(20, dtype=np.uint8))
    assert kept.get(5) is not None


def test_a_bad_picture_is_named_when_its_batch_is_read(folder):
    path = folder / "cats" / "07.png"
    raw = path.read_bytes()
    path.write_bytes(raw[: len(raw) // 2])
    source = build(folder, validation_fraction=0.0, test_fraction=0.0)
    examples = source.examples("train")
    number = examples.paths.index(path)
    fine = torch.tensor([row for row in range(24) if row != number])
    assert len(examples.rows(fine)) == 23
    with pytest.raises(DataError, match=r"07\.png cannot be read as a picture"):
        examples.rows(torch.arange(24))


def test_pictures_that_change_are_named(folder):
    examples = build(folder, validation_fraction=0.0, test_fraction=0.0, keep_mib=0).examples("train")
    path = folder / "dogs" / "04.png"
    status = path.stat()
    os.utime(path, ns=(0, status.st_mtime_ns + 1))
    with pytest.raises(DataError, match=r"04\.png was written again while it was in use"):
        examples.rows(torch.arange(24))
    path.unlink()
    with pytest.raises(DataError, match=r"04\.png can no longer be read: No such file"):
        examples.rows(torch.arange(24))


def test_an_empty_split_is_refused(folder):
    with pytest.raises(DataError, match="the validation split is empty"):
        build(folder, validation_fraction=0.0).examples("validation")
