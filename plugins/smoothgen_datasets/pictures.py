"""One picture in a file: what it needs, and its pixels. Pillow decodes; only formats and depths known here pass."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Literal

import numpy as np
from PIL import Image, ImageFile, ImageOps

from smoothgen.errors import DataError
from smoothgen.limits import PICTURE_PIXELS
from smoothgen.regular_file import is_regular

Mode = Literal["grey", "rgb", "rgba"]
Size = tuple[int, int]
"""(height, width)."""
ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".ppm", ".pgm")
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "GIF", "PPM")
CHANNELS: dict[Mode, int] = {"grey": 1, "rgb": 3, "rgba": 4}
"""From the fewest channels to the most: each mode holds what those before it hold."""
PILLOW_MODES: dict[Mode, str] = {"grey": "L", "rgb": "RGB", "rgba": "RGBA"}
EIGHT_BIT = ("1", "L", "LA", "P", "PA", "RGB", "RGBA")
TURNING = ("JPEG", "MPO", "WEBP")
"""Formats of cameras, which turn a picture by a tag instead of its pixels."""
ORIENTATION = 0x0112
_FILTERS = Lock()
"""Filters of warnings are the whole process's, and pictures are opened by several threads."""


@dataclass(frozen=True)
class Header:
    """What the first bytes of a picture say: its size as shown, and the mode that holds it without loss."""

    path: Path
    size: Size
    mode: Mode


def read_header(path: Path) -> Header:
    """Raises DataError for what is no picture of 8 bits for each channel, without decoding it."""
    with _opened(path) as image:
        width, height = image.size
        if image.format in TURNING and image.getexif().get(ORIENTATION, 1) in (5, 6, 7, 8):
            width, height = height, width
        if image.has_transparency_data:
            return Header(path, (height, width), "rgba")
        return Header(path, (height, width), "grey" if image.mode in ("1", "L") else "rgb")


def read_pixels(path: Path, mode: Mode, size: Size) -> np.ndarray:
    """(C, H, W), uint8, of a picture; one of another size is cropped about its centre to the shape of `size`, and
    resized with Lanczos' filter. Colours become grey by ITU-R 601-2 luma.

    Raises DataError where it is damaged, or where it has transparent pixels and the mode has no place for them.
    """
    height, width = size
    with _opened(path) as image:
        upright = ImageOps.exif_transpose(image) if image.format in TURNING else image
        if upright.has_transparency_data and mode != "rgba":
            upright = upright.convert("RGBA")
            if np.asarray(upright.getchannel("A")).min() < 255:
                raise DataError(f"{path} has transparent pixels, which mode {mode} would lose; set mode: rgba")
            upright = upright.convert("RGB")
        converted = upright.convert(PILLOW_MODES[mode])
        if converted.size != (width, height):
            converted = _centre(converted, size).resize((width, height), Image.Resampling.LANCZOS)
        return np.asarray(converted).reshape(height, width, CHANNELS[mode]).transpose(2, 0, 1)


def _centre(image: Image.Image, size: Size) -> Image.Image:
    """The largest part about the centre with the shape of `size`. Cropped before it is resized: a filter given a box
    would mix in what lies beyond its edge."""
    height, width = size
    scale = min(image.height / height, image.width / width)
    crop_height, crop_width = max(1, round(height * scale)), max(1, round(width * scale))
    top, left = (image.height - crop_height) // 2, (image.width - crop_width) // 2
    return image.crop((left, top, left + crop_width, top + crop_height))


@contextmanager
def _opened(path: Path) -> Iterator[ImageFile.ImageFile]:
    """The picture, not yet decoded. Whatever goes wrong with it inside the block is a DataError that names it."""
    try:
        with _open(path) as image:
            if excess := PICTURE_PIXELS.excess(image.width * image.height):
                raise DataError(f"{path} has {image.width * image.height} pixels, {excess}; or make it smaller")
            _refuse_depth(path, image)
            yield image
    except DataError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(
            f"{path} has more than {Image.MAX_IMAGE_PIXELS} pixels: a decompression bomb, or not meant for this; "
            "make it smaller or remove it"
        ) from error
    except Exception as error:  # damaged bytes make Pillow's decoders raise anything
        reason = next(iter(str(error).splitlines()), "").replace(str(path), "it") or type(error).__name__
        raise DataError(
            f"{path} cannot be read as a picture ({', '.join(FORMATS)}): {reason}; replace or remove it"
        ) from error


def _open(path: Path) -> ImageFile.ImageFile:
    if not is_regular(path):
        raise OSError("it is no regular file")
    with _FILTERS, warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        return Image.open(path, formats=FORMATS)


def _refuse_depth(path: Path, image: ImageFile.ImageFile) -> None:
    """Pillow cuts the 16 bits of a colour channel to 8 without a word, so the file's own depth is asked for."""
    deep = any("16B" in str(tile[3]) or _largest(tile[3]) > 255 for tile in image.tile)
    if deep or image.mode.startswith(("I", "F")):
        raise DataError(
            f"{path} has more than 8 bits for each channel, and 256 levels would lose some; save it with 8 bits, or "
            "use data type array with its number of levels"
        )
    if image.mode not in EIGHT_BIT:
        raise DataError(f"{path} is in mode {image.mode}, which has no single meaning in RGB; save it as RGB or grey")


def _largest(arguments: object) -> int:
    """The largest value of a channel where the decoder is told it (PPM), else 0."""
    return arguments[-1] if isinstance(arguments, tuple) and isinstance(arguments[-1], int) else 0
