"""Where x comes from: splits of examples, fresh draws, and the exact density where there is one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from torch import Generator, Tensor

from smoothgen.component import ComponentConfig
from smoothgen.errors import DataError, NoClosedFormError, NoDensityError
from smoothgen.event import EventSpec
from smoothgen.isotropic_mixture import IsotropicMixture
from smoothgen.registry import ComponentField
from smoothgen.row_order import spread

SplitName = Literal["train", "validation", "test"]
"""The parts that data are divided into: to train on, to choose by, to measure on once."""


class Examples(ABC):
    """The examples of a split, in memory (`Split`) or read when they are asked for.

    streamed: True where they are read anew at every call, so that it pays to read ahead of time.
    """

    streamed: ClassVar[bool]

    @abstractmethod
    def __len__(self) -> int:
        """How many there are."""

    @abstractmethod
    def rows(self, which: Tensor) -> Split:
        """Some of them, in that order. which: (k,), int64, each in 0 .. n - 1, where the examples are. May be called
        from any thread. Raises DataError where they can be read no longer, or are bad."""

    @abstractmethod
    def sketch(self, most: int) -> Split:
        """All of them where they are in memory, else `spread(most)`: for values that come from the data."""

    def first(self, most: int) -> Split:
        """The first `most`, or all."""
        return self.rows(torch.arange(min(most, len(self))))

    def spread(self, most: int) -> Split:
        """Up to `most`, spread evenly over all."""
        return self.rows(spread(len(self), most))


@dataclass(frozen=True)
class Split(Examples):
    """Examples x (n, *event_shape) in the model's coordinates, float32, and their context (n, features) if any."""

    x: Tensor
    context: Tensor | None = None
    streamed: ClassVar[bool] = False

    def __len__(self) -> int:
        return len(self.x)

    def rows(self, which: Tensor) -> Split:
        which = which.to(self.x.device)
        return Split(self.x[which], None if self.context is None else self.context[which])

    def sketch(self, most: int) -> Split:
        return self


class DataSource(ABC):
    """Examples to train and measure on. Not a module: it lives on the CPU and is read once.

    fresh: True where `draw` gives new training examples at every step, so that nothing can be overfitted.
    features: how many numbers of context come with each example; 0 for none.
    """

    fresh: bool = False
    features: int = 0

    def __init__(self, event: EventSpec) -> None:
        self.event = event

    @abstractmethod
    def split(self, name: SplitName) -> Split:
        """The examples of a split, in memory; the same at every call. Raises DataError where there are none."""

    def examples(self, name: SplitName) -> Examples:
        """The examples of a split, which may be larger than memory; the same as those of `split`.

        What trains and measures asks for these. Raises DataError where there are none.
        """
        return self.split(name)

    def draw(self, n: int, generator: Generator) -> Split:
        """n new examples, on the generator's device. Only where `fresh`."""
        raise DataError(f"{type(self).__name__} has a fixed set of examples and cannot draw new ones")

    def log_prob(self, x: Tensor) -> Tensor:
        """The exact log density at x (batch, *event_shape): (batch,), nats. Raises NoDensityError where unknown."""
        raise NoDensityError(f"the exact density of {type(self).__name__} is unknown")

    def as_mixture(self) -> IsotropicMixture:
        """The density as a mixture of equal Gaussians, which has exact conditionals. Raises NoDensityError."""
        raise NoDensityError(f"{type(self).__name__} is no mixture of equal Gaussians")

    def smoothed_log_prob(self, x: Tensor, sigma: float) -> Tensor:
        """The exact log density at x (batch, *event_shape) of the data plus N(0, sigma^2 I): (batch,), nats.

        Raises NoClosedFormError where it is unknown.
        """
        raise NoClosedFormError(f"the exact density of {type(self).__name__} after Gaussian noise is unknown")

    def on_support(self, x: Tensor) -> Tensor:
        """Whether each x (batch, *event_shape) lies where the data can: (batch,), bool. False where x is nan.

        A source says in its own documentation what counts as that, and at which rate true data fall outside.
        Raises NoDensityError where no such region is defined.
        """
        raise NoDensityError(f"{type(self).__name__} defines no region in which its data lie")

    @property
    def entropy(self) -> float | None:
        """The exact entropy in nats (the floor of every negative log-likelihood), or None where unknown."""
        return None


class DataSourceConfig(ComponentConfig):
    """The configuration of a data source."""

    interface: ClassVar[str] = "data"

    def build(self) -> DataSource:
        """The data source. Raises DataError where files are missing, unreadable or hold bad values."""
        raise TypeError(f"{type(self).__name__} must define build()")


AnyDataSource = Annotated[DataSourceConfig, ComponentField("data")]
"""The type of a configuration field that holds any registered data source."""
