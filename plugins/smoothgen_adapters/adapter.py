"""What all adapters have in common: configuration, lazy imports, a base that sees the context."""

from __future__ import annotations

import itertools
from typing import Any, Self

import torch
from pydantic import JsonValue, field_validator, model_validator
from torch import Tensor, nn

from smoothgen.density_model import DensityModel, DensityModelConfig
from smoothgen.errors import ConfigError
from smoothgen.event import ContextSpec, EventSpec
from smoothgen.wrapping.faults import check_names
from smoothgen.wrapping.foreign import recognise
from smoothgen.wrapping.wrapped_density import WrappedDensity
from smoothgen.wrapping.wrapper import wrap_continuous

LARGEST_LOG_SCALE = 5.0
"""How much a context can widen or narrow the base, in logs: an outlier stays finite."""


class AdapterConfig(DensityModelConfig):
    """A density of another library, whose classes are chosen by name and given plain values.

    arguments: of the library's own class; names and values are checked. anchor: model the residual from x_tilde in
    units of the noise, where the context is a noisy copy of x. allow: faults that are accepted; see `smoothgen.wrap`.
    """

    arguments: dict[str, JsonValue] = {}  # noqa: RUF012 - pydantic copies defaults
    anchor: bool = True
    allow: tuple[str, ...] = ()

    @field_validator("allow")
    @classmethod
    def _known_faults(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        check_names(value)
        return value

    @model_validator(mode="after")
    def _arguments_are_known(self) -> Self:
        self.checked_arguments()
        return self

    def checked_arguments(self) -> dict[str, Any]:
        """The arguments as the library takes them. Raises ValueError for a name or value that it does not take."""
        raise TypeError(f"{type(self).__name__} must define checked_arguments()")

    def wrapped(self, flow: nn.Module, event: EventSpec, context: ContextSpec | None) -> DensityModel:
        """The flow held to the contract, but for integrals and draws: these are tested for every class named here.

        A configuration without faults is looked at once in a process, for each event and context.
        """
        settings = (self.model_dump_json(), event.model_dump_json(), context)
        if settings in _EXAMINED:
            return WrappedDensity(recognise(flow), event, context, self.anchor, standardize=True)
        model = wrap_continuous(flow, event, context, anchor=self.anchor, allow=self.allow, thorough=False)
        if not self.allow:
            _EXAMINED.add(settings)
        return model


_EXAMINED: set[tuple[str, str, ContextSpec | None]] = set()


def refuse_one_coordinate(tag: str, flow: str, event: EventSpec) -> None:
    """Raises ConfigError for a coupling of one coordinate."""
    if event.dimensions < 2:
        raise ConfigError(
            f"{tag}: {flow} moves some coordinates by what the others are, so it needs at least 2; the event has shape "
            f"{event.shape}: choose an autoregressive flow"
        )


class BaseEncoder(nn.Module):
    """context (batch, C) -> (batch, 2 D): means and log standard deviations of the base, zeros at the start.

    With it the first coordinate of an autoregressive flow sees the context, which the masks of nflows and normflows
    keep from it.
    """

    def __init__(self, features: int, hidden: tuple[int, ...], dimensions: int) -> None:
        super().__init__()
        self.network = network(features, hidden, 2 * dimensions)

    def forward(self, context: Tensor) -> Tensor:
        mean, log_std = self.network(context).chunk(2, 1)
        return torch.cat([mean, LARGEST_LOG_SCALE * (log_std / LARGEST_LOG_SCALE).tanh()], 1)


def network(features: int, hidden: tuple[int, ...], outputs: int) -> nn.Sequential:
    """Linear layers with SiLU between them; the last one starts at zero."""
    widths, layers = [features, *hidden], list[nn.Module]()
    for width, following in itertools.pairwise(widths):
        layers += [nn.Linear(width, following), nn.SiLU()]
    last = nn.Linear(widths[-1], outputs)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(*layers, last)
