"""MADE with mixtures of logistics or Gaussians: any number of coordinates, order and context, discrete or not."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import groupby
from typing import Annotated, Literal, NamedTuple

import torch
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Generator, Tensor

from smoothgen import gaussian_mixture, logistic_mixture
from smoothgen.density_model import DensityModel, DensityModelConfig
from smoothgen.errors import ConfigError
from smoothgen.event import ContextSpec, EventSpec
from smoothgen.particles import Particles
from smoothgen_made.conditioner import Conditioner, Features, MaskedConditioner, SeparateConditioner, spread

LOG_SCALE_BOUND = 7.0
"""Log scales stay within this of the log of their unit, softly, on both sides."""


class Family(NamedTuple):
    """A mixture's shape: its log density and its inverse CDF, both of (value, logits, loc, log_scale)."""

    log_density: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
    inverse_cdf: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


NetworkMaker = Callable[[Tensor, Tensor, int], Conditioner]
"""(degree of every feature, rank of every coordinate, outputs per coordinate) -> the network."""
FAMILIES = {
    "logistic": Family(logistic_mixture.log_density, logistic_mixture.inverse_cdf),
    "gaussian": Family(gaussian_mixture.log_density, gaussian_mixture.inverse_cdf),
}


class Mixture(NamedTuple):
    """Parameters of mixtures, components last."""

    logits: Tensor
    loc: Tensor
    log_scale: Tensor


class MADE(DensityModel):
    """p(x) = prod_i p(x_i | x_<i, context), every conditional a mixture of logistics or of Gaussians.

    Components are placed relative to an anchor in units of a spread: x_tilde and the noise's standard deviation
    where the context is a noisy copy of x, otherwise the mean and standard deviation of the training data.
    The event is flattened in raster order. Source: Germain et al. 2015 (arXiv 1502.03509); the anchoring is ours.
    """

    autoregressive = True
    unit: Tensor

    def __init__(
        self,
        event: EventSpec,
        context: ContextSpec | None,
        *,
        network: NetworkMaker,
        family: Family,
        components: int,
        fourier: int,
        fourier_period: float | None,
        order: list[int],
        discretized: bool,
    ) -> None:
        super().__init__(event, context)
        self.measure = "discrete" if discretized else "density"
        self.components = components
        self.order = order
        rank = torch.empty(len(order), dtype=torch.long)
        rank[torch.tensor(order)] = torch.arange(len(order))
        self.features = Features(event.dimensions, context, fourier, fourier_period)
        self.family = family
        self.conditioner = network(self.features.degrees(rank), rank, 3 * components)
        self.register_buffer("unit", torch.ones(event.dimensions))
        if self.features.anchored:
            self.unit.copy_(self.features.noise_std)
        with torch.no_grad():
            self._set_spread(torch.linspace(-1.5, 1.5, 2 * components + 1)[1::2].expand(event.dimensions, -1))

    def _log_prob(self, x: Tensor, context: Tensor | None, generator: Generator | None) -> Tensor:
        flat = x.flatten(1)
        parameters = self.conditioner(self.features(flat, context))
        return self._log_conditionals(flat, context, self._relative(parameters, flat)).sum(1)

    @property
    def coordinate_order(self) -> tuple[int, ...]:
        return tuple(self.order)

    def _conditionals(self, x: Tensor, context: Tensor | None) -> Tensor:
        flat = x.flatten(1)
        relative = self._relative(self.conditioner(self.features(flat, context)), flat)
        return self._log_conditionals(flat, context, relative)

    def _log_conditionals(self, flat: Tensor, context: Tensor | None, relative: Mixture) -> Tensor:
        """log p(x_i | x_<i) for every coordinate: (batch, D), nats."""
        return self._log_conditional(flat, relative, self._anchor(context), self.unit)

    def _log_conditional(self, value: Tensor, relative: Mixture, anchor: Tensor, unit: Tensor) -> Tensor:
        """The same for any of the coordinates, like `_absolute`. A density is taken in units of the spread."""
        if self.measure == "discrete":
            return logistic_mixture.log_mass(value, *self._absolute(relative, anchor, unit), self.event)
        return self.family.log_density((value - anchor) / unit, *relative) - unit.log()

    def _relative(self, parameters: Tensor, flat: Tensor) -> Mixture:
        """Raw parameters (..., 3K) as mixtures relative to anchor and unit, in the dtype of x."""
        logits, loc, log_scale = parameters.to(flat.dtype).chunk(3, dim=-1)
        return Mixture(logits, loc, LOG_SCALE_BOUND * torch.tanh(log_scale / LOG_SCALE_BOUND))

    def _absolute(self, relative: Mixture, anchor: Tensor, unit: Tensor) -> Mixture:
        """The same in the units of x. anchor broadcasts to (batch, D) or (batch,), unit to (D,) or ()."""
        loc = anchor.unsqueeze(-1) + unit.unsqueeze(-1) * relative.loc
        return Mixture(relative.logits, loc, relative.log_scale + unit.log().unsqueeze(-1))

    def _anchor(self, context: Tensor | None) -> Tensor:
        if self.features.anchored and context is not None and self.context is not None:
            noisy_copy, _ = self.context.split(context)
            if noisy_copy is not None:
                return noisy_copy
        return self.features.loc

    def _sample(self, num_samples: int, context: Tensor | None, generator: Generator | None) -> Tensor:
        """One uniform per coordinate, drawn at once; coordinate by coordinate through the inverse CDF."""
        logit_u = logistic_mixture.logit_uniform((num_samples, self.event.dimensions), self.unit, generator)
        flat = torch.zeros_like(logit_u)
        for index in self.order:
            relative, anchor = self._conditional(flat, context, index)
            flat[:, index] = self._draw(logit_u[:, index], relative, anchor, self.unit[index])
        return flat.reshape(num_samples, *self.event_shape)

    def _conditional(self, flat: Tensor, context: Tensor | None, index: int) -> tuple[Mixture, Tensor]:
        """p(x_i | x_<i) of one coordinate, relative to the anchor that comes with it."""
        parameters = self.conditioner.of_coordinate(self.features(flat, context), index)
        return self._relative(parameters, flat), self._anchor(context)[..., index]

    def _draw(self, logit_u: Tensor, relative: Mixture, anchor: Tensor, unit: Tensor) -> Tensor:
        value = self.family.inverse_cdf(logit_u, *self._absolute(relative, anchor, unit))
        return self.event.quantize(value) if self.measure == "discrete" else value

    def _complete(
        self,
        x: Tensor,
        known: Tensor,
        context: Tensor | None,
        particles: Particles | None,
        log_reference: Tensor | None,
        generator: Generator | None,
    ) -> Tensor:
        """The uniforms are those of `_sample`. Neighbours in the order that every row knows take one pass together."""
        flat, known = x.flatten(1).clone(), known.flatten(1)
        logit_u = logistic_mixture.logit_uniform(flat.shape, flat, generator)
        reference = torch.zeros_like(flat) if log_reference is None else log_reference.flatten(1)
        everywhere, anywhere = known.all(0).tolist(), known.any(0).tolist()
        done: list[int] = []
        for _, run in groupby(self.order, key=lambda index: -1 if everywhere[index] else index):
            indices = list(run)
            done += indices
            if everywhere[indices[0]]:
                if particles is None:
                    continue
                relative = self._relative(self.conditioner(self.features(flat, context)), flat)
                log_conditionals = self._log_conditionals(flat, context, relative)[:, indices]
            else:
                (index,) = indices
                relative, anchor = self._conditional(flat, context, index)
                drawn = self._draw(logit_u[:, index], relative, anchor, self.unit[index])
                flat[:, index] = torch.where(known[:, index], flat[:, index], drawn)
                if particles is None or not anywhere[index]:
                    continue
                log_conditionals = self._log_conditional(flat[:, index], relative, anchor, self.unit[index])[:, None]
            increments = (log_conditionals - reference[:, indices]).where(known[:, indices], 0.0)
            ancestors = particles.weigh(increments.sum(1))
            if ancestors is not None:
                flat[:, done] = flat[ancestors][:, done]
                context = None if context is None else context[ancestors]
        return flat.reshape(x.shape)

    def _causal_score(self, x: Tensor, context: Tensor | None) -> Tensor:
        flat = x.flatten(1)
        with torch.no_grad():
            relative = self._relative(self.conditioner(self.features(flat, context)), flat)
        with torch.enable_grad():
            variable = flat.detach().requires_grad_(True)
            (gradient,) = torch.autograd.grad(self._log_conditionals(variable, context, relative).sum(), variable)
        return gradient.reshape(x.shape)

    def _initialize(self, x: Tensor, context: Tensor | None) -> None:
        """Standardises the features and spreads every mixture over the quantiles of what it has to model."""
        flat = x.flatten(1)
        self.features.initialize(flat, context)
        if not self.features.anchored:
            self.unit.copy_(spread(flat))
        standardised = (flat - self._anchor(context)) / self.unit
        levels = (torch.arange(self.components, dtype=flat.dtype, device=flat.device) + 0.5) / self.components
        self._set_spread(torch.quantile(standardised[:4096].double(), levels.double(), dim=0).T.to(flat.dtype))

    def _set_spread(self, loc: Tensor) -> None:
        """Starts the components of every coordinate at `loc` (D, K), each about as wide as the gaps between them."""
        gap = (loc[:, -1:] - loc[:, :1]) / max(self.components - 1, 1) if self.components > 1 else torch.ones_like(loc)
        log_scale = (0.5 * gap).clamp(min=0.05).log().expand_as(loc)
        bias = torch.stack([torch.zeros_like(loc), loc, log_scale], dim=1)
        self.conditioner.set_bias(bias.flatten(1).to(self.unit))


class MADEConfig(DensityModelConfig):
    """An autoregressive network over mixtures of logistics or Gaussians.

    network: "masked", one network for all coordinates, or "separate", one for each: for few coordinates.
    hidden: widths of the hidden layers; equal neighbours are joined by residual connections. With separate networks
    also one such list per coordinate.
    components: per conditional. family: "logistic", which has a head for levels, or "gaussian", for continuous data.
    activation: silu, relu or tanh.
    fourier: octaves of sines and cosines of every coordinate among the inputs; fourier_period: the longest period,
    by default a quarter more than the range of the training data.
    order: "natural" (raster), "random" (drawn with order_seed), or the coordinates in the order they are sampled.
    dropout: share of hidden units dropped in training.
    head: "discretized" gives probabilities of levels, "continuous" a density, "auto" follows the event.
    """

    type: Literal["made"] = "made"
    network: Literal["masked", "separate"] = "masked"
    hidden: tuple[PositiveInt, ...] | tuple[tuple[PositiveInt, ...], ...] = (128, 128)
    components: PositiveInt = 3
    family: Literal["logistic", "gaussian"] = "logistic"
    activation: Literal["silu", "relu", "tanh"] = "silu"
    fourier: NonNegativeInt = 0
    fourier_period: PositiveFloat | None = None
    order: Literal["natural", "random"] | tuple[NonNegativeInt, ...] = "natural"
    order_seed: NonNegativeInt = 0
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    head: Literal["auto", "continuous", "discretized"] = "auto"

    def build(self, event: EventSpec, context: ContextSpec | None = None) -> DensityModel:
        discretized = event.levels is not None and self.head != "continuous"
        if self.head == "discretized" and event.levels is None:
            raise ConfigError('made: head "discretized" needs discrete data; this event is continuous')
        if discretized and self.family != "logistic":
            raise ConfigError(
                f'made: family "{self.family}" has no probabilities of levels; use family: logistic, or '
                "head: continuous, which is dequantised"
            )
        return MADE(
            event,
            context,
            network=self._network(event.dimensions, context is not None),
            family=FAMILIES[self.family],
            components=self.components,
            fourier=self.fourier,
            fourier_period=self.fourier_period,
            order=self._order(event.dimensions),
            discretized=discretized,
        )

    def _network(self, dimensions: int, conditional: bool) -> NetworkMaker:
        """Raises ConfigError where the widths do not fit the network."""
        single = tuple(width for width in self.hidden if isinstance(width, int))
        nested = tuple(widths for widths in self.hidden if isinstance(widths, tuple))
        if not (single or nested) or not all(nested):
            raise ConfigError("made: hidden needs at least one layer")
        if self.network == "separate":
            if nested and len(nested) != dimensions:
                raise ConfigError(f"made: hidden has widths for {len(nested)} coordinates, the event has {dimensions}")
            each = nested or (single,) * dimensions
            return partial(_separate, each, self.activation, self.dropout)
        if nested:
            raise ConfigError("made: hidden with widths for every coordinate needs network: separate")
        return partial(_masked, single, self.activation, self.dropout, conditional)

    def _order(self, dimensions: int) -> list[int]:
        if self.order == "natural":
            return list(range(dimensions))
        if self.order == "random":
            return torch.randperm(dimensions, generator=torch.Generator().manual_seed(self.order_seed)).tolist()
        if sorted(self.order) != list(range(dimensions)):
            raise ConfigError(f"made: order must hold each of 0 .. {dimensions - 1} once, got {self.order}")
        return [int(index) for index in self.order]


def _separate(
    hidden: tuple[tuple[int, ...], ...], activation: str, dropout: float, degrees: Tensor, rank: Tensor, outputs: int
) -> Conditioner:
    return SeparateConditioner(degrees, rank, hidden, outputs, activation, dropout)


def _masked(
    hidden: tuple[int, ...],
    activation: str,
    dropout: float,
    conditional: bool,
    degrees: Tensor,
    rank: Tensor,
    outputs: int,
) -> Conditioner:
    return MaskedConditioner(degrees, rank, hidden, outputs, activation, conditional, dropout)
