"""Inpainting against closed forms: Gaussian conditionals, enumerated masses, exact evidences."""

from __future__ import annotations

import copy
import itertools
import math

import pytest
import torch
from exact import log_normal
from registered import DensityCase, density_params
from torch import Generator, Tensor

import smoothgen
from smoothgen.density_model import DensityModel
from smoothgen.dequantization import UniformDequantization
from smoothgen.errors import ConfigError, DataError, NoClosedFormError, NoDensityError, NonFiniteError, ShapeError
from smoothgen.event import ContextSpec, EventSpec
from smoothgen.inpainting import complete_both
from smoothgen.particles import Particles
from smoothgen.smoothed_model import SmoothedConfig, SmoothedModel
from smoothgen.testing.material import contexts_of, lopsided
from smoothgen_inverters.conditional import ConditionalInverter
from smoothgen_kernels.gaussian import GaussianKernel

pytestmark = pytest.mark.usefixtures("float64")

SPACE = EventSpec(shape=(4,))
SIGMA = 0.6
MASKS = ["0001", "0111", "1010", "0110", "1100", "1000", "0000"]
PREFIXES = ["1100", "1000", "0000"]
ALWAYS = 2.0
"""A threshold at which every weighing resamples."""


def mask_of(text: str) -> Tensor:
    return torch.tensor([digit == "1" for digit in text])


class GaussianChain(DensityModel):
    """N(mean + gain (context - mean), covariance), coordinate by coordinate in the natural order.

    The context holds one or more noisy copies side by side; gain has columns for all of them.
    """

    def __init__(self, mean: Tensor, covariance: Tensor, gain: Tensor | None = None) -> None:
        event = EventSpec(shape=(len(mean),))
        super().__init__(event, None if gain is None else ContextSpec(event.shape, features=gain.shape[1] - len(mean)))
        self.mean, self.covariance, self.gain = mean, covariance, gain
        self.factor = torch.linalg.cholesky(covariance)

    def _mean(self, rows: int, context: Tensor | None) -> Tensor:
        if context is None:
            return self.mean.expand(rows, -1)
        return self.mean + (context - self.mean.repeat(context.shape[1] // len(self.mean))) @ self.gain.T

    def _log_prob(self, x: Tensor, context: Tensor | None, generator: Generator | None) -> Tensor:
        return log_normal(x - self._mean(len(x), context), self.covariance)

    def _sample(self, num_samples: int, context: Tensor | None, generator: Generator | None) -> Tensor:
        noise = torch.randn(num_samples, len(self.mean), generator=generator)
        return self._mean(num_samples, context) + noise @ self.factor.T

    def _complete(self, x, known, context, particles, log_reference, generator):
        x = x.clone()
        uniforms = torch.randn(x.shape, generator=generator)
        noise = torch.zeros_like(x)
        for i in range(x.shape[1]):
            std = self.factor[i, i]
            mean = self._mean(len(x), context)[:, i] + noise @ self.factor[i]
            x[:, i] = torch.where(known[:, i], x[:, i], mean + std * uniforms[:, i])
            noise[:, i] = (x[:, i] - mean) / std
            if particles is None:
                continue
            increment = -0.5 * noise[:, i].square() - std.log() - 0.5 * math.log(2.0 * math.pi)
            if log_reference is not None:
                increment = increment - log_reference[:, i]
            ancestors = particles.weigh(increment.where(known[:, i], 0.0))
            if ancestors is not None:
                x[:, : i + 1], noise = x[ancestors, : i + 1], noise[ancestors]
                context = None if context is None else context[ancestors]
        return x


MEAN = torch.tensor([0.5, -0.3, 0.0, 1.0], dtype=torch.float64)
ROOT = torch.tensor(
    [[1.0, 0.0, 0.0, 0.0], [0.8, 0.5, 0.0, 0.0], [-0.6, 0.7, 0.6, 0.0], [0.9, -0.2, 0.8, 0.4]], dtype=torch.float64
)
COVARIANCE = ROOT @ ROOT.T
NOISE = SIGMA**2 * torch.eye(4, dtype=torch.float64)
GAIN = COVARIANCE @ torch.linalg.inv(COVARIANCE + NOISE)
X = torch.tensor([1.4, -0.1, 0.9, 1.2], dtype=torch.float64)
"""A point about one standard deviation from the mean."""


def gaussian_model(wrong: float = 0.0) -> SmoothedModel:
    """Exact stages for N(MEAN, COVARIANCE); `wrong`, up to 1, spoils both."""
    turned = (1.0 - 0.5 * wrong) * (COVARIANCE + NOISE)
    posterior = (1.0 + 0.5 * wrong) * (COVARIANCE - GAIN @ COVARIANCE)
    gain = GAIN + 0.4 * wrong * torch.eye(4)
    inverter = ConditionalInverter(SPACE, ContextSpec(noisy_copy=SPACE.shape), GaussianChain(MEAN, posterior, gain))
    return SmoothedModel(GaussianKernel(SPACE, SIGMA), GaussianChain(MEAN, turned), inverter, SPACE)


def marginal(model: SmoothedModel) -> Tensor:
    """The covariance of the model's x; its mean is MEAN."""
    second = model.inverter.density
    return second.gain @ model.density.covariance @ second.gain.T + second.covariance


def conditional(covariance: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and covariance of x_unknown given X where known."""
    gain = covariance[~known][:, known] @ torch.linalg.inv(covariance[known][:, known])
    return (
        MEAN[~known] + gain @ (X - MEAN)[known],
        covariance[~known][:, ~known] - gain @ covariance[known][:, ~known],
    )


def distance(draws: Tensor, mean: Tensor, covariance: Tensor) -> float:
    """The largest deviation of first and second moments, in standard errors. draws (n, d)."""
    centred = draws - mean
    products = (centred.unsqueeze(1) * centred.unsqueeze(2)).flatten(1)
    values = torch.cat([centred, products - covariance.flatten()], 1)
    return (values.mean(0) / (values.std(0) / math.sqrt(len(draws)))).abs().max().item()


# --- Gaussian conditionals -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", MASKS)
def test_exact_stages_give_the_exact_conditional_for_any_mask(mask):
    """One draw of the noise is enough where both stages are exact."""
    model, known = gaussian_model(), mask_of(mask)
    draws = model.inpaint(
        X.expand(4000, -1), known, particles=256, generator=Generator().manual_seed(1), rows_at_once=200_000
    )
    assert torch.equal(draws[:, known], X.expand(4000, -1)[:, known])
    assert distance(draws[:, ~known], *conditional(COVARIANCE, known)) < 4.5


@pytest.mark.parametrize("mask", [mask for mask in MASKS if mask not in PREFIXES])
def test_one_particle_does_not_hear_of_what_is_known_later(mask):
    model, known = gaussian_model(), mask_of(mask)
    draws = model.inpaint(X.expand(4000, -1), known, generator=Generator().manual_seed(1))
    assert distance(draws[:, ~known], *conditional(COVARIANCE, known)) > 8.0


@pytest.mark.parametrize("mask", ["1010", "1100"])
def test_wrong_stages_need_several_draws_of_the_noise(mask):
    """The target is the model's own conditional, and one draw of the noise does not reach it."""
    model, known = gaussian_model(wrong=1.0), mask_of(mask)
    target = conditional(marginal(model), known)

    def off(**effort):
        x = X.expand(4000, -1)
        draws = model.inpaint(x, known, generator=Generator().manual_seed(2), rows_at_once=300_000, **effort)
        return distance(draws[:, ~known], *target)

    assert off(particles=8, noise_draws=64) < 4.5
    assert off(particles=128) > 6.5


@pytest.mark.parametrize("threshold", [0.0, 0.5, ALWAYS])
@pytest.mark.parametrize("mask", [*MASKS[:-1], "1111"])
def test_the_evidence_of_a_density_is_unbiased(mask, threshold):
    """E exp(log evidence) = p(x_known), at any number of particles and however often they are resampled."""
    density, known = GaussianChain(MEAN, COVARIANCE), mask_of(mask)
    groups, count = 20_000, 4
    particles = Particles(groups, count, X, threshold=threshold, generator=Generator().manual_seed(0))
    density.complete(X.expand(groups * count, -1), known, particles=particles, generator=Generator().manual_seed(1))
    truth = log_normal((X - MEAN)[known][None], COVARIANCE[known][:, known])
    ratio = torch.exp(particles.log_evidence - truth)
    error = ratio.std().item() / math.sqrt(groups)
    assert abs(ratio.mean().item() - 1.0) < 4.5 * error + 1e-9
    assert error < 0.05
    if mask in PREFIXES or mask == "1111":
        assert error < 1e-9, "nothing is drawn before the last known coordinate"


@pytest.mark.parametrize("threshold", [0.0, 0.5, ALWAYS])
@pytest.mark.parametrize("mask", ["0001", "1010", "1100", "1111"])
def test_the_evidence_of_both_stages_is_unbiased(mask, threshold):
    """Exact and wrong stages, and a smoothed model as the density of x_tilde: two noises then."""
    known, groups, count = mask_of(mask), 30_000, 4
    for model in (gaussian_model(), gaussian_model(wrong=0.4), nested_model()):
        particles = Particles(groups, count, X, threshold=threshold, generator=Generator().manual_seed(0))
        rows = X.expand(groups * count, -1)
        complete_both(
            model.kernel,
            model.density,
            model.inverter,
            rows,
            known.expand_as(rows),
            particles=particles,
            generator=Generator().manual_seed(3),
        )
        covariance = nested_marginal(model) if isinstance(model.density, SmoothedModel) else marginal(model)
        truth = log_normal((X - MEAN)[known][None], covariance[known][:, known])
        ratio = torch.exp(particles.log_evidence - truth)
        error = ratio.std().item() / math.sqrt(groups)
        assert abs(ratio.mean().item() - 1.0) < 4.5 * error + 1e-9
        assert error < 0.1


def nested_model() -> SmoothedModel:
    """x_tilde itself smoothed once more; stages not quite exact."""
    outer, inner = gaussian_model(wrong=0.1), gaussian_model(wrong=0.2)
    return SmoothedModel(outer.kernel, inner, outer.inverter, SPACE)


def nested_marginal(model: SmoothedModel) -> Tensor:
    second = model.inverter.density
    return second.gain @ marginal(model.density) @ second.gain.T + second.covariance


@pytest.mark.parametrize("mask", ["0001", "1010"])
def test_a_smoothed_inverter_keeps_x_tilde_beside_its_own_noise(mask):
    """p(x | x_tilde) smoothed in turn, its own stages exact: contexts that differ from row to row."""
    exact, std, known = gaussian_model(), 0.3, mask_of(mask)
    second = exact.inverter.density
    wide = second.covariance + std**2 * torch.eye(4)
    pull = second.covariance @ torch.linalg.inv(wide)
    both = torch.cat([pull, (torch.eye(4) - pull) @ second.gain], 1)
    last = GaussianChain(MEAN, second.covariance - pull @ second.covariance, both)
    copy_spec = ContextSpec(noisy_copy=SPACE.shape)
    inner = SmoothedModel(
        GaussianKernel(SPACE, std),
        GaussianChain(MEAN, wide, second.gain),
        ConditionalInverter(SPACE, ContextSpec(SPACE.shape, features=4), last),
        SPACE,
        copy_spec,
    )
    model = SmoothedModel(exact.kernel, exact.density, ConditionalInverter(SPACE, copy_spec, inner), SPACE)
    groups, count = 30_000, 4
    cloud = Particles(groups, count, X, threshold=ALWAYS, generator=Generator().manual_seed(0))
    model.complete(X.expand(groups * count, -1), known, particles=cloud, generator=Generator().manual_seed(1))
    ratio = torch.exp(cloud.log_evidence - log_normal((X - MEAN)[known][None], COVARIANCE[known][:, known]))
    error = ratio.std().item() / math.sqrt(groups)
    assert error < 0.05
    assert abs(ratio.mean().item() - 1.0) < 4.5 * error


def test_a_smoothed_density_inpaints_with_its_own_noise():
    model, known = nested_model(), mask_of("1010")
    draws = model.inpaint(
        X.expand(2000, -1),
        known,
        particles=16,
        noise_draws=128,
        generator=Generator().manual_seed(4),
        rows_at_once=300_000,
    )
    assert distance(draws[:, ~known], *conditional(nested_marginal(model), known)) < 4.5


def test_x_tilde_is_the_one_that_x_came_from():
    """Both chosen together: with exact stages the pair follows the joint law given x_known."""
    model, known = gaussian_model(), mask_of("0010")
    x, x_tilde = model.inpaint(
        X.expand(4000, -1),
        known,
        particles=256,
        generator=Generator().manual_seed(5),
        return_smoothed=True,
        rows_at_once=200_000,
    )
    noise = x_tilde - x
    zero, variance = torch.zeros(4), NOISE
    assert distance(noise, zero, variance) < 4.5
    mean, covariance = conditional(COVARIANCE, known)
    assert distance((noise[:, ~known] + x[:, ~known]), mean, covariance + NOISE[~known][:, ~known]) < 4.5


# --- MADE ------------------------------------------------------------------------------------------------------------

LEVELS = EventSpec(shape=(3,), low=-1.0, high=1.0, levels=4)
EVERY = torch.tensor(list(itertools.product(range(4), repeat=3)), dtype=torch.float64) * LEVELS.bin_width - 1.0


def made(event: EventSpec, context: ContextSpec | None = None, noise: float = 0.4, **keys) -> DensityModel:
    config = smoothgen.installed().components["density"]["made"](hidden=(16, 16), components=2, **keys)
    return DensityCase("made", config).build(event, context, noise=noise)


def masses(model: DensityModel, context: Tensor | None = None) -> Tensor:
    with torch.no_grad():
        given = None if context is None else context.expand(len(EVERY), -1)
        return model.log_prob(EVERY, given).exp()


def excess(draws: Tensor, probabilities: Tensor) -> float:
    """Pearson's statistic of draws among EVERY, standardised: about standard normal where they agree."""
    index = (LEVELS.levels_of(draws) * torch.tensor([16, 4, 1])).sum(1)
    observed = torch.bincount(index, minlength=64).double()
    possible = probabilities > 0
    assert observed[~possible].sum() == 0
    expected = probabilities[possible] * len(draws)
    rare = expected < 5.0
    cells = torch.cat([observed[possible][~rare], observed[possible][rare].sum()[None]])
    wanted = torch.cat([expected[~rare], expected[rare].sum()[None]])
    use = wanted > 0.5
    statistic = ((cells - wanted)[use].square() / wanted[use]).sum().item()
    freedom = max(int(use.sum()) - 1, 1)
    return (statistic - freedom) / math.sqrt(2.0 * freedom)


def target_given(model: DensityModel, x: Tensor, known: Tensor, context: Tensor | None = None) -> Tensor:
    joint = masses(model, context)
    fits = ((EVERY - x).abs() < 1e-6)[:, known].all(1)
    return torch.where(fits, joint, 0.0) / joint[fits].sum()


@torch.no_grad()
def drawn(model, x, known, *, particles=None, n=3000, context=None, seed=0):
    """n completions, each one particle of its group."""
    if particles is None:
        given = None if context is None else context.expand(n, -1)
        return model.complete(x.expand(n, -1), known, given, generator=Generator().manual_seed(seed))
    rows = n * particles
    given = None if context is None else context.expand(rows, -1)
    cloud = Particles(n, particles, x, generator=Generator().manual_seed(seed))
    completed = model.complete(
        x.expand(rows, -1), known, given, particles=cloud, generator=Generator().manual_seed(seed + 1)
    )
    return completed[cloud.choose(Generator().manual_seed(seed + 2))]


ORDERS = [(0, 1, 2), (2, 0, 1)]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("size", [0, 1, 2])
def test_what_is_known_first_is_heard_exactly(order, size):
    model = made(LEVELS, order=order)
    known = torch.zeros(3, dtype=torch.bool)
    known[list(order[:size])] = True
    draws = drawn(model, EVERY[27], known)
    assert excess(draws, target_given(model, EVERY[27], known)) < 4.0


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("known", [[2], [1, 2], [0, 2], [1]])
def test_particles_hear_what_is_known_later(order, known):
    model, context = made(LEVELS, ContextSpec(features=2), order=order), torch.tensor([0.7, -1.1])
    mask = torch.zeros(3, dtype=torch.bool)
    mask[[order[i] for i in known]] = True
    x = EVERY[27]
    target = target_given(model, x, mask, context)
    corrected = drawn(model, x, mask, particles=128, context=context)
    assert excess(corrected, target) < 4.0
    assert (corrected[:, mask] == x[mask]).all()
    alone = drawn(model, x, mask, context=context)
    assert excess(alone, target) > 8.0


def test_rows_of_one_batch_may_have_masks_of_their_own():
    """Three masks in one call, groups interleaved."""
    model, x = made(LEVELS), EVERY[27]
    kinds = torch.tensor([[False, False, True], [True, False, True], [True, True, False]])
    groups, count = 3 * 2000, 64
    known = kinds.repeat(groups // 3, 1)
    cloud = Particles(groups, count, x, generator=Generator().manual_seed(0))
    with torch.no_grad():
        completed = model.complete(
            x.expand(groups * count, -1),
            known.repeat_interleave(count, 0),
            particles=cloud,
            generator=Generator().manual_seed(1),
        )
    draws = completed[cloud.choose(Generator().manual_seed(2))]
    for index, kind in enumerate(kinds):
        assert excess(draws[index::3], target_given(model, x, kind)) < 4.0


def evidence_ratio(model, x, known, truth, groups=10_000, count=4, threshold=ALWAYS):
    cloud = Particles(groups, count, x, threshold=threshold, generator=Generator().manual_seed(0))
    with torch.no_grad():
        model.complete(x.expand(groups * count, -1), known, particles=cloud, generator=Generator().manual_seed(1))
    ratio = torch.exp(cloud.log_evidence - math.log(truth))
    error = ratio.std().item() / math.sqrt(groups)
    assert error < 0.05
    return (ratio.mean().item() - 1.0) / (error + 1e-9)


@pytest.mark.parametrize("known", ["001", "101", "011", "010", "111", "100"])
def test_the_evidence_of_made_is_the_marginal_mass(known):
    model, mask = made(LEVELS, order=(1, 0, 2)), mask_of(known)
    joint = masses(model)
    truth = joint[((EVERY - EVERY[27]).abs() < 1e-6)[:, mask].all(1)].sum().item()
    assert abs(evidence_ratio(model, EVERY[27], mask, truth)) < 4.5


@pytest.mark.parametrize("known", ["0101", "1010", "0110", "1001"])
def test_resampled_rows_take_over_what_they_depend_on(known):
    """Known and unknown coordinates take turns, and the rows of a group have contexts of their own, one of two."""
    event = EventSpec(shape=(4,), low=-1.0, high=1.0, levels=3)
    model, mask = made(event, ContextSpec(features=1), noise=0.5, order=(1, 0, 3, 2)), mask_of(known)
    contexts = torch.tensor([[-1.5], [1.5]])
    every = torch.tensor(list(itertools.product([-1.0, 0.0, 1.0], repeat=4)))
    x, groups, count = every[9], 20_000, 4
    fits = every[(every == x)[:, mask].all(1)]
    mine = torch.randint(2, (groups * count,), generator=Generator().manual_seed(2))
    cloud = Particles(groups, count, x, threshold=ALWAYS, generator=Generator().manual_seed(0))
    with torch.no_grad():
        truth = sum(model.log_prob(fits, c.expand(len(fits), -1)).exp().sum().item() / 2.0 for c in contexts)
        rows = x.expand(groups * count, -1)
        model.complete(rows, mask, contexts[mine], particles=cloud, generator=Generator().manual_seed(1))
    ratio = torch.exp(cloud.log_evidence - math.log(truth))
    error = ratio.std().item() / math.sqrt(groups)
    assert error < 0.05
    assert abs(ratio.mean().item() - 1.0) < 4.5 * error


@pytest.mark.parametrize("known", ["01", "11", "10"])
def test_the_evidence_of_a_dequantised_density_is_the_mass_of_the_bins(known):
    event = EventSpec(shape=(2,), low=-1.0, high=1.0, levels=4)
    model, mask = made(event, head="continuous"), mask_of(known)
    assert isinstance(model, UniformDequantization)
    x = torch.tensor([event.low + event.bin_width, event.high])
    inner = torch.linspace(-0.5, 0.5, 202)[:-1] + 0.5 / 201
    outer = torch.linspace(-30.0, 30.0, 20_001)
    axes = [x[i] + event.bin_width * inner if mask[i] else outer for i in range(2)]
    steps = math.prod((axis[1] - axis[0]).item() for axis in axes)
    with torch.no_grad():
        truth = model.density.log_prob(torch.cartesian_prod(*axes)).exp().sum().item() * steps
    assert abs(evidence_ratio(model, x, mask, truth)) < 4.5


def test_the_evidence_of_continuous_made_is_the_marginal_density():
    event = EventSpec(shape=(2,))
    model, x, mask = made(event, fourier=1), torch.tensor([0.3, -0.4]), mask_of("01")
    line = torch.linspace(-60.0, 60.0, 400_001)
    points = torch.stack([line, x[1].expand_as(line)], 1)
    with torch.no_grad():
        truth = model.log_prob(points).exp().sum().item() * (line[1] - line[0]).item()
    assert abs(evidence_ratio(model, x, mask, truth)) < 4.5


@pytest.mark.parametrize("event", [EventSpec(shape=(1, 2, 2)), EventSpec(shape=(1, 2, 2), low=-1, high=1, levels=5)])
def test_with_nothing_known_a_completion_is_a_sample(event):
    model = made(event)
    x = torch.full((50, *event.shape), math.nan)
    none = torch.zeros(event.shape, dtype=torch.bool)
    completed = model.complete(x, none, generator=Generator().manual_seed(8))
    assert torch.equal(completed, model.sample(50, generator=Generator().manual_seed(8)))


# --- every registered density that can be completed -------------------------------------------------------------------

REGISTERED = density_params(
    EventSpec(shape=(3,)),
    EventSpec(shape=(1, 2, 2)),
    EventSpec(shape=(2,), low=-2.0, high=2.0, levels=6),
    contexts=("no context", "noisy copy + features"),
)


def rows_of(case: DensityCase, event: EventSpec, context: ContextSpec | None, n: int):
    """The density, n examples and their contexts. Skips a density that is not autoregressive, once it has said so."""
    model = case.build(event, context)
    x = lopsided(event, n, generator=Generator().manual_seed(1))
    given = contexts_of(context, x, Generator().manual_seed(2))
    try:
        model.complete(x, torch.ones(event.shape, dtype=torch.bool), given)
    except NoClosedFormError as reason:
        assert not model.autoregressive
        pytest.skip(str(reason))
    return model, x, given


@REGISTERED
def test_with_all_known_the_evidence_is_the_likelihood(case, event, context):
    model, x, given = rows_of(case, event, context, 5)
    if not model.exact:
        pytest.skip("log_prob is a random bound")
    for count in (1, 3):
        cloud = Particles(5, count, x)
        repeated = None if given is None else given.repeat_interleave(count, 0)
        everything = torch.ones(event.shape, dtype=torch.bool)
        rows = x.repeat_interleave(count, 0)
        reference = torch.linspace(-1.0, 1.0, rows.numel()).reshape(rows.shape)
        completed = model.complete(rows, everything, repeated, particles=cloud, log_reference=None)
        assert torch.equal(completed, rows)
        with torch.no_grad():
            log_prob = model.log_prob(x, given)
        assert torch.allclose(cloud.log_evidence, log_prob, rtol=1e-9, atol=1e-9)
        if count == 1:
            referred = Particles(5, 1, x)
            model.complete(rows, everything, repeated, particles=referred, log_reference=reference)
            assert torch.allclose(referred.log_evidence, log_prob - reference.flatten(1).sum(1), rtol=1e-9, atol=1e-9)


@REGISTERED
def test_known_coordinates_stay_and_others_are_drawn(case, event, context):
    model, x, given = rows_of(case, event, context, 40)
    known = torch.rand(x.shape, generator=Generator().manual_seed(3)) < 0.5
    known[::4] = known[0]
    with torch.no_grad():
        for particles in (None, Particles(40, 1, x)):
            first, again = (
                model.complete(
                    torch.where(known, x, filling),
                    known,
                    given,
                    particles=particles,
                    generator=Generator().manual_seed(4),
                )
                for filling in (x, torch.full_like(x, math.nan))
            )
            assert torch.equal(first, again)
            assert torch.equal(first[known], x[known])
            assert first.isfinite().all() and torch.allclose(first, event.quantize(first))
            if event.levels is None:
                assert (first != x)[~known].all()


@REGISTERED
@pytest.mark.parametrize("which", [0, -1])
def test_evidences_agree_however_often_rows_are_resampled(case, event, context, which):
    """Each context its own group: E of the evidence is the same for one particle and for four, always resampled."""
    model, x, given = rows_of(case, event, context, 1)
    known = torch.zeros(event.shape, dtype=torch.bool).flatten()
    known[[which, 1]] = True
    if event.dimensions == 2:
        known[1 if which == 0 else 0] = False
    found = []
    for groups, count, threshold in ((12_000, 1, 0.0), (3_000, 4, ALWAYS)):
        n = groups * count
        cloud = Particles(groups, count, x, threshold=threshold, generator=Generator().manual_seed(0))
        rows = None if given is None else given.expand(n, *given.shape[1:])
        model.complete(
            x.expand(n, *x.shape[1:]),
            known.reshape(event.shape),
            rows,
            particles=cloud,
            generator=Generator().manual_seed(1 + count),
        )
        evidence = cloud.log_evidence.exp()
        found.append((evidence.mean().item(), evidence.std().item() / math.sqrt(groups)))
    (one, error_1), (four, error_4) = found
    assert abs(one - four) <= 4.5 * math.hypot(error_1, error_4) + 1e-9 * one


# --- the whole model, built from its configuration --------------------------------------------------------------------

MADE = {"type": "made", "hidden": (16, 16), "components": 2}
PICTURE = EventSpec(shape=(1, 3, 3), low=-1.0, high=1.0, levels=9)
TABLE = EventSpec(shape=(3,), shift=(1000.0, 0.0, -5.0), scale=(50.0, 0.01, 2.0))


def built(event: EventSpec, **changes) -> SmoothedModel:
    """Untrained, initialised on lopsided data, with noise on every parameter."""
    keys = {
        "kernel": {"type": "laplace", "sigma": 0.4},
        "density": MADE,
        "inverter": {"type": "conditional", "density": MADE},
    }
    config = SmoothedConfig(**copy.deepcopy({**keys, **changes}))
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = config.build(event)
        model.initialize(data(event, 500))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.15 * torch.randn_like(parameter)
    return model.eval()


def data(event: EventSpec, n: int = 6) -> Tensor:
    return event.to_data(lopsided(event.standard(), n, generator=Generator().manual_seed(1)))


EFFORTS = [{}, {"particles": 8}, {"particles": 4, "noise_draws": 3}, {"noise_draws": 5}]


@pytest.mark.parametrize("event", [PICTURE, TABLE, EventSpec(shape=(2,), low=-2.0, high=2.0)])
@pytest.mark.parametrize("effort", EFFORTS)
def test_known_values_stay_and_the_draw_depends_on_the_seed_alone(event, effort):
    model, x = built(event), data(event)
    if event.low is not None:
        x = x.clamp(event.low, event.high)
    known = torch.rand(x.shape, generator=Generator().manual_seed(2)) < 0.5

    def draw(values, seed=3, mask=known):
        return model.inpaint(values, mask, generator=Generator().manual_seed(seed), **effort)

    first = draw(x)
    assert torch.equal(first[known], x[known]), "bit by bit, whatever the units"
    assert first.isfinite().all()
    event.standard().check(event.to_model(first))
    assert torch.equal(first, draw(torch.where(known, x, math.nan))), "what stands at unknown places has no say"
    assert torch.equal(first, draw(x))
    assert not torch.equal(first, draw(x, seed=4))
    assert torch.equal(x, draw(x, mask=torch.ones(event.shape, dtype=torch.bool)))
    nothing = torch.zeros(event.shape, dtype=torch.bool)
    assert draw(torch.full_like(x, math.nan), mask=nothing).isfinite().all()


def test_nothing_known_gives_samples_of_the_model():
    model = gaussian_model()
    nothing = torch.zeros(4, dtype=torch.bool)
    for effort in ({}, {"particles": 3, "noise_draws": 2}):
        x = model.inpaint(torch.full((5000, 4), math.nan), nothing, generator=Generator().manual_seed(0), **effort)
        assert distance(x, MEAN, COVARIANCE) < 4.5


def test_units_of_the_data_leave_the_draw_alone():
    """The same model, in other units: the same draw, converted."""
    x, known = data(TABLE, 20), mask_of("011")
    plain, scaled = built(TABLE.standard()), built(TABLE)
    one = plain.inpaint(TABLE.to_model(x), known, particles=8, generator=Generator().manual_seed(1))
    other = scaled.inpaint(x, known, particles=8, generator=Generator().manual_seed(1))
    assert torch.allclose(TABLE.to_model(other), one, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("threshold", [0.0, ALWAYS])
def test_as_a_density_its_evidence_is_per_unit_of_data(threshold):
    """log p(data) = log p(x) - log scale of the known coordinates alone."""
    x, known = data(TABLE, 1), mask_of("010")
    evidences = []
    for model, value in ((built(TABLE.standard()), TABLE.to_model(x)), (built(TABLE), x)):
        cloud = Particles(1, 16, x, threshold=threshold, generator=Generator().manual_seed(0))
        model.complete(value.expand(16, -1), known, particles=cloud, generator=Generator().manual_seed(1))
        evidences.append(cloud.log_evidence.item())
    assert evidences[1] == pytest.approx(evidences[0] - math.log(0.01), abs=1e-8)


def test_the_single_step_inverts_what_is_unknown():
    model = built(EventSpec(shape=(3,)), kernel={"type": "gaussian", "sigma": 0.3}, inverter={"type": "gradient"})
    x, known = data(EventSpec(shape=(3,))), mask_of("001")
    filled, x_tilde = model.inpaint(x, known, particles=16, return_smoothed=True)
    mean = model.kernel.posterior_mean(x_tilde, model.density)
    assert torch.equal(filled[:, known], x[:, known])
    assert torch.allclose(filled[:, ~known], mean[:, ~known])
    with pytest.raises(NoDensityError, match="noise_draws"):
        model.inpaint(x, known, noise_draws=2)


def test_float32_models_take_float32_and_tables_in_float64():
    for event, dtype in ((PICTURE, torch.float32), (TABLE, torch.float64)):
        model, x = built(event).float(), data(event).to(dtype)
        known = torch.zeros(event.shape, dtype=torch.bool)
        known.view(-1)[-1] = True
        filled = model.inpaint(x, known, particles=4)
        assert filled.dtype == dtype and torch.equal(filled[:, known], x[:, known])


# --- refusals --------------------------------------------------------------------------------------------------------


def test_bad_masks_values_and_numbers_are_refused():
    model, x = built(PICTURE), data(PICTURE)
    known = torch.ones(PICTURE.shape, dtype=torch.bool)
    for bad, what in ((known.long(), "boolean"), (known[0], r"\(1, 3, 3\)"), (known.expand(2, 1, 3, 3), "mask")):
        with pytest.raises(ShapeError, match=what):
            model.inpaint(x, bad)
    for value, what in ((math.nan, "not finite"), (7.0, "is none of the 9 levels"), (0.1, "levels")):
        spoilt = x.clone()
        spoilt[2, 0, 1, 1] = value
        with pytest.raises(DataError, match=what):
            model.inpaint(spoilt, known)
        hidden = known.clone()
        hidden[0, 1, 1] = False
        model.inpaint(spoilt, hidden)
    for effort in ({"particles": 0}, {"noise_draws": 0}, {"rows_at_once": 0}):
        with pytest.raises(ConfigError, match=next(iter(effort))):
            model.inpaint(x, known, **effort)
    with pytest.raises(ShapeError, match="no examples"):
        model.inpaint(x[:0], known)


def test_densities_that_are_not_autoregressive_say_so():
    flow = {"type": "realnvp", "layers": 2, "hidden": (8,)}
    model = built(EventSpec(shape=(3,)), density=flow)
    with pytest.raises(NoClosedFormError, match="RealNVP is not autoregressive"):
        model.inpaint(data(EventSpec(shape=(3,))), mask_of("100"))


def test_arguments_of_complete_are_checked():
    model, x = made(LEVELS), EVERY[:6]
    known = mask_of("100")
    with pytest.raises(ShapeError, match="particles"):
        model.complete(x, known, particles=Particles(2, 2, x))
    with pytest.raises(ShapeError, match="log_reference"):
        model.complete(x, known, particles=Particles(2, 3, x), log_reference=torch.zeros(6))


def test_known_values_that_the_model_thinks_impossible_are_an_error():
    class Impossible(GaussianChain):
        def _complete(self, x, known, context, particles, log_reference, generator):
            particles.weigh(torch.full((len(x),), -math.inf))
            return x

    exact = gaussian_model()
    model = SmoothedModel(exact.kernel, Impossible(MEAN, COVARIANCE), exact.inverter, SPACE)
    with pytest.raises(NonFiniteError, match="example 0"):
        model.inpaint(X[None], mask_of("0001"), particles=4)


@pytest.mark.parametrize("kernel", ["gaussian", "laplace", "uniform"])
def test_the_noise_density_of_each_coordinate_sums_to_the_whole(kernel):
    noise = smoothgen.installed().components["kernel"][kernel](sigma=(0.3, 0.5, 0.2)).build(EventSpec(shape=(3,)))
    x = data(EventSpec(shape=(3,)))
    x_tilde = noise.sample(x, generator=Generator().manual_seed(0))
    each = noise.log_prob_each(x_tilde, x)
    assert each.shape == x.shape
    assert torch.allclose(each.sum(1), noise.log_prob(x_tilde, x))
    moved = x_tilde.clone()
    moved[:, 0] += 0.01
    assert torch.equal(noise.log_prob_each(moved, x)[:, 1:], each[:, 1:])
    with pytest.raises(ShapeError):
        noise.log_prob_each(x_tilde[:, :2], x)
