"""Drawing the unknown coordinates given the known ones, through both stages.

The model's joint is p(x_tilde) p(x | x_tilde), and the target is its law given x_known. The noisy known coordinates are
drawn from q(x_tilde | x), which would be the model's own posterior of them if both stages were exact. All else is
drawn in the order of the two densities; particles share one noisy copy of the known coordinates and are weighed by
what the coordinates say that come later. Copies are weighed against each other by the evidence of their particles,

    log w = log p(x_tilde_known) - log q(x_tilde_known | x_known) + log p(x_known | x_tilde, ...),

estimated without bias by their particles, so that the whole is exact as particles and copies grow in number.
Source: particle filters within importance sampling, as in Andrieu, Doucet & Holenstein 2010 (particle MCMC), section 4.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Generator, Tensor

from smoothgen.density_model import DensityModel
from smoothgen.errors import ConfigError, DataError, ShapeError
from smoothgen.event import EventSpec
from smoothgen.inverter import Inverter
from smoothgen.noise_kernel import NoiseKernel
from smoothgen.particles import Particles


def complete_both(
    kernel: NoiseKernel,
    density: DensityModel,
    inverter: Inverter,
    x: Tensor,
    known: Tensor,
    context: Tensor | None = None,
    *,
    particles: Particles | None = None,
    log_reference: Tensor | None = None,
    generator: Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """(x, x_tilde), both (batch, *event), completed row by row; x holds values of the event where it is unknown.

    With particles the rows of a group are alike in x_known and mask, and get the same noise there.
    log_reference: as in `DensityModel.complete`, for the known coordinates of x.
    """
    x_tilde = _noisy(kernel, x, particles, generator)
    noise_density = None if particles is None else kernel.log_prob_each(x_tilde, x)
    lineage = None if particles is None else particles.lineage()
    x_tilde = density.complete(
        x_tilde, known, context, particles=particles, log_reference=noise_density, generator=generator
    )
    if particles is not None and lineage is not None:
        context = None if context is None else context[lineage.rows]
        lineage = particles.lineage()
    x = inverter.complete(
        x,
        known,
        x_tilde,
        density,
        kernel,
        context=context,
        particles=particles,
        log_reference=log_reference,
        generator=generator,
    )
    return x, x_tilde if lineage is None else x_tilde[lineage.rows]


def _noisy(kernel: NoiseKernel, x: Tensor, particles: Particles | None, generator: Generator | None) -> Tensor:
    """x plus noise: new for every row, or for every group of particles."""
    if particles is None:
        return kernel.sample(x, generator=generator)
    return kernel.sample(x[:: particles.count], generator=generator).repeat_interleave(particles.count, 0)


@dataclass(frozen=True)
class Effort:
    """particles for each of noise_draws noisy copies of an example; rows: completions in one pass."""

    particles: int
    noise_draws: int
    rows_at_once: int

    def __post_init__(self) -> None:
        for field in fields(self):
            number = getattr(self, field.name)
            if number < 1:
                raise ConfigError(f"inpaint: {field.name} must be at least 1, got {number}")

    @property
    def completions(self) -> int:
        """How many completions one example is chosen from."""
        return self.particles * self.noise_draws


def inpaint(
    kernel: NoiseKernel,
    density: DensityModel,
    inverter: Inverter,
    x: Tensor,
    known: Tensor,
    context: Tensor | None,
    effort: Effort,
    generator: Generator | None,
) -> tuple[Tensor, Tensor]:
    """(x, x_tilde) of each example, both (n, *event), in the model's coordinates: one completion, drawn by weight."""
    if not len(x):
        raise ShapeError("inpaint: x holds no examples")
    at_once = max(1, effort.rows_at_once // effort.completions)
    parts = []
    for start in range(0, len(x), at_once):
        rows = slice(start, start + at_once)
        given = None if context is None else context[rows]
        parts.append(_batch(kernel, density, inverter, x[rows], known[rows], given, effort, generator))
    completed, x_tilde = zip(*parts, strict=True)
    return torch.cat(completed), torch.cat(x_tilde)


def _batch(
    kernel: NoiseKernel,
    density: DensityModel,
    inverter: Inverter,
    x: Tensor,
    known: Tensor,
    context: Tensor | None,
    effort: Effort,
    generator: Generator | None,
) -> tuple[Tensor, Tensor]:
    """Resampling has a generator of its own, so that the draws of the model do not depend on when it happens."""
    if effort.completions == 1:  # a single completion needs no weight
        return complete_both(kernel, density, inverter, x, known, context, generator=generator)
    seed = torch.randint(2**62, (), device=x.device, generator=generator)
    own = Generator(x.device).manual_seed(int(seed))
    particles = Particles(len(x) * effort.noise_draws, effort.particles, x, generator=own)
    x, known = (value.repeat_interleave(effort.completions, 0) for value in (x, known))
    context = None if context is None else context.repeat_interleave(effort.completions, 0)
    completed, x_tilde = complete_both(
        kernel, density, inverter, x, known, context, particles=particles, generator=generator
    )
    chosen = particles.choose(own, together=effort.noise_draws)
    return completed[chosen], x_tilde[chosen]


def known_values(event: EventSpec, x: Tensor, known: Tensor) -> Tensor:
    """x (n, *event), the model's coordinates, with something valid where it is unknown.

    Raises DataError for known values that are not finite, out of range or on no level.
    """
    bad = known & ~x.isfinite()
    if bool(bad.any()):
        where = tuple(bad.nonzero()[0].tolist())
        raise DataError(
            f"inpaint: {int(bad.sum())} of {int(known.sum())} known values bad: {x[where].item():g} at {where} is not "
            "finite; mend them, or mark them as unknown"
        )
    standard = event.standard()
    return standard.check(torch.where(known, x, standard.quantize(x.new_zeros(()))), "inpaint: x where it is known")
