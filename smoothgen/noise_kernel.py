"""q(x_tilde | x): additive noise, symmetric and stationary, with standard deviation sigma."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Annotated, Any, ClassVar, Literal, Self, final

import torch
from pydantic import PositiveFloat, ValidationError, WrapValidator
from pydantic_core import PydanticCustomError
from torch import Generator, Tensor, nn

from smoothgen.component import ComponentConfig
from smoothgen.density_model import DensityModel, Score
from smoothgen.errors import ConfigError, NoClosedFormError, ShapeError
from smoothgen.event import EventSpec
from smoothgen.readable import ReadableModule, event_text
from smoothgen.registry import ComponentField
from smoothgen.row_order import SKETCH, spread


class NoiseKernel(ReadableModule, ABC):
    """q(x_tilde | x) = q(x_tilde - x). sigma is the standard deviation of each coordinate's noise, for every kernel.

    A plugin writes `_sample`, `_log_prob`, `sigma` and, where empirical Bayes gives one, `_posterior_mean`.
    """

    def __init__(self, event: EventSpec) -> None:
        super().__init__()
        self.event = event

    @property
    @abstractmethod
    def sigma(self) -> Tensor:
        """Standard deviation of the noise, of a shape that broadcasts to (*event_shape), in units of x."""

    @property
    def learnable(self) -> bool:
        """Whether training moves sigma, so that both stages have to be trained jointly."""
        return any(parameter.requires_grad for parameter in self.parameters())

    @final
    def sample(self, x: Tensor, *, generator: Generator | None = None) -> Tensor:
        """x (batch, *event) -> x_tilde, same shape, dtype and device; differentiable in sigma and x."""
        self._check(x, "x")
        return self._sample(x, generator)

    @final
    def log_prob(self, x_tilde: Tensor, x: Tensor) -> Tensor:
        """log q(x_tilde | x): (batch,), nats, summed over the event."""
        self._check(x_tilde, "x_tilde")
        self._check(x, "x")
        return self._log_prob(x_tilde, x)

    @final
    def log_prob_each(self, x_tilde: Tensor, x: Tensor) -> Tensor:
        """log q(x_tilde_i | x_i) of every coordinate: (batch, *event), nats. `log_prob` is its sum.

        Raises NoClosedFormError where the kernel's noise is not independent between coordinates.
        """
        self._check(x_tilde, "x_tilde")
        self._check(x, "x")
        return self._log_prob_each(x_tilde, x)

    @final
    def posterior_mean(
        self, x_tilde: Tensor, smoothed: DensityModel, *, context: Tensor | None = None, score: Score = "full"
    ) -> Tensor:
        """E[x | x_tilde] by empirical Bayes from the density of x_tilde alone: (batch, *event).

        Eq. 2 for Gaussian noise. Raises NoClosedFormError where this kernel has no affordable form.
        Source: Raphan & Simoncelli 2011; Meng et al., arXiv 2103.15089, Eq. 2.
        """
        self._check(x_tilde, "x_tilde")
        self.check_posterior_mean(smoothed, score)
        return self._posterior_mean(x_tilde, smoothed, context, score)

    def check_posterior_mean(self, smoothed: DensityModel, score: Score = "full") -> None:
        """Raises NoClosedFormError, with the reason, where `posterior_mean` does not exist."""
        raise NoClosedFormError(
            f"{type(self).__name__} has no empirical-Bayes formula; invert with p(x | x_tilde) "
            "(inverter type: conditional), or use a gaussian kernel"
        )

    @abstractmethod
    def _sample(self, x: Tensor, generator: Generator | None) -> Tensor:
        """x plus noise drawn with the generator."""

    @abstractmethod
    def _log_prob(self, x_tilde: Tensor, x: Tensor) -> Tensor:
        """(batch,), nats."""

    def _log_prob_each(self, x_tilde: Tensor, x: Tensor) -> Tensor:
        """(batch, *event), nats; only kernels with independent noise have it."""
        raise NoClosedFormError(
            f"{type(self).__name__} gives no density for each coordinate, which needs noise that is independent "
            "between coordinates; use one of the gaussian, laplace or uniform kernels"
        )

    def _posterior_mean(self, x_tilde: Tensor, smoothed: DensityModel, context: Tensor | None, score: Score) -> Tensor:
        """E[x | x_tilde]; called only where `check_posterior_mean` passes."""
        raise NoClosedFormError(f"{type(self).__name__} has no empirical-Bayes formula")

    def _facts(self) -> list[str]:
        sigma = self.sigma.detach()
        if sigma.is_meta:
            return [event_text(self.event)]
        low, high = sigma.min().item(), sigma.max().item()
        return [event_text(self.event), f"sigma {low:.4g}" if low == high else f"sigma {low:.4g} to {high:.4g}"]

    def _check(self, value: Tensor, name: str) -> None:
        if value.shape[1:] != self.event.shape:
            wanted = ", ".join(map(str, self.event.shape))
            raise ShapeError(
                f"{type(self).__name__}: {name} must have shape (batch, {wanted}), got {tuple(value.shape)}"
            )


class ProductKernel(NoiseKernel):
    """Independent noise in every coordinate: sigma times noise of unit standard deviation.

    A kernel of this family writes `_standard_noise` and `_standard_log_prob`. sigma is held as its logarithm:
    a buffer, or a parameter when `learnable`.
    """

    log_sigma: Tensor

    def __init__(self, event: EventSpec, sigma: float | tuple[float, ...], *, learnable: bool = False) -> None:
        super().__init__(event)
        values = torch.tensor(sigma, dtype=torch.float64)
        if values.dim() == 1:
            if len(values) != event.dimensions:
                raise ConfigError(f"kernel.sigma: {len(values)} numbers for {event.dimensions} coordinates")
            values = values.reshape(event.shape)
        else:
            values = values.reshape([1] * len(event.shape))  # FSDP shards the first axis, so there is one
        log_sigma = values.log().to(torch.get_default_dtype())
        if learnable:
            self.log_sigma = nn.Parameter(log_sigma)
        else:
            self.register_buffer("log_sigma", log_sigma)

    @property
    def sigma(self) -> Tensor:
        return self.log_sigma.exp()

    def _sample(self, x: Tensor, generator: Generator | None) -> Tensor:
        return x + self.sigma * self._standard_noise(x, generator)

    def _log_prob(self, x_tilde: Tensor, x: Tensor) -> Tensor:
        return self._log_prob_each(x_tilde, x).flatten(1).sum(1)

    def _log_prob_each(self, x_tilde: Tensor, x: Tensor) -> Tensor:
        noise = (x_tilde - x) / self.sigma
        rounding = 2.0 * torch.finfo(noise.dtype).eps * torch.maximum(x.abs(), x_tilde.abs()) / self.sigma
        return self._standard_log_prob(noise, rounding) - self.log_sigma

    @abstractmethod
    def _standard_noise(self, like: Tensor, generator: Generator | None) -> Tensor:
        """Noise of mean 0 and standard deviation 1, of the shape, dtype and device of `like`."""

    @abstractmethod
    def _standard_log_prob(self, noise: Tensor, rounding: Tensor) -> Tensor:
        """Elementwise log density of that noise, nats.

        rounding: how far the noise may be off, having been found as (x + noise) - x; for densities with an edge.
        """


class NoiseKernelConfig(ComponentConfig):
    """The configuration of a noise kernel."""

    interface: ClassVar[str] = "kernel"

    @property
    def searches(self) -> bool:
        """Whether training has to find this kernel's sigma first, by trying several: see smoothgen/sigma_search.py."""
        return False

    def with_sigma(self, sigma: float) -> Self:
        """This kernel with noise of that standard deviation in every coordinate; for kernels that `searches`."""
        raise TypeError(f"{type(self).__name__} must define with_sigma(sigma) to be searched for")

    def build(self, event: EventSpec) -> NoiseKernel:
        """The kernel over this event. Raises ConfigError for what cannot be built."""
        raise TypeError(f"{type(self).__name__} must define build(event)")


def _one_message(value: Any, handler: Any) -> Any:
    try:
        return handler(value)
    except ValidationError:
        raise PydanticCustomError(
            "sigma", 'must be a number above 0, one such number per coordinate, "median" or "auto"'
        ) from None


Sigma = Annotated[PositiveFloat | tuple[PositiveFloat, ...] | Literal["median", "auto"], WrapValidator(_one_message)]
"""The standard deviation of the noise in a configuration."""


class ScaledKernelConfig(NoiseKernelConfig):
    """A kernel with a scale: the keys that every member of `ProductKernel` shares.

    sigma: standard deviation of the noise in the model's coordinates: a number, one number per coordinate, or
    "median": half the median distance between two training examples, divided by sqrt(D) (appendix C.1).
    "auto": the one of several whose models reach the best bound after short trainings (`trainer.sigma_search`).
    learnable: start there and train sigma with the bound, both stages jointly.
    """

    sigma: Sigma
    learnable: bool = False

    def resolve(self, data: Tensor) -> Self:
        if self.sigma != "median":
            return self
        return self.model_copy(update={"sigma": median_sigma(data)})

    @property
    def searches(self) -> bool:
        return self.sigma == "auto"

    def with_sigma(self, sigma: float) -> Self:
        return self.model_copy(update={"sigma": sigma})

    def number(self) -> float | tuple[float, ...]:
        """sigma once it is resolved. Raises ConfigError where it still waits for data, or for training."""
        if self.searches:
            raise ConfigError(
                'kernel.sigma: "auto" is found by training the experiment whose own kernel this is: use smoothgen.fit '
                "(or smoothgen train), or give a number"
            )
        if isinstance(self.sigma, str):
            raise ConfigError(f'kernel.sigma: "{self.sigma}" needs training data; build from a whole configuration')
        return self.sigma


def median_sigma(data: Tensor, most: int = SKETCH) -> float:
    """The paper's rule: median pairwise Euclidean distance / (2 sqrt(D)), over at most `most` examples.

    data: (n, *event_shape). The examples are spread evenly over the data, so that the value is reproducible.
    Source: arXiv 2103.15089, appendix C.1.
    """
    if len(data) < 2:
        raise ConfigError("kernel.sigma: the median rule needs at least two training examples")
    flat = data[spread(len(data), most)].flatten(1).double()
    sigma = torch.pdist(flat).median().item() / (2.0 * math.sqrt(flat.shape[1]))
    if not sigma > 0:
        raise ConfigError("kernel.sigma: the median rule gives 0, as most training examples are equal; give a number")
    return sigma


AnyNoiseKernel = Annotated[NoiseKernelConfig, ComponentField("kernel")]
"""The type of a configuration field that holds any registered noise kernel."""
