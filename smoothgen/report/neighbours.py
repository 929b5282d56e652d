"""The training examples nearest to the samples of a page: pictures, and distances beside the test set's."""

from __future__ import annotations

from typing import Any

import torch

from smoothgen.errors import DataError
from smoothgen.evaluation.nearest import memorisation, nearest_neighbours
from smoothgen.evaluation.pictures import GRID
from smoothgen.report.figures import image_panels
from smoothgen.report.opened import DATA, SMOOTHED, Opened

NUMBERS = 40_000_000
"""Most numbers of the training set that are searched."""
EXAMPLES = 500


def neighbours(opened: Opened, budget: int) -> dict[str, Any] | None:
    """Rows {name, mean, stderr, ratio, copies, n} of distances in the model's coordinates, and a picture for images.

    Every row of the picture is a sample and, after it, the training images nearest to it. None without data.
    """
    if opened.data is None:
        return None
    event = opened.model.event
    train = opened.data.split("train").x[: max(1, NUMBERS // event.dimensions)]
    test = opened.data.split("test").x[:EXAMPLES]
    sets = {name: event.to_model(x[:EXAMPLES]).float() for name, x in opened.panels.items() if name != DATA}
    sets.pop(SMOOTHED, None)
    sets = {name: x for name, x in sets.items() if bool(x.isfinite().all())}
    try:
        found = memorisation(sets | {"test": test}, train)
    except DataError:
        return None
    rows = [{"name": "test data" if name == "test" else name} | value for name, value in found.items()]
    result: dict[str, Any] = {"rows": rows, "train": len(train), "total": len(opened.data.split("train"))}
    name = next(iter(opened.inverted()), None)
    if opened.is_image and name in sets and len(train) >= GRID:
        samples = sets[name][:GRID]
        near = nearest_neighbours(samples, train, GRID - 1)
        images = [torch.cat([samples[i : i + 1], train[near.indices[i]]]) for i in range(len(samples))]
        pictures, _ = image_panels({name: event.to_data(torch.cat(images))}, event, budget)
        result |= {"picture": pictures[name], "of": name, "shown": GRID - 1}
    return result
