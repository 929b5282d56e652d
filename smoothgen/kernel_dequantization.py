"""From a continuous density to probabilities of levels through any noise, with the decoder that Bayes' rule gives."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import core_schema
from torch import Generator, Tensor

from smoothgen.density_model import AnyDensityModel, DensityModel, DensityModelConfig
from smoothgen.dequantization import UniformDequantization, build_density
from smoothgen.errors import ConfigError, NoClosedFormError
from smoothgen.event import ContextSpec, EventSpec
from smoothgen.lattice import draw_levels, log_lattice_sum
from smoothgen.likelihood import Measure
from smoothgen.noise_kernel import NoiseKernel, NoiseKernelConfig
from smoothgen.particles import Particles
from smoothgen.registry import ComponentField


class KernelDequantization(DensityModel):
    """log P(x) >= E_q(v | x)[log p(v) - sum_d log sum_k q(v_d | level k)]: a density p of noisy values v, decoded.

    The model is P(x) = E_p(v) P(x | v) with P(x | v) proportional to q(v | x) over the levels, every coordinate by
    itself; samples follow it. The bound is Jensen's, with q(v | x) as the proposal, so its exponential averages to P(x)
    (to P(x, v in the support of q) where the noise is bounded).
    Source: the decoder of Kingma et al. 2021 (arXiv 2107.00630), section 3.3; Theis et al. 2016 (arXiv 1511.01844).
    """

    measure: Measure = "discrete"
    exact = False

    def __init__(
        self, density: DensityModel, kernel: NoiseKernel, event: EventSpec, context: ContextSpec | None = None
    ) -> None:
        super().__init__(event, context)
        self.density = density
        self.kernel = kernel

    @property
    def rows_at_once(self) -> int:
        return self.density.rows_at_once

    @property
    def continuous(self) -> DensityModel | None:
        return self.density.continuous

    def terms(self, x: Tensor, context: Tensor | None, generator: Generator | None) -> tuple[Tensor, Tensor]:
        """log p(v) and -sum_d log sum_k q(v_d | level k) for one draw of v given each x: (batch,) each, nats."""
        v = self.kernel.sample(x, generator=generator)
        log_sum = log_lattice_sum(self.kernel, v, self.event)
        return self.density.log_prob(v, context, generator=generator), -log_sum.flatten(1).sum(1)

    def _log_prob(self, x: Tensor, context: Tensor | None, generator: Generator | None) -> Tensor:
        log_density, minus_log_sum = self.terms(x, context, generator)
        return log_density + minus_log_sum

    def _sample(self, num_samples: int, context: Tensor | None, generator: Generator | None) -> Tensor:
        v = self.density.sample(num_samples, context, generator=generator)
        return draw_levels(self.kernel, v, self.event, generator)

    def _complete(
        self,
        x: Tensor,
        known: Tensor,
        context: Tensor | None,
        particles: Particles | None,
        log_reference: Tensor | None,
        generator: Generator | None,
    ) -> Tensor:
        """Every row places its known levels anew by the noise, which the weight p(v) P(x | v) / q(v | x) undoes."""
        v = self.kernel.sample(x, generator=generator)
        reference = log_lattice_sum(self.kernel, v, self.event)
        if log_reference is not None:
            reference = reference + log_reference
        v = self.density.complete(v, known, context, particles=particles, log_reference=reference, generator=generator)
        return x.where(known, draw_levels(self.kernel, v, self.event, generator))

    def _initialize(self, x: Tensor, context: Tensor | None) -> None:
        self.density.initialize(self.kernel.sample(x), context)


class _NoiseField(ComponentField):
    """The word "uniform", which is noise over one level's bin, or any registered kernel."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(
            lambda value: value if value == "uniform" else self._validate(value),
            serialization=core_schema.plain_serializer_function_ser_schema(
                lambda value, info: value if isinstance(value, str) else value.model_dump(mode=info.mode), info_arg=True
            ),
        )

    def __get_pydantic_json_schema__(self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler) -> Any:
        return {"anyOf": [{"const": "uniform"}, super().__get_pydantic_json_schema__(schema, handler)]}


class DequantizedConfig(DensityModelConfig):
    """A continuous density made into probabilities of levels by noise.

    noise: "uniform" over a level's bin, or a kernel, such as {type: gaussian, sigma: 0.01}, whose noise is undone by
    the decoder P(x | v) proportional to q(v | x).
    """

    type: Literal["dequantized"] = "dequantized"
    density: AnyDensityModel
    noise: Annotated[NoiseKernelConfig | Literal["uniform"], _NoiseField("kernel")] = "uniform"

    def build(self, event: EventSpec, context: ContextSpec | None = None) -> DensityModel:
        if event.levels is None:
            raise ConfigError(
                f'density "dequantized": the event is continuous, so there is nothing to dequantise; '
                f'use its density, "{self.density.type}", itself'
            )
        density = build_density(self.density, event.smoothed(), context)
        if isinstance(self.noise, str):
            return UniformDequantization(density, event, context)
        kernel = self.noise.build(event)
        if kernel.learnable:
            raise ConfigError(
                f'density "dequantized": noise "{self.noise.type}" is learnable, but its sum over the levels has no '
                "gradient (it would hold every level of every coordinate); give a fixed sigma, learnable: false"
            )
        _check_independent(kernel, event)
        return KernelDequantization(density, kernel, event, context)


def _check_independent(kernel: NoiseKernel, event: EventSpec) -> None:
    """Raises ConfigError, now and not at the first batch, where the sum over the levels does not factorise."""
    example = kernel.sigma.new_zeros((1, *event.shape))
    try:
        kernel.log_prob_each(example, example)
    except NoClosedFormError as error:
        raise ConfigError(f'density "dequantized": {error}') from None
