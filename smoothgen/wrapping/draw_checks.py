"""What sampling and the transform of a flow may get wrong, row by row."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import torch
from torch import Generator, Tensor

from smoothgen.wrapping.faults import Fault
from smoothgen.wrapping.foreign import NoSampler
from smoothgen.wrapping.specimen import Specimen, one_line

MOST_COORDINATES = 64
"""Beyond so many, neither draws nor Jacobians are looked at: an autoregressive flow takes a pass for each of them."""


def sampler(specimen: Specimen) -> Iterator[Fault]:
    """Also keeps why there are no draws, so that `sample` can say it."""
    model, n = specimen.model, len(specimen.x)
    try:
        drawn = model.raw_draw(n, specimen.context, Generator().manual_seed(0))
    except Exception as error:  # a stranger may fail in any way
        model.sampler = str(error) if isinstance(error, NoSampler) else f"its sampling fails: {one_line(error)}"
        yield Fault("no-sampler", model.sampler)
        return
    size = model.event.dimensions
    if drawn.shape not in ((n, size), (n, *model.event_shape)):
        model.sampler = f"{n} draws have shape {tuple(drawn.shape)}, not {(n, size)}"
        yield Fault("sample-shape", model.sampler)
    elif drawn.dtype != specimen.x.dtype:
        yield Fault("dtype", f"draws of a {specimen.x.dtype} model are {drawn.dtype}")


def draws_apart(specimen: Specimen) -> Iterator[Fault]:
    if specimen.model.sampler is not None:
        return
    kept = np.random.get_state(), random.getstate()
    first = specimen.draws(len(specimen.x), specimen.context)
    np.random.random(7)
    random.random()
    again = specimen.draws(len(specimen.x), specimen.context)
    np.random.set_state(kept[0])
    random.setstate(kept[1])
    if not torch.equal(first, again):
        yield Fault("generator", "the same seed of torch gives other draws; something else draws, such as numpy")


def inverse(specimen: Specimen) -> Iterator[Fault]:
    found = _transformed(specimen)
    if found is None:
        return
    r, z, seen = found
    with torch.no_grad():
        back = specimen.model.foreign.from_noise(z, seen)
    off = ((back - r).abs() / (1.0 + r.abs())).max().item()
    if not off < 1e-2:
        yield Fault("inverse", f"data to noise and back differs by {off:.2g} from the data")


def log_determinant(specimen: Specimen) -> Iterator[Fault]:
    """Against the Jacobian by autograd, at a few rows."""
    found = _transformed(specimen)
    if found is None:
        return
    foreign, model = specimen.model.foreign, specimen.model
    r, z, seen = found
    said, true = [], []
    for i in range(6):
        row, given = r[i : i + 1], None if seen is None else seen[i : i + 1]

        def noise(value: Tensor, given: Tensor | None = given, shape: torch.Size = row.shape) -> Tensor:
            answer = foreign.to_noise(value.reshape(shape), given)
            assert answer is not None
            return answer.flatten()

        jacobian = torch.autograd.functional.jacobian(noise, row.flatten())
        true.append(torch.linalg.slogdet(jacobian)[1])
        with torch.no_grad():
            said.append(foreign.log_prob(row, given).sum() - foreign.noise_log_prob(z[i : i + 1], given).sum())
    value, exact = torch.stack(said), torch.stack(true)
    tolerance = 1e-3 * specimen.loose**0.5
    off = ((value - exact).abs() / (1.0 + exact.abs())).median().item()
    if not off < tolerance:
        wrong_sign = ((value + exact).abs() / (1.0 + exact.abs())).median().item() < tolerance
        how = "its sign is wrong" if wrong_sign else f"it is {off:.2g} off, relative to it"
        yield Fault("log-det", f"against the Jacobian of {type(model.foreign).__name__}'s transform {how}")


def _transformed(specimen: Specimen) -> tuple[Tensor, Tensor, Tensor | None] | None:
    """Rows, their noise and what the library sees of their contexts; None where there is no transform to look at."""
    model = specimen.model
    r, seen = model.residual(specimen.x, specimen.context), model.frame.standardised(specimen.context)
    if model.evaluation == "rows":
        return None
    with torch.no_grad():
        z = model.foreign.to_noise(r, seen)
    return None if z is None else (r, z, seen)
