"""The stage losses against their expectations in closed form; what each initialises, and from what."""

from __future__ import annotations

import math

import pytest
import torch
from exact import GaussianPosterior
from torch import Generator, Tensor

from smoothgen.density_model import DensityModel
from smoothgen.event import ContextSpec, EventSpec
from smoothgen.inverter import Inverter
from smoothgen.objectives import (
    InversionObjective,
    JointObjective,
    MaximumLikelihood,
    Objective,
    SmoothingObjective,
    bound_terms,
)
from smoothgen_kernels.gaussian import GaussianConfig

pytestmark = pytest.mark.usefixtures("float64")

EVENT = EventSpec(shape=(2,))
SIGMA = 0.5
SPREAD = 1.5
"""Standard deviation of the data in each coordinate."""
N = 40_000


class Observed(DensityModel):
    """N(context, SPREAD^2 + SIGMA^2), context 0 if none was given; remembers what it was given."""

    def __init__(self, rows: int = 64, variance: float = SPREAD**2 + SIGMA**2) -> None:
        super().__init__(EVENT, ContextSpec(features=2))
        self.rows, self.variance = rows, variance
        self.initialized: list[tuple[Tensor, Tensor, bool]] = []
        self.generators: list[Generator | None] = []

    @property
    def rows_at_once(self) -> int:
        return self.rows

    def _log_prob(self, x: Tensor, context: Tensor, generator: Generator | None) -> Tensor:
        self.generators.append(generator)
        each = -0.5 * (x - context).square() / self.variance - 0.5 * math.log(2.0 * math.pi * self.variance)
        return each.sum(1)

    def _sample(self, num_samples: int, context: Tensor | None, generator: Generator | None) -> Tensor:
        raise NotImplementedError

    def _initialize(self, x: Tensor, context: Tensor) -> None:
        self.initialized.append((x, context, x.requires_grad))


class ObservedPosterior(GaussianPosterior):
    """The exact p(x | x_tilde) of data around the context; remembers what it was given."""

    def __init__(self, rows: int = 64) -> None:
        super().__init__(torch.zeros(2), SPREAD**2 * torch.eye(2), SIGMA)
        self.rows = rows
        self.initialized: list[tuple[Tensor, Tensor, Tensor]] = []
        self.generators: list[Generator | None] = []

    @property
    def rows_at_once(self) -> int:
        return self.rows

    def log_prob(self, x: Tensor, x_tilde: Tensor, *, context: Tensor, generator: Generator | None = None) -> Tensor:
        self.generators.append(generator)
        return super().log_prob(x - context, x_tilde - context)

    def initialize(self, x: Tensor, x_tilde: Tensor, context: Tensor) -> None:
        self.initialized.append((x, x_tilde, context))


def parts(learnable: bool = False) -> tuple:
    return GaussianConfig(sigma=SIGMA, learnable=learnable).build(EVENT), Observed(), ObservedPosterior()


def batch(n: int = N) -> tuple[Tensor, Tensor]:
    """x around its context, and the context: far from 0 and another in each row."""
    generator = Generator().manual_seed(3)
    context = 10.0 * torch.randn(n, 2, generator=generator)
    return context + SPREAD * torch.randn(n, 2, generator=generator), context


def entropy(variance: float) -> float:
    """Of two coordinates, nats."""
    return math.log(2.0 * math.pi * math.e * variance)


def close_to(expected: float):
    """Five standard errors of the mean of N rows: a log density of two Gaussian coordinates has variance 1."""
    return pytest.approx(expected, abs=5.0 / math.sqrt(N))


def test_the_loss_of_smoothing_is_the_cross_entropy_of_x_tilde():
    """With p(x_tilde) exact that is its entropy."""
    torch.manual_seed(0)
    kernel, density, _ = parts()
    loss = SmoothingObjective(kernel, density)(*batch())
    assert loss.shape == ()
    assert loss.item() == close_to(entropy(SPREAD**2 + SIGMA**2))


def test_the_loss_of_inversion_is_the_conditional_entropy():
    torch.manual_seed(0)
    kernel, _, inverter = parts()
    loss = InversionObjective(kernel, inverter)(*batch())
    assert loss.shape == ()
    assert loss.item() == close_to(entropy(SPREAD**2 * SIGMA**2 / (SPREAD**2 + SIGMA**2)))


def test_the_loss_of_joint_training_is_minus_the_exact_log_density():
    """Exact parts: for every draw, so to rounding."""
    x, context = batch(50)
    loss = JointObjective(*parts())(x, context)
    plain = -0.5 * ((x - context) / SPREAD).square().sum(1) - math.log(2.0 * math.pi * SPREAD**2)
    assert loss.shape == ()
    assert loss.item() == pytest.approx(-plain.mean().item(), rel=1e-12)


def test_joint_training_says_what_its_loss_is_made_of():
    x, context = batch(50)
    objective = JointObjective(*parts())
    assert objective.terms == {}
    loss = objective(x, context)
    assert objective.terms.keys() == {"log_smoothed", "minus_log_kernel", "log_inverse"}
    assert all(value.shape == () and not value.requires_grad for value in objective.terms.values())
    assert -sum(value.item() for value in objective.terms.values()) == pytest.approx(loss.item(), rel=1e-12)


def test_the_loss_of_a_plain_density_is_its_cross_entropy():
    x, context = batch(50)
    loss = MaximumLikelihood(Observed(variance=SPREAD**2))(x, context)
    plain = -0.5 * ((x - context) / SPREAD).square().sum(1) - math.log(2.0 * math.pi * SPREAD**2)
    assert loss.shape == ()
    assert loss.item() == pytest.approx(-plain.mean().item(), rel=1e-12)


def test_every_term_of_the_bound_draws_from_the_one_generator():
    kernel, density, inverter = parts()
    x, context = batch(20)
    terms = [bound_terms(kernel, density, inverter, x, context, Generator().manual_seed(7)) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*terms, strict=True))
    mine = Generator().manual_seed(7)
    bound_terms(kernel, density, inverter, x, context, mine)
    assert density.generators[-1] is mine and inverter.generators[-1] is mine


@pytest.mark.parametrize("learnable", [False, True])
def test_stages_initialise_from_x_tilde_and_the_context(learnable):
    """x_tilde is x plus noise of standard deviation sigma; the joint loss gives both parts the same one."""
    x, context = batch()

    def check(x_tilde: Tensor) -> None:
        noise = (x_tilde - x).detach()
        assert noise.std().item() == pytest.approx(SIGMA, rel=5.0 / math.sqrt(4 * N))

    made_of = {
        SmoothingObjective: ("density",),
        InversionObjective: ("inverter",),
        JointObjective: ("density", "inverter"),
    }
    for made, names in made_of.items():
        kernel, density, inverter = parts(learnable)
        made(kernel, *({"density": density, "inverter": inverter}[name] for name in names)).initialize(x, context)
        assert len(density.initialized) == ("density" in names)
        assert len(inverter.initialized) == ("inverter" in names)
        for x_tilde, given, _ in density.initialized:
            check(x_tilde)
            assert given is context
        for known, x_tilde, given in inverter.initialized:
            check(x_tilde)
            assert known is x and given is context
        if made is JointObjective:
            assert density.initialized[0][0] is inverter.initialized[0][1]
            assert not density.initialized[0][2], "starting values need no gradient"


def test_a_plain_density_initialises_from_x():
    density = Observed()
    x, context = batch(10)
    MaximumLikelihood(density).initialize(x, context)
    ((seen, given, _),) = density.initialized
    assert torch.equal(seen, x) and given is context


def test_a_pass_takes_what_the_tightest_part_allows():
    kernel, _, _ = parts()
    assert JointObjective(kernel, Observed(rows=7), ObservedPosterior(rows=5)).rows_at_once == 5
    assert JointObjective(kernel, Observed(rows=4), ObservedPosterior(rows=6)).rows_at_once == 4
    assert SmoothingObjective(kernel, Observed(rows=9)).rows_at_once == 9
    assert InversionObjective(kernel, ObservedPosterior(rows=3)).rows_at_once == 3
    assert MaximumLikelihood(Observed(rows=2)).rows_at_once == 2


def test_what_a_stage_trains_are_the_parts_it_was_given():
    """A wrapper for several devices finds parameters through the module."""
    kernel, density, inverter = parts(learnable=True)
    assert isinstance(inverter, Inverter)
    joint = JointObjective(kernel, density, inverter)
    assert [*joint.children()] == [kernel, density, inverter]
    joint(*batch(50)).backward()
    assert kernel.log_sigma.grad is not None and kernel.log_sigma.grad.abs().item() > 0


def test_an_objective_has_to_say_its_loss_and_its_start():
    class Lossless(Objective):
        def initialize(self, x, context=None):
            return None

    class Startless(Objective):
        def forward(self, x, context=None):
            return x.sum()

    for unfinished in (Lossless, Startless):
        with pytest.raises(TypeError, match="abstract"):
            unfinished()
