"""The laws of a density: mass one, samples from it, rows apart, contexts that reach everything, whole copies."""

from __future__ import annotations

import copy
import itertools
import math
from dataclasses import dataclass, field

import torch
from torch import Generator, Tensor

from smoothgen.density_model import DensityModel, DensityModelConfig
from smoothgen.dequantization import build_density
from smoothgen.errors import NoClosedFormError, ShapeError
from smoothgen.event import ContextSpec, EventSpec
from smoothgen.testing.law import DoesNotApply, Law, require
from smoothgen.testing.material import (
    context_spec,
    contexts_of,
    event_name,
    generator_alone_decides,
    load_state_of,
    lopsided,
    move_parameters,
    without_gradient,
)
from smoothgen.testing.quadrature import Grid, chi_square, surprise

CELLS = {1: 3000, 2: 400}
FEW_CELLS = {1: 300, 2: 50}
"""For bounds that are drawn: the draws limit the accuracy there."""
DRAWS = 50
SURPRISING = 5.5
"""Standard deviations of a chi-square beyond which samples do not follow a density: one in ten million by chance."""


@dataclass
class DensitySubject:
    """A density, built for an event and a context, with every parameter moved so that nothing is symmetric.

    accuracy: how exactly the grid knows its mass; less where its slope jumps.
    """

    config: DensityModelConfig
    event: EventSpec
    context_kind: str = "no context"
    noise: float = 0.15
    accuracy: float = 1e-6
    context: ContextSpec | None = field(init=False)

    def __post_init__(self) -> None:
        self.context = context_spec(self.context_kind, self.event)

    @property
    def name(self) -> str:
        return f"{event_name(self.event)}, {self.context_kind}"

    def model(self, dtype: torch.dtype = torch.float64, noise: float | None = None) -> DensityModel:
        """The same at every call."""
        return built(self.config, self.event, self.context, dtype, self.noise if noise is None else noise)

    def rows(self, n: int, seed: int = 3, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor | None]:
        """n examples and their contexts."""
        generator = Generator().manual_seed(seed)
        x = lopsided(self.event, n, dtype, generator)
        return x, contexts_of(self.context, x, generator)

    def fine_grid(self, model: DensityModel) -> Grid:
        """Raises DoesNotApply for more coordinates than a grid affords, and for levels."""
        dimensions = self.event.dimensions
        if dimensions not in CELLS or self.event.levels is not None:
            raise DoesNotApply("quadrature is for one or two continuous coordinates")
        return Grid(dimensions, CELLS[dimensions]) if model.exact else Grid(dimensions, FEW_CELLS[dimensions], 30.0)

    def all_levels(self) -> Tensor:
        """Every value that the event can take. Raises DoesNotApply where it is continuous."""
        if self.event.levels is None or self.event.low is None:
            raise DoesNotApply("the event is continuous")
        levels = [self.event.low + k * self.event.bin_width for k in range(self.event.levels)]
        every = list(itertools.product(levels, repeat=self.event.dimensions))
        return torch.tensor(every, dtype=torch.float64).reshape(-1, *self.event.shape)


def built(
    config: DensityModelConfig, event: EventSpec, context: ContextSpec | None, dtype: torch.dtype, noise: float
) -> DensityModel:
    """Initialised on lopsided data, every parameter moved, evaluating: the same at every call."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = build_density(config, event, context).to(dtype)
        x = lopsided(event, 512, dtype)
        model.initialize(x, contexts_of(context, x))
        move_parameters(model, noise)
    return model.eval()


def drawn(seed: int = 11) -> Generator:
    """A generator of its own for every draw."""
    return Generator().manual_seed(seed)


def values(model: DensityModel, x: Tensor, context: Tensor | None, seed: int = 11) -> Tensor:
    """log_prob without gradients, from the same draws at every call."""
    with torch.no_grad():
        return model.log_prob(x, context, generator=drawn(seed))


def _masses(subject: DensitySubject, model: DensityModel, row: Tensor | None) -> tuple[Grid, Tensor]:
    """Estimates of every cell's mass: (estimates, *cells)."""
    grid = subject.fine_grid(model)
    generator, found = drawn(2), []
    for _ in range(1 if model.exact else DRAWS):

        def log_density(x: Tensor) -> Tensor:
            with torch.no_grad():
                return model.log_prob(x, _repeated(row, len(x)), generator=generator)

        found.append(grid.masses(log_density, torch.zeros(1, dtype=torch.float64)))
    return grid, torch.stack(found)


def _repeated(row: Tensor | None, n: int) -> Tensor | None:
    return None if row is None else row.expand(n, *row.shape[1:])


def shapes(subject: DensitySubject) -> None:
    model = subject.model()
    x, context = subject.rows(5)
    value, sample = values(model, x, context), model.sample(5, context, generator=drawn())
    require(value.shape == (5,), f"log_prob of 5 rows has shape {tuple(value.shape)}, not (5,)")
    require(value.dtype == x.dtype, f"log_prob of {x.dtype} rows is {value.dtype}")
    require(bool(value.isfinite().all()), "log_prob of ordinary rows is not finite")
    require(sample.shape == x.shape, f"5 samples have shape {tuple(sample.shape)}, not {tuple(x.shape)}")
    require(sample.dtype == x.dtype, f"samples of a {x.dtype} model are {sample.dtype}")
    require(not sample.requires_grad, "samples carry gradients")
    subject.event.check(sample)


def refusals(subject: DensitySubject) -> None:
    model = subject.model()
    x, context = subject.rows(4)
    wrong_calls = [("rows of another size", lambda: model.log_prob(torch.cat([x, x], -1), context))]
    wrong_calls.append(("rows of another dtype", lambda: model.log_prob(x.float(), context)))
    if context is None:
        wrong_calls.append(("a context that it does not take", lambda: model.log_prob(x, x.flatten(1))))
    else:
        wrong_calls.append(("no context where it needs one", lambda: model.log_prob(x, None)))
        wrong_calls.append(("fewer contexts than rows", lambda: model.log_prob(x, context[:3])))
    for what, call in wrong_calls:
        try:
            call()
        except ShapeError:
            continue
        require(False, f"takes {what} without a ShapeError")


def mass(subject: DensitySubject) -> None:
    model = subject.model()
    _, row = subject.rows(1)
    if subject.event.levels is None:
        _, masses = _masses(subject, model, row)
        totals = masses.flatten(1).sum(1)
    else:
        x = subject.all_levels()
        times = 1 if model.exact else 2000
        many = x.repeat(times, *[1] * (x.dim() - 1))
        totals = values(model, many, _repeated(row, len(many))).exp().reshape(times, len(x)).sum(1)
    total = totals.mean().item()
    if model.exact:
        require(abs(total - 1.0) < subject.accuracy, f"the mass is {total:.8f}, not 1")
        return
    error = (totals.std() / math.sqrt(len(totals))).item()
    above = total - 1.0 < 5.0 * error if subject.event.levels is not None else abs(total - 1.0) < 5.0 * error
    require(above, f"the mass is {total:.5f} ± {error:.5f}, not 1")


def samples(subject: DensitySubject) -> None:
    model, n = subject.model(), 8000
    _, rows = subject.rows(3, seed=5)
    kinds = 1 if rows is None else 3
    given = None if rows is None else rows.repeat(n, *[1] * (rows.dim() - 1))
    drawn_rows = model.sample(n * kinds, given, generator=drawn(1))
    for kind in range(kinds):
        row = None if rows is None else rows[kind : kind + 1]
        off = _surprise(subject, model, row, drawn_rows[kind::kinds])
        require(off < SURPRISING, f"samples do not follow log_prob: {off:.1f} standard deviations off")


def _surprise(subject: DensitySubject, model: DensityModel, row: Tensor | None, x: Tensor) -> float:
    if subject.event.levels is None:
        grid, masses = _masses(subject, model, row)
        return surprise(masses, grid.cell_of(x.flatten(1)), bins=25 if subject.event.dimensions == 1 else 8)
    every, levels = subject.all_levels(), subject.event.levels
    if not model.exact:
        raise DoesNotApply("log_prob is a random bound on the probability of levels")
    probability = values(model, every, _repeated(row, len(every))).exp()
    level = subject.event.levels_of(x).flatten(1)
    place = torch.tensor([levels**power for power in reversed(range(level.shape[1]))])
    return chi_square(probability[None], torch.bincount((level * place).sum(1), minlength=len(every)).double())


def generator_decides(subject: DensitySubject) -> None:
    model = subject.model()
    _, context = subject.rows(64)
    generator_alone_decides(lambda seed: model.sample(64, context, generator=drawn(seed)), "samples")


def context_matters(subject: DensitySubject) -> None:
    x, context = subject.rows(32)
    if context is None:
        raise DoesNotApply("there is no context")
    variable = context.clone().requires_grad_(True)
    value = subject.model().log_prob(x, variable, generator=drawn())
    (gradient,) = torch.autograd.grad(value.sum(), variable, allow_unused=True)
    require(gradient is not None, "log_prob does not depend on the context")
    require(bool(gradient.isfinite().all()), "the gradient by the context is not finite")
    ignored = (gradient.abs().flatten(1).amax(0) <= 1e-6).nonzero().flatten().tolist()
    require(not ignored, f"log_prob ignores numbers {ignored} of the context")


def context_reaches(subject: DensitySubject) -> None:
    if subject.event.levels is not None:
        raise DoesNotApply("a level may stay where it is")
    _, context = subject.rows(32)
    if context is None:
        raise DoesNotApply("there is no context")
    model = subject.model()
    before = model.sample(32, context, generator=drawn()).flatten(1)
    for number in range(context[0].numel()):
        changed = context.flatten(1).clone()
        changed[:, number] += 0.5
        after = model.sample(32, changed.reshape(context.shape), generator=drawn()).flatten(1)
        blind = ((after - before).abs().amax(0) <= 1e-6).nonzero().flatten().tolist()
        require(not blind, f"coordinates {blind} do not react to number {number} of the context")


def rows_apart(subject: DensitySubject) -> None:
    model = subject.model()
    x, context = subject.rows(16)
    mixed, other_contexts = subject.rows(16, seed=4)
    mixed[5] = x[5]
    if context is not None and other_contexts is not None:
        other_contexts[5] = context[5]
    off = (values(model, x, context)[5] - values(model, mixed, other_contexts)[5]).abs().item()
    require(off < 1e-8, f"log_prob of a row changes by {off:.2g} with the other rows of its batch")
    if model.exact:
        alone = values(model, x[5:6], None if context is None else context[5:6])[0]
        off = (values(model, x, context)[5] - alone).abs().item()
        require(off < 1e-8, f"log_prob of a row changes by {off:.2g} when it is alone")
    if context is not None:
        first = model.sample(16, context, generator=drawn())[5]
        second = model.sample(16, other_contexts, generator=drawn())[5]
        require(torch.allclose(first, second, atol=1e-8), "a sample changes with the contexts of other rows")


def permutation(subject: DensitySubject) -> None:
    model = subject.model()
    if not model.exact:
        raise DoesNotApply("log_prob is a random bound, whose draws stay with the places")
    x, context = subject.rows(16)
    order = torch.randperm(16, generator=drawn())
    moved = values(model, x[order], None if context is None else context[order])
    off = (moved - values(model, x, context)[order]).abs().max().item()
    require(off < 1e-8, f"log_prob changes by {off:.2g} when rows change places")


def gradient(subject: DensitySubject) -> None:
    model = subject.model()
    if subject.event.levels is not None or not model.exact:
        raise DoesNotApply("levels have no gradient, and a random bound has its draws'")
    x, context = subject.rows(4)
    variable = x.clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(model.log_prob(variable, context).sum(), variable)
    require(bool(slope.isfinite().all()), "the gradient by x is not finite")
    step = 1e-6
    for index in range(subject.event.dimensions):
        moved = torch.zeros_like(x).flatten(1)
        moved[:, index] = step
        moved = moved.reshape(x.shape)
        numeric = (values(model, x + moved, context) - values(model, x - moved, context)) / (2.0 * step)
        off = ((slope.flatten(1)[:, index] - numeric).abs() / (1.0 + numeric.abs())).median().item()
        require(off < 1e-5, f"the gradient by coordinate {index} is {off:.2g} from that of finite differences")


def order(subject: DensitySubject) -> None:
    model = subject.model()
    x, context = subject.rows(8)
    try:
        places = model.coordinate_order
        terms = model.log_conditionals(x, context)
    except NoClosedFormError:
        raise DoesNotApply("no autoregressive order is claimed") from None
    require(sorted(places) == list(range(subject.event.dimensions)), "the order names not every coordinate once")
    off = (terms.sum(1) - values(model, x, context)).abs().max().item()
    require(off < 1e-8, f"the conditionals sum to something {off:.2g} from log_prob")
    for place, coordinate in enumerate(places):
        changed = x.flatten(1).clone()
        changed[:, coordinate] = subject.event.quantize(changed[:, coordinate] + 0.8)
        moved = (model.log_conditionals(changed.reshape(x.shape), context) - terms).abs().amax(0)
        early = [c for c in places[:place] if moved[c] != 0.0]
        require(not early, f"the conditionals of {early} see coordinate {coordinate}, which comes later")
        late = [c for c in places[place:] if moved[c] <= 1e-9]
        require(not late, f"the conditionals of {late} do not see coordinate {coordinate} before them")


def meta(subject: DensitySubject) -> None:
    model = subject.model().to("meta")
    x, context = subject.rows(3)
    value = model.log_prob(x.to("meta"), None if context is None else context.to("meta"))
    require(value.device.type == "meta" and value.shape == (3,), "log_prob leaves the device of its input")


def float32(subject: DensitySubject) -> None:
    wide = subject.model()
    x, context = subject.rows(32)
    x, context = x.float(), None if context is None else context.float()
    narrow = values(copy.deepcopy(wide).float(), x, context)
    require(narrow.dtype == torch.float32, f"log_prob of a float32 model is {narrow.dtype}")
    if wide.exact:
        exact = values(wide, x.double(), None if context is None else context.double())
        off = ((narrow.double() - exact).abs() / (1.0 + exact.abs())).max().item()
        require(off < 1e-3, f"float32 and float64 differ by {off:.2g}")


def bfloat16(subject: DensitySubject) -> None:
    model = subject.model(torch.float32)
    x, context = subject.rows(64, dtype=torch.float32)
    full = values(model, x, context)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = values(model, x, context)
    require(mixed.dtype == torch.float32, f"under bfloat16 autocast log_prob is {mixed.dtype}, not float32")
    require(bool(mixed.isfinite().all()), "under bfloat16 autocast log_prob is not finite")
    off = (mixed - full).abs().mean().item()
    require(off < 0.2, f"bfloat16 autocast moves log_prob by {off:.2g} in the mean: the likelihood is in bfloat16 too")


def copies(subject: DensitySubject) -> None:
    model = subject.model()
    x, context = subject.rows(16)
    expected = values(model, x, context)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    require(torch.equal(values(twin, x, context), expected), "a deep copy changes with the original")
    require(not torch.equal(values(model, x, context), expected), "log_prob stays when all parameters become zero")


def saved(subject: DensitySubject) -> None:
    model, restored = subject.model(), subject.model(noise=0.5 + subject.noise)
    x, context = subject.rows(16)
    expected = values(model, x, context)
    values(restored, x, context)  # a cache filled now must not survive
    load_state_of(model, restored)
    off = (values(restored, x, context) - expected).abs().max().item()
    require(off == 0.0, f"saved and loaded, log_prob differs by {off:.2g}: the state is not whole, or a cache is stale")


def learns(subject: DensitySubject) -> None:
    model = subject.model()
    x, context = subject.rows(64)
    model.log_prob(x, context, generator=drawn()).mean().backward()
    left = without_gradient(model)
    require(not left, f"parameters without a finite gradient: {', '.join(left)}")


def compiles(subject: DensitySubject) -> None:
    model = subject.model()
    if not model.exact:
        raise DoesNotApply("log_prob is a random bound")
    x, context = subject.rows(8)
    torch.compiler.reset()
    compiled = torch.compile(model.log_prob, fullgraph=True, backend="eager")
    off = (compiled(x, context).detach() - values(model, x, context)).abs().max().item()
    require(off < 1e-8, f"compiled, log_prob differs by {off:.2g}")


DENSITY_LAWS = (
    Law("shapes", "log_prob is (batch,), samples are (batch, *event), in the dtype of the model", shapes),
    Law("refusals", "rows and contexts of a wrong shape or dtype are refused by a ShapeError", refusals),
    Law("mass", "exp(log_prob) integrates, or sums over the levels, to 1", mass),
    Law("samples", "samples follow log_prob, each its own row of the context", samples),
    Law("generator", "the generator alone decides the samples", generator_decides),
    Law("context-matters", "log_prob depends on every number of the context", context_matters),
    Law("context-reaches", "every coordinate depends on every number of the context", context_reaches),
    Law("rows-apart", "a row's result does not depend on the other rows of its batch", rows_apart),
    Law("permutation", "rows in another order give results in that order", permutation),
    Law("gradient", "the gradient by x is finite and that of finite differences", gradient),
    Law(
        "order",
        "where an order is claimed, a conditional sees what comes before it, all of it, and nothing else",
        order,
    ),
    Law("meta", "no tensor is made on another device than the input's", meta),
    Law("float32", "float32 gives what float64 gives, to rounding", float32),
    Law("bfloat16", "under bfloat16 autocast log_prob is float32, and near", bfloat16),
    Law("copies", "a deep copy is whole and apart", copies),
    Law("saved", "the state dict, through safetensors, holds all that log_prob depends on", saved),
    Law("learns", "every parameter gets a finite gradient", learns),
    Law("compiles", "log_prob compiles as one graph", compiles),
)
