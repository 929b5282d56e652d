"""Pictures of samples beside the data: grids of images, densities of points, histograms of tables."""

from __future__ import annotations

import io
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from smoothgen.checkpoint import write_atomically
from smoothgen.config import ExperimentConfig
from smoothgen.data_source import DataSource
from smoothgen.density_model import DensityModel
from smoothgen.device import DevicePolicy
from smoothgen.errors import NoClosedFormError, PictureWarning
from smoothgen.event import EventSpec
from smoothgen.smoothed_model import SmoothedModel
from smoothgen.training_data import placed

GRID = 8
"""Images per side of a grid."""
COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee")


def draw_pictures(
    directory: Path,
    config: ExperimentConfig,
    model: SmoothedModel,
    baseline: DensityModel | None,
    data: DataSource,
    policy: DevicePolicy,
) -> Path:
    """samples.png: data, smoothed samples, their inversions and the baseline, side by side. Returns its path.

    Warns with PictureWarning where the values cannot be drawn.
    """
    path = directory / "samples.png"
    panels = all_panels(config, model, baseline, data, policy)
    try:
        save_panels(path, panels, model.event, config.name)
    except (ValueError, ArithmeticError) as error:
        warnings.warn(f"{path} was not drawn: {error}; all else of the run is there", PictureWarning, stacklevel=2)
    return path


def plain_text(name: str) -> str:
    """A name as matplotlib shows it letter by letter, without reading mathematics between dollar signs."""
    return name.replace("$", r"\$")


def all_panels(
    config: ExperimentConfig,
    model: SmoothedModel,
    baseline: DensityModel | None,
    data: DataSource,
    policy: DevicePolicy,
) -> dict[str, Tensor]:
    """Data, samples of each step and of the baseline: what `draw_pictures` shows, in data units."""
    is_image = is_image_event(model.event)
    count = min(GRID * GRID, config.evaluate.samples) if is_image else config.evaluate.samples
    test = data.examples("test")
    context = None
    if data.features:
        context = placed(test.rows(torch.arange(count) % len(test)), policy).context
    panels = {"data": model.event.to_data(test.first(count).x)}
    panels |= sample_panels(model, count, context, policy, config.seed)
    if baseline is not None:
        generator = policy.generator(config.seed, "pictures", "baseline")
        panels["plain model"] = model.event.to_data(baseline.sample(count, context, generator=generator))
    return panels


def sample_panels(
    model: SmoothedModel, count: int, context: Tensor | None, policy: DevicePolicy, seed: int
) -> dict[str, Tensor]:
    """Samples of each step from the same x_tilde: smoothed, two-step where there is a p(x | x_tilde), single-step."""
    generator = policy.generator(seed, "pictures")
    x, x_tilde = model.sample(count, context, generator=generator, return_smoothed=True)
    panels = {"smoothed x̃": x_tilde}
    if model.inverter.has_density:
        panels["two-step p(x|x̃)"] = x
    try:
        panels["single-step E[x|x̃]"] = model.denoise(x_tilde, context, method="single-step")
    except NoClosedFormError:
        if not model.inverter.has_density:
            panels["inverted"] = x
    return panels


def is_image_event(event: EventSpec) -> bool:
    """Channels, height, width, with 1, 3 or 4 channels."""
    return len(event.shape) == 3 and event.shape[0] in (1, 3, 4) and min(event.shape[1:]) > 1


def save_panels(path: Path, panels: dict[str, Tensor], event: EventSpec, title: str = "") -> None:
    """One picture with a panel per set of examples, each (n, *event_shape) in data units."""
    from matplotlib.figure import Figure

    arrays = {name: value.detach().cpu().double().numpy() for name, value in panels.items()}
    if is_image_event(event):
        figure = _image_figure(Figure, arrays, event)
    elif event.dimensions == 1:
        figure = _histogram_figure(Figure, arrays, event, 1)
    elif event.dimensions == 2:
        figure = _plane_figure(Figure, arrays, event)
    else:
        figure = _histogram_figure(Figure, arrays, event, min(event.dimensions, 12))
    if title:
        figure.suptitle(plain_text(title))
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    write_atomically(path, buffer.getvalue())


def _image_figure(figure_class: Any, arrays: dict[str, np.ndarray], event: EventSpec) -> Any:
    grids = [image_grid(images, event) for images in arrays.values()]
    height = max(3.0 * grid.shape[0] / grid.shape[1] for grid in grids)
    figure = figure_class(figsize=(3.0 * len(arrays), height + 0.4), layout="constrained")
    axes = figure.subplots(1, len(arrays), squeeze=False)[0]
    for axis, name, grid in zip(axes, arrays, grids, strict=True):
        axis.imshow(grid.squeeze(-1) if grid.shape[-1] == 1 else grid, cmap="gray", vmin=0.0, vmax=1.0)
        axis.set_title(name, fontsize=10)
        axis.set_axis_off()
    return figure


def image_grid(images: np.ndarray, event: EventSpec) -> np.ndarray:
    """(n, C, H, W) in data units -> one (rows * H, columns * W, C) image in [0, 1], with thin gaps."""
    if event.low is not None and event.high is not None:
        images, low, high = event.to_model(torch.from_numpy(images)).numpy(), event.low, event.high
    else:
        low, high = float(images.min()), float(images.max())
    columns = min(GRID, len(images))
    rows = math.ceil(min(len(images), GRID * GRID) / columns)
    channels, height, width = event.shape
    grid = np.full((rows * (height + 1) - 1, columns * (width + 1) - 1, channels), 0.5)
    for index, image in enumerate(images[: rows * columns]):
        top, left = divmod(index, columns)
        unit = np.clip((image - low) / (high - low), 0.0, 1.0)
        place = np.s_[top * (height + 1) : top * (height + 1) + height, left * (width + 1) : left * (width + 1) + width]
        grid[place] = np.moveaxis(unit, 0, -1)
    return grid


def _plane_figure(figure_class: Any, arrays: dict[str, np.ndarray], event: EventSpec) -> Any:
    figure = figure_class(figsize=(3.2 * len(arrays), 3.6), layout="constrained")
    axes = figure.subplots(1, len(arrays), squeeze=False, sharex=True, sharey=True)[0]
    reference = next(iter(arrays.values())).reshape(-1, 2)
    low, high = np.quantile(reference, 0.001, axis=0), np.quantile(reference, 0.999, axis=0)
    margin = 0.12 * np.where(high > low, high - low, np.abs(high) + 1.0)
    names = tuple(map(plain_text, event.names)) or ("$x_1$", "$x_2$")
    for axis, (name, points) in zip(axes, arrays.items(), strict=True):
        flat = points.reshape(-1, 2)
        axis.plot(flat[:, 0], flat[:, 1], ".", markersize=1.5, alpha=0.5, color=COLOURS[0])
        axis.set_title(name, fontsize=10)
        axis.set_xlabel(names[0])
    axes[0].set_ylabel(names[1])
    axes[0].set_xlim(low[0] - margin[0], high[0] + margin[0])
    axes[0].set_ylim(low[1] - margin[1], high[1] + margin[1])
    return figure


def _histogram_figure(figure_class: Any, arrays: dict[str, np.ndarray], event: EventSpec, count: int) -> Any:
    columns = min(4, count)
    rows = math.ceil(count / columns)
    figure = figure_class(figsize=(max(3.2 * columns, 5.0), 2.4 * rows + 0.8), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for index, axis in enumerate(axes):
        axis.set_visible(index < count)
        if index < count:
            values = {name: array.reshape(len(array), -1)[:, index] for name, array in arrays.items()}
            reference = np.concatenate(list(values.values()))
            low, high = np.quantile(reference, [0.002, 0.998]).tolist()
            if not low < high:
                low, high = low - 0.5 * (abs(low) + 1.0), high + 0.5 * (abs(high) + 1.0)
            edges = np.linspace(low, high, 61)
            for (name, value), colour in zip(values.items(), COLOURS, strict=False):
                axis.hist(value, edges, density=True, histtype="step", label=name, color=colour)
            axis.set_xlabel(plain_text(event.names[index]) if event.names else f"$x_{{{index + 1}}}$")
            axis.set_yticks([])
    axes[0].legend(fontsize=7)
    return figure
