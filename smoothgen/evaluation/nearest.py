"""Nearest neighbours in the training set: where a sample comes from, and whether the model copies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from smoothgen.errors import DataError
from smoothgen.evaluation.pictures import GRID, is_image_event, save_panels
from smoothgen.event import EventSpec
from smoothgen.likelihood import standard_error

ROWS = 1024
"""Rows of a block of distances: ROWS x n_reference numbers at a time."""
EXACT_DIMENSIONS = 256
"""Up to so many coordinates differences are about as fast as products, which lose half the digits near 0."""


@dataclass(frozen=True)
class Neighbours:
    """Row i: the k rows of the reference nearest to example i, the nearest first, and how far away they are.

    indices, distances: (n, k). Distances are l2 norms over all coordinates, float64.
    """

    indices: Tensor
    distances: Tensor


@torch.no_grad()
def nearest_neighbours(x: Tensor, reference: Tensor, k: int = 1, rows: int = ROWS) -> Neighbours:
    """The k rows of the reference (m, ...) with the least l2 distance to each row of x (n, ...).

    Works in blocks of `rows` rows of x, in float64. The distances returned are differences, not expanded squares: a
    copy is exactly 0 away. Raises DataError where the reference has fewer than k rows.
    """
    if not len(x) or k > len(reference):
        raise DataError(f"nearest neighbours: {k} of {len(reference)} for {len(x)} examples; give more examples")
    points, centres = wide(x).flatten(1), wide(reference).flatten(1)
    indices, distances = [], []
    for block in points.split(rows):
        chosen = l2_distances(block, centres).topk(k, dim=1, largest=False).indices
        exact = torch.stack([(block - centres[column]).norm(dim=1) for column in chosen.unbind(1)], dim=1)
        order = exact.argsort(dim=1, stable=True)
        indices.append(chosen.gather(1, order))
        distances.append(exact.gather(1, order))
    return Neighbours(torch.cat(indices), torch.cat(distances))


def l2_distances(x: Tensor, reference: Tensor) -> Tensor:
    """(n, F), (m, F) -> (n, m). By differences, and by products where those would take several times as long."""
    few = x.shape[1] <= EXACT_DIMENSIONS
    return torch.cdist(x, reference, compute_mode="donot_use_mm_for_euclid_dist" if few else "use_mm_for_euclid_dist")


def wide(x: Tensor) -> Tensor:
    """float64, on the CPU where the device has none."""
    return x.cpu().double() if x.is_mps else x.double()


def memorisation(sets: Mapping[str, Tensor], train: Tensor) -> dict[str, dict[str, Any]]:
    """How near each set of examples (or of features) is to the training set, beside the test set `sets["test"]`.

    mean: of the distance to the nearest training example, with its standard error. ratio_to_test: that mean over the
    test set's; well below 1, samples are nearer to training examples than new data are. copies: the share of exact
    copies. Source: the nearest-neighbour check of arXiv 2103.15089, appendix C.5, as a number.
    """
    distances = {name: nearest_neighbours(x, train).distances[:, 0] for name, x in sets.items()}
    floor = distances["test"].mean().item()
    return {
        name: {
            "mean": value.mean().item(),
            "stderr": standard_error(value),
            "ratio_to_test": value.mean().item() / floor if floor > 0 else None,
            "copies": (value == 0).double().mean().item(),
            "n": len(value),
            "n_train": len(train),
        }
        for name, value in distances.items()
    }


def draw_neighbours(
    path: Path, samples: Tensor, train: Tensor, spaces: Mapping[str, tuple[Tensor, Tensor]], event: EventSpec
) -> None:
    """A picture with a panel for each space: in every row a sample, then its nearest training images.

    samples, train: (n, *event.shape) images in data units. spaces: what distances are measured in, as the samples'
    and the training images' rows there. Raises DataError where the event is no image.
    """
    if not is_image_event(event):
        raise DataError(f"a picture of nearest neighbours needs images, the event has shape {event.shape}")
    panels = {}
    for name, (mine, theirs) in spaces.items():
        found = nearest_neighbours(mine[:GRID], theirs, GRID - 1)
        rows = [torch.cat([samples[i : i + 1], train[found.indices[i]]]) for i in range(len(found.indices))]
        panels[f"sample | nearest in\n{name}"] = torch.cat(rows)
    save_panels(path, panels, event)
