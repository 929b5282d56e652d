"""MADE's own laws: who depends on whom, masses and quantiles of mixtures of logistics far out, and its scores."""

from __future__ import annotations

import math

import mpmath
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Generator, Tensor

from smoothgen import logistic_mixture
from smoothgen.errors import ConfigError
from smoothgen.event import ContextSpec, EventSpec
from smoothgen.testing.material import contexts_of, lopsided
from smoothgen_made.made import MADE, MADEConfig

pytestmark = pytest.mark.usefixtures("float64")

NOISE_STD = 0.5


def build(
    dimensions: int, kind: str, seed: int = 0, levels: int | None = None, noise: float = 0.3, **keys
) -> tuple[MADE, Tensor, Tensor | None]:
    """A perturbed MADE in a random order, 6 examples and their contexts."""
    shape = (dimensions,)
    event = EventSpec(shape=shape) if levels is None else EventSpec(shape=shape, low=-2.0, high=2.0, levels=levels)
    context = {
        "no context": None,
        "features": ContextSpec(features=3),
        "noisy copy": ContextSpec(noisy_copy=shape),
        "anchored": ContextSpec(shape, (NOISE_STD,) * dimensions),
        "anchored + features": ContextSpec(shape, (NOISE_STD,) * dimensions, features=2),
    }[kind]
    generator = Generator().manual_seed(seed)
    config = MADEConfig(**{"hidden": (24, 24), "components": 2, "order": "random", "order_seed": seed, **keys})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = config.build(event, context).double().eval()
        x = lopsided(event, 256, generator=generator)
        given_context = contexts_of(context, x, generator)
        model.initialize(x, given_context)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += noise * torch.randn(parameter.shape, generator=generator)
    assert isinstance(model, MADE)
    return model, x[:6], None if given_context is None else given_context[:6]


def parameters_of(model: MADE, x: Tensor, context: Tensor | None) -> Tensor:
    """(batch, D, 3K)."""
    return model.conditioner(model.features(x, context))


def sensitivity(outputs: Tensor, to: Tensor) -> Tensor:
    """Largest |d output of coordinate i / d to_j| over rows and outputs: (D, size of to). outputs (batch, D, P)."""
    rows = []
    for i in range(outputs.shape[1]):
        per_output = [
            torch.autograd.grad(outputs[:, i, p].sum(), to, retain_graph=True)[0].flatten(1).abs().amax(0)
            for p in range(outputs.shape[2])
        ]
        rows.append(torch.stack(per_output).amax(0))
    return torch.stack(rows)


def rank_of(model: MADE) -> Tensor:
    """The place of each coordinate in the sampling order."""
    rank = torch.empty(len(model.order), dtype=torch.long)
    rank[torch.tensor(model.order)] = torch.arange(len(model.order))
    return rank


def reach(dimensions: int) -> list[list[int]]:
    """Widths that differ from coordinate to coordinate."""
    return [[8 + index, 8 + index, 6] for index in range(dimensions)]


KINDS = ("no context", "features", "noisy copy", "anchored", "anchored + features")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dimensions", range(1, 10))
@pytest.mark.parametrize(("network", "fourier"), [("masked", 0), ("masked", 2), ("separate", 0), ("separate", 2)])
def test_each_conditional_sees_what_precedes_it_and_the_whole_context(dimensions, kind, network, fourier):
    hidden = reach(dimensions) if network == "separate" else (24, 24)
    model, x, context = build(dimensions, kind, seed=dimensions, fourier=fourier, network=network, hidden=hidden)
    assert sorted(model.order) == list(range(dimensions))
    x = x.clone().requires_grad_(True)
    context = None if context is None else context.clone().requires_grad_(True)
    outputs = parameters_of(model, x, context)
    rank = rank_of(model)
    seen = sensitivity(outputs, x) if dimensions > 1 or kind != "no context" else torch.zeros(1, 1)
    precedes = rank[None, :] < rank[:, None]
    assert (seen[~precedes] == 0.0).all(), "a conditional sees itself or what follows"
    assert (seen[precedes] > 1e-8).all(), "a conditional is blind to something that precedes it"
    if context is not None:
        assert (sensitivity(outputs, context) > 1e-8).all(), "a conditional is blind to a part of the context"


@pytest.mark.parametrize("hidden", [(2,), (9, 5), (5, 9, 9)])
@pytest.mark.parametrize("kind", ["no context", "anchored + features"])
def test_no_width_of_the_hidden_layers_leaks(hidden, kind):
    """Few hidden units may blind a conditional, never show it what follows."""
    model, x, context = build(5, kind, hidden=hidden)
    x = x.clone().requires_grad_(True)
    rank = rank_of(model)
    seen = sensitivity(parameters_of(model, x, context), x)
    assert (seen[rank[None, :] >= rank[:, None]] == 0.0).all()
    assert (seen > 0.0).any()


def test_a_shifted_mask_would_be_caught():
    model, x, _ = build(4, "no context", seed=4)
    model.conditioner.last.mask.copy_(model.conditioner.last.mask.roll(model.conditioner.outputs, 0))
    x = x.clone().requires_grad_(True)
    rank = rank_of(model)
    seen = sensitivity(parameters_of(model, x, None), x)
    assert (seen[rank[None, :] >= rank[:, None]] > 0.0).any()


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"hidden": ()}, "at least one layer"),
        ({"network": "separate", "hidden": ((8,), ())}, "at least one layer"),
        ({"network": "separate", "hidden": ((8,), (8,), (8,))}, "3 coordinates, the event has 2"),
        ({"hidden": ((8,), (8,))}, "network: separate"),
        ({"family": "gaussian", "levels": 7}, "no probabilities of levels"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_reason(keys, words):
    levels = keys.pop("levels", None)
    event = EventSpec(shape=(2,)) if levels is None else EventSpec(shape=(2,), low=0.0, high=1.0, levels=levels)
    with pytest.raises(ConfigError, match=words):
        MADEConfig(**keys).build(event)


@pytest.mark.parametrize(("levels", "family"), [(None, "logistic"), (7, "logistic"), (None, "gaussian")])
@pytest.mark.parametrize("network", ["masked", "separate"])
@pytest.mark.parametrize("kind", ["no context", "anchored + features"])
def test_one_coordinate_at_a_time_is_the_same_as_all_at_once(levels, family, network, kind):
    """The sampler's passes agree with one pass over the finished sample, uniform for uniform."""
    model, _, context = build(5, kind, levels=levels, fourier=2, family=family, network=network)
    context = None if context is None else context.repeat(50, 1)
    sample = model.sample(300, context, generator=Generator().manual_seed(1))
    logit_u = logistic_mixture.logit_uniform((300, 5), model.unit, Generator().manual_seed(1))
    with torch.no_grad():
        relative = model._relative(parameters_of(model, sample, context), sample)
        mixture = model._absolute(relative, model._anchor(context), model.unit)
    again = model.family.inverse_cdf(logit_u, *mixture)
    again = again if levels is None else model.event.quantize(again)
    assert torch.allclose(again, sample, atol=1e-9)
    wrong_order = model.family.inverse_cdf(logit_u.flip(1), *mixture)
    assert not torch.allclose(wrong_order, sample, atol=1e-2)


# --- mass of levels --------------------------------------------------------------------------------------------------


@st.composite
def mixtures(draw, far: float = 50.0, log_scales: tuple[float, float] = (-12.0, 4.0), most: int = 4):
    """(logits, loc, log_scale) of one mixture as lists."""
    k = draw(st.integers(1, most))
    numbers = lambda low, high: draw(st.lists(st.floats(low, high, width=32), min_size=k, max_size=k))  # noqa: E731
    return numbers(-8.0, 8.0), numbers(-far, far), numbers(*log_scales)


@st.composite
def level_events(draw):
    low = draw(st.sampled_from([-1.0, 0.0, -3.0]))
    width = draw(st.sampled_from([1.0, 2.0, 255.0]))
    return EventSpec(shape=(1,), low=low, high=low + width, levels=draw(st.sampled_from([2, 3, 16, 256])))


def all_levels(event: EventSpec, dtype: torch.dtype) -> Tensor:
    assert event.levels is not None and event.low is not None
    return (event.low + torch.arange(event.levels, dtype=torch.float64) * event.bin_width).to(dtype)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-10)])
@given(event=level_events(), mixture=mixtures())
def test_masses_of_all_levels_sum_to_one(dtype, tolerance, event, mixture):
    parameters = [torch.tensor(values, dtype=dtype) for values in mixture]
    x = all_levels(event, dtype)
    log_mass = logistic_mixture.log_mass(x, *(p.expand(len(x), -1) for p in parameters), event)
    assert log_mass.dtype == dtype
    assert not log_mass.isnan().any() and (log_mass < 1e-5).all()
    assert log_mass.double().exp().sum().item() == pytest.approx(1.0, abs=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@given(event=level_events(), mixture=mixtures(far=300.0, log_scales=(-7.0, 4.0)))
def test_masses_and_their_gradients_are_finite(dtype, event, mixture):
    """However improbable a level is, its log mass is a number that training can follow."""
    parameters = [torch.tensor(values, dtype=dtype).requires_grad_(True) for values in mixture]
    x = all_levels(event, dtype)
    log_mass = logistic_mixture.log_mass(x, *(p.expand(len(x), -1) for p in parameters), event)
    assert log_mass.isfinite().all()
    for gradient in torch.autograd.grad(log_mass.sum(), parameters):
        assert gradient.isfinite().all()


def exact_log_mass(k: int, mixture, event: EventSpec) -> float:
    """By definition, in 80 digits: the mixture's CDF at the upper edge minus at the lower one."""
    with mpmath.workdps(80):
        logits, loc, log_scale = ([mpmath.mpf(value) for value in values] for values in mixture)
        weights = [mpmath.exp(value) for value in logits]
        low = mpmath.mpf(event.low)
        width = (mpmath.mpf(event.high) - low) / (event.levels - 1)

        def below(x) -> mpmath.mpf:
            return 1 / (1 + mpmath.exp(-x)) if x > -(10**6) else mpmath.exp(x)

        total = mpmath.mpf(0)
        for w, m, s in zip(weights, loc, log_scale, strict=True):
            a, b = ((low + (k + side) * width - m) * mpmath.exp(-s) for side in (mpmath.mpf("0.5"), -mpmath.mpf("0.5")))
            if k == 0:
                mass = below(a)
            elif k == event.levels - 1:
                mass = below(-b)
            else:  # sigmoid(a) - sigmoid(b), without cancellation where both are near 1
                mass = below(a) * below(-b) * (1 - mpmath.exp(b - a))
            total += w * mass
        return float(mpmath.log(total / mpmath.fsum(weights)))


@given(event=level_events(), mixture=mixtures(far=20.0, log_scales=(-7.0, 4.0)), data=st.data())
def test_log_mass_is_exact_in_the_tails(event, mixture, data):
    """float64 within rounding of 80 digits, down to probabilities of e^-10000 and less; float32 within its rounding."""
    k = data.draw(st.sampled_from([0, 1, event.levels // 2, event.levels - 2, event.levels - 1]))
    truth = exact_log_mass(k, mixture, event)
    rounding = 1.0 + abs(truth) + max(abs(m) for m in mixture[1]) / event.bin_width
    for dtype, unit in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        x = all_levels(event, dtype)[k]
        value = logistic_mixture.log_mass(x, *(torch.tensor(v, dtype=dtype) for v in mixture), event).item()
        assert value == pytest.approx(truth, abs=unit * rounding)


def test_the_switch_of_the_reference_is_gone():
    """x = -.5, mean .9, log scale -7: the reference implementation says -1533.13 (numerics.md, section 1)."""
    event = EventSpec(shape=(1,), low=-1.0, high=1.0, levels=256)
    x = event.quantize(torch.tensor(-0.5))
    mixture = ([0.0], [0.9], [-7.0])
    value = logistic_mixture.log_mass(x, *(torch.tensor(v) for v in mixture), event).item()
    assert value == pytest.approx(exact_log_mass(int(event.levels_of(x)), mixture, event), abs=1e-9)


@given(mixture=mixtures(far=20.0, log_scales=(-5.0, 3.0)), x=st.floats(-100.0, 100.0))
def test_log_density_is_exact_in_the_tails(mixture, x):
    with mpmath.workdps(80):
        logits, loc, log_scale = ([mpmath.mpf(value) for value in values] for values in mixture)
        total = mpmath.mpf(0)
        for w, m, s in zip(logits, loc, log_scale, strict=True):
            z = abs((mpmath.mpf(x) - m) * mpmath.exp(-s))
            total += mpmath.exp(w - z - s) / (1 + mpmath.exp(-z)) ** 2
        truth = float(mpmath.log(total / mpmath.fsum([mpmath.exp(w) for w in logits])))
    value = logistic_mixture.log_density(torch.tensor(x), *(torch.tensor(v) for v in mixture)).item()
    assert value == pytest.approx(truth, abs=1e-12 * (1.0 + abs(truth)))


# --- quantiles -------------------------------------------------------------------------------------------------------


def logit_cdf(x: Tensor, logits: Tensor, loc: Tensor, log_scale: Tensor) -> Tensor:
    """logit F(x) in float64, accurate in both tails. x (..., n), parameters (K,)."""
    z = (x.double()[..., None] - loc.double()) * torch.exp(-log_scale.double())
    weight = torch.log_softmax(logits.double(), -1)
    logsigmoid = torch.nn.functional.logsigmoid
    return torch.logsumexp(weight + logsigmoid(z), -1) - torch.logsumexp(weight + logsigmoid(-z), -1)


def bracketed(x: Tensor, logit_u: Tensor, parameters: list[Tensor]) -> Tensor:
    """Whether F crosses u within a few roundings of x, measured at the scale of the bracket it was sought in."""
    logits, loc, log_scale = (p.double() for p in parameters)
    eps = torch.finfo(x.dtype).eps
    scale = log_scale.exp()
    quantiles = loc + scale * logit_u.double()[:, None]
    slack = 8.0 * eps * (quantiles.abs().amax(1) + loc.abs().amax() + (scale * logit_u.double()[:, None]).abs().amax(1))
    error = 8.0 * eps * (1.0 + logit_u.double().abs() + logits.abs().max())
    below = logit_cdf(x.double() - slack, logits, loc, log_scale) - logit_u.double()
    above = logit_cdf(x.double() + slack, logits, loc, log_scale) - logit_u.double()
    return (below <= error) & (above >= -error)


def uniforms(dtype: torch.dtype) -> Tensor:
    """logit u from the smallest to the largest that a sampler can draw, and beyond."""
    return torch.cat([torch.tensor([-80.0]), torch.linspace(-38.0, 38.0, 153), torch.tensor([80.0])]).to(dtype)


SHARP = {
    "one": ([0.0], [3.0], [-9.0]),
    "far apart and sharp": ([0.0, -1.0, 1.0], [-900.0, 0.0, 900.0], [-9.0, -11.0, -7.0]),
    "a needle in a hill": ([0.0, 0.0], [0.3, 0.0], [-12.0, 4.0]),
    "almost no weight": ([0.0, -60.0], [0.0, 50.0], [0.0, -8.0]),
    "equal": ([0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [-2.0, -2.0, -2.0]),
    "ten modes": ([0.0] * 10, [k - 4.5 for k in range(10)], [math.log(0.03)] * 10),
    "far from zero": ([0.0, 0.5], [1e4, 1e4 + 1.0], [-3.0, -2.0]),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("mixture", SHARP.values(), ids=SHARP.keys())
def test_inverse_cdf_of_sharp_mixtures(mixture, dtype):
    check_inverse_cdf(mixture, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@given(mixture=mixtures(far=20.0, log_scales=(-9.0, 4.0), most=6))
def test_inverse_cdf_inverts_any_mixture(dtype, mixture):
    check_inverse_cdf(mixture, dtype)


def check_inverse_cdf(mixture, dtype: torch.dtype) -> None:
    logit_u = uniforms(dtype)
    parameters = [torch.tensor(values, dtype=dtype) for values in mixture]
    expanded = [p.expand(len(logit_u), -1) for p in parameters]
    x = logistic_mixture.inverse_cdf(logit_u, *expanded)
    assert x.dtype == dtype and x.isfinite().all()
    good = bracketed(x, logit_u, parameters)
    assert good.all(), f"u not reached at logit {logit_u[~good].tolist()}, x = {x[~good].tolist()}"
    slack = 16.0 * torch.finfo(dtype).eps * (1.0 + x.abs() + parameters[1].abs().max() + parameters[2].exp().max() * 80)
    assert (x.diff() >= -slack[1:]).all(), "not monotone in u"


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 5e-3), (torch.float64, 1e-10)])
def test_inverse_cdf_error_in_logits(dtype, tolerance):
    """logit F(x) - logit u over random mixtures with scales from e^-8 to e^4, beyond one rounding of x."""
    generator = Generator().manual_seed(0)
    for _ in range(300):
        k = int(torch.randint(1, 6, (), generator=generator))
        logits, loc = (factor * torch.randn(k, generator=generator) for factor in (2.0, 3.0))
        log_scale = 12.0 * torch.rand(k, generator=generator) - 8.0
        parameters = [p.to(dtype) for p in (logits, loc, log_scale)]
        logit_u = (4.0 * torch.randn(50, generator=generator)).to(dtype)
        x = logistic_mixture.inverse_cdf(logit_u, *(p.expand(50, -1) for p in parameters)).double()
        rounding = torch.finfo(dtype).eps * x.abs()
        spread = logit_cdf(x + rounding, *parameters) - logit_cdf(x - rounding, *parameters)
        assert ((logit_cdf(x, *parameters) - logit_u.double()).abs() < tolerance + spread).all()


def test_an_inverse_cdf_that_stops_early_would_be_caught():
    mixture = SHARP["ten modes"]
    logit_u = uniforms(torch.float64)
    parameters = [torch.tensor(values) for values in mixture]
    x = logistic_mixture.inverse_cdf(logit_u, *(p.expand(len(logit_u), -1) for p in parameters))
    assert not bracketed(x + 1e-9, logit_u, parameters).all()


def test_uniforms_of_the_sampler_are_finite_and_uniform():
    for dtype in (torch.float32, torch.float64):
        generator = Generator().manual_seed(0)
        logit_u = logistic_mixture.logit_uniform((200_000,), torch.zeros((), dtype=dtype), generator)
        assert logit_u.dtype == dtype and logit_u.isfinite().all()
        u = logit_u.double().sigmoid().sort().values
        distance = (u - (torch.arange(len(u)) + 0.5) / len(u)).abs().max().item()
        assert distance < 2.2 / math.sqrt(len(u)), "Kolmogorov-Smirnov at 1e-4"


# --- scores ----------------------------------------------------------------------------------------------------------

SCORED = pytest.mark.parametrize(
    ("dimensions", "kind", "keys"),
    [
        (1, "no context", {}),
        (3, "no context", {"fourier": 2}),
        (4, "features", {"activation": "tanh"}),
        (3, "anchored + features", {"fourier": 1}),
    ],
)


def conditionals(model: MADE, x: Tensor, context: Tensor | None) -> Tensor:
    """log p(x_i | x_<i): (batch, D)."""
    with torch.no_grad():
        return model._log_conditionals(x, context, model._relative(parameters_of(model, x, context), x))


@SCORED
def test_the_conditionals_sum_to_log_prob(dimensions, kind, keys):
    model, x, context = build(dimensions, kind, **keys)
    with torch.no_grad():
        assert torch.allclose(conditionals(model, x, context).sum(1), model.log_prob(x, context), rtol=1e-12)


@SCORED
def test_full_score_is_the_gradient_of_log_prob(dimensions, kind, keys):
    model, x, context = build(dimensions, kind, **keys)
    score = model.score(x, context)
    step = 1e-5
    for i in range(dimensions):
        above, below = x.clone(), x.clone()
        above[:, i] += step
        below[:, i] -= step
        with torch.no_grad():
            slope = (model.log_prob(above, context) - model.log_prob(below, context)) / (2.0 * step)
        assert torch.allclose(score[:, i], slope, rtol=1e-6, atol=1e-6)


@SCORED
def test_causal_score_is_the_slope_of_each_own_conditional(dimensions, kind, keys):
    """x_i moves, its own conditional is read: by causality its parameters stand still."""
    model, x, context = build(dimensions, kind, **keys)
    score = model.score(x, context, kind="causal")
    step = 1e-5
    for i in range(dimensions):
        above, below = x.clone(), x.clone()
        above[:, i] += step
        below[:, i] -= step
        slope = (conditionals(model, above, context) - conditionals(model, below, context))[:, i] / (2.0 * step)
        assert torch.allclose(score[:, i], slope, rtol=1e-6, atol=1e-6)
    full = model.score(x, context)
    last = model.order[-1]
    assert torch.allclose(full[:, last], score[:, last], rtol=1e-10), "nothing depends on the last coordinate"
    if dimensions > 1:
        others = [i for i in range(dimensions) if i != last]
        assert ((full - score)[:, others].abs().amax(0) > 1e-4).all(), "and on every other one something does"


@SCORED
def test_causal_score_is_autograd_with_the_parameters_held(dimensions, kind, keys):
    model, x, context = build(dimensions, kind, **keys)
    with torch.no_grad():
        relative = model._relative(parameters_of(model, x, context), x)
        mixture = model._absolute(relative, model._anchor(context), model.unit)
    variable = x.clone().requires_grad_(True)
    log_density = logistic_mixture.log_density(variable, *mixture)
    (gradient,) = torch.autograd.grad(log_density.sum(), variable)
    assert torch.allclose(model.score(x, context, kind="causal"), gradient, rtol=1e-10, atol=1e-12)


@SCORED
def test_scores_leave_no_trace(dimensions, kind, keys):
    model, x, context = build(dimensions, kind, **keys)
    for kind_of_score in ("full", "causal"):
        with torch.no_grad():
            score = model.score(x, context, kind=kind_of_score)
        assert not score.requires_grad and score.shape == x.shape
    assert all(parameter.grad is None for parameter in model.parameters())
