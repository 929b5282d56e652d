"""What every toy set shares: fresh draws, reproducible splits, an exact density and its entropy."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import lru_cache
from typing import Any, final

import torch
from pydantic import PositiveInt
from torch import Generator, Tensor

from smoothgen.data_source import DataSource, DataSourceConfig, Split, SplitName
from smoothgen.device import derived_seed
from smoothgen.errors import NoClosedFormError, NoDensityError, ShapeError
from smoothgen.event import EventSpec

INITIAL_SIZE = 20_000
"""How many examples split("train") holds where training draws fresh ones: enough for data-dependent initialisation."""


class ToyConfig(DataSourceConfig):
    """Keys that every toy set has.

    train_size: how many training examples; null draws new ones at every step, so that nothing can be overfitted.
    validation_size, test_size: how many examples of each.
    seed: another seed gives other examples of the same distribution.
    """

    train_size: PositiveInt | None = None
    validation_size: PositiveInt = 5_000
    test_size: PositiveInt = 20_000
    seed: int = 0


class ToySource(DataSource, ABC):
    """A distribution over R^D whose density is known: p(x), its entropy, and p smoothed by Gaussian noise.

    A set writes `_sample`, `_log_prob`, `_compute_entropy` and, where there are such, `_smoothed_log_prob` and
    `_on_support`.
    Densities are per unit of x; they keep the dtype and device of x. Examples are float32.
    """

    def __init__(self, config: ToyConfig, dimensions: int) -> None:
        super().__init__(EventSpec(shape=(dimensions,)))
        self.fresh = config.train_size is None
        self._tag, self._seed = config.type, config.seed
        self._sizes: dict[str, int] = {
            "train": config.train_size or INITIAL_SIZE,
            "validation": config.validation_size,
            "test": config.test_size,
        }
        self._splits: dict[str, Split] = {}
        self._entropy: float | None = None

    @final
    def split(self, name: SplitName) -> Split:
        """The examples of a split, (n, D) on the CPU: drawn once, from a seed of their own."""
        if name not in self._splits:
            generator = Generator().manual_seed(derived_seed(self._tag, self._seed, name))
            self._splits[name] = Split(self._sample(self._sizes[name], generator))
        return self._splits[name]

    @final
    def draw(self, n: int, generator: Generator) -> Split:
        """n new examples, (n, D), on the generator's device. Raises DataError where train_size fixes the examples."""
        return Split(self._sample(n, generator)) if self.fresh else super().draw(n, generator)

    @final
    def log_prob(self, x: Tensor) -> Tensor:
        """The exact log density at x (batch, D): (batch,), nats, in x's dtype. Raises ShapeError."""
        return self._log_prob(self._checked(x))

    @final
    def smoothed_log_prob(self, x: Tensor, sigma: float) -> Tensor:
        """The exact log density at x (batch, D) of the data plus N(0, sigma^2 I) noise: (batch,), nats.

        Raises ShapeError; NoClosedFormError where the convolution has no closed form.
        """
        if not sigma >= 0.0:
            raise ValueError(f"sigma must be 0 or more, got {sigma}")
        return self._smoothed_log_prob(self._checked(x), sigma) if sigma else self._log_prob(self._checked(x))

    @final
    def on_support(self, x: Tensor) -> Tensor:
        """Whether each x (batch, D) lies where the data can: (batch,), bool; False where x is nan.

        Raises ShapeError; NoDensityError where the set defines no such region.
        """
        return self._on_support(self._checked(x))

    @property
    @final
    def entropy(self) -> float | None:
        """The entropy in nats, by quadrature or closed form; computed at the first call."""
        if self._entropy is None:
            with torch.no_grad():
                self._entropy = self._compute_entropy()
        return self._entropy

    @abstractmethod
    def _sample(self, n: int, generator: Generator) -> Tensor:
        """(n, D), float32, on the generator's device, drawn with the generator alone."""

    @abstractmethod
    def _log_prob(self, x: Tensor) -> Tensor:
        """(batch, D) -> (batch,), nats."""

    @abstractmethod
    def _compute_entropy(self) -> float:
        """Nats."""

    def _smoothed_log_prob(self, x: Tensor, sigma: float) -> Tensor:
        raise NoClosedFormError(f"{self._tag}: the density after Gaussian noise has no closed form")

    def _on_support(self, x: Tensor) -> Tensor:
        """(batch, D) -> (batch,), bool."""
        raise NoDensityError(f"{self._tag}: no region is defined in which the data lie")

    def _checked(self, x: Tensor) -> Tensor:
        if x.dim() != 2 or x.shape[1:] != self.event.shape or not x.is_floating_point():
            wanted = f"(batch, {self.event.dimensions})"
            raise ShapeError(f"{self._tag}: x must be floating point of shape {wanted}, got {x.dtype} {tuple(x.shape)}")
        return x


@lru_cache(maxsize=256)
def constant(values: tuple[Any, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Numbers (or tuples of numbers) as a tensor, copied to the device once. Do not write to it."""
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=dtype, device=device)


REACH = 3.0
"""How many standard deviations of its noise a set with Gaussian noise is taken to extend over (`on_support`)."""


def uniform(n: int, generator: Generator) -> Tensor:
    """(n,), on [0, 1), float32."""
    return torch.rand(n, generator=generator, device=generator.device, dtype=torch.float32)


def normal(shape: tuple[int, ...], generator: Generator) -> Tensor:
    """Standard normal numbers, float32."""
    return torch.randn(shape, generator=generator, device=generator.device, dtype=torch.float32)


def category(n: int, categories: int, generator: Generator) -> Tensor:
    """(n,), integers below `categories`, all equally likely."""
    return torch.randint(categories, (n,), generator=generator, device=generator.device)
