"""Exact densities on a line by quadrature: the data, the data with any kernel's noise, and p(x | x_tilde)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import TypeAdapter
from torch import Generator, Tensor

from smoothgen.data_source import AnyDataSource, DataSource, DataSourceConfig
from smoothgen.density_model import DensityModel
from smoothgen.event import EventSpec
from smoothgen.noise_kernel import AnyNoiseKernel, NoiseKernel, NoiseKernelConfig

LINE = EventSpec(shape=(1,))
REACH = {"gaussian": 8.0, "laplace": 14.0, "uniform": 1.75}
"""How many standard deviations of the kernel's noise hold all but 1e-8 of it."""

_DATA: TypeAdapter[DataSourceConfig] = TypeAdapter(AnyDataSource)
_KERNEL: TypeAdapter[NoiseKernelConfig] = TypeAdapter(AnyNoiseKernel)


def data_of(settings: dict[str, Any]) -> DataSource:
    """The data source that a configuration describes. Raises ValidationError."""
    return _DATA.validate_python(settings).build()


def kernel_of(tag: str, sigma: float, event: EventSpec = LINE) -> NoiseKernel:
    """A registered kernel of that standard deviation, in float64. Raises ValidationError."""
    return _KERNEL.validate_python({"type": tag, "sigma": sigma}).build(event).double()


@dataclass(frozen=True)
class Nodes:
    """Points x (n,) and their probabilities (n,), float64: a distribution on a line as a sum over an even grid.

    For densities as smooth as these, sums over an even grid converge as fast as Gauss's rules.
    """

    x: Tensor
    probability: Tensor
    spacing: float

    @property
    def log_density(self) -> Tensor:
        """(n,), nats."""
        return self.probability.log() - math.log(self.spacing)

    @property
    def entropy(self) -> float:
        """Nats."""
        return -(self.probability * self.log_density).sum().item()

    def divergence(self, log_model: Tensor) -> float:
        """KL(this || model), nats, from the model's log density at x (n,)."""
        return (self.probability * (self.log_density - log_model)).sum().item()


def nodes_of_data(source: DataSource, spacing: float) -> Nodes:
    """The exact density of data on a line; what is below 1e-12 of the highest density is left out."""
    seen = source.split("test").x.double()
    margin = 0.25 * (seen.max() - seen.min()).item()
    x = torch.arange(seen.min().item() - margin, seen.max().item() + margin, spacing, dtype=torch.float64)
    density = source.log_prob(x[:, None]).exp()
    keep = density > 1e-12 * density.max()
    return Nodes(x[keep], density[keep] / density[keep].sum(), spacing)


def joint_log_prob(data: Nodes, kernel: NoiseKernel, x_tilde: Tensor) -> Tensor:
    """log of P(x) q(x_tilde | x) for every x_tilde (m,) and node x (n,): (m, n), nats."""
    pairs = (len(x_tilde), len(data.x))
    noisy, clean = (value.expand(pairs).reshape(-1, 1) for value in (x_tilde[:, None], data.x[None, :]))
    return data.probability.log() + kernel.log_prob(noisy, clean).reshape(pairs)


def smoothed_log_prob(data: Nodes, kernel: NoiseKernel, x_tilde: Tensor) -> Tensor:
    """The exact log density of data plus noise at x_tilde (m,): (m,), nats; differentiable in x_tilde."""
    return torch.logsumexp(joint_log_prob(data, kernel, x_tilde), 1)


def posterior(data: Nodes, kernel: NoiseKernel, x_tilde: Tensor) -> Tensor:
    """The exact p(x | x_tilde) as probabilities of the nodes: x_tilde (m,) -> (m, n)."""
    return torch.softmax(joint_log_prob(data, kernel, x_tilde), 1)


def nodes_of_smoothed(data: Nodes, kernel: NoiseKernel, reach: float, spacing: float) -> Nodes:
    """The exact density of data plus noise. reach: how far beyond the data it is worth looking, in units of x."""
    x_tilde = torch.arange(data.x.min().item() - reach, data.x.max().item() + reach, spacing, dtype=torch.float64)
    density = smoothed_log_prob(data, kernel, x_tilde).exp()
    keep = density > 1e-12 * density.max()
    return Nodes(x_tilde[keep], density[keep] / density[keep].sum(), spacing)


class SmoothedData(DensityModel):
    """The exact density of data plus noise as a density model: what a perfect first stage would have learned."""

    def __init__(self, data: Nodes, kernel: NoiseKernel) -> None:
        super().__init__(LINE)
        self.data = data
        self.kernel = kernel

    def _log_prob(self, x: Tensor, context: Tensor | None, generator: Generator | None) -> Tensor:
        return smoothed_log_prob(self.data, self.kernel, x[:, 0])

    def _sample(self, num_samples: int, context: Tensor | None, generator: Generator | None) -> Tensor:
        index = torch.multinomial(self.data.probability, num_samples, replacement=True, generator=generator)
        return self.kernel.sample(self.data.x[index, None], generator=generator)
