"""Looks at a wrapped density on a copy, and names everything that it gets wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from smoothgen.errors import WrapError
from smoothgen.wrapping.context_checks import matters, reaches
from smoothgen.wrapping.draw_checks import MOST_COORDINATES, draws_apart, inverse, log_determinant, sampler
from smoothgen.wrapping.faults import Fault
from smoothgen.wrapping.mass_checks import mass_and_samples
from smoothgen.wrapping.specimen import Specimen, one_line, specimen_of
from smoothgen.wrapping.value_checks import batch, device, dtype, finite, gradient, idle, parameters, random, shape
from smoothgen.wrapping.wrapped_density import WrappedDensity

Check = Callable[[Specimen], Iterator[Fault]]
VALUES: tuple[tuple[str, Check], ...] = (
    ("shape", shape),
    ("not-finite", finite),
    ("random", random),
    ("batch", batch),
    ("parameters", parameters),
    ("gradient", gradient),
    ("idle-parameters", idle),
    ("dtype", dtype),
    ("device", device),
    ("context-ignored", matters),
)
"""The name that a check's own failure goes by, and the check, in the order in which they are made."""
DRAWS: tuple[tuple[str, Check], ...] = (
    ("no-sampler", sampler),
    ("generator", draws_apart),
    ("context-reach", reaches),
    ("inverse", inverse),
    ("log-det", log_determinant),
)
MASSES: tuple[tuple[str, Check], ...] = (("samples", mass_and_samples),)


def examine(model: WrappedDensity, thorough: bool = True, name: str = "a density") -> list[Fault]:
    """Everything found wrong; the weights and the random numbers are as before. Sets the model's layout and evaluation.

    thorough: whether mass and samples are looked at too. Raises WrapError where log_prob cannot be evaluated at all.
    """
    small = model.event.dimensions <= MOST_COORDINATES
    with torch.random.fork_rng():
        torch.manual_seed(3)
        try:
            specimen, found = specimen_of(model)
        except Exception as error:
            raise WrapError(
                f"wrap: {name}: log_prob of {model.event.dimensions} coordinates"
                f"{'' if model.context is None else f' given {model.context.dimensions} numbers'} fails: "
                f"{one_line(error)}"
            ) from error
        if specimen is None:
            return found
        for fallback, check in VALUES + (DRAWS if small else ()) + (MASSES if small and thorough else ()):
            if check is reaches and specimen.model.sampler is not None:
                continue
            if check is mass_and_samples and specimen.model.evaluation == "rows":
                continue  # a call for every row of a grid is more than a user waits for
            found += _made(fallback, check, specimen)
            if any(fault.name == "not-finite" for fault in found):
                break
    model.flat, model.evaluation, model.sampler = (
        specimen.model.flat,
        specimen.model.evaluation,
        specimen.model.sampler,
    )
    return found


def _made(name: str, check: Check, specimen: Specimen) -> list[Fault]:
    try:
        return list(check(specimen))
    except Exception as error:  # a stranger may fail in any way; the check says where
        return [Fault(name, one_line(error))]
