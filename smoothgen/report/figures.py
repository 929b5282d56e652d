"""Examples as pictures and numbers that fit into a page: PNG in data URIs, rounded coordinates."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from smoothgen.evaluation.pictures import GRID, image_grid
from smoothgen.event import EventSpec

LARGEST_SIDE = 128
"""Images with a longer side are shown smaller."""
COORDINATES = 4
"""How many coordinates of a vector the pair plots show."""


def data_uri(pixels: np.ndarray) -> str:
    """(H, W, C) or (H, W), uint8 -> a PNG in a data URI."""
    buffer = io.BytesIO()
    squeezed = pixels.squeeze(-1) if pixels.ndim == 3 and pixels.shape[-1] == 1 else pixels
    Image.fromarray(np.ascontiguousarray(squeezed)).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def image_panels(panels: dict[str, Tensor], event: EventSpec, budget: int) -> tuple[dict[str, str], int]:
    """A grid of images for each set, as data URIs, and how many images each shows.

    panels: (n, C, H, W) each, in the event's range. budget: most characters of all together; half as many images are
    shown until they fit.
    """
    small = {name: shrunk(images) for name, images in panels.items()}
    count = min(GRID * GRID, max(map(len, small.values())))
    while True:
        uris = {name: data_uri(_grid(images[:count], event)) for name, images in small.items()}
        if sum(map(len, uris.values())) <= budget or count == 1:
            return uris, count
        count = count // 2


def shrunk(images: Tensor) -> Tensor:
    """(n, C, H, W) with no side longer than LARGEST_SIDE, by averages over areas."""
    height, width = images.shape[2:]
    longest = max(height, width)
    if longest <= LARGEST_SIDE:
        return images
    size = tuple(max(1, round(side * LARGEST_SIDE / longest)) for side in (height, width))
    return torch.nn.functional.interpolate(images.float(), size, mode="area")


def _grid(images: Tensor, event: EventSpec) -> np.ndarray:
    shape = event.model_copy(update={"shape": tuple(images.shape[1:])})
    grid = image_grid(images.detach().float().cpu().numpy(), shape)
    return np.round(255.0 * grid).astype(np.uint8)


def axes_of(panels: dict[str, Tensor], event: EventSpec) -> list[dict[str, Any]]:
    """Name and range [low, high] of the first coordinates, from the 0.2 % and 99.8 % quantiles of all sets."""
    flat = {name: value.detach().flatten(1).double().cpu().numpy() for name, value in panels.items()}
    axes = []
    for index in range(min(COORDINATES, event.dimensions)):
        values = np.concatenate([array[:, index] for array in flat.values()])
        values = values[np.isfinite(values)]
        low, high = np.quantile(values, [0.002, 0.998]).tolist() if len(values) else (0.0, 1.0)
        margin = 0.06 * (high - low) or 1.0
        name = event.names[index] if event.names else f"x{_subscript(index + 1)}"
        axes.append({"name": name, "low": low - margin, "high": high + margin})
    return axes


def point_rows(panel: Tensor, axes: list[dict[str, Any]]) -> list[list[float]]:
    """The first coordinates of every example, a list for each coordinate, to a thousandth of the axes' range."""
    flat = panel.detach().flatten(1).double().cpu().numpy()
    rows = []
    for index, axis in enumerate(axes):
        step = (axis["high"] - axis["low"]) / 2000.0
        unit = (flat[:, index] - axis["low"]) / step
        # far outside and not a number look alike: nowhere on the plot
        whole = np.where(np.isfinite(unit), np.clip(np.round(unit), -(10**6), 10**6), 10**6)
        rows.append(whole.astype(int).tolist())
    return rows


def _subscript(number: int) -> str:
    return str(number).translate(str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉"))
