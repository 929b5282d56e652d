"""From a continuous density to probabilities of levels, for backbones that have no discretised head."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from smoothgen.density_model import DensityModel, DensityModelConfig
from smoothgen.errors import ConfigError
from smoothgen.event import ContextSpec, EventSpec
from smoothgen.likelihood import Measure
from smoothgen.particles import Particles


class UniformDequantization(DensityModel):
    """P(x) >= exp E_u[log p(x + u)] * width^D, u uniform over the level's bin of that width in every coordinate.

    A lower bound by Jensen's inequality; the bins of a uniform grid make it exact when p is constant on each.
    Samples are rounded to the nearest level. Source: Theis et al. 2016 (arXiv 1511.01844), section 3.1.
    """

    measure: Measure = "discrete"
    exact = False

    def __init__(self, density: DensityModel, event: EventSpec, context: ContextSpec | None = None) -> None:
        super().__init__(event, context)
        self.density = density

    @property
    def rows_at_once(self) -> int:
        return self.density.rows_at_once

    @property
    def continuous(self) -> DensityModel | None:
        return self.density.continuous

    def _log_prob(self, x: Tensor, context: Tensor | None, generator: Generator | None) -> Tensor:
        width = self.event.bin_width
        uniform = torch.empty_like(x).uniform_(generator=generator)
        log_density = self.density.log_prob(x + (uniform - 0.5) * width, context, generator=generator)
        return log_density + self.event.dimensions * math.log(width)

    def _sample(self, num_samples: int, context: Tensor | None, generator: Generator | None) -> Tensor:
        return self.event.quantize(self.density.sample(num_samples, context, generator=generator))

    def _complete(
        self,
        x: Tensor,
        known: Tensor,
        context: Tensor | None,
        particles: Particles | None,
        log_reference: Tensor | None,
        generator: Generator | None,
    ) -> Tensor:
        """Every row places its known levels anew within their bins; with many particles that averages over the bins."""
        width = self.event.bin_width
        uniform = torch.empty_like(x).uniform_(generator=generator)
        inside = 1.0 - 16.0 * torch.finfo(x.dtype).eps * self._largest / width  # rounding must find the level again
        placed = x + (uniform - 0.5) * (inside * width)
        reference = (0.0 if log_reference is None else log_reference) - torch.full_like(x, math.log(width))
        completed = self.density.complete(
            placed, known, context, particles=particles, log_reference=reference, generator=generator
        )
        return self.event.quantize(completed)

    @property
    def _largest(self) -> float:
        return max(abs(self.event.low or 0.0), abs(self.event.high or 0.0), self.event.bin_width)

    def _initialize(self, x: Tensor, context: Tensor | None) -> None:
        uniform = torch.rand(x.shape, dtype=x.dtype, device=x.device)
        self.density.initialize(x + (uniform - 0.5) * self.event.bin_width, context)


def build_density(config: DensityModelConfig, event: EventSpec, context: ContextSpec | None = None) -> DensityModel:
    """The density a configuration describes, dequantised where the event is discrete and the density is not.

    Raises ConfigError for what cannot be built.
    """
    density = config.build(event, context)
    if not density.has_log_prob:
        raise ConfigError(
            f'density "{config.type}": its inverter has no density, so it cannot be trained as a density itself; '
            "give it inverter type: conditional"
        )
    if event.levels is not None and density.measure == "density":
        return UniformDequantization(density, event, context)
    if event.levels is None and density.measure == "discrete":
        raise ConfigError(f'density "{config.type}" is a mass function, but the event is continuous')
    return density
