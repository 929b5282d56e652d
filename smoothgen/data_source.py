"""Where x comes from: splits of examples, fresh draws, and the exact density where there is one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from torch import Generator, Tensor

from smoothgen.component import ComponentConfig
from smoothgen.errors import DataError, NoClosedFormError, NoDensityError
from smoothgen.event import EventSpec
from smoothgen.isotropic_mixture import IsotropicMixture
from smoothgen.registry import ComponentField

SplitName = Literal["train", "validation", "test"]


@dataclass(frozen=True)
class Split:
    """Examples x (n, *event_shape) in the model's coordinates, float32, and their context (n, features) if any."""

    x: Tensor
    context: Tensor | None = None

    def __len__(self) -> int:
        return len(self.x)


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
        """The examples of a split; the same at every call. Raises DataError where there are none."""

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
