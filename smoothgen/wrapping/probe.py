"""Looks at a wrapped density on a copy, and names everything that it gets wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from smoothgen.errors import WrapError
from smoothgen.wrapping import context_checks, draw_checks, mass_checks, value_checks
from smoothgen.wrapping.faults import Fault
from smoothgen.wrapping.specimen import Specimen, one_line, specimen_of
from smoothgen.wrapping.wrapped_density import WrappedDensity

Check = Callable[[Specimen], Iterator[Fault]]
VALUES: tuple[tuple[str, Check], ...] = (
    ("shape", value_checks.shape),
    ("not-finite", value_checks.finite),
    ("random", value_checks.random),
    ("batch", value_checks.batch),
    ("parameters", value_checks.parameters),
    ("gradient", value_checks.gradient),
    ("idle-parameters", value_checks.idle),
    ("dtype", value_checks.dtype),
    ("device", value_checks.device),
    ("context-ignored", context_checks.matters),
)
"""The name that a check's own failure goes by, and the check, in the order in which they are made."""
DRAWS: tuple[tuple[str, Check], ...] = (
    ("no-sampler", draw_checks.sampler),
    ("generator", draw_checks.generator),
    ("context-reach", context_checks.reaches),
    ("inverse", draw_checks.inverse),
    ("log-det", draw_checks.log_determinant),
)
MASSES: tuple[tuple[str, Check], ...] = (("samples", mass_checks.mass_and_samples),)


def examine(model: WrappedDensity, thorough: bool = True) -> list[Fault]:
    """Everything found wrong; the weights and the random numbers are as before. Sets the model's layout and evaluation.

    thorough: whether mass and samples are looked at too. Raises WrapError where log_prob cannot be evaluated at all.
    """
    small = model.event.dimensions <= draw_checks.MOST_COORDINATES
    with torch.random.fork_rng():
        torch.manual_seed(3)
        try:
            specimen, found = specimen_of(model)
        except Exception as error:
            raise WrapError(
                f"wrap: log_prob of {model.event.dimensions} coordinates"
                f"{'' if model.context is None else f' given {model.context.dimensions} numbers'} fails: "
                f"{one_line(error)}"
            ) from error
        if specimen is None:
            return found
        for name, check in VALUES + (DRAWS if small else ()) + (MASSES if small and thorough else ()):
            if specimen.model.sampler is not None and check is context_checks.reaches:
                continue
            found += _made(name, check, specimen)
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
