"""Folders of pictures: every format and mode, splits, classes, and every way a folder can be bad."""

from __future__ import annotations

import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from smoothgen.data_source import DataSource
from smoothgen.errors import DataError
from smoothgen_datasets.images import ImagesConfig
from smoothgen_datasets.pixels import DataWarning, from_bytes

RANDOM = np.random.default_rng(0)
COLOURS = RANDOM.integers(0, 256, (12, 6, 5, 3), dtype=np.uint8)
GREYS = RANDOM.integers(0, 256, (12, 6, 5), dtype=np.uint8)


def build(folder: Path, **keys: Any) -> DataSource:
    return ImagesConfig(path=folder, **keys).build()


def fill(folder: Path, values: np.ndarray = COLOURS, ending: str = ".png", start: int = 0) -> Path:
    """A folder with pictures 00.png, 01.png, ..."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, image in enumerate(values, start=start):
        Image.fromarray(image).save(folder / f"{index:02}{ending}")
    return folder


def bytes_of(source: DataSource, *names: Any) -> np.ndarray:
    """The levels 0 to 255 of some splits, (n, H, W, C)."""
    x = torch.cat([source.split(name).x for name in names])
    source.event.check(x)
    return source.event.levels_of(x).movedim(1, -1).numpy().astype(np.uint8)


def only(folder: Path, **keys: Any) -> np.ndarray:
    """All pictures of a folder, in order, (n, H, W, C)."""
    return bytes_of(build(folder, validation_fraction=0.0, test_fraction=0.0, **keys), "train")


def refused(folder: Path, culprit: str, *parts: str, **keys: Any) -> None:
    """The folder is refused in one line, at the latest when training asks for its images."""
    with pytest.raises(DataError) as caught:
        build(folder, **keys).split("train")
    message = str(caught.value)
    assert "\n" not in message
    for part in (str(folder / culprit), *parts):
        assert part in message, message


def test_bytes_become_the_nearest_float32():
    expected = (np.arange(256, dtype=np.float64) / 127.5 - 1.0).astype(np.float32)
    np.testing.assert_array_equal(from_bytes(torch.arange(256, dtype=torch.uint8)).numpy(), expected)
    assert expected[0] == -1.0 and expected[255] == 1.0


@pytest.mark.parametrize("ending", [".png", ".bmp", ".ppm", ".PNG"])
def test_lossless_colours(tmp_path, ending):
    source = build(fill(tmp_path, ending=ending), validation_fraction=0.0, test_fraction=0.0)
    assert (source.event.shape, source.event.low, source.event.high, source.event.levels) == ((3, 6, 5), -1, 1, 256)
    np.testing.assert_array_equal(bytes_of(source, "train"), COLOURS)
    assert source.split("train").context is None and source.features == 0


@pytest.mark.parametrize("ending", [".png", ".bmp", ".pgm", ".gif"])
def test_lossless_greys(tmp_path, ending):
    np.testing.assert_array_equal(only(fill(tmp_path, GREYS, ending), mode="grey")[..., 0], GREYS)


@pytest.mark.parametrize("ending", [".jpg", ".jpeg", ".webp"])
def test_lossy_formats_are_what_pillow_decodes(tmp_path, ending):
    fill(tmp_path, COLOURS, ending)
    expected = [np.asarray(Image.open(path).convert("RGB")) for path in sorted(tmp_path.iterdir())]
    np.testing.assert_array_equal(only(tmp_path), expected)


def test_auto_is_the_fewest_channels_without_loss(tmp_path):
    fill(tmp_path, GREYS)
    assert build(tmp_path).event.shape == (1, 6, 5)
    Image.fromarray(GREYS[0] > 127).save(tmp_path / "bits.png")
    assert build(tmp_path).event.shape == (1, 6, 5)
    fill(tmp_path, COLOURS[:3], start=12)
    mixed = only(tmp_path)
    np.testing.assert_array_equal(mixed[:12], np.repeat(GREYS[..., None], 3, axis=3))
    np.testing.assert_array_equal(mixed[12:15], COLOURS[:3])
    alpha = np.dstack([COLOURS[4], GREYS[4]])
    Image.fromarray(alpha).save(tmp_path / "a.png")
    whole = only(tmp_path)
    assert whole.shape == (17, 6, 5, 4)
    np.testing.assert_array_equal(whole[15], alpha)
    np.testing.assert_array_equal(whole[12, ..., 3], 255)


def test_modes_that_are_asked_for(tmp_path):
    fill(tmp_path)
    luma = COLOURS.astype(np.float64) @ [0.299, 0.587, 0.114]
    assert np.abs(only(tmp_path, mode="grey")[..., 0] - luma).max() <= 0.51
    Image.fromarray(np.dstack([COLOURS[0], np.full((6, 5), 255, np.uint8)])).save(tmp_path / "00.png")
    assert build(tmp_path).event.shape == (4, 6, 5)
    np.testing.assert_array_equal(only(tmp_path, mode="rgb"), COLOURS)  # an opaque alpha says nothing
    alpha = np.full((6, 5), 255, np.uint8)
    alpha[5, 4] = 254
    Image.fromarray(np.dstack([COLOURS[0], alpha])).save(tmp_path / "00.png")
    refused(tmp_path, "00.png", "transparent pixels", "mode: rgba", mode="rgb", test_fraction=0.0)
    refused(tmp_path, "00.png", "transparent pixels", mode="grey", test_fraction=0.0)


def test_palettes(tmp_path):
    indices = RANDOM.integers(0, 3, (6, 5), dtype=np.uint8)
    palette = np.array([[255, 0, 0], [0, 200, 0], [3, 2, 1]], dtype=np.uint8)
    image = Image.fromarray(indices, "L").convert("L")
    image.putpalette(palette.tobytes())
    for name in ("a.png", "b.gif"):
        image.save(tmp_path / name)
    np.testing.assert_array_equal(only(tmp_path), np.stack([palette[indices]] * 2))
    image.save(tmp_path / "a.png", transparency=1)
    assert only(tmp_path)[0, ..., 3].tolist() == np.where(indices == 1, 0, 255).tolist()


def test_of_an_animation_the_first_frame(tmp_path):
    frames = [Image.fromarray(image) for image in GREYS[:3]]
    for name in ("a.gif", "b.gif"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(only(tmp_path, mode="grey")[..., 0], GREYS[[0, 0]])


def test_pictures_are_turned_as_their_camera_says(tmp_path):
    tag = Image.Exif()
    tag[0x0112] = 6  # the first row is the right-hand side: turn by 90 degrees clockwise
    smooth = np.repeat(np.repeat(COLOURS[0], 8, axis=0), 8, axis=1)
    for name in ("a.jpg", "b.jpg"):
        Image.fromarray(smooth).save(tmp_path / name, exif=tag, quality=95)
    images = only(tmp_path)
    assert images.shape == (2, 40, 48, 3)
    right, wrong = (np.abs(images[0].astype(int) - np.rot90(smooth, k)).mean() for k in (-1, 1))
    assert right < 0.2 * wrong


def test_order_is_that_of_the_paths_at_any_depth(tmp_path):
    for index, name in enumerate(["b/z.png", "b/a/q.png", "a.png", "B.png", "b.png"]):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(COLOURS[index]).save(tmp_path / name)
    np.testing.assert_array_equal(only(tmp_path), COLOURS[[3, 2, 4, 1, 0]])


def test_fractions_and_seed_split_the_pictures(tmp_path):
    fill(tmp_path)
    keys = {"validation_fraction": 0.25, "test_fraction": 0.2}
    first, again, other = build(tmp_path, **keys), build(tmp_path, **keys), build(tmp_path, **keys, split_seed=1)
    assert [len(first.split(name)) for name in ("train", "validation", "test")] == [7, 3, 2]
    together = bytes_of(first, "train", "validation", "test")
    assert sorted(map(bytes, together)) == sorted(map(bytes, COLOURS))
    for name in ("train", "validation", "test"):
        np.testing.assert_array_equal(bytes_of(first, name), bytes_of(again, name))
    assert not np.array_equal(bytes_of(first, "train"), bytes_of(other, "train"))
    limited = build(tmp_path, **keys, most=3)
    assert len(limited.split("train")) == 3
    np.testing.assert_array_equal(bytes_of(limited, "test"), bytes_of(first, "test"))
    assert {bytes(image) for image in bytes_of(limited, "train")} < {bytes(i) for i in bytes_of(first, "train")}


def test_subfolders_are_splits(tmp_path):
    fill(tmp_path / "train", COLOURS[:6])
    fill(tmp_path / "test", COLOURS[6:9])
    source = build(tmp_path, validation_fraction=0.5)
    assert [len(source.split(name)) for name in ("train", "validation", "test")] == [3, 3, 3]
    np.testing.assert_array_equal(bytes_of(source, "test"), COLOURS[6:9])
    fill(tmp_path / "validation", COLOURS[9:])
    source = build(tmp_path)
    np.testing.assert_array_equal(bytes_of(source, "train", "test", "validation"), COLOURS)
    Image.fromarray(COLOURS[0]).save(tmp_path / "stray.png")
    refused(tmp_path, "stray.png", "outside the subfolders train, validation, test")
    (tmp_path / "stray.png").unlink()
    for path in (tmp_path / "validation").iterdir():
        path.unlink()
    with pytest.raises(DataError, match="validation split is empty"):
        build(tmp_path).split("validation")
    (tmp_path / "train").rename(tmp_path / "training")
    refused(tmp_path, "", "has a subfolder validation but none called train")


def test_class_folders_become_one_hot_labels(tmp_path):
    for name, part in (("dog", COLOURS[:4]), ("cat", COLOURS[4:8]), ("ant/black", COLOURS[8:])):
        fill(tmp_path / name, part)
    source = build(tmp_path, labels=True)
    assert source.classes == ("ant", "cat", "dog") and source.features == 3
    known = {bytes(image): label for label, images in ((2, COLOURS[:4]), (1, COLOURS[4:8])) for image in images}
    for name in ("train", "validation", "test"):
        split = source.split(name)
        expected = [known.get(bytes(image), 0) for image in bytes_of(source, name)]
        np.testing.assert_array_equal(split.context.numpy(), np.eye(3, dtype=np.float32)[expected])
    assert build(tmp_path).features == 0
    Image.fromarray(COLOURS[0]).save(tmp_path / "stray.png")
    refused(tmp_path, "stray.png", "in no subfolder", "labels: false", labels=True)


def test_class_folders_within_split_folders(tmp_path):
    fill(tmp_path / "train" / "a", COLOURS[:4])
    refused(tmp_path, "", "two subfolders at least, there is a", labels=True)
    fill(tmp_path / "train" / "b", COLOURS[4:8])
    fill(tmp_path / "test" / "b", COLOURS[8:])
    source = build(tmp_path, labels=True, validation_fraction=0.0)
    assert source.split("train").context.argmax(1).tolist() == [0] * 4 + [1] * 4
    assert source.split("test").context.argmax(1).tolist() == [1] * 4
    (tmp_path / "test" / "b").rename(tmp_path / "test" / "c")
    refused(tmp_path, "test/c/00.png", 'no training picture has the class "c"', "a, b", labels=True)


def test_other_sizes_are_refused_or_cropped_and_resized(tmp_path):
    fill(tmp_path, COLOURS[:8])
    Image.fromarray(COLOURS[8][:, :4]).save(tmp_path / "03.png")
    where = ("6 x 4 (height x width)", "expected 6 x 5", "the size of 00.png", "resize: centre-crop-resize")
    refused(tmp_path, "03.png", *where)
    refused(tmp_path, "00.png", "6 x 5", "expected 6 x 4, data.size (7 such pictures)", size=(6, 4))
    resized = only(tmp_path, size=(6, 4), resize="centre-crop-resize")
    assert resized.shape == (8, 6, 4, 3)
    np.testing.assert_array_equal(resized[3], COLOURS[8][:, :4])


def test_the_crop_is_central_and_the_resize_averages(tmp_path):
    """A wide picture whose middle square is constant, or a fine chessboard, between sides of another colour."""
    image = np.full((32, 96, 3), 200, np.uint8)
    image[:, 32:64] = [10, 20, 30]
    board = image.copy()
    board[:, 32:64] = 255 * ((np.indices((32, 32)).sum(0) % 2)[..., None])
    fill(tmp_path, np.stack([image, board]))
    Image.fromarray(image.transpose(1, 0, 2)).save(tmp_path / "tall.png")
    resized = only(tmp_path, size=(8, 8), resize="centre-crop-resize")
    assert (resized[[0, 2]] == [10, 20, 30]).all()
    assert np.abs(resized[1].astype(float) - 127.5).max() < 3.0


@pytest.mark.parametrize("size", [0, 5, 20, 60, -40, -25])
@pytest.mark.parametrize("ending", [".png", ".jpg", ".bmp", ".webp", ".gif", ".ppm"])
def test_pictures_cut_short(tmp_path, ending, size):
    fill(tmp_path, np.repeat(np.repeat(COLOURS[:4], 4, axis=1), 4, axis=2), ending)
    path = tmp_path / f"01{ending}"
    path.write_bytes(path.read_bytes()[:size])
    refused(tmp_path, path.name, test_fraction=0.0)


@pytest.mark.parametrize("content", [b"", b"hello", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"<svg/>", bytes(range(256)) * 9])
def test_what_is_no_picture(tmp_path, content):
    (fill(tmp_path) / "05.png").write_bytes(content)
    refused(tmp_path, "05.png", "cannot be read as a picture", "replace or remove it")


def test_a_broken_validation_picture_is_found_with_the_training_ones(tmp_path):
    """The trainer takes a validation split that raises for one that is not there, so it must not come to that."""
    fill(tmp_path / "train")
    fill(tmp_path / "validation")
    path = tmp_path / "validation" / "07.png"
    path.write_bytes(path.read_bytes()[:-40])
    refused(tmp_path, "validation/07.png", "cannot be read")


def png(width: int, height: int, bits: int, colour: int, body: bytes) -> bytes:
    """A PNG file with a header of our choosing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [10_000, 30_000, 2**31 - 1])
def test_decompression_bombs(tmp_path, side):
    (fill(tmp_path) / "05.png").write_bytes(png(side, side, 8, 2, bytes(1000)))
    refused(tmp_path, "05.png")
    if side < 2**31 - 1:
        refused(tmp_path, "05.png", "decompression bomb")


@pytest.mark.parametrize(("colour", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_sixteen_bits_are_refused_with_the_reason(tmp_path, colour, channels):
    (fill(tmp_path) / "05.png").write_bytes(png(5, 6, 16, colour, 6 * (b"\0" + bytes(10 * channels))))
    refused(tmp_path, "05.png", "more than 8 bits", "type array")


@pytest.mark.parametrize("header", [b"P5 5 6 65535\n", b"P6 5 6 65535\n", b"P6 5 6 1023\n", b"Pf 5 6 -1.0\n"])
def test_deep_pixmaps_are_refused(tmp_path, header):
    (fill(tmp_path) / "05.ppm").write_bytes(header + bytes(180))
    refused(tmp_path, "05.ppm", "more than 8 bits")


def test_inks_are_refused(tmp_path):
    Image.new("CMYK", (5, 6)).save(fill(tmp_path) / "05.jpg")
    refused(tmp_path, "05.jpg", "mode CMYK", "save it as RGB")


def test_empty_missing_and_other_folders(tmp_path):
    refused(tmp_path, "", "holds no pictures (.png, .jpg")
    refused(tmp_path / "no", "", "does not exist", ".png", "nothing is downloaded")
    (tmp_path / "a.tif").write_bytes(b"II")
    (tmp_path / "b.tif").write_bytes(b"II")
    refused(tmp_path, "", "but files: 2 of .tif")
    refused(tmp_path / "a.tif", "", "is a file")
    fill(tmp_path, COLOURS[:1])
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "x.png").write_bytes(b"no picture")
    (tmp_path / "._00.png").write_bytes(b"no picture")
    with pytest.warns(DataWarning, match=r"passed over: 2 of \.tif"):
        refused(tmp_path, "", "1 pictures leave 1 to train on")


def test_links(tmp_path):
    folder, outside = fill(tmp_path / "in"), fill(tmp_path / "out")
    (folder / "98.png").symlink_to("00.png")
    np.testing.assert_array_equal(only(folder), COLOURS[[*range(12), 0]])
    (folder / "99.png").symlink_to(outside / "00.png")
    refused(folder, "99.png", str(outside / "00.png"), "outside")
    (folder / "99.png").unlink()
    (folder / "99.png").symlink_to("99.png")
    refused(folder, "99.png", "leads nowhere")
    (folder / "99.png").unlink()
    for target, reason in ((outside, "outside"), (folder, "would count twice"), (tmp_path, "outside")):
        (folder / "sub").symlink_to(target)
        refused(folder, "sub", reason)
        (folder / "sub").unlink()
    (tmp_path / "door").symlink_to(folder)
    assert len(only(tmp_path / "door")) == 13


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"resize": "centre-crop-resize"}, "needs size"),
        ({"validation_fraction": 0.5, "test_fraction": 0.5}, "leave 0 of the images"),
        ({"size": (0, 3)}, "greater than 0"),
        ({"size": (3, 3, 3)}, "at most 2"),
        ({"mode": "cmyk"}, "auto"),
        ({"most": 1}, "greater than or equal to 2"),
    ],
)
def test_bad_keys_are_refused(keys, message):
    with pytest.raises(ValueError, match=message):
        ImagesConfig(path=Path("pictures"), **keys)


def test_good_folders_say_nothing(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        only(fill(tmp_path))
