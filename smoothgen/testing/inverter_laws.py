"""The laws of an inverter: shapes, randomness, rows apart, and that p(x | x_tilde) is a density, where there is one."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from smoothgen.density_model import DensityModel
from smoothgen.event import EventSpec
from smoothgen.inverter import Inverter, InverterConfig
from smoothgen.noise_kernel import NoiseKernel, NoiseKernelConfig
from smoothgen.testing.law import DoesNotApply, Law, require
from smoothgen.testing.material import (
    NOISE_STD,
    event_name,
    generator_alone_decides,
    load_state_of,
    lopsided,
    move_parameters,
    without_gradient,
)
from smoothgen.testing.quadrature import Grid, surprise


class Normal(DensityModel):
    """Independent Gaussians: a smoothed density whose posterior means are known."""

    def __init__(self, event: EventSpec) -> None:
        super().__init__(event, None)
        self.loc = nn.Parameter(torch.zeros(event.shape))
        self.log_scale = nn.Parameter(torch.zeros(event.shape))

    def _log_prob(self, x: Tensor, context: Tensor | None, generator: Generator | None) -> Tensor:
        return torch.distributions.Normal(self.loc, self.log_scale.exp()).log_prob(x).flatten(1).sum(1)

    def _sample(self, num_samples: int, context: Tensor | None, generator: Generator | None) -> Tensor:
        noise = torch.randn(
            num_samples, *self.event.shape, dtype=self.loc.dtype, device=self.loc.device, generator=generator
        )
        return self.loc + self.log_scale.exp() * noise


@dataclass
class InverterSubject:
    """An inverter, built for an event, this kernel's noise and so many features, its parameters moved."""

    config: InverterConfig
    kernel_config: NoiseKernelConfig
    event: EventSpec
    features: int = 0
    noise: float = 0.15

    @property
    def name(self) -> str:
        return f"{event_name(self.event)}, {'no' if not self.features else self.features} features"

    def kernel(self) -> NoiseKernel:
        return self.kernel_config.build(self.event).double()

    def smoothed(self) -> DensityModel:
        """A density of x_tilde, without a context: features are for the inverter alone."""
        return Normal(self.event.smoothed()).double().eval()

    def inverter(self, noise: float | None = None) -> Inverter:
        """The same at every call."""
        with torch.random.fork_rng():
            torch.manual_seed(7)
            inverter = self.config.build(self.event, self.kernel(), self.features).double()
            inverter.initialize(*self.rows(512))
            move_parameters(inverter, self.noise if noise is None else noise)
        return inverter.eval()

    def rows(self, n: int, seed: int = 3) -> tuple[Tensor, Tensor, Tensor | None]:
        """Examples, their noisy copies, and their features."""
        generator = Generator().manual_seed(seed)
        x = lopsided(self.event, n, generator=generator)
        x_tilde = x + NOISE_STD * torch.randn(x.shape, dtype=x.dtype, generator=generator)
        features = torch.randn(n, self.features, dtype=x.dtype, generator=generator) if self.features else None
        return x, x_tilde, features

    def inverted(self, inverter: Inverter, x_tilde: Tensor, context: Tensor | None, seed: int = 1) -> Tensor:
        """With a generator of its own."""
        smoothed = self.smoothed()
        inverter.check(smoothed, self.kernel())
        if context is not None and not inverter.has_density:
            context = None  # a single step asks the smoothed density alone, which here has no context
        generator = Generator().manual_seed(seed)
        found = inverter.invert(x_tilde, smoothed, self.kernel(), context=context, generator=generator)
        return found.detach()

    def values(self, inverter: Inverter, x: Tensor, x_tilde: Tensor, context: Tensor | None) -> Tensor:
        """log p(x | x_tilde). Raises DoesNotApply where there is none."""
        if not inverter.has_density:
            raise DoesNotApply("the inverter has no density")
        with torch.no_grad():
            return inverter.log_prob(x, x_tilde, context=context, generator=Generator().manual_seed(1))


def shapes(subject: InverterSubject) -> None:
    inverter = subject.inverter()
    x, x_tilde, context = subject.rows(5)
    found = subject.inverted(inverter, x_tilde, context)
    require(found.shape == x.shape and found.dtype == x.dtype, f"5 rows invert to {tuple(found.shape)}, {found.dtype}")
    require(bool(found.isfinite().all()), "ordinary rows invert to values that are not finite")
    if inverter.has_density:
        value = subject.values(inverter, x, x_tilde, context)
        require(value.shape == (5,) and value.dtype == x.dtype, f"log_prob is {tuple(value.shape)}, {value.dtype}")
        require(bool(value.isfinite().all()), "log p(x | x_tilde) of ordinary rows is not finite")


def generator_decides(subject: InverterSubject) -> None:
    inverter = subject.inverter()
    _, x_tilde, context = subject.rows(64)
    generator_alone_decides(
        lambda seed: subject.inverted(inverter, x_tilde, context, seed), "inversions", random=inverter.has_density
    )


def mass(subject: InverterSubject) -> None:
    if subject.event.dimensions != 1:
        raise DoesNotApply("quadrature is for one coordinate")
    inverter = subject.inverter()
    _, x_tilde, context = subject.rows(3)
    for row in range(3):
        given = x_tilde[row : row + 1], None if context is None else context[row : row + 1]
        total = _masses(subject, inverter, *given)[1].sum().item()
        require(abs(total - 1.0) < 1e-4, f"the mass of p(x | x_tilde) is {total:.6f}, not 1")


def _masses(
    subject: InverterSubject, inverter: Inverter, x_tilde: Tensor, context: Tensor | None
) -> tuple[Grid, Tensor]:
    if not (inverter.has_density and inverter.exact):
        raise DoesNotApply("there is no exact density p(x | x_tilde)")
    grid = Grid(1, 3000)

    def log_density(x: Tensor) -> Tensor:
        rows, features = x.reshape(-1, *subject.event.shape), None
        if context is not None:
            features = context.expand(len(rows), -1)
        return subject.values(inverter, rows, x_tilde.expand(len(rows), *x_tilde.shape[1:]), features)

    return grid, grid.masses(log_density, torch.zeros(1, dtype=torch.float64))


def samples(subject: InverterSubject) -> None:
    if subject.event.dimensions != 1:
        raise DoesNotApply("quadrature is for one coordinate")
    inverter, n = subject.inverter(), 8000
    _, x_tilde, context = subject.rows(3, seed=5)
    repeated = x_tilde.repeat(n, *[1] * (x_tilde.dim() - 1))
    found = subject.inverted(inverter, repeated, None if context is None else context.repeat(n, 1))
    for row in range(3):
        given = x_tilde[row : row + 1], None if context is None else context[row : row + 1]
        grid, masses = _masses(subject, inverter, *given)
        off = surprise(masses[None], grid.cell_of(found[row::3].flatten(1)), bins=25)
        require(off < 5.5, f"draws do not follow p(x | x_tilde): {off:.1f} standard deviations off")


def rows_apart(subject: InverterSubject) -> None:
    inverter = subject.inverter()
    x, x_tilde, context = subject.rows(16)
    others, other_tildes, other_contexts = subject.rows(16, seed=4)
    others[5], other_tildes[5] = x[5], x_tilde[5]
    if context is not None and other_contexts is not None:
        other_contexts[5] = context[5]
    first = subject.inverted(inverter, x_tilde, context)[5]
    second = subject.inverted(inverter, other_tildes, other_contexts)[5]
    require(torch.allclose(first, second, atol=1e-8), "a row inverts to something else among other rows")
    if inverter.has_density:
        off = subject.values(inverter, x, x_tilde, context) - subject.values(
            inverter, others, other_tildes, other_contexts
        )
        require(off[5].abs().item() < 1e-8, "log_prob of a row changes with the other rows of its batch")


def follows_x_tilde(subject: InverterSubject) -> None:
    if subject.event.levels is not None:
        raise DoesNotApply("a level may stay where it is")
    inverter = subject.inverter()
    _, x_tilde, context = subject.rows(32)
    before = subject.inverted(inverter, x_tilde, context).flatten(1)
    for index in range(subject.event.dimensions):
        moved = x_tilde.flatten(1).clone()
        moved[:, index] += 0.5
        after = subject.inverted(inverter, moved.reshape(x_tilde.shape), context).flatten(1)
        require(bool((after - before)[:, index].abs().amax() > 1e-6), f"x_{index} does not depend on x_tilde_{index}")


def features_reach(subject: InverterSubject) -> None:
    inverter = subject.inverter()
    _, x_tilde, context = subject.rows(32)
    if context is None or not inverter.has_density or subject.event.levels is not None:
        raise DoesNotApply("there are no features that it sees, or levels, which may stay where they are")
    before = subject.inverted(inverter, x_tilde, context).flatten(1)
    for number in range(subject.features):
        moved = context.clone()
        moved[:, number] += 0.5
        after = subject.inverted(inverter, x_tilde, moved).flatten(1)
        blind = ((after - before).abs().amax(0) <= 1e-6).nonzero().flatten().tolist()
        require(not blind, f"coordinates {blind} do not react to feature {number}")


def copies_and_state(subject: InverterSubject) -> None:
    inverter, restored = subject.inverter(), subject.inverter(noise=0.5 + subject.noise)
    _, x_tilde, context = subject.rows(16)
    expected = subject.inverted(inverter, x_tilde, context)
    subject.inverted(restored, x_tilde, context)  # a cache filled now must not survive
    twin = copy.deepcopy(inverter)
    load_state_of(inverter, restored)
    with torch.no_grad():
        for parameter in inverter.parameters():
            parameter.zero_()
    require(torch.equal(subject.inverted(twin, x_tilde, context), expected), "a deep copy changes with the original")
    same = torch.equal(subject.inverted(restored, x_tilde, context), expected)
    require(same, "saved and loaded it inverts to something else: the state is not whole, or a cache is stale")


def learns(subject: InverterSubject) -> None:
    inverter = subject.inverter()
    if not inverter.has_density or not any(p.requires_grad for p in inverter.parameters()):
        raise DoesNotApply("there is nothing to learn")
    x, x_tilde, context = subject.rows(64)
    inverter.log_prob(x, x_tilde, context=context, generator=Generator().manual_seed(1)).mean().backward()
    left = without_gradient(inverter)
    require(not left, f"parameters without a finite gradient: {', '.join(left)}")


INVERTER_LAWS = (
    Law("shapes", "x has the shape and dtype of x_tilde, log p(x | x_tilde) is (batch,)", shapes),
    Law("generator", "the generator alone decides the draws", generator_decides),
    Law("mass", "exp(log p(x | x_tilde)) integrates to 1", mass),
    Law("samples", "draws follow p(x | x_tilde), each its own x_tilde and features", samples),
    Law("rows-apart", "a row's result does not depend on the other rows of its batch", rows_apart),
    Law("x-tilde-reaches", "every coordinate of x depends on its own of x_tilde", follows_x_tilde),
    Law("features-reach", "every coordinate depends on every feature", features_reach),
    Law("saved", "deep copies and the state dict, through safetensors, are whole", copies_and_state),
    Law("learns", "every parameter gets a finite gradient", learns),
)
