"""The losses of the stages (Eq. 4), the bound (Eq. 3), and its importance-weighted form."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn

from smoothgen.density_model import DensityModel
from smoothgen.inverter import Inverter
from smoothgen.noise_kernel import NoiseKernel


class BoundTerms(NamedTuple):
    """The three terms of Eq. 3 for one draw of x_tilde: each (batch,), nats."""

    log_smoothed: Tensor
    """log p(x_tilde)"""
    minus_log_kernel: Tensor
    """-log q(x_tilde | x); its mean is the kernel's entropy"""
    log_inverse: Tensor
    """log p(x | x_tilde)"""

    @property
    def total(self) -> Tensor:
        """log p(x_tilde) - log q(x_tilde | x) + log p(x | x_tilde): in expectation at most log p(x)."""
        return self.log_smoothed + self.minus_log_kernel + self.log_inverse


def bound_terms(
    kernel: NoiseKernel,
    density: DensityModel,
    inverter: Inverter,
    x: Tensor,
    context: Tensor | None = None,
    generator: Generator | None = None,
) -> BoundTerms:
    """One draw of the bound on log p(x). x (batch, *event). Source: arXiv 2103.15089, Eq. 3."""
    x_tilde = kernel.sample(x, generator=generator)
    return BoundTerms(
        density.log_prob(x_tilde, context, generator=generator),
        -kernel.log_prob(x_tilde, x),
        inverter.log_prob(x, x_tilde, context=context, generator=generator),
    )


def importance_weighted(log_weights: Tensor) -> tuple[Tensor, Tensor]:
    """log (1/K) sum_k w_k and the effective sample size (sum w)^2 / sum w^2, from log weights (K, batch).

    The first is, in expectation, a lower bound on log p(x) that grows with K.
    Source: Burda et al. 2016 (arXiv 1509.00519), Eq. 8.
    """
    log_mean = torch.logsumexp(log_weights, 0) - math.log(len(log_weights))
    normalised = torch.softmax(log_weights, 0)
    return log_mean, 1.0 / normalised.square().sum(0)


class Objective(nn.Module, ABC):
    """The loss of one stage, as a module: data-parallel wrappers synchronise only what `forward` does.

    terms: the means of what the last batch's loss was made of, (), nats; empty where the loss has one term.
    """

    def __init__(self) -> None:
        super().__init__()
        self.terms: dict[str, Tensor] = {}

    @property
    def rows_at_once(self) -> int:
        """How many examples a pass without gradients should take."""
        parts = [part for part in self.children() if isinstance(part, DensityModel | Inverter)]
        return min(part.rows_at_once for part in parts)

    @abstractmethod
    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Mean loss of a batch: (), nats per example."""

    @abstractmethod
    def initialize(self, x: Tensor, context: Tensor | None = None) -> None:
        """Data-dependent starting values from a batch of training data."""


class SmoothingObjective(Objective):
    """-E log p(x_tilde): the first term of Eq. 4. The kernel's scale is fixed."""

    def __init__(self, kernel: NoiseKernel, density: DensityModel) -> None:
        super().__init__()
        self.kernel, self.density = kernel, density

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return -self.density.log_prob(self.kernel.sample(x), context).mean()

    def initialize(self, x: Tensor, context: Tensor | None = None) -> None:
        self.density.initialize(self.kernel.sample(x), context)


class InversionObjective(Objective):
    """-E log p(x | x_tilde): the second term of Eq. 4."""

    def __init__(self, kernel: NoiseKernel, inverter: Inverter) -> None:
        super().__init__()
        self.kernel, self.inverter = kernel, inverter

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return -self.inverter.log_prob(x, self.kernel.sample(x), context=context).mean()

    def initialize(self, x: Tensor, context: Tensor | None = None) -> None:
        self.inverter.initialize(x, self.kernel.sample(x), context)


class JointObjective(Objective):
    """Minus the bound of Eq. 3, both stages and the kernel's scale at once."""

    def __init__(self, kernel: NoiseKernel, density: DensityModel, inverter: Inverter) -> None:
        super().__init__()
        self.kernel, self.density, self.inverter = kernel, density, inverter

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        terms = bound_terms(self.kernel, self.density, self.inverter, x, context)
        self.terms = {name: value.detach().mean() for name, value in terms._asdict().items()}
        return -terms.total.mean()

    def initialize(self, x: Tensor, context: Tensor | None = None) -> None:
        with torch.no_grad():
            x_tilde = self.kernel.sample(x)
        self.density.initialize(x_tilde, context)
        self.inverter.initialize(x, x_tilde, context)


class MaximumLikelihood(Objective):
    """-E log p(x) of a plain density: the baseline without smoothing."""

    def __init__(self, density: DensityModel) -> None:
        super().__init__()
        self.density = density

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return -self.density.log_prob(x, context).mean()

    def initialize(self, x: Tensor, context: Tensor | None = None) -> None:
        self.density.initialize(x, context)
