"""The laws of a density, over every registered one: mass 1, samples from it, rows apart, any dtype and device."""

from __future__ import annotations

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from registered import SENSITIVITY, DensityCase, density_cases, density_params
from torch import Generator, Tensor

from smoothgen.density_model import DensityModel
from smoothgen.dequantization import UniformDequantization
from smoothgen.errors import ShapeError
from smoothgen.event import ContextSpec, EventSpec
from smoothgen.testing.material import CONTEXTS, context_spec, contexts_of, lopsided
from smoothgen.testing.quadrature import Grid, chi_square, surprise

pytestmark = pytest.mark.usefixtures("float64")

LINE = EventSpec(shape=(1,))
PLANE = EventSpec(shape=(2,))
SPACE = EventSpec(shape=(3,))
PICTURE = EventSpec(shape=(1, 2, 2))
LEVELS_1 = EventSpec(shape=(1,), low=-2.0, high=2.0, levels=9)
LEVELS_2 = EventSpec(shape=(2,), low=-2.0, high=2.0, levels=6)
EXACT_CELLS = {1: 3000, 2: 400}
DRAWN_CELLS = {1: 300, 2: 50}
KINKS = {"zuko_nsf": 1e-4}
"""How exactly the grid knows the mass of a density whose slope jumps (at a spline's knots), where any rule is slow."""
EVERYWHERE = density_params(PLANE, PICTURE, LEVELS_2, contexts=("no context", "noisy copy + features"))


def rows_for(event: EventSpec, context: ContextSpec | None, n: int, device: torch.device, seed: int = 3):
    """n examples and their contexts."""
    generator = Generator().manual_seed(seed)
    x = lopsided(event, n, generator=generator)
    given = contexts_of(context, x, generator)
    return x.to(device), None if given is None else given.to(device)


def fresh(device: torch.device, seed: int = 11) -> Generator:
    return Generator(device).manual_seed(seed)


@torch.no_grad()
def probabilities_of(model: DensityModel, x: Tensor, context: Tensor | None, generator: Generator) -> Tensor:
    """exp(log_prob) of each row, given one row of context: (draws, rows), many draws where it is a random bound."""
    draws = 1 if model.exact else 5000
    rows = x.repeat(draws, *[1] * (x.dim() - 1))
    given = None if context is None else context.expand(len(rows), *context.shape[1:])
    return model.log_prob(rows, given, generator=generator).exp().reshape(draws, len(x))


def grid_of(model: DensityModel, reach: float = 400.0) -> Grid:
    """Fine enough for 1e-6; coarse where draws limit the accuracy anyway."""
    dimensions = model.event.dimensions
    return Grid(dimensions, EXACT_CELLS[dimensions]) if model.exact else Grid(dimensions, DRAWN_CELLS[dimensions], 30.0)


def masses_on_a_grid(
    model: DensityModel, context: Tensor | None, generator: Generator, draws: int = 1
) -> tuple[Grid, Tensor]:
    """One estimate of every cell's mass per draw, given one row of context: (draws, *cells)."""
    grid = grid_of(model)
    like = next(model.parameters())
    estimates = []
    for _ in range(1 if model.exact else draws):

        def log_density(x: Tensor) -> Tensor:
            given = None if context is None else context.expand(len(x), *context.shape[1:])
            with torch.no_grad():
                return model.log_prob(x, given, generator=generator)

        estimates.append(grid.masses(log_density, like))
    return grid, torch.stack(estimates)


@density_params(LINE, PLANE)
def test_integrates_to_one(case: DensityCase, event, context, device):
    model = case.build(event, context, device)
    _, given = rows_for(event, context, 1, device)
    _, masses = masses_on_a_grid(model, given, fresh(device), draws=150 if event.dimensions == 1 else 60)
    totals = masses.flatten(1).sum(1)
    if model.exact:
        assert totals.item() == pytest.approx(1.0, abs=KINKS.get(case.config.type, 1e-6))
    else:
        error = (totals.std() / math.sqrt(len(totals))).item()
        assert error < 0.01, "too noisy to prove anything"
        assert totals.mean().item() == pytest.approx(1.0, abs=5.0 * error)


def case_named(name: str) -> DensityCase:
    return next(case for case in density_cases() if case.name == name)


class Planted(DensityModel):
    """A density with something wrong: every wrong sampler below has to be caught."""

    def __init__(self, model: DensityModel, wrong: str) -> None:
        super().__init__(model.event, model.context)
        self.model, self.wrong, self.exact = model, wrong, model.exact

    def _log_prob(self, x, context, generator):
        return self.model.log_prob(x, context, generator=generator)

    def _sample(self, num_samples, context, generator):
        if self.wrong == "shifted rows" and context is not None:
            context = context.roll(1, 0)
        x = self.model.sample(num_samples, context, generator=generator)
        if self.wrong == "spread 10 % off":
            x = x.mean(0) + 1.1 * (x - x.mean(0))
        if self.wrong == "coordinates apart":
            x = torch.cat([x[:, :1], x[:, 1:].roll(3 * 7, 0)], 1)
        if self.wrong == "shifted":
            x = x + 0.15 * x.std(0)
        return x


def largest_surprise(model: DensityModel, event, context, device, n: int = 10_000) -> float:
    """Samples against quadrature, for three contexts whose rows alternate (or for none)."""
    _, given = rows_for(event, context, 3, device, seed=5)
    kinds = 1 if given is None else 3
    repeated = None if given is None else given.repeat(n, *[1] * (given.dim() - 1))
    samples = model.sample(n * kinds, repeated, generator=fresh(device, 1))
    values = []
    for kind in range(kinds):
        row = None if given is None else given[kind : kind + 1]
        grid, masses = masses_on_a_grid(model, row, fresh(device, 2), draws=150 if event.dimensions == 1 else 50)
        cells = grid.cell_of(samples[kind::kinds].flatten(1))
        values.append(surprise(masses, cells, bins=25 if event.dimensions == 1 else 8))
    return max(values)


FOLLOWED = density_params(LINE, PLANE, contexts=("no context", "noisy copy + features"))


@FOLLOWED
def test_samples_follow_log_prob(case, event, context, device):
    assert largest_surprise(case.build(event, context, device), event, context, device) < 5.0


@pytest.mark.parametrize("wrong", ["spread 10 % off", "shifted rows", "shifted", "coordinates apart"])
def test_a_wrong_sampler_is_caught(wrong, device):
    context = context_spec("noisy copy + features", PLANE)
    model = case_named("made").build(PLANE, context, device, noise=0.3)
    assert largest_surprise(Planted(model, wrong), PLANE, context, device) > 10.0


@pytest.mark.parametrize("wrong", ["spread 10 % off", "shifted rows", "shifted"])
def test_a_wrong_sampler_of_a_bound_is_caught(wrong, device):
    context = context_spec("noisy copy + features", LINE)
    model = case_named("smoothed").build(LINE, context, device)
    assert largest_surprise(Planted(model, wrong), LINE, context, device) > 10.0


def off_in_many_coordinates(
    model: DensityModel, context: Tensor | None, device: torch.device, n: int = 12_000
) -> float:
    """How many standard errors E_p[g / p], x drawn from the model, is from 1, in the worst of some narrow Gaussians g.

    It is 1 for every normalised g if the samples follow log_prob and log_prob is normalised (Gelfand and Dey, 1994).
    """
    given = None if context is None else context.expand(n, *context.shape[1:])
    x = model.sample(n, given, generator=fresh(device))
    with torch.no_grad():
        log_p = model.log_prob(x, given)[1::2]
    first, second = x.flatten(1)[::2], x.flatten(1)[1::2]  # g is fitted to one half, the other is judged
    corners = torch.tensor(list(itertools.product((-0.6, 0.6), repeat=first.shape[1])))[:8].to(x)
    worst = 0.0
    for corner in [torch.zeros_like(corners[0]), *corners]:
        g = torch.distributions.MultivariateNormal(first.mean(0) + corner * first.std(0), 0.3 * first.T.cov())
        ratio = (g.log_prob(second) - log_p).exp()
        error = (ratio.std() / math.sqrt(len(ratio))).item()
        assert error < 0.05, "too noisy to prove anything"
        worst = max(worst, abs(ratio.mean().item() - 1.0) / error)
    return worst


@density_params(SPACE, PICTURE, contexts=("no context", "noisy copy + features"))
def test_mass_and_samples_in_many_coordinates(case, event, context, device):
    model = case.build(event, context, device, noise=0.05)
    if not model.exact:
        pytest.skip("1 / p cannot be averaged where log_prob is a random bound")
    _, given = rows_for(event, context, 1, device)
    if case.config.type in SENSITIVITY and context is None and event == SPACE:
        pytest.skip("its components lie so far apart that 1 / p is too noisy to average; 1-d, 2-d and pictures are not")
    draws = 100_000 if case.config.type in KINKS else 12_000  # splines start rough: 1 / p varies more
    assert off_in_many_coordinates(model, given, device, draws) < 4.5


@pytest.mark.parametrize("wrong", ["spread 10 % off", "shifted"])
def test_a_wrong_sampler_in_many_coordinates_is_caught(wrong, device):
    model = case_named("made").build(SPACE, None, device)
    assert off_in_many_coordinates(Planted(model, wrong), None, device) > 6.0


def misses_the_ends(case: DensityCase, model: DensityModel) -> bool:
    """Whether the draws of a bound leave out, or hardly ever reach, what lies beyond the end levels."""
    return isinstance(model, UniformDequantization) or case.name == "dequantized gaussian"


def combinations(event: EventSpec, like: Tensor) -> Tensor:
    """Every value a discrete event can take: (levels ** D, D)."""
    assert event.levels is not None and event.low is not None
    levels = [event.low + k * event.bin_width for k in range(event.levels)]
    return torch.tensor(list(itertools.product(levels, repeat=event.dimensions))).to(like)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-10)])
@density_params(LEVELS_1, LEVELS_2)
def test_probabilities_of_all_levels_sum_to_one(case, event, context, dtype, tolerance, device):
    model = case.build(event, context, device, dtype)
    assert model.measure == "discrete"
    x = combinations(event, next(model.parameters()))
    _, given = rows_for(event, context, 1, device)
    given = None if given is None else given.to(dtype)
    totals = probabilities_of(model, x, given, fresh(device)).double().sum(1)
    if model.exact:
        assert totals.item() == pytest.approx(1.0, abs=tolerance)
        return
    error = (totals.std() / math.sqrt(len(totals))).item()
    assert error < 0.02, "too noisy to prove anything"
    assert totals.mean().item() < 1.0 + 5.0 * error
    if not misses_the_ends(case, model):
        assert totals.mean().item() == pytest.approx(1.0, abs=5.0 * error)


@density_params(LEVELS_1, LEVELS_2, contexts=("no context", "noisy copy + features"))
def test_samples_of_levels_follow_log_prob(case, event, context, device):
    model = case.build(event, context, device)
    x = combinations(event, next(model.parameters()))
    _, given = rows_for(event, context, 1, device)
    n = 10_000
    samples = model.sample(n, None if given is None else given.expand(n, -1), generator=fresh(device))
    probability = probabilities_of(model, x, given, fresh(device))
    level = event.levels_of(samples)
    index = sum(level[:, i] * event.levels ** (event.dimensions - 1 - i) for i in range(event.dimensions))
    count = torch.bincount(index, minlength=len(x)).to(samples)
    inside = torch.ones(len(x), dtype=torch.bool, device=device)
    if misses_the_ends(case, model):  # its samples beyond the end levels are moved to them
        inside = ((event.levels_of(x) > 0) & (event.levels_of(x) < event.levels - 1)).all(1)
    probability = torch.cat([probability[:, inside], 1.0 - probability[:, inside].sum(1, keepdim=True)], 1)
    count = torch.cat([count[inside], count[~inside].sum()[None]])
    assert chi_square(probability, count) < 5.0
    wrong = count.roll(1)
    assert chi_square(probability, wrong) > 10.0, "a shift by one level has to be caught"


def test_dequantised_probability_is_the_mass_of_the_bin(device):
    model = case_named("made dequantised").build(LEVELS_1, None, device)
    assert isinstance(model, UniformDequantization)
    nodes, weights = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(40))
    x = combinations(LEVELS_1, next(model.parameters()))
    half = 0.5 * LEVELS_1.bin_width
    with torch.no_grad():
        density = model.density.log_prob((x + half * nodes.to(x)).reshape(-1, 1)).exp().reshape(len(x), -1)
    mass = half * (density @ weights.to(x))
    estimates = probabilities_of(model, x, None, fresh(device))
    error = estimates.std(0) / math.sqrt(len(estimates))
    assert ((estimates.mean(0) - mass).abs() < 5.0 * error).all()
    bounds = estimates.log()
    error = bounds.std(0) / math.sqrt(len(bounds))
    assert (bounds.mean(0) < mass.log() + 5.0 * error).all(), "the mean log is below the log of the mean"
    assert bounds.mean(0).sum() < mass.log().sum() - 3.0 * error.norm(), "and here by more than chance"


@EVERYWHERE
def test_the_generator_alone_decides_the_samples(case, event, context, device):
    model = case.build(event, context, device)
    _, given = rows_for(event, context, 64, device)
    torch.manual_seed(1)
    first = model.sample(64, given, generator=fresh(device, 1))
    torch.manual_seed(2)
    again = model.sample(64, given, generator=fresh(device, 1))
    other = model.sample(64, given, generator=fresh(device, 2))
    assert first.shape == (64, *event.shape)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not first.requires_grad
    if event.levels is not None:
        event.check(first)


@density_params(LINE, PLANE, PICTURE, LEVELS_2, contexts=CONTEXTS[1:])
def test_every_number_of_the_context_matters(case, event, context, device):
    model = case.build(event, context, device)
    x, given = rows_for(event, context, 32, device)
    variable = given.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(model.log_prob(x, variable, generator=fresh(device)).sum(), variable)
    assert gradient.isfinite().all()
    assert (gradient.abs().flatten(1).amax(0) > 1e-6).all()


@density_params(LINE, PLANE, PICTURE, contexts=CONTEXTS[1:])
def test_every_coordinate_reacts_to_every_number_of_the_context(case, event, context, device):
    """The first conditional of an autoregressive density and the kept half of a coupling too."""
    model = case.build(event, context, device)
    _, given = rows_for(event, context, 32, device)
    before = model.sample(32, given, generator=fresh(device)).flatten(1)
    for index in range(context.dimensions):
        changed = given.flatten(1).clone()
        changed[:, index] += 0.5
        after = model.sample(32, changed.reshape(given.shape), generator=fresh(device)).flatten(1)
        assert ((after - before).abs().amax(0) > 1e-6).all(), f"context {index} moves not every coordinate"


@EVERYWHERE
def test_rows_do_not_see_each_other(case, event, context, device):
    model = case.build(event, context, device)
    x, given = rows_for(event, context, 16, device)
    others, other_contexts = rows_for(event, context, 16, device, seed=4)
    mixed, mixed_contexts = others.clone(), None if given is None else other_contexts.clone()
    mixed[5] = x[5]
    if given is not None:
        mixed_contexts[5] = given[5]
    with torch.no_grad():
        alone = model.log_prob(x, given, generator=fresh(device))[5]
        in_company = model.log_prob(mixed, mixed_contexts, generator=fresh(device))[5]
    assert in_company.item() == pytest.approx(alone.item(), abs=1e-10)
    if given is not None:
        drawn = model.sample(16, given, generator=fresh(device))[5]
        drawn_in_company = model.sample(16, mixed_contexts, generator=fresh(device))[5]
        assert torch.allclose(drawn, drawn_in_company, atol=1e-8)


@EVERYWHERE
def test_runs_on_the_meta_device(case, event, context, device):
    """A tensor made on the CPU inside would raise here, without any accelerator."""
    model = case.build(event, context, device).to("meta")
    x, given = rows_for(event, context, 3, device)
    value = model.log_prob(x.to("meta"), None if given is None else given.to("meta"))
    assert value.shape == (3,) and value.device.type == "meta"


@EVERYWHERE
def test_float32_agrees_with_float64(case, event, context, device):
    model = case.build(event, context, device)
    x, given = rows_for(event, context, 32, device)
    x = x.float().double()
    given = None if given is None else given.float().double()
    wide = model.log_prob(x, given, generator=fresh(device))
    assert wide.dtype == torch.float64 and wide.shape == (32,) and wide.isfinite().all()
    narrow = (
        copy.deepcopy(model)
        .float()
        .log_prob(x.float(), None if given is None else given.float(), generator=fresh(device))
    )
    assert narrow.dtype == torch.float32
    if model.exact:  # a generator's draws differ between the dtypes
        assert torch.allclose(narrow.double(), wide, atol=1e-4, rtol=1e-4)


@EVERYWHERE
def test_bfloat16_autocast_keeps_log_prob_in_float32(case, event, context, device):
    model = case.build(event, context, device, torch.float32)
    x, given = rows_for(event, context, 64, device)
    x, given = x.float(), None if given is None else given.float()
    with torch.no_grad():
        full = model.log_prob(x, given, generator=fresh(device))
        with torch.autocast(device.type, dtype=torch.bfloat16):
            mixed = model.log_prob(x, given, generator=fresh(device))
    assert mixed.dtype == torch.float32
    assert mixed.isfinite().all()
    assert not torch.equal(mixed, full), "autocast reached the network"
    assert (mixed - full).abs().mean() < 0.1


@EVERYWHERE
def test_copies_and_state_dicts_are_whole(case, event, context, device):
    model = case.build(event, context, device)
    x, given = rows_for(event, context, 16, device)
    expected = model.log_prob(x, given, generator=fresh(device))
    twin = copy.deepcopy(model)
    restored = case.build(event, context, device, noise=0.5)
    assert not torch.allclose(restored.log_prob(x, given, generator=fresh(device)), expected)
    restored.load_state_dict({name: value.clone() for name, value in model.state_dict().items()})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    for other in (twin, restored):
        assert torch.equal(other.log_prob(x, given, generator=fresh(device)), expected)


@EVERYWHERE
def test_every_parameter_learns(case, event, context, device):
    """A parameter without a gradient stalls data-parallel training, which waits for it."""
    model = case.build(event, context, device)
    x, given = rows_for(event, context, 64, device)
    model.log_prob(x, given, generator=fresh(device)).mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


@EVERYWHERE
def test_wrong_shapes_are_refused(case, event, context, device):
    model = case.build(event, context, device)
    x, given = rows_for(event, context, 4, device)
    with pytest.raises(ShapeError, match="x must have shape"):
        model.log_prob(torch.cat([x, x], -1), given)
    with pytest.raises(ShapeError, match="float32"):
        model.log_prob(x.float(), given)
    if given is None:
        with pytest.raises(ShapeError, match="without a context"):
            model.log_prob(x, x.flatten(1))
        return
    for call in (lambda wrong: model.log_prob(x, wrong), lambda wrong: model.sample(4, wrong)):
        for wrong in (None, given[:3], given[:, :-1]):
            with pytest.raises(ShapeError, match=r"context|rows"):
                call(wrong)
    wide = model.sample(4, given, generator=fresh(device))
    assert wide.shape == (4, *event.shape)
