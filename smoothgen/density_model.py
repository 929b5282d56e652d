"""p(x), p(x_tilde) or p(x | context): the interface of every density."""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from typing import Annotated, ClassVar, Literal, final, get_args

import torch
from torch import Generator, Tensor

from smoothgen.component import ComponentConfig
from smoothgen.errors import ConfigError, NoClosedFormError, ShapeError
from smoothgen.event import ContextSpec, EventSpec
from smoothgen.likelihood import Measure
from smoothgen.particles import Particles
from smoothgen.readable import ReadableModule, event_text
from smoothgen.registry import ComponentField

Score = Literal["full", "causal"]
ROWS_AT_ONCE = 4096
"""How many rows a pass takes where a density does not say otherwise."""
ROWS_WITH_GRADIENTS = 4
"""How many times fewer rows a pass with gradients takes."""


class DensityModel(ReadableModule, ABC):
    """A density (or mass function) over events, optionally given a context.

    A plugin writes `_log_prob` and `_sample`; shapes, dtypes and devices are checked once, here.
    The class attributes say what a caller may rely on.
    """

    measure: Measure = "density"
    """"discrete" when `log_prob` is the log of a probability of the event's levels."""
    exact: bool = True
    """False when `log_prob` is a lower bound estimated with random draws."""
    has_log_prob: bool = True
    """False for a model that only samples: a smoothed model with a single-step inverter."""
    autoregressive: ClassVar[bool] = False
    """True when `_causal_score` exists: the density is a product of conditionals in some order."""

    def __init__(self, event: EventSpec, context: ContextSpec | None = None) -> None:
        super().__init__()
        self.event = event
        self.context = context

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one example."""
        return self.event.shape

    @property
    def context_shape(self) -> tuple[int, ...] | None:
        """Shape of one row of the context, or None."""
        return None if self.context is None else self.context.shape

    @final
    def log_prob(self, x: Tensor, context: Tensor | None = None, *, generator: Generator | None = None) -> Tensor:
        """x (batch, *event_shape), context (batch, *context_shape) -> (batch,), nats.

        generator: for densities that are not `exact`; exact ones ignore it. Raises ShapeError.
        """
        self._check(x, self.event_shape, "x")
        self._check_context(context, len(x))
        if len(x) == 0:
            return x.new_zeros(0, dtype=torch.promote_types(x.dtype, torch.float32))
        return self._log_prob(x, context, generator)

    @final
    def sample(self, num_samples: int, context: Tensor | None = None, *, generator: Generator | None = None) -> Tensor:
        """(num_samples, *event_shape); row i given context row i. Raises ShapeError."""
        self._check_count(num_samples)
        self._check_context(context, num_samples)
        if num_samples == 0:
            return self._no_rows()
        with torch.no_grad():
            return self._sample(num_samples, context, generator)

    @final
    def complete(
        self,
        x: Tensor,
        known: Tensor,
        context: Tensor | None = None,
        *,
        particles: Particles | None = None,
        log_reference: Tensor | None = None,
        generator: Generator | None = None,
    ) -> Tensor:
        """x (batch, *event_shape) with its unknown coordinates drawn, each given all coordinates before it.

        known: bool, of x's shape or the event's; what x holds elsewhere is ignored, NaN included. The order is the
        model's own, so the draws follow p(unknown | known) exactly where every known coordinate comes before all
        unknown ones. Otherwise a draw has not heard of the known coordinates after it, and `particles` correct that:
        each known coordinate weighs its row by log p(x_i | x_<i) - log_reference_i. A resampled row goes on as
        another one of its group, so rows of x correspond to rows of the answer by group only.
        log_reference (batch, *event_shape), nats: the log density that known values were drawn from; 0 if None.

        Raises NoClosedFormError where the density is not autoregressive; ShapeError.
        """
        self._check(x, self.event_shape, "x")
        self._check_context(context, len(x))
        known = self.check_known(known, x)
        if log_reference is not None and log_reference.shape != x.shape:
            raise ShapeError(
                f"{type(self).__name__}: log_reference must have x's shape {tuple(x.shape)}, "
                f"got {tuple(log_reference.shape)}"
            )
        if particles is not None and particles.rows != len(x):
            raise ShapeError(f"{type(self).__name__}: x has {len(x)} rows for {particles.rows} particles")
        if len(x) == 0:
            return x.clone()
        with torch.no_grad():
            filled = torch.where(known, x, self.event.quantize(x.new_zeros(())))
            return self._complete(filled, known, context, particles, log_reference, generator)

    def check_known(self, known: Tensor, x: Tensor) -> Tensor:
        """The mask expanded to x's shape (batch, *event_shape). Raises ShapeError."""
        name = type(self).__name__
        if known.dtype != torch.bool:
            raise ShapeError(f"{name}: the mask must be boolean, True where x is known, got {known.dtype}; use == 1")
        if known.shape not in (x.shape, self.event_shape):
            wanted = ", ".join(map(str, self.event_shape))
            raise ShapeError(
                f"{name}: the mask must have shape ({wanted}) or {tuple(x.shape)}, got {tuple(known.shape)}"
            )
        return known.to(x.device).expand(x.shape)

    @final
    def score(self, x: Tensor, context: Tensor | None = None, *, kind: Score = "full") -> Tensor:
        """The gradient of log p with respect to x: (batch, *event_shape), nats per unit of x.

        kind "full" differentiates the whole joint. "causal" keeps, for each coordinate, only the derivative of its
        own conditional log p(x_i | x_<i), as the paper's released code does (arXiv 2103.15089).
        Raises NoClosedFormError where log p is a random bound, or not autoregressive.
        """
        self._check(x, self.event_shape, "x")
        self._check_context(context, len(x))
        self.check_score(kind)
        if kind == "causal" and len(x):
            return self._causal_score(x, context)
        size = max(1, self.rows_at_once // ROWS_WITH_GRADIENTS)
        parts = []
        for start in range(0, len(x), size):
            with torch.enable_grad():
                variable = x[start : start + size].detach().requires_grad_(True)
                given = None if context is None else context[start : start + size]
                parts.append(torch.autograd.grad(self._log_prob(variable, given, None).sum(), variable)[0])
        return torch.cat(parts) if parts else torch.zeros_like(x)

    @final
    def log_conditionals(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """log p(x_i | x_<i) of every coordinate, (batch, D) in the order of the flattened event, nats.

        x_<i is what comes before i in `coordinate_order`. A row sums to `log_prob`. Raises NoClosedFormError where
        the density is not autoregressive or has no such terms; ShapeError.
        """
        self._check(x, self.event_shape, "x")
        self._check_context(context, len(x))
        return self._conditionals(x, context)

    @property
    def coordinate_order(self) -> tuple[int, ...]:
        """The coordinates of the flattened event, each after those it is given. Raises NoClosedFormError."""
        raise NoClosedFormError(self._without_conditionals())

    @final
    def initialize(self, x: Tensor, context: Tensor | None = None) -> None:
        """Sets data-dependent starting values (spread of the components, scales) from a batch of training data."""
        self._check(x, self.event_shape, "x")
        self._check_context(context, len(x))
        with torch.no_grad():
            self._initialize(x, context)

    def check_score(self, kind: Score) -> None:
        """Raises NoClosedFormError where `score(kind=kind)` does not exist; ConfigError for an unknown kind."""
        if kind not in get_args(Score):
            raise ConfigError(f'{type(self).__name__}: unknown score "{kind}"; choose "full" or "causal"')
        if self.measure == "discrete":
            raise NoClosedFormError(f"{type(self).__name__} gives probabilities of levels, which have no gradient")
        if kind == "full" and not self.exact:
            raise NoClosedFormError(
                f"{type(self).__name__}: log_prob is a random lower bound, so its gradient is not the score of the "
                "density; invert with p(x | x_tilde) (inverter type: conditional) instead"
            )
        if kind == "causal" and not self.autoregressive:
            raise NoClosedFormError(
                f"{type(self).__name__} is not autoregressive, so it has no causal score; use score: full"
            )

    @property
    def rows_at_once(self) -> int:
        """How many rows a pass without gradients should take, so that its activations fit into memory."""
        return ROWS_AT_ONCE

    @property
    def continuous(self) -> DensityModel | None:
        """The density of continuous values that this model is made of: itself, or None for a mass function."""
        return self if self.measure == "density" else None

    @abstractmethod
    def _log_prob(self, x: Tensor, context: Tensor | None, generator: Generator | None) -> Tensor:
        """(batch,), nats, float32 or wider; inputs are checked."""

    @abstractmethod
    def _sample(self, num_samples: int, context: Tensor | None, generator: Generator | None) -> Tensor:
        """(num_samples, *event_shape), drawn with the generator alone; inputs are checked."""

    def _complete(
        self,
        x: Tensor,
        known: Tensor,
        context: Tensor | None,
        particles: Particles | None,
        log_reference: Tensor | None,
        generator: Generator | None,
    ) -> Tensor:
        """x with its unknown coordinates drawn; they come as values that the event can take, and known is x's shape.

        With particles, `particles.weigh` is told of every known coordinate, in groups of any size; see `Particles` for
        what to do with its answer.
        """
        raise NoClosedFormError(
            f"{type(self).__name__} is not autoregressive, so it cannot draw some coordinates given the others; "
            "inpaint with autoregressive densities, such as made"
        )

    def _initialize(self, x: Tensor, context: Tensor | None) -> None:
        """Data-dependent initialisation; the default does nothing."""

    def _causal_score(self, x: Tensor, context: Tensor | None) -> Tensor:
        """d log p(x_i | x_<i) / d x_i for every i; only autoregressive densities have it."""
        raise NoClosedFormError(f"{type(self).__name__} declares autoregressive but has no causal score")

    def _conditionals(self, x: Tensor, context: Tensor | None) -> Tensor:
        """(batch, D), nats; inputs are checked."""
        raise NoClosedFormError(self._without_conditionals())

    def _without_conditionals(self) -> str:
        return (
            f"{type(self).__name__} gives no conditionals log p(x_i | x_<i); use an autoregressive density of single "
            "coordinates, such as made"
        )

    def _check(self, value: Tensor, shape: tuple[int, ...], name: str) -> None:
        if value.shape[1:] != shape or value.dim() == 0:
            wanted = ", ".join(map(str, shape))
            raise ShapeError(
                f"{type(self).__name__}: {name} must have shape (batch, {wanted}), got {tuple(value.shape)}"
            )
        mine = self._placement()
        if mine is not None and (value.dtype != mine.dtype or value.device != mine.device):
            raise ShapeError(
                f"{type(self).__name__}: {name} is {value.dtype} on {value.device}, the model {mine.dtype} on "
                f"{mine.device}; move one with .to()"
            )

    def _check_count(self, num_samples: int) -> None:
        try:
            valid = operator.index(num_samples) >= 0 and not isinstance(num_samples, bool)
        except TypeError:
            valid = False
        if not valid:
            raise ShapeError(
                f"{type(self).__name__}: num_samples must be a whole number, 0 or more, got {num_samples!r:.80}"
            )

    def _no_rows(self) -> Tensor:
        """(0, *event_shape), of the model's dtype and on its device."""
        mine = next((part for part in (*self.parameters(), *self.buffers()) if part.is_floating_point()), None)
        return torch.empty(0, *self.event_shape) if mine is None else mine.new_empty(0, *self.event_shape)

    def _check_context(self, context: Tensor | None, batch: int) -> None:
        if self.context_shape is None and context is not None:
            raise ShapeError(f"{type(self).__name__} was built without a context, but one was given")
        if self.context_shape is not None:
            if context is None:
                raise ShapeError(f"{type(self).__name__} needs a context of shape (batch, *{self.context_shape})")
            self._check(context, self.context_shape, "context")
            if len(context) != batch:
                raise ShapeError(f"{type(self).__name__}: {batch} rows asked for, context has {len(context)}")

    def _facts(self) -> list[str]:
        context = [] if self.context_shape is None else [f"context {self.context_shape}"]
        what = "probability of levels" if self.measure == "discrete" else "density"
        return [event_text(self.event), *context, what if self.exact else f"lower bound on the {what}"]

    def _placement(self) -> Tensor | None:
        return next((p for p in self.parameters() if p.is_floating_point()), None)


class DensityModelConfig(ComponentConfig):
    """The configuration of a density: p(x_tilde), p(x | x_tilde) or a plain p(x)."""

    interface: ClassVar[str] = "density"

    def build(self, event: EventSpec, context: ContextSpec | None = None) -> DensityModel:
        """The density over `event`, given a context if there is one.

        A density without a mass function for discrete events builds a continuous one over the same shape;
        `build_density` then adds the dequantisation. Raises ConfigError for what cannot be built.
        """
        raise TypeError(f"{type(self).__name__} must define build(event, context)")


AnyDensityModel = Annotated[DensityModelConfig, ComponentField("density")]
"""The type of a configuration field that holds any registered density."""
