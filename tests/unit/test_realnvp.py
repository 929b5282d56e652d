"""RealNVP: a normalised density that its samples follow, that reacts to its context, in every precision."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load, save

from smoothgen.dequantization import build_density
from smoothgen.errors import ConfigError, ShapeError
from smoothgen.event import ContextSpec, EventSpec
from smoothgen_realnvp import RealNVPConfig
from smoothgen_realnvp.coupling import Couplings

pytestmark = pytest.mark.usefixtures("float64")

PLANE = EventSpec(shape=(2,))
SIGMA = 0.4
NOISY = ContextSpec(noisy_copy=(2,), noise_std=(SIGMA, SIGMA))
LABELS = ContextSpec(features=2)
CONTEXTS = {"none": None, "labels": LABELS, "anchored": NOISY}
LAST = "weights.2"
SMALL = {"layers": 4, "hidden": (16, 16)}


def bent(spec: ContextSpec | None, event: EventSpec = PLANE, seed: int = 0, **keys):
    """A flow with weights well away from their start, initialised on data; one row of context."""
    torch.manual_seed(seed)
    model = RealNVPConfig(**(SMALL | keys)).build(event, spec)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter += (0.3 if LAST in name else 0.1) * torch.randn_like(parameter)
    x = 0.5 + 1.5 * torch.randn(200, *event.shape)
    context = None if spec is None else torch.randn(200, *spec.shape)
    if spec is not None and spec.noisy_copy is not None:
        context = spec.join(
            x + SIGMA * torch.randn_like(x), None if not spec.features else torch.randn(200, spec.features)
        )
    model.initialize(x, context)
    return model, None if context is None else context[:1]


def halves_of(model) -> list[Couplings]:
    return [module for module in model.modules() if isinstance(module, Couplings)]


def grid_around(model, row, points: int = 401):
    """A grid, dense at the mass and reaching into heavy tails: (points^2, 2), weights, one axis per side.

    Along each side it is median + deviation * sinh(u), u evenly spaced; the weights are those of the trapezoid rule.
    """
    with torch.no_grad():
        draws = model.sample(4000, None if row is None else row.expand(4000, -1))
    u = torch.linspace(-7.0, 7.0, points)
    axes = [draws[:, i].median() + 0.5 * draws[:, i].std() * u.sinh() for i in range(2)]
    widths = [0.5 * draws[:, i].std() * u.cosh() * (u[1] - u[0]) for i in range(2)]
    return torch.cartesian_prod(*axes), torch.outer(*widths).flatten(), axes


def density_on(model, grid, row):
    return model.log_prob(grid, None if row is None else row.expand(len(grid), -1)).exp()


@pytest.mark.parametrize("fourier", [0, 2])
@pytest.mark.parametrize("kind", CONTEXTS)
def test_the_density_integrates_to_one(kind, fourier):
    model, row = bent(CONTEXTS[kind], fourier=fourier)
    grid, weights, _ = grid_around(model, row)
    with torch.no_grad():
        assert abs(float((density_on(model, grid, row) * weights).sum()) - 1.0) < 1e-4


def test_the_density_of_a_flow_that_was_not_initialised_integrates_to_one():
    model = RealNVPConfig(**SMALL).build(PLANE)
    grid, weights, _ = grid_around(model, None)
    with torch.no_grad():
        assert abs(float((density_on(model, grid, None) * weights).sum()) - 1.0) < 1e-6


@pytest.mark.parametrize("kind", ["labels", "anchored"])
@pytest.mark.parametrize("layers", [2, 3])
def test_every_coordinates_own_density_reacts_to_the_context(kind, layers):
    """p(x_i | context), the other coordinate integrated out; nflows' and normflows' MADE fail this for the first."""
    model, row = bent(CONTEXTS[kind], layers=layers)
    grid, weights, axes = grid_around(model, row, points=121)
    row = row.clone().requires_grad_(True)
    table = (density_on(model, grid, row) * weights).reshape(len(axes[0]), len(axes[1]))
    for density in (table.sum(1), table.sum(0), table[60], table[:, 60]):  # two marginals, two conditionals
        (gradient,) = torch.autograd.grad(density[55] / density.sum(), row, retain_graph=True)
        assert (gradient.abs() > 1e-8).all()


def disagreement(draws, model, row) -> float:
    """How far the shares of the draws in 9 x 9 cells are from those of log_prob: chi-square per degree of freedom."""
    grid, weights, axes = grid_around(model, row, points=601)
    with torch.no_grad():
        mass = density_on(model, grid, row) * weights
    between = [(axis[1:] + axis[:-1]) / 2 for axis in axes]
    edges = [middle[200:400:25].contiguous() for middle in between]

    def cell(points):
        first, second = (torch.bucketize(points[:, i].contiguous(), edges[i]) for i in range(2))
        return first * (len(edges[1]) + 1) + second

    cells = (len(edges[0]) + 1) * (len(edges[1]) + 1)
    expected = torch.zeros(cells).index_add_(0, cell(grid), mass) * len(draws)
    observed = torch.bincount(cell(draws), minlength=cells).to(expected)
    used = expected > 20
    assert used.sum() > 20
    return float(((observed - expected).square() / expected)[used].sum() / used.sum())


@pytest.mark.parametrize("kind", CONTEXTS)
def test_samples_follow_log_prob_and_a_wrong_sampler_would_not(kind, generator):
    model, row = bent(CONTEXTS[kind], fourier=1)
    count = 60000
    draws = model.sample(count, None if row is None else row.expand(count, -1), generator=generator)
    assert disagreement(draws, model, row) < 1.5
    wider = draws.mean(0) + 1.07 * (draws - draws.mean(0))
    assert disagreement(wider, model, row) > 5.0
    assert disagreement(draws.flip(1), model, row) > 5.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("layers", "growth"), [(8, 10.0), (32, 1.0)])
def test_an_outlier_stays_finite_at_any_depth_and_with_large_weights(dtype, layers, growth):
    model, _ = bent(NOISY, layers=layers, fourier=2)
    with torch.no_grad():
        for couplings in halves_of(model):
            couplings.weights[-1].mul_(growth)
    model = model.to(dtype)
    x = torch.tensor([[1e6, -1e6], [0.0, 1e6], [-1e6, 0.0]], dtype=dtype, requires_grad=True)
    log_prob = model.log_prob(x, torch.zeros(3, 2, dtype=dtype))
    log_prob.sum().backward()
    assert log_prob.isfinite().all() and x.grad.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_one_coordinate_is_refused_with_the_reason():
    with pytest.raises(ConfigError, match=r"at least 2.*Gaussian.*use type: made"):
        RealNVPConfig().build(EventSpec(shape=(1, 1)))


def test_keys_that_cannot_work_are_refused():
    with pytest.raises(ValidationError, match="layers"):
        RealNVPConfig(layers=1)
    with pytest.raises(ValidationError, match="max_log_scale"):
        RealNVPConfig(max_log_scale=0.0)
    with pytest.raises(ConfigError, match="hidden"):
        RealNVPConfig(hidden=()).build(PLANE)


def test_a_context_of_the_wrong_shape_is_refused():
    model, _ = bent(LABELS)
    with pytest.raises(ShapeError, match="context"):
        model.log_prob(torch.zeros(3, 2), torch.zeros(3, 5))


def test_initialisation_sends_the_batch_to_mean_zero_and_deviation_one():
    torch.manual_seed(0)
    x = torch.randn(500, 3) * torch.tensor([100.0, 0.01, 1.0]) + torch.tensor([1e4, -3.0, 0.0])
    model, _ = bent(None, event=EventSpec(shape=(3,)))
    model.initialize(x)
    z = model.flow.inverse((x - model.frame.loc) / model.frame.unit, model.frame.conditions(None))
    torch.testing.assert_close(z.mean(0), torch.zeros(3), atol=1e-8, rtol=0)
    torch.testing.assert_close(z.std(0, correction=0), torch.ones(3), atol=1e-8, rtol=0)


def test_a_constant_column_and_a_single_row_can_initialise():
    model, _ = bent(None)
    model.initialize(torch.tensor([[1.0, 5.0], [2.0, 5.0], [4.0, 5.0]]))
    assert model.log_prob(torch.tensor([[1.0, 5.0]])).isfinite().all()
    model.initialize(torch.tensor([[1.0, 5.0]]))
    assert model.log_prob(torch.tensor([[1.0, 5.0]])).isfinite().all()


def test_without_actnorm_the_gains_start_at_zero():
    model = RealNVPConfig(**SMALL, actnorm=False).build(PLANE)
    model.initialize(torch.randn(50, 2) * 7.0)
    assert all((couplings.gain == 0).all() for couplings in halves_of(model))


def test_the_longest_period_comes_from_the_data_or_from_the_key():
    x = torch.tensor([[0.0, -2.0], [4.0, 2.0], [1.0, 6.0]])
    measured = RealNVPConfig(**SMALL, fourier=1).build(PLANE)
    assert measured.frame.period.tolist() == [8.0, 8.0]
    measured.initialize(x)
    assert measured.frame.period.tolist() == [5.0, 10.0]
    given = RealNVPConfig(**SMALL, fourier=1, fourier_period=3.0).build(PLANE)
    given.initialize(x)
    assert given.frame.period.tolist() == [3.0, 3.0]


def test_the_anchored_flow_starts_near_the_reversed_kernel():
    """Before training p(x | x_tilde) is close to N(x_tilde, sigma^2), wherever x_tilde lies; not so unanchored."""
    torch.manual_seed(0)
    x = 50.0 * torch.randn(4000, 2)
    x_tilde = x + SIGMA * torch.randn_like(x)
    model, free = (RealNVPConfig(**SMALL, anchor=anchor).build(PLANE, NOISY) for anchor in (True, False))
    model.initialize(x, x_tilde)
    residual = (model.sample(4000, x_tilde) - x_tilde) / SIGMA
    assert residual.mean(0).abs().max() < 0.1 and (residual.std(0) - 1.0).abs().max() < 0.1
    free.initialize(x, x_tilde)
    assert (free.sample(4000, x_tilde) - x_tilde).std() > 20.0


def test_it_learns_the_posterior_of_gaussian_data():
    """Correlated Gaussian x, Gaussian noise: the trained p(x | x_tilde) comes within 0.03 nats of the entropy."""
    torch.manual_seed(0)
    factor = torch.tensor([[1.0, 0.0], [0.9, 0.3]])
    covariance = factor @ factor.T
    posterior = covariance - covariance @ torch.linalg.solve(covariance + SIGMA**2 * torch.eye(2), covariance)
    entropy = 0.5 * float(torch.logdet(2.0 * math.pi * math.e * posterior))

    def batch(size):
        x = torch.randn(size, 2) @ factor.T
        return x, x + SIGMA * torch.randn(size, 2)

    model = RealNVPConfig(layers=4, hidden=(24,)).build(PLANE, NOISY)
    model.initialize(*batch(1000))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2, fused=True)
    for step in range(400):
        optimizer.param_groups[0]["lr"] = 1e-2 * (1.0 - step / 400)
        optimizer.zero_grad()
        (-model.log_prob(*batch(256)).mean()).backward()
        optimizer.step()
    with torch.no_grad():
        x, x_tilde = batch(20000)
        exact_mean = x_tilde @ torch.linalg.solve(covariance + SIGMA**2 * torch.eye(2), covariance)
        exact = torch.distributions.MultivariateNormal(exact_mean, posterior).log_prob(x)
        gap = float((exact - model.log_prob(x, x_tilde)).mean())
    assert -0.005 < gap < 0.03, f"gap {gap} above the entropy {entropy}"


@pytest.mark.parametrize("split", ["alternate", "random"])
def test_pictures_and_pictured_contexts_are_flattened(split, generator):
    event = EventSpec(shape=(1, 3, 3), low=0.0, high=1.0, levels=16)
    spec = ContextSpec(noisy_copy=(1, 3, 3), noise_std=(0.3,) * 9)
    model = RealNVPConfig(**SMALL, split=split).build(event, spec)
    assert model.measure == "density" and model.exact
    x, context = torch.rand(5, 1, 3, 3), torch.randn(5, 1, 3, 3)
    assert model.log_prob(x, context).shape == (5,)
    assert model.sample(5, context, generator=generator).shape == (5, 1, 3, 3)
    discrete = build_density(RealNVPConfig(**SMALL, split=split), event, spec)
    assert discrete.measure == "discrete"
    samples = discrete.sample(5, context, generator=generator)
    torch.testing.assert_close(samples, event.quantize(samples))


def test_the_same_generator_gives_the_same_samples():
    model, row = bent(NOISY)
    context = row.expand(7, -1)
    draws = [model.sample(7, context, generator=torch.Generator().manual_seed(seed)) for seed in (3, 3, 4)]
    torch.testing.assert_close(draws[0], draws[1], rtol=0, atol=0)
    assert not torch.equal(draws[0], draws[2])


def test_row_i_of_a_sample_belongs_to_row_i_of_the_context(generator):
    model = RealNVPConfig(**SMALL).build(PLANE, NOISY)
    x_tilde = torch.arange(20.0).unsqueeze(1).expand(-1, 2) * 100.0
    assert (model.sample(20, x_tilde, generator=generator) - x_tilde).abs().max() < 10.0


@pytest.mark.parametrize("fourier", [0, 2])
@pytest.mark.parametrize("kind", CONTEXTS)
def test_nothing_stays_behind_on_the_meta_device(kind, fourier):
    spec = CONTEXTS[kind]
    event = EventSpec(shape=(3,)) if spec is not NOISY else PLANE
    with torch.device("meta"):
        built = RealNVPConfig(**SMALL, fourier=fourier, split="random").build(event, spec)
    for model in (built, RealNVPConfig(**SMALL, fourier=fourier, split="random").build(event, spec).to("meta")):
        x = torch.zeros(4, *event.shape, device="meta")
        context = None if spec is None else torch.zeros(4, *spec.shape, device="meta")
        assert model.log_prob(x, context).device.type == "meta"
        assert model.sample(4, context).device.type == "meta"
        model.initialize(x, context)


def test_bfloat16_networks_give_a_float32_likelihood():
    model, row = bent(NOISY, fourier=2)
    model = model.float()
    x, context = torch.randn(64, 2), row.expand(64, -1)
    exact = model.log_prob(x.float(), context.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = model.log_prob(x.float(), context.float())
        draws = model.sample(64, context.float())
        back = model.log_prob(draws, context.float())
    assert rounded.dtype == draws.dtype == back.dtype == torch.float32
    assert not torch.equal(rounded, exact), "the networks did not run in bfloat16"
    assert ((rounded - exact).abs() < 0.1 * (1.0 + exact.abs())).all()


def test_double_precision_is_double_throughout():
    """Against the same weights in float32: equal to rounding, and computed without a float32 detour."""
    model, row = bent(NOISY, fourier=1, layers=8)
    x, context = 0.3 * torch.randn(50, 2), row.expand(50, -1)
    with torch.no_grad():
        doubled = model.log_prob(x, context)
        shifted = model.log_prob(x + 1e-9, context)
        single = copy.deepcopy(model).float().log_prob(x.float(), context.float())
    assert doubled.dtype == torch.float64
    assert 0 < float((shifted - doubled).abs().max()) < 1e-5
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), doubled, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("split", ["alternate", "random"])
def test_saved_weights_give_the_same_likelihood_bit_for_bit(split):
    event = EventSpec(shape=(5,))
    spec = ContextSpec(noisy_copy=(5,), noise_std=(0.1, 0.2, 0.3, 0.4, 0.5), features=1)
    model, row = bent(spec, event=event, fourier=2, split=split, split_seed=1)
    fresh = RealNVPConfig(**SMALL, fourier=2, split=split, split_seed=1).build(event, spec)
    fresh.load_state_dict(load(save(model.state_dict())))
    x = torch.randn(9, 5)
    assert torch.equal(model.log_prob(x, row.expand(9, -1)), fresh.log_prob(x, row.expand(9, -1)))


def test_a_copy_is_independent():
    model, _ = bent(None)
    twin = copy.deepcopy(model)
    x = torch.randn(5, 2)
    before = model.log_prob(x)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(1.0)
    assert torch.equal(model.log_prob(x), before) and not torch.equal(twin.log_prob(x), before)


@pytest.mark.parametrize("fourier", [0, 1])
def test_it_compiles_as_one_graph(fourier):
    model, row = bent(NOISY, fourier=fourier, layers=2)
    x, context = torch.randn(6, 2), row.expand(6, -1)
    compiled = torch.compile(model.log_prob, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x, context), model.log_prob(x, context))  # to rounding: the latter runs in C


def test_a_score_exists_and_leaves_its_input_alone():
    """normflows' Shift writes into its input; a flow built on it cannot be differentiated at the data."""
    model, row = bent(NOISY, fourier=1)
    x, context = torch.randn(6, 2), row.expand(6, -1)
    kept = x.clone()
    score = model.score(x, context)
    assert torch.equal(x, kept)
    step = 1e-6
    for index in range(2):
        offset = step * torch.eye(2)[index]
        slope = (model.log_prob(x + offset, context) - model.log_prob(x - offset, context)) / (2 * step)
        torch.testing.assert_close(score[:, index], slope, rtol=1e-4, atol=1e-5)


def test_a_larger_split_seed_is_another_model():
    event = EventSpec(shape=(8,))
    models = [RealNVPConfig(split="random", split_seed=seed).build(event) for seed in (0, 0, 1)]
    orders = [[couplings.coordinates.tolist() for couplings in halves_of(model)] for model in models]
    assert orders[0] == orders[1] != orders[2]
