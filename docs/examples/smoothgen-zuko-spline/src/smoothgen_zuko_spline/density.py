"""zuko's neural spline flow as a density of smoothgen."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import torch
import zuko
from pydantic import Field, PositiveFloat, PositiveInt
from smoothgen import ContextSpec, DensityModel, DensityModelConfig, EventSpec
from smoothgen.frame import Frame
from torch import Generator, Tensor


class SplineFlow(DensityModel):
    """p(x | context): masked networks choose monotonic splines that take x to standard normal noise, D coordinates.

    Splines bend within `bound` units of the frame: standard deviations of the data, or of the noise of a given x_tilde.
    Source: Durkan et al. 2019 (arXiv 1906.04032); zuko 1.6, `zuko.flows.NSF`.
    """

    def __init__(self, event: EventSpec, context: ContextSpec | None, config: ZukoSplineConfig) -> None:
        super().__init__(event, context)
        self.frame = Frame(event.dimensions, context, anchor=True)

        def spline(*numbers: Tensor) -> Any:  # of float32 or wider, under bfloat16 autocast too
            wide = [value.to(torch.promote_types(value.dtype, torch.float32)) for value in numbers]
            return zuko.transforms.MonotonicRQSTransform(*wide, bound=config.bound)

        flow = zuko.flows.MAF(
            event.dimensions,
            context.dimensions if context else 0,
            transforms=config.transforms,
            hidden_features=config.hidden,
            univariate=spline,
            shapes=[(config.bins,), (config.bins,), (config.bins - 1,)],
        )
        self.transform = flow.transform  # without zuko's base, whose samples take no generator
        if event.dimensions == 1 and context is None:  # zuko draws these from N(0, 1): splines too steep to start from
            for parameter in self.transform.parameters():
                torch.nn.init.zeros_(parameter)

    def _log_prob(self, x: Tensor, context: Tensor | None, generator: Generator | None) -> Tensor:
        r = (x.flatten(1) - self.frame.anchor(context)) / self.frame.unit
        noise, log_determinant = self.transform(self.frame.standardised(context)).call_and_ladj(r)
        log_normal = (-0.5 * noise.square() - 0.5 * math.log(2.0 * math.pi)).sum(1)
        return log_normal + log_determinant - self.frame.log_unit()

    def _sample(self, num_samples: int, context: Tensor | None, generator: Generator | None) -> Tensor:
        unit, shape = self.frame.unit, (num_samples, self.event.dimensions)
        noise = torch.randn(shape, dtype=unit.dtype, device=unit.device, generator=generator)
        r = self.transform(self.frame.standardised(context)).inv(noise)
        return (self.frame.anchor(context) + unit * r).reshape(num_samples, *self.event_shape)

    def _initialize(self, x: Tensor, context: Tensor | None) -> None:
        self.frame.initialize(x.flatten(1), context)


class ZukoSplineConfig(DensityModelConfig):
    """transforms: how many, one after the other. hidden: widths of each one's network. bins, bound: of the splines."""

    type: Literal["zuko_spline"] = "zuko_spline"
    transforms: PositiveInt = 3
    hidden: tuple[PositiveInt, ...] = (64, 64)
    bins: Annotated[int, Field(ge=2)] = 8
    bound: PositiveFloat = 5.0

    def build(self, event: EventSpec, context: ContextSpec | None = None) -> DensityModel:
        return SplineFlow(event, context, self)
