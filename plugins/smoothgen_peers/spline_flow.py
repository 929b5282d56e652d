"""zuko's neural spline flow: the strongest public density of small dimension, as a baseline to be beaten."""

from __future__ import annotations

import math
from types import ModuleType
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Generator, Tensor, nn

from smoothgen.density_model import DensityModel, DensityModelConfig
from smoothgen.errors import ConfigError
from smoothgen.event import ContextSpec, EventSpec
from smoothgen.extras import required
from smoothgen.frame import Frame

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "silu": nn.SiLU, "tanh": nn.Tanh}
SMALLEST_SLOPE = 1e-3
"""Of a spline, and the reciprocal of the largest: zuko's default."""

UNCONDITIONED_GAIN = 0.1


class ZukoNSF(DensityModel):
    """p(x) or p(x | context) by monotonic rational-quadratic splines, conditioned by masked networks.

    Data go to standard normal noise. Every spline maps [-bound, bound] onto itself and is the identity outside, so
    the event is standardised first; given a noisy copy x_tilde of known noise, the flow models (x - x_tilde) / std.
    The masks are zuko's, which let every coordinate see the whole context. zuko's own distributions are not used:
    they take no generator, and they check values in a way that needs them on a device.
    Source: Durkan et al. 2019 (arXiv 1906.04032); zuko 1.6 (MIT), `zuko.flows.NSF`.
    """

    def __init__(self, event: EventSpec, context: ContextSpec | None, config: ZukoNSFConfig, zuko: ModuleType) -> None:
        super().__init__(event, context)
        self.frame = Frame(event.dimensions, context, config.anchor)

        def spline(*parameters: Tensor) -> Any:
            """Under autocast the network's output is narrow; the spline is computed in float32 or wider."""
            wide = (value.to(torch.promote_types(value.dtype, torch.float32)) for value in parameters)
            return zuko.transforms.MonotonicRQSTransform(*wide, bound=config.bound, slope=SMALLEST_SLOPE)

        transforms = [
            zuko.flows.MaskedAutoregressiveTransform(
                features=event.dimensions,
                context=0 if context is None else context.dimensions,
                passes=config.passes,
                order=ranks,
                univariate=spline,
                shapes=[(config.bins,), (config.bins,), (config.bins - 1,)],
                hidden_features=config.hidden,
                activation=ACTIVATIONS[config.activation],
            )
            for ranks in _ranks(event.dimensions, config)
        ]
        self.flow = zuko.lazy.LazyComposedTransform(*transforms)
        if event.dimensions == 1 and context is None:
            _calm(self.flow)

    def _log_prob(self, x: Tensor, context: Tensor | None, generator: Generator | None) -> Tensor:
        residual = (x.flatten(1) - self.frame.anchor(context)) / self.frame.unit
        noise, log_determinant = self.flow(self.frame.standardised(context)).call_and_ladj(residual)
        log_normal = -0.5 * (noise.square() + math.log(2.0 * math.pi)).sum(1)
        return log_normal + log_determinant - self.frame.log_unit()

    def _sample(self, num_samples: int, context: Tensor | None, generator: Generator | None) -> Tensor:
        unit = self.frame.unit
        shape = (num_samples, self.event.dimensions)
        noise = torch.randn(shape, dtype=unit.dtype, device=unit.device, generator=generator)
        residual = self.flow(self.frame.standardised(context)).inv(noise)
        return (self.frame.anchor(context) + unit * residual).reshape(num_samples, *self.event_shape)

    def _initialize(self, x: Tensor, context: Tensor | None) -> None:
        """Measures the frame; the splines start near the identity anyway."""
        self.frame.initialize(x.flatten(1), context)


@torch.no_grad()
def _calm(flow: nn.Module) -> None:
    """Starts splines that no network conditions near the identity: zuko draws their parameters from N(0, 1)."""
    for parameter in flow.parameters():
        parameter.mul_(UNCONDITIONED_GAIN)


def _ranks(dimensions: int, config: ZukoNSFConfig) -> list[Tensor]:
    """The rank of every coordinate in each transform: ascending and descending in turn, or drawn."""
    ascending = torch.arange(dimensions)
    if config.order == "alternate":
        return [ascending if index % 2 == 0 else ascending.flip(0) for index in range(config.transforms)]
    generator = Generator().manual_seed(config.order_seed)
    return [torch.randperm(dimensions, generator=generator) for _ in range(config.transforms)]


class ZukoNSFConfig(DensityModelConfig):
    """zuko's neural spline flow; needs the extra `peers`.

    transforms: how many, one after the other. hidden: widths of the hidden layers of each one's masked network.
    bins: of every spline. activation: relu (zuko's own, and by far the best on thin curves), silu or tanh.
    bound: splines bend within this many standard deviations.
    passes: into how many groups a transform divides the coordinates, each given the groups before it; null makes every
    coordinate a group (fully autoregressive), 2 is a coupling. Sampling takes as many passes per transform.
    order: of the coordinates: ascending and descending in turn (alternate), or drawn with order_seed (random).
    anchor: model the residual from x_tilde in units of the noise, where the context is a noisy copy of x.
    """

    type: Literal["zuko_nsf"] = "zuko_nsf"
    transforms: PositiveInt = 3
    hidden: tuple[PositiveInt, ...] = (64, 64, 64)
    bins: Annotated[int, Field(ge=2)] = 16
    activation: Literal["relu", "silu", "tanh"] = "relu"
    bound: PositiveFloat = 5.0
    passes: Annotated[int, Field(ge=2)] | None = None
    order: Literal["alternate", "random"] = "alternate"
    order_seed: NonNegativeInt = 0
    anchor: bool = True

    def build(self, event: EventSpec, context: ContextSpec | None = None) -> DensityModel:
        if not self.hidden:
            raise ConfigError("zuko_nsf: hidden needs at least one layer")
        return ZukoNSF(event, context, self, required("zuko", "density zuko_nsf", "peers"))
