"""Masks for inpainting, by name or from a file. They say which values are unknown, or known: each name says which."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from smoothgen.component import nearest
from smoothgen.errors import ConfigError, DataError
from smoothgen.event import EventSpec
from smoothgen.tables import read_table

PARTS = ("top", "bottom", "left", "right", "centre")
"""Parts of an image: halves, and the middle half of the height and the width."""


def unknown_mask(what: str, event: EventSpec, x: Tensor) -> Tensor:
    """True where a value is unknown, of the event's shape, or of x's for "nan".

    what: one of PARTS, for events whose last two axes are height and width; "nan", wherever x holds it; or names of
    columns, separated by commas. An odd row or column in the middle belongs to the top or left half.
    Raises ConfigError, DataError.
    """
    if what == "nan":
        missing = x.isnan()
        if not bool(missing.any()):
            raise DataError("--unknown nan: the file holds no nan, so nothing is unknown; give --unknown or --mask")
        return missing
    names = [name.strip() for name in what.split(",")]
    if event.names and all(name in event.names for name in names):
        return torch.tensor([name in names for name in event.names], device=x.device).reshape(event.shape)
    if what not in PARTS:
        known = [*PARTS, "nan", *event.names]
        raise ConfigError(f'--unknown: "{what}" is no such part{nearest(what, known)}; choose {", ".join(known)}')
    if len(event.shape) < 2:
        raise ConfigError(
            f"--unknown {what} is for images, and examples have shape {event.shape}; name columns, or give --mask FILE"
        )
    height, width = event.shape[-2:]
    middle_row, middle_column = (height + 1) // 2, (width + 1) // 2
    rows, columns = {
        "top": (slice(0, middle_row), slice(None)),
        "bottom": (slice(middle_row, None), slice(None)),
        "left": (slice(None), slice(0, middle_column)),
        "right": (slice(None), slice(middle_column, None)),
        "centre": (slice(height // 4, height - height // 4), slice(width // 4, width - width // 4)),
    }[what]
    mask = torch.zeros(event.shape, dtype=torch.bool, device=x.device)
    mask[..., rows, columns] = True
    return mask


def read_mask(path: Path, event: EventSpec, examples: int) -> Tensor:
    """True where the file holds 1, "known"; of the event's shape, or (examples, *event.shape). Raises DataError."""
    values = read_table(path).values
    if not bool(np.isin(values, (0, 1)).all()):
        bad = values[~np.isin(values, (0, 1))][0]
        raise DataError(f"{path}: a mask holds 1 where values are kept and 0 where they are drawn anew, not {bad:g}")
    mask = torch.from_numpy(values == 1)
    if mask.numel() == event.dimensions:
        return mask.reshape(event.shape)
    if len(mask) == examples and mask[0].numel() == event.dimensions:
        return mask.reshape(-1, *event.shape)
    wanted = ", ".join(map(str, event.shape))
    raise DataError(
        f"{path}: the mask has shape {tuple(mask.shape)}; it must have that of one example, ({wanted}), or of the "
        f"file's {examples}, ({examples}, {wanted})"
    )
