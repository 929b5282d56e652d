"""What one example is: its shape, its range, its levels, and the units its coordinates are measured in."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Self

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor

from smoothgen.component import StrictModel
from smoothgen.errors import DataError

Axes = Annotated[tuple[Annotated[int, Field(gt=0, lt=1 << 31)], ...], Field(max_length=16)]
"""The lengths of an example's axes."""


class EventSpec(StrictModel):
    """The space that x lives in.

    Discrete events take `levels` equally spaced values from `low` to `high`, both included:
    x = low + k (high - low) / (levels - 1). Continuous events have `levels = None`; `low` and `high`
    then bound them if given.

    `shift` and `scale` (one number per coordinate, flattened, or one for all) are the data's own units:
    data = shift + scale * x. They are empty where x is already in the data's units. `low` and `high` are
    of x. A density per unit of data is the density of x divided by the product of the scales; the
    probability of a level is the same in any units.
    """

    shape: Axes
    low: float | None = None
    high: float | None = None
    levels: PositiveInt | None = None
    shift: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()
    names: tuple[str, ...] = ()
    """What the coordinates are called (the columns of a table), or empty."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.shape:
            raise ValueError("shape must have at least one axis")
        if self.levels is not None and (self.low is None or self.high is None or self.levels < 2):
            raise ValueError("a discrete event needs low, high and at least 2 levels")
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise ValueError(f"low {self.low} must be below high {self.high}")
        if len(self.shift) != len(self.scale) or (self.scale and len(self.scale) not in (1, self.dimensions)):
            raise ValueError(f"shift and scale need {self.dimensions} numbers each, one, or none")
        if any(not value > 0 for value in self.scale):
            raise ValueError("every scale must be positive")
        if self.names and len(self.names) != self.dimensions:
            raise ValueError(f"{len(self.names)} names for {self.dimensions} coordinates")
        return self

    @property
    def dimensions(self) -> int:
        """D, the number of coordinates."""
        return math.prod(self.shape)

    @property
    def bin_width(self) -> float:
        """Distance between neighbouring levels of a discrete event."""
        if self.levels is None or self.low is None or self.high is None:
            raise DataError("a continuous event has no bin width")
        return (self.high - self.low) / (self.levels - 1)

    @property
    def ends(self) -> tuple[float, float]:
        """The first level and the last of a discrete event's first coordinate, in data units."""
        shift, scale = (self.shift or (0.0,))[0], (self.scale or (1.0,))[0]
        return shift + scale * (self.low or 0.0), shift + scale * (self.high or 0.0)

    def smoothed(self) -> EventSpec:
        """The space of x_tilde: the same shape, continuous and unbounded."""
        return EventSpec(shape=self.shape)

    def standard(self) -> EventSpec:
        """The same space in the model's own coordinates: without shift and scale."""
        return self.model_copy(update={"shift": (), "scale": ()})

    def to_model(self, data: Tensor) -> Tensor:
        """(batch, *shape) in data units -> the model's coordinates."""
        if not self.scale:
            return data
        wide = _widened(data)
        return ((wide - self._vector(self.shift, wide)) / self._vector(self.scale, wide)).to(data.dtype)

    def to_data(self, x: Tensor) -> Tensor:
        """(batch, *shape) in the model's coordinates -> data units, in float64 where the event has units of its own:
        float32 cannot hold a small spread around a large mean."""
        if not self.scale:
            return x
        wide = _widened(x)
        return self._vector(self.shift, wide) + self._vector(self.scale, wide) * wide

    def nearest_data(self, x: Tensor) -> Tensor:
        """The nearest value that the event can take, `quantize`, in data units; a level is exactly what data hold."""
        if self.levels is None or self.low is None or self.high is None or not self.scale:
            return self.to_data(self.quantize(x))
        shift, scale = (self._vector(values, _widened(x)) for values in (self.shift, self.scale))
        step = scale * (self.high - self.low) / (self.levels - 1)
        return shift + scale * self.low + step * self.levels_of(x)

    @property
    def log_scales(self) -> tuple[float, ...]:
        """log |d data / d x| of each coordinate, flattened, nats; 0 for levels, whose probability no unit changes."""
        if not self.scale or self.levels is not None:
            return (0.0,) * self.dimensions
        values = tuple(math.log(value) for value in self.scale)
        return values * self.dimensions if len(values) == 1 else values

    @property
    def log_scale(self) -> float:
        """The sum of `log_scales`: what a log density per unit of x exceeds the one per unit of data by."""
        return math.fsum(self.log_scales)

    def _vector(self, values: tuple[float, ...], like: Tensor) -> Tensor:
        vector = torch.tensor(values, dtype=like.dtype, device=like.device)
        return vector if len(values) == 1 else vector.reshape(self.shape)

    def levels_of(self, x: Tensor) -> Tensor:
        """The level k = 0 .. levels - 1 nearest to each value, as integers."""
        width = self.bin_width
        return ((x - self.low) / width).round().clamp(0, self.levels - 1).long()  # type: ignore[operator]

    def quantize(self, x: Tensor) -> Tensor:
        """The nearest value that the event can take: a level, or within low and high."""
        if self.levels is not None and self.low is not None:
            return self.levels_of(x).to(x.dtype) * self.bin_width + self.low
        return x if self.low is None and self.high is None else x.clamp(self.low, self.high)

    def check(self, x: Tensor, name: str = "x") -> Tensor:
        """x itself, once every value is finite, in range and on a level. Raises DataError with the first culprit."""
        if tuple(x.shape[1:]) != self.shape:
            raise DataError(f"{name}: expected shape (n, {_join(self.shape)}), got {tuple(x.shape)}")
        _refuse(name, x, ~x.isfinite(), "is not finite; remove or fill such rows")
        if self.low is not None or self.high is not None:
            slack = 1e-6 * max(abs(self.low or 0.0), abs(self.high or 0.0), 1.0)
            low = -math.inf if self.low is None else self.low - slack
            high = math.inf if self.high is None else self.high + slack
            _refuse(name, x, (x < low) | (x > high), f"is outside [{self.low}, {self.high}]; rescale the data")
        if self.levels is not None:
            _refuse(name, x, self._off_level(x), f"is on none of the {self.levels} levels; quantise the data")
        return x

    def check_levels(self, data: Tensor, name: str = "x") -> None:
        """Of discrete data, in their own units: raises DataError with the first value on no level."""
        if self.levels is not None:
            ends = " to ".join(f"{value:g}" for value in self.ends)
            what = f"is none of the {self.levels} levels from {ends}; quantise the data, or give them in these units"
            _refuse(name, data, self._off_level(self.to_model(data)), what)

    def _off_level(self, x: Tensor) -> Tensor:
        """Where a value is on no level, or not finite."""
        reach = max(abs(self.low or 0.0), abs(self.high or 0.0))
        tolerance = max(1e-3 * self.bin_width, 8.0 * torch.finfo(x.dtype).eps * reach)
        return ~((x - self.quantize(x)).abs() <= tolerance)


def _widened(x: Tensor) -> Tensor:
    """float64, which every backend but Apple's has."""
    return x if x.is_mps else x.double()


def _refuse(name: str, x: Tensor, bad: Tensor, why: str) -> None:
    if bool(bad.any()):
        where = tuple(bad.nonzero()[0].tolist())
        raise DataError(f"{name}: {int(bad.sum())} of {x.numel()} values bad: {x[where].item():g} at {where} {why}")


def _join(shape: tuple[int, ...]) -> str:
    return ", ".join(map(str, shape))


@dataclass(frozen=True)
class ContextSpec:
    """What a conditional density is given.

    noisy_copy: the event's shape if the context begins with a noisy copy x_tilde of the event itself,
    else None. noise_std: the standard deviation of that noise, one number per coordinate (flattened);
    with it a density can place its components relative to x_tilde in units of the noise.
    features: how many further numbers follow (class labels, covariates).

    A context tensor is (batch, *noisy_copy) without features, otherwise (batch, D + features).
    """

    noisy_copy: tuple[int, ...] | None = None
    noise_std: tuple[float, ...] = ()
    features: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one row of the context."""
        if self.noisy_copy is not None and not self.features:
            return self.noisy_copy
        return (math.prod(self.noisy_copy or (0,)) + self.features,)

    @property
    def dimensions(self) -> int:
        """How many numbers a row of the context holds."""
        return math.prod(self.shape)

    def join(self, x_tilde: Tensor, features: Tensor | None) -> Tensor:
        """The context tensor of a noisy copy and further features."""
        return x_tilde if features is None else torch.cat([x_tilde.flatten(1), features.flatten(1)], dim=1)

    def split(self, context: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """The flattened noisy copy and the further features; None for what the context does not have."""
        flat = context.flatten(1)
        if self.noisy_copy is None:
            return None, flat
        copy = math.prod(self.noisy_copy)
        return flat[:, :copy], (flat[:, copy:] if self.features else None)
