"""x_tilde -> x: undoing the smoothing, by a single step or by a second, conditional model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated, ClassVar

from torch import Generator, Tensor

from smoothgen.component import ComponentConfig
from smoothgen.density_model import ROWS_AT_ONCE, DensityModel
from smoothgen.errors import NoDensityError
from smoothgen.event import EventSpec
from smoothgen.likelihood import Measure
from smoothgen.noise_kernel import NoiseKernel
from smoothgen.particles import Particles
from smoothgen.readable import ReadableModule, event_text
from smoothgen.registry import ComponentField


class Inverter(ReadableModule, ABC):
    """Maps x_tilde to x. One with a density also gives log p(x | x_tilde), and with it the bound of Eq. 3.

    An inverter never owns the smoothed model: it is given it.
    """

    has_density: ClassVar[bool]
    measure: Measure = "density"
    exact: bool = True

    def __init__(self, event: EventSpec) -> None:
        super().__init__()
        self.event = event

    @property
    def rows_at_once(self) -> int:
        """How many rows a pass without gradients should take, as for `DensityModel.rows_at_once`."""
        return ROWS_AT_ONCE

    @property
    def conditional(self) -> DensityModel:
        """p(x | x_tilde) as a density whose context is x_tilde, or x_tilde and further features joined.

        Raises NoDensityError if not has_density.
        """
        raise NoDensityError(f"{type(self).__name__} has no density p(x | x_tilde); use inverter type: conditional")

    @abstractmethod
    def invert(
        self,
        x_tilde: Tensor,
        smoothed: DensityModel,
        kernel: NoiseKernel,
        *,
        context: Tensor | None = None,
        generator: Generator | None = None,
    ) -> Tensor:
        """(batch, *event) -> x, same shape: a draw from p(x | x_tilde), or its mean."""

    def log_prob(
        self, x: Tensor, x_tilde: Tensor, *, context: Tensor | None = None, generator: Generator | None = None
    ) -> Tensor:
        """log p(x | x_tilde): (batch,), nats. Raises NoDensityError if not has_density."""
        raise NoDensityError(
            f"{type(self).__name__} has no density, so there is no bound on log p(x); use inverter type: conditional"
        )

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
        """x with its unknown coordinates inverted from x_tilde, all (batch, *event); as `DensityModel.complete`.

        Raises NoDensityError where this inverter cannot keep some coordinates and invert the others.
        """
        raise NoDensityError(
            f"{type(self).__name__} cannot keep known coordinates and invert the others; use inverter type: conditional"
        )

    def _facts(self) -> list[str]:
        return [event_text(self.event), "with a density" if self.has_density else "without a density"]

    def check(self, smoothed: DensityModel, kernel: NoiseKernel) -> None:
        """Raises, with the reason, where this inverter cannot work with that density and kernel."""

    def initialize(self, x: Tensor, x_tilde: Tensor, context: Tensor | None = None) -> None:
        """Sets data-dependent starting values from a batch of training pairs; the default does nothing."""


class InverterConfig(ComponentConfig):
    """The configuration of an inverter."""

    interface: ClassVar[str] = "inverter"

    def build(self, event: EventSpec, kernel: NoiseKernel, features: int = 0) -> Inverter:
        """The inverter over this event, for this kernel's noise, given `features` numbers of context.

        Raises ConfigError for what cannot be built.
        """
        raise TypeError(f"{type(self).__name__} must define build(event, kernel, features)")


AnyInverter = Annotated[InverterConfig, ComponentField("inverter")]
"""The type of a configuration field that holds any registered inverter."""
