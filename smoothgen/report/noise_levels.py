"""What the noise of every candidate of a search for sigma makes of the same data."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from smoothgen.device import DevicePolicy
from smoothgen.errors import SmoothgenError
from smoothgen.report.curves import finite
from smoothgen.report.figures import image_panels, point_rows
from smoothgen.report.opened import Opened

IMAGES, POINTS = 16, 1000


def noise_levels(
    search: dict[str, Any], opened: Opened, axes: list[dict[str, Any]], policy: DevicePolicy, seed: int, budget: int
) -> list[dict[str, Any]]:
    """A frame for every candidate, in ascending order: sigma, its last bound, the smoothed data as picture or points.

    All frames have the same noise, scaled. Nothing without data.
    """
    candidates = sorted(value for value in map(finite, search.get("candidates", [])) if value is not None)
    if opened.data is None or not candidates:
        return []
    event = opened.model.event
    x = policy.place(opened.data.split("test").x[: IMAGES if opened.is_image else POINTS])
    frames = []
    for sigma in candidates:
        try:
            kernel = opened.config.kernel.with_sigma(sigma).build(event.standard()).to(policy.device)
        except (SmoothgenError, ValidationError):
            return []
        smoothed = event.to_data(kernel.sample(x, generator=policy.generator(seed, "report", "noise"))).detach()
        bound, steps = _last_bound(search, sigma)
        frame: dict[str, Any] = {"sigma": sigma, "bound": bound, "steps": steps}
        if opened.is_image:
            frame["picture"] = image_panels({"x̃": smoothed}, event, budget // len(candidates))[0]["x̃"]
        else:
            frame["points"] = point_rows(smoothed, axes)
        frames.append(frame)
    return frames


def _last_bound(search: dict[str, Any], sigma: float) -> tuple[float | None, int | None]:
    """The bound after the longest training that the candidate took part in, and its steps."""
    for rung in reversed(search.get("rungs", [])):
        for candidate, score in zip(rung["candidates"], rung["scores"], strict=False):
            if candidate == sigma and finite(score) is not None:
                return finite(score), rung["steps"]
    return None, None
