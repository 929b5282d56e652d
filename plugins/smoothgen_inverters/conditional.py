"""The second model: p(x | x_tilde), any density that takes a context."""

from __future__ import annotations

from typing import Literal

from torch import Generator, Tensor

from smoothgen.density_model import AnyDensityModel, DensityModel
from smoothgen.dequantization import build_density
from smoothgen.event import ContextSpec, EventSpec
from smoothgen.inverter import Inverter, InverterConfig
from smoothgen.noise_kernel import NoiseKernel
from smoothgen.particles import Particles


class ConditionalInverter(Inverter):
    """x ~ p(x | x_tilde), with its log density: the two-step model and the bound of Eq. 3."""

    has_density = True

    def __init__(self, event: EventSpec, context: ContextSpec, density: DensityModel) -> None:
        super().__init__(event)
        self.context = context
        self.density = density
        self.measure = density.measure
        self.exact = density.exact

    @property
    def rows_at_once(self) -> int:
        return self.density.rows_at_once

    @property
    def conditional(self) -> DensityModel:
        return self.density

    def invert(
        self,
        x_tilde: Tensor,
        smoothed: DensityModel,
        kernel: NoiseKernel,
        *,
        context: Tensor | None = None,
        generator: Generator | None = None,
    ) -> Tensor:
        return self.density.sample(len(x_tilde), self.context.join(x_tilde, context), generator=generator)

    def log_prob(
        self, x: Tensor, x_tilde: Tensor, *, context: Tensor | None = None, generator: Generator | None = None
    ) -> Tensor:
        return self.density.log_prob(x, self.context.join(x_tilde, context), generator=generator)

    def complete(
        self,
        x: Tensor,
        known: Tensor,
        x_tilde: Tensor,
        smoothed: DensityModel,
        kernel: NoiseKernel,
        *,
        context: Tensor | None = None,
        particles: Particles | None = None,
        log_reference: Tensor | None = None,
        generator: Generator | None = None,
    ) -> Tensor:
        joined = self.context.join(x_tilde, context)
        return self.density.complete(
            x, known, joined, particles=particles, log_reference=log_reference, generator=generator
        )

    def initialize(self, x: Tensor, x_tilde: Tensor, context: Tensor | None = None) -> None:
        self.density.initialize(x, self.context.join(x_tilde, context))


class ConditionalConfig(InverterConfig):
    """p(x | x_tilde) by the given density, which receives x_tilde as its context.

    For discrete data it is a mass function: by the density's own discretised head where it has one, otherwise by
    uniform dequantisation.
    """

    type: Literal["conditional"] = "conditional"
    density: AnyDensityModel

    def build(self, event: EventSpec, kernel: NoiseKernel, features: int = 0) -> Inverter:
        noise_std = kernel.sigma.detach().expand(event.shape).flatten().tolist()
        context = ContextSpec(noisy_copy=event.shape, noise_std=tuple(noise_std), features=features)
        return ConditionalInverter(event, context, build_density(self.density, event, context))
