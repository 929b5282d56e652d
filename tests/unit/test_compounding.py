"""Conditionals of the truth by quadrature, divergences against closed forms, and the chain rule."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Generator, Tensor

import smoothgen
from smoothgen.density_model import DensityModel
from smoothgen.dequantization import build_density
from smoothgen.errors import NoClosedFormError, NoDensityError
from smoothgen.evaluation.chains import PlainChain, SmoothedChain
from smoothgen.evaluation.compounding import ExactChain, Prefixes, continuations, divergences
from smoothgen.event import EventSpec
from smoothgen.isotropic_mixture import IsotropicMixture

MADE = {"type": "made", "hidden": [16, 16], "components": 3}
SIGMA = 0.3


def rng(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def three_points(std: float = 0.4) -> IsotropicMixture:
    """Three uneven Gaussians in space."""
    means = torch.tensor([[0.0, 1.0, -1.0], [1.0, -0.5, 0.3], [-1.2, 0.2, 0.8]], dtype=torch.float64)
    return IsotropicMixture(means, torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64).log(), std)


def draw(mixture: IsotropicMixture, n: int, seed: int = 1) -> Tensor:
    which = torch.multinomial(mixture.log_weights.exp(), n, replacement=True, generator=rng(seed))
    noise = torch.randn(n, mixture.means.shape[1], dtype=torch.float64, generator=rng(seed + 1))
    return mixture.means[which] + mixture.std * noise


def steps(chain: ExactChain, z: Tensor) -> Tensor:
    """log true(z_i | z_<i), (n, length)."""
    log_weights, terms = chain.weights(len(z)), []
    for position in range(len(chain.positions)):
        terms.append(chain.log_prob(log_weights, z, position, z[:, position : position + 1])[:, 0])
        log_weights = chain.advance(log_weights, z, position)
    return torch.stack(terms, 1)


class Mixture(DensityModel):
    """A density with the exact conditionals of a mixture: a model that can be as right or as wrong as one likes."""

    autoregressive = True

    def __init__(self, mixture: IsotropicMixture, order: tuple[int, ...]) -> None:
        super().__init__(EventSpec(shape=(len(order),)))
        self.chain = ExactChain(mixture, order)

    @property
    def coordinate_order(self) -> tuple[int, ...]:
        return self.chain.order

    def _conditionals(self, x, context):
        terms = torch.empty_like(x)
        terms[:, list(self.chain.order)] = steps(self.chain, x[:, list(self.chain.order)])
        return terms

    def _log_prob(self, x, context, generator):
        return self._conditionals(x, context).sum(1)

    def _sample(self, num_samples, context, generator):
        return self._complete(torch.zeros(num_samples, 3, dtype=torch.float64), torch.zeros(3) == 1, None, None, None)

    def _complete(self, x, known, context, particles, log_reference, generator=None):
        z, log_weights = x[:, list(self.chain.order)], self.chain.weights(len(x))
        known = known.expand(x.shape)[0]
        for position, coordinate in enumerate(self.chain.order):
            if not known[coordinate]:
                z[:, position] = self.chain.draw(log_weights, z, position, 1, generator)[:, 0]
            log_weights = self.chain.advance(log_weights, z, position)
        return z[:, torch.tensor(self.chain.order).argsort()]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_the_exact_conditionals_sum_to_the_density(order):
    mixture = three_points()
    x = draw(mixture, 200)
    chain = ExactChain(mixture, order)
    z = chain.of_data(x, rng())
    torch.testing.assert_close(steps(chain, z).sum(1), mixture.log_prob(x))
    smoothed = ExactChain(mixture, (1, 2, 0, *order), SIGMA)
    z = smoothed.of_data(x, rng())
    x_tilde = z[:, :3][:, [2, 0, 1]]
    log_kernel = -0.5 * ((x_tilde - x) / SIGMA).square().sum(1) - 3.0 * math.log(SIGMA * math.sqrt(2.0 * math.pi))
    terms = steps(smoothed, z)
    torch.testing.assert_close(terms[:, :3].sum(1), mixture.log_prob(x_tilde, SIGMA))
    torch.testing.assert_close(terms.sum(1), mixture.log_prob(x) + log_kernel)


@pytest.mark.parametrize("tag", ["rings", "olympics"])
def test_a_conditional_of_circles_is_the_density_over_its_integral(tag):
    """p(x_2 | x_1) by quadrature of the closed form, prefixes beyond the data included."""
    source = smoothgen.installed().find("data", tag)().build()
    chain = ExactChain(source.as_mixture(), (0, 1))
    y = torch.arange(-3.8, 3.8, source.noise / 8.0, dtype=torch.float64)
    for first in (0.1, 1.47, -2.2, source.as_mixture().means.max().item() + 4.0 * source.noise):
        grid = torch.stack([torch.full_like(y, first), y], 1)
        joint = source.log_prob(grid)
        exact = joint - torch.logsumexp(joint, 0) - math.log(source.noise / 8.0)
        near = exact > -30.0
        torch.testing.assert_close(steps(chain, grid)[near, 1], exact[near], rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("sigma", [None, SIGMA])
def test_draws_follow_the_conditional(sigma):
    """Their moments, and the share below a value, for one prefix each; a single draw per row follows it too."""
    mixture = three_points()
    chain = ExactChain(mixture, (0, 1, 2) * (1 if sigma is None else 2), sigma)
    z = chain.of_data(draw(mixture, 1), rng(5)).expand(400, -1).contiguous()
    log_weights = chain.weights(400)
    for position in range(len(chain.positions)):
        means, std, parent, slope = chain.positions[position]
        loc = slope * z[0, parent] + means
        share = log_weights[0].exp()
        mean = (share * loc).sum()
        variance = (share * (loc.square() + std**2)).sum() - mean.square()
        below = (share * torch.special.ndtr((0.2 - loc) / std)).sum()
        for draws in (1, 50):
            values = chain.draw(log_weights, z, position, draws, rng(7 + position)).flatten()
            slack = 4.5 / math.sqrt(len(values))
            assert abs(values.mean() - mean) < slack * variance.sqrt()
            assert values.var() == pytest.approx(variance.item(), rel=3.0 * slack)
            assert abs((values < 0.2).double().mean() - below) < slack * 0.5
        log_weights = chain.advance(log_weights, z, position)


def test_a_perfect_model_has_no_divergence_after_any_prefix():
    chain = ExactChain(three_points(), (1, 0, 2))
    model = PlainChain(Mixture(three_points(), (1, 0, 2)))
    far = 30.0 * torch.randn(20, 3, dtype=torch.float64, generator=rng())
    for z in (
        chain.of_data(draw(three_points(), 50), rng()),
        model.complete(torch.zeros(20, 3).double(), 0, rng()),
        far,
    ):
        found = divergences(chain, model, z, 8, rng())
        assert found.isfinite().all() and found.abs().max() < 1e-9


def test_divergences_agree_with_quadrature():
    """Of a model with another width, after every prefix: the integral of true (log true - log model)."""
    truth, wrong = ExactChain(three_points(), (0, 1, 2)), three_points(0.55)
    z = truth.of_data(draw(three_points(), 6), rng())
    found = divergences(truth, PlainChain(Mixture(wrong, (0, 1, 2))), z, 4000, rng())
    grid = torch.linspace(-6.0, 6.0, 2401, dtype=torch.float64)
    learned = ExactChain(wrong, (0, 1, 2))
    states = [truth.weights(6), learned.weights(6)]
    for position in range(3):
        values = grid.expand(6, -1)
        log_p, log_q = (c.log_prob(w, z, position, values) for c, w in zip((truth, learned), states, strict=True))
        exact = (log_p.exp() * (log_p - log_q)).sum(1) * 0.005
        torch.testing.assert_close(found[:, position], exact, atol=3e-3, rtol=0.0)
        states = [c.advance(w, z, position) for c, w in zip((truth, learned), states, strict=True)]


def test_after_data_the_divergences_sum_to_the_gap_of_the_likelihood():
    source = smoothgen.installed().find("data", "rings")().build()
    torch.manual_seed(0)
    density = build_density(smoothgen.installed().find("density", "made")(**MADE, order=(1, 0)), source.event, None)
    density.initialize(source.split("train").x[:2000])
    model = PlainChain(density.eval())
    truth = ExactChain(source.as_mixture(), model.order)
    x = source.split("test").x[:4000]
    of_data = Prefixes.of(divergences(truth, model, truth.of_data(x, rng()), 16, rng()))
    with torch.no_grad():
        gaps = source.log_prob(x.double()) - density.log_prob(x).double()
    error = math.hypot(of_data.error.norm().item(), gaps.std().item() / math.sqrt(len(gaps)))
    assert error < 0.03 * gaps.mean().item()
    assert of_data.mean.sum().item() == pytest.approx(gaps.mean().item(), abs=4.0 * error)


def smoothed_model(tag: str, inverter: str = "conditional") -> smoothgen.SmoothedModel:
    conditional = {"type": "conditional", "density": MADE} if inverter == "conditional" else {"type": inverter}
    parts = {"data": {"type": tag}, "kernel": {"type": "gaussian", "sigma": SIGMA}, "density": MADE}
    model = smoothgen.build(parts | {"inverter": conditional})
    model.initialize(smoothgen.installed().find("data", tag)().build().split("train").x[:2000])
    return model.eval()


def test_after_data_the_divergences_of_a_smoothed_model_sum_to_the_gap_of_its_bound():
    source = smoothgen.installed().find("data", "rings")().build()
    model = smoothed_model("rings")
    chain = SmoothedChain(model)
    truth = ExactChain(source.as_mixture(), chain.order, SIGMA)
    x = source.split("test").x[:4000]
    of_data = Prefixes.of(divergences(truth, chain, truth.of_data(x, rng()), 16, rng()))
    with torch.no_grad():
        gaps = source.log_prob(x.double()) - model.log_prob(x, generator=rng(3)).double()
    error = math.hypot(of_data.error.norm().item(), gaps.std().item() / math.sqrt(len(gaps)))
    assert error < 0.03 * gaps.mean().item()
    assert of_data.mean.sum().item() == pytest.approx(gaps.mean().item(), abs=4.0 * error)


def test_completions_keep_the_prefix_and_go_on_as_the_model_samples():
    model = smoothed_model("curve")
    chain = SmoothedChain(model)
    z = torch.linspace(-1.0, 1.0, 32, dtype=torch.float64).reshape(2, 16).repeat(3, 1).float().double()
    for known in (0, 3, 8, 11, 15):
        completed = chain.complete(z, known, rng())
        assert torch.equal(completed[:, :known], z[:, :known]) and (completed[:, known:] != z[:, known:]).all()
    assert torch.equal(chain.event(chain.complete(z, 0, rng(4))).float(), model.sample(6, generator=rng(4)))


class Surprised(Mixture):
    """Its first coordinate is five times too wide; its others are right, less one nat after a first one it knows not
    from data."""

    def __init__(self, mixture: IsotropicMixture) -> None:
        super().__init__(mixture, (0, 1, 2))
        wide = IsotropicMixture(mixture.means, mixture.log_weights, 5.0 * mixture.std)
        self.first = ExactChain(wide, (0, 1, 2))

    def strange(self, x: Tensor) -> Tensor:
        mixture = self.chain.mixture
        return (x[:, :1] - mixture.means[:, 0]).abs().amin(1) > 6.0 * mixture.std

    def _conditionals(self, x, context):
        terms = super()._conditionals(x, context)
        terms[:, 0] = steps(self.first, x)[:, 0]
        terms[:, 1:] -= self.strange(x).to(x)[:, None]
        return terms

    def _complete(self, x, known, context, particles, log_reference, generator=None):
        x = x.clone()
        if not known.flatten()[0]:
            x[:, 0] = self.first.draw(self.first.weights(len(x)), x, 0, 1, generator)[:, 0]
        known = torch.tensor([True, *known.expand(x.shape)[0, 1:].tolist()])
        return super()._complete(x, known, context, particles, log_reference, generator)


def test_what_compounds_is_counted_after_prefixes_of_the_model_alone():
    """Own prefixes cost exactly the nat it loses, as often as it meets a strange one; those of data cost nothing."""
    mixture = three_points(0.05)
    truth, density = ExactChain(mixture, (0, 1, 2)), Surprised(mixture)
    model = PlainChain(density)
    of_data = divergences(truth, model, truth.of_data(draw(mixture, 400), rng()), 8, rng()).mean(0)
    own = model.complete(torch.zeros(400, 3).double(), 0, rng())
    of_model = divergences(truth, model, own, 8, rng()).mean(0)
    share = density.strange(own).double().mean().item()
    assert share > 0.1 and of_data[0] > 0.5
    assert of_model[0].item() == pytest.approx(of_data[0].item(), abs=0.02), "nothing comes before it"
    assert of_data[1:].tolist() == pytest.approx([0.0, 0.0], abs=1e-9)
    assert of_model[1:].tolist() == pytest.approx([share, share], abs=1e-9)


def test_the_more_is_given_the_nearer_the_rest():
    mixture = three_points(0.1)
    wrong = IsotropicMixture(mixture.means, mixture.log_weights, 0.4)
    truth, model = ExactChain(mixture, (0, 1, 2)), PlainChain(Mixture(wrong, (0, 1, 2)))
    z = truth.of_data(draw(mixture, 500), rng())

    def distances(chain: PlainChain) -> Tensor:
        return torch.stack([mixture.distance(x) for x in continuations(chain, z, rng())]).mean(1) / mixture.std

    found = distances(model)
    assert all(before > after for before, after in pairwise(found.tolist()))
    exact = distances(PlainChain(Mixture(mixture, (0, 1, 2))))
    expected = math.sqrt(8.0 / math.pi)  # the mean length of three standard normal numbers
    assert exact.tolist() == pytest.approx([expected] * 3, abs=4.0 * 0.67 / math.sqrt(500))


def test_summaries_are_of_the_rows():
    values = torch.arange(100.0, dtype=torch.float64)[:, None].repeat(1, 2)
    values[-1, 1] = 1e6
    found = Prefixes.of(values)
    assert found.median.tolist() == [49.0, 49.0] and found.trimmed.tolist() == [49.5, 49.5]
    assert found.mean[0] == 49.5 and found.mean[1] > 1e3
    assert found.error[0].item() == pytest.approx(math.sqrt(100 * 101 / 12) / 10, rel=1e-9)


def test_what_has_no_chain_says_so():
    with pytest.raises(NoClosedFormError, match="RealNVP gives no conditionals"):
        PlainChain(build_density(smoothgen.installed().find("density", "realnvp")(), EventSpec(shape=(2,)), None))
    with pytest.raises(NoDensityError, match="has no density"):
        SmoothedChain(smoothed_model("rings", "gradient"))
