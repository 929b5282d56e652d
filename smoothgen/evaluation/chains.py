"""A model as the chain of what it samples, one coordinate after the other; a smoothed model's holds x~, then x."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Generator, Tensor

from smoothgen.density_model import DensityModel
from smoothgen.smoothed_model import SmoothedModel


class ModelChain(ABC):
    """The coordinates that a model draws one by one: z = (x_1 .. x_D), or (x~_1 .. x~_D, x_1 .. x_D).

    Tensors z are (n, length), in the order of sampling.
    """

    length: int
    order: tuple[int, ...]
    """The coordinate of x that each position is; twice as long as x for a smoothed model."""

    @abstractmethod
    def log_conditional(self, z: Tensor, position: int) -> Tensor:
        """log p(z_position | what comes before it): (n,), nats. What comes after it does not matter."""

    @abstractmethod
    def event(self, z: Tensor) -> Tensor:
        """x of the chain, its coordinates in the order of the flattened event: (n, D)."""

    @abstractmethod
    def complete(self, z: Tensor, known: int, generator: Generator) -> Tensor:
        """z with everything from position `known` on drawn given what comes before: known = 0 are samples."""


class PlainChain(ModelChain):
    """A density that samples x coordinate by coordinate. Raises NoClosedFormError for any other."""

    def __init__(self, density: DensityModel) -> None:
        self.density = density
        self.order = density.coordinate_order
        self.length = len(self.order)

    def log_conditional(self, z: Tensor, position: int) -> Tensor:
        return self.density.log_conditionals(_event(z, self.order, self.density))[:, self.order[position]]

    def event(self, z: Tensor) -> Tensor:
        return _flat(z, self.order)

    def complete(self, z: Tensor, known: int, generator: Generator) -> Tensor:
        x = _event(z, self.order, self.density)
        return _chain(self.density.complete(x, _mask(self.order, known, x), generator=generator), self.order)


class SmoothedChain(ModelChain):
    """x~ coordinate by coordinate, then x given x~. Raises NoClosedFormError where a stage is not autoregressive,
    NoDensityError where the inverter has no density."""

    def __init__(self, model: SmoothedModel) -> None:
        self.first, self.second = model.density, model.inverter.conditional
        self.size = model.event.dimensions
        self.order = self.first.coordinate_order + self.second.coordinate_order
        self.length = 2 * self.size

    def log_conditional(self, z: Tensor, position: int) -> Tensor:
        x_tilde = _event(z[:, : self.size], self.order[: self.size], self.first)
        coordinate = self.order[position]
        if position < self.size:
            return self.first.log_conditionals(x_tilde)[:, coordinate]
        x = _event(z[:, self.size :], self.order[self.size :], self.second)
        return self.second.log_conditionals(x, x_tilde)[:, coordinate]

    def event(self, z: Tensor) -> Tensor:
        return _flat(z[:, self.size :], self.order[self.size :])

    def complete(self, z: Tensor, known: int, generator: Generator) -> Tensor:
        first, second = self.order[: self.size], self.order[self.size :]
        x_tilde = _event(z[:, : self.size], first, self.first)
        x_tilde = self.first.complete(x_tilde, _mask(first, min(known, self.size), x_tilde), generator=generator)
        x = _event(z[:, self.size :], second, self.second)
        mask = _mask(second, max(known - self.size, 0), x)
        x = self.second.complete(x, mask, x_tilde, generator=generator)
        return torch.cat([_chain(x_tilde, first), _chain(x, second)], 1)


def _event(z: Tensor, order: tuple[int, ...], density: DensityModel) -> Tensor:
    """Positions as an event: (n, D) -> (n, *event_shape), in the density's dtype."""
    like = next(density.parameters(), z)
    return _flat(z, order).to(like).reshape(len(z), *density.event_shape)


def _flat(z: Tensor, order: tuple[int, ...]) -> Tensor:
    """Positions as coordinates: (n, D)."""
    flat = torch.empty_like(z)
    flat[:, list(order)] = z
    return flat


def _chain(x: Tensor, order: tuple[int, ...]) -> Tensor:
    """Coordinates as positions, float64."""
    return x.flatten(1)[:, list(order)].double()


def _mask(order: tuple[int, ...], known: int, x: Tensor) -> Tensor:
    mask = torch.zeros(len(order), dtype=torch.bool, device=x.device)
    mask[list(order[:known])] = True
    return mask.reshape(x.shape[1:])
