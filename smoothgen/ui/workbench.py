"""What the page can do with a model, without the page: examples in, pictures and tables out."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from smoothgen.data_source import DataSource
from smoothgen.device import DevicePolicy
from smoothgen.errors import ConfigError, NoClosedFormError
from smoothgen.evaluation.pictures import GRID, image_grid, is_image_event, plain_text
from smoothgen.smoothed_model import SmoothedModel

SIDE, GRID_SIDE = 320, 640
"""Pixels that an image, and a grid of them, should have on the page: enlarged by whole factors, without smoothing."""

Picture = NDArray[np.uint8]


class Workbench:
    """A trained model and the test examples of its data, on one device.

    Pictures are (height, width, 3) arrays of uint8. A seed gives the same result again.
    """

    def __init__(self, model: SmoothedModel, data: DataSource, policy: DevicePolicy) -> None:
        if model.context is not None:
            raise ConfigError("the page draws without a context, and this model needs one; use it from Python")
        self.model, self.policy = model, policy
        self.x = model.event.to_data(data.split("test").x)
        self.is_image = is_image_event(model.event)
        self.names = model.event.names or tuple(f"x{i + 1}" for i in range(model.event.dimensions))

    @property
    def sigma(self) -> float:
        """The noise that the model was trained for, in its coordinates: root mean square over all of them."""
        return float(torch.as_tensor(self.model.kernel.sigma).double().square().mean().sqrt())

    @property
    def enlargement(self) -> int:
        """Pixels of the page for one of an image."""
        return max(1, -(-SIDE // max(self.model.event_shape[1:])))

    def samples(self, count: int, seed: int) -> tuple[Tensor, Tensor]:
        """x and the x_tilde it came from, (count, *event_shape) each, data units."""
        generator = self.policy.generator(seed, "ui", "sample")
        return self.model.sample(count, generator=generator, return_smoothed=True)

    def noisy(self, rows: Tensor, multiple: float, seed: int) -> Tensor:
        """Examples plus `multiple` times the kernel's noise."""
        drawn = self.model.smooth(rows, generator=self.policy.generator(seed, "ui", "noise"))
        return rows + multiple * (drawn - rows)

    def denoised(self, noisy: Tensor, seed: int) -> dict[str, Tensor]:
        """What the model makes of noisy examples, by the name of the way: those that this model has."""
        found = {}
        with contextlib.suppress(NoClosedFormError):
            found["mean E[x|x̃]"] = self.model.denoise(noisy, method="single-step")
        if self.model.inverter.has_density:
            generator = self.policy.generator(seed, "ui", "denoise")
            found["a draw from p(x|x̃)"] = self.model.denoise(noisy, generator=generator)
        return found

    def completed(self, example: Tensor, unknown: Tensor, draws: int, particles: int, seed: int) -> Tensor:
        """`draws` completions of one example (*event_shape): (draws, *event_shape). unknown: what is drawn anew."""
        rows = example.expand(draws, *example.shape)
        generator = self.policy.generator(seed, "ui", "inpaint")
        return self.model.inpaint(rows, ~self.policy.place(unknown), particles=particles, generator=generator)

    def unknown_of(self, painted: NDArray[np.generic] | None) -> Tensor:
        """What a person painted on an enlarged image, (height, width) above 0, as unknown pixels (*event_shape), bool.

        A pixel is unknown where a quarter of it is painted. Raises ConfigError where none is.
        """
        channels, height, width = self.model.event_shape
        if painted is None or not np.any(painted):
            raise ConfigError("nothing is painted yet: draw on the image where it should be filled")
        paint = torch.from_numpy(np.ascontiguousarray(painted.astype(bool))).float()[None, None]
        share = torch.nn.functional.interpolate(paint, (height, width), mode="area")[0, 0]
        if not bool((share >= 0.25).any()):
            raise ConfigError("the stroke is thinner than a pixel of the image; use a wider brush")
        return (share >= 0.25).expand(channels, height, width)

    def columns_of(self, names: list[str]) -> Tensor:
        """The coordinates with these names, as unknown (*event_shape), bool. Raises ConfigError for none."""
        if not names:
            raise ConfigError("choose at least one column to draw anew")
        chosen = torch.tensor([name in names for name in self.names])
        return chosen.reshape(self.model.event_shape)

    def picture(self, image: Tensor) -> Picture:
        """One image (*event_shape) in data units, enlarged."""
        return self._rgb(image[None], self.enlargement)

    def pictures(self, images: Tensor) -> Picture:
        """A grid of images, enlarged."""
        width = min(GRID, len(images)) * (self.model.event_shape[2] + 1)
        return self._rgb(images, max(1, GRID_SIDE // width))

    def _rgb(self, images: Tensor, factor: int) -> Picture:
        grid = image_grid(images.cpu().double().numpy(), self.model.event)
        levels = (np.clip(grid, 0, 1) * 255).round().astype(np.uint8)
        colours = np.repeat(levels, 3, axis=2) if levels.shape[2] == 1 else levels[..., :3]
        return colours.repeat(factor, 0).repeat(factor, 1)

    def plot(self, sets: dict[str, Tensor], joined: bool = False) -> Picture:
        """The first two coordinates, a colour each set; joined: a line from each set's point to the next's."""
        from matplotlib.figure import Figure
        from PIL import Image

        figure = Figure(figsize=(6.4, 6.0), layout="constrained")
        axis = figure.subplots()
        flat = {name: rows.reshape(len(rows), -1).double().cpu().numpy() for name, rows in sets.items()}
        if next(iter(flat.values())).shape[1] == 1:
            for name, rows in flat.items():
                axis.hist(rows[:, 0], 80, density=True, histtype="step", label=name)
            axis.set_xlabel(plain_text(self.names[0]))
        else:
            if joined:
                steps = np.stack(list(flat.values()))[:, :200, :2]
                axis.plot(steps[..., 0], steps[..., 1], color="#888888", linewidth=0.4, zorder=0)
            for name, rows in flat.items():
                axis.plot(rows[:, 0], rows[:, 1], ".", markersize=3, alpha=0.6, label=name)
            axis.set_xlabel(plain_text(self.names[0]))
            axis.set_ylabel(plain_text(self.names[1]))
        axis.legend(loc="upper right")
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=100)
        return np.asarray(Image.open(buffer).convert("RGB"))


def open_run(run: Path, policy: DevicePolicy) -> Workbench:
    """The workbench of a finished run. Raises what loading a model and opening its data raise."""
    from smoothgen.experiment import load
    from smoothgen.run_directory import RunDirectory

    config = RunDirectory(run).stored_config()
    return Workbench(load(run).to(policy.device), config.data.build(), policy)
