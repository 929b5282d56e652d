"""The laws of a noise kernel: mass one, the standard deviation it claims, symmetric, stationary, rows apart."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from smoothgen.event import EventSpec
from smoothgen.noise_kernel import NoiseKernel, NoiseKernelConfig
from smoothgen.testing.law import DoesNotApply, Law, require
from smoothgen.testing.material import event_name, generator_alone_decides
from smoothgen.testing.quadrature import Grid, surprise

DRAWN = 400_000
"""So many that a standard deviation wrong by 1 % is ten or more standard errors off, for any usual shape of noise."""


@dataclass
class KernelSubject:
    """A kernel, built for an event."""

    config: NoiseKernelConfig
    event: EventSpec

    @property
    def name(self) -> str:
        return event_name(self.event)

    def kernel(self) -> NoiseKernel:
        return self.config.build(self.event).double()

    def noise(self, n: int, seed: int = 1) -> Tensor:
        """Of n rows around 0.5."""
        x = torch.full((n, *self.event.shape), 0.5, dtype=torch.float64)
        return self.kernel().sample(x, generator=Generator().manual_seed(seed)).detach() - x


def _masses(subject: KernelSubject, cells: int, reach: float) -> tuple[Grid, Tensor]:
    """Of the noise around 0, by quadrature, reaching so many sigma. Raises DoesNotApply but for one coordinate."""
    if subject.event.dimensions != 1:
        raise DoesNotApply("quadrature is for one coordinate")
    kernel = subject.kernel()
    scale = float(kernel.sigma.detach().max())
    grid = Grid(1, cells, reach=reach * scale, width=scale)

    def log_density(e: Tensor) -> Tensor:
        rows = e.reshape(-1, *kernel.event.shape)
        return kernel.log_prob(rows, torch.zeros_like(rows)).detach()

    return grid, grid.masses(log_density, torch.zeros(1, dtype=torch.float64))


def shapes(subject: KernelSubject) -> None:
    kernel, x = subject.kernel(), torch.zeros(5, *subject.event.shape, dtype=torch.float64)
    noisy = kernel.sample(x, generator=Generator().manual_seed(0))
    value = kernel.log_prob(noisy, x)
    same = noisy.shape == x.shape and noisy.dtype == x.dtype
    require(same, f"5 rows with noise are {tuple(noisy.shape)}, {noisy.dtype}")
    same = value.shape == (5,) and value.dtype == x.dtype
    require(same, f"log_prob of 5 rows is {tuple(value.shape)}, {value.dtype}")
    require(bool(value.isfinite().all()), "log_prob of the kernel's own noise is not finite")


def mass(subject: KernelSubject) -> None:
    total = _masses(subject, cells=20_000, reach=400.0)[1].sum().item()
    require(abs(total - 1.0) < 2e-3, f"the mass is {total:.6f}, not 1")


def deviation(subject: KernelSubject) -> None:
    noise = subject.noise(DRAWN).flatten(1)
    claimed = subject.kernel().sigma.detach().expand(subject.event.shape).flatten()
    ratio = (noise / claimed).square()
    off = ((ratio.mean(0) - 1.0) / (ratio.std(0) / math.sqrt(DRAWN))).abs().amax().item()
    std = (noise.std(0) / claimed)[(ratio.mean(0) - 1.0).abs().argmax()].item()
    require(off < 5.0, f"the noise has {std:.4f} times the standard deviation that sigma claims, {off:.0f} errors off")
    centre = ((noise / claimed).mean(0) * math.sqrt(DRAWN)).abs().amax().item()
    require(centre < 5.5, f"the noise has a mean, {centre:.0f} errors from 0")


def samples(subject: KernelSubject) -> None:
    grid, masses = _masses(subject, cells=4000, reach=100.0)
    off = surprise(masses[None], grid.cell_of(subject.noise(20_000).flatten(1)), bins=25)
    require(off < 5.5, f"noise does not follow log_prob: {off:.1f} standard deviations off")


def symmetric(subject: KernelSubject) -> None:
    kernel, generator = subject.kernel(), Generator().manual_seed(4)
    x, moved = (torch.randn(50, *subject.event.shape, dtype=torch.float64, generator=generator) for _ in range(2))
    e = 0.9 * subject.noise(50, seed=6)
    here = kernel.log_prob(x + e, x)
    for what, there in (
        ("x and x_tilde change places", kernel.log_prob(x, x + e)),
        ("the noise is turned around", kernel.log_prob(x - e, x)),
        ("both are moved alike", kernel.log_prob(x + moved + e, x + moved)),
    ):
        edges = here.isneginf() == there.isneginf()
        require(bool(edges.all()), f"log_prob is -inf elsewhere when {what}")
        off = (there - here)[here.isfinite()].abs().max().item()
        require(off < 1e-7, f"log_prob changes by {off:.2g} when {what}")


def generator_decides(subject: KernelSubject) -> None:
    generator_alone_decides(lambda seed: subject.noise(64, seed), "noise")


def rows_apart(subject: KernelSubject) -> None:
    kernel = subject.kernel()
    x, e = torch.zeros(16, *subject.event.shape, dtype=torch.float64), 0.9 * subject.noise(16)
    whole = kernel.log_prob(x + e, x)
    off = max((kernel.log_prob((x + e)[i : i + 1], x[i : i + 1]) - whole[i]).abs().item() for i in range(16))
    require(off < 1e-9, f"log_prob of a row changes by {off:.2g} with the other rows of its batch")


def meta(subject: KernelSubject) -> None:
    kernel = subject.kernel().to("meta")
    x = torch.zeros(3, *subject.event.shape, dtype=torch.float64).to("meta")
    require(kernel.sample(x).device.type == "meta", "sample leaves the device of its input")
    require(kernel.log_prob(x, x).device.type == "meta", "log_prob leaves the device of its input")


def learnable(subject: KernelSubject) -> None:
    kernel = subject.kernel()
    if not kernel.learnable:
        raise DoesNotApply("sigma is fixed")
    x = torch.zeros(64, *subject.event.shape, dtype=torch.float64)
    kernel.sample(x, generator=Generator().manual_seed(0)).square().sum().backward()
    left = [name for name, p in kernel.named_parameters() if p.grad is None or not bool(p.grad.abs().max() > 0)]
    require(not left, f"noise does not move with {', '.join(left)}: it is not reparameterised")


KERNEL_LAWS = (
    Law("shapes", "noise has the shape and dtype of x, log_prob is (batch,)", shapes),
    Law("mass", "exp(log_prob) integrates to 1", mass),
    Law("deviation", "sigma is the standard deviation of every coordinate's noise, whose mean is 0", deviation),
    Law("samples", "noise follows log_prob", samples),
    Law("symmetric", "log_prob depends on |x_tilde - x| alone", symmetric),
    Law("generator", "the generator alone decides the noise", generator_decides),
    Law("rows-apart", "a row's result does not depend on the other rows of its batch", rows_apart),
    Law("meta", "no tensor is made on another device than the input's", meta),
    Law("learnable", "where sigma is learned, noise moves with it", learnable),
)
