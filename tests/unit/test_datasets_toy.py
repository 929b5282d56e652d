"""The toy sets: masses of one, entropies, samples that follow their density, splits."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

import smoothgen
from smoothgen.component import ComponentConfig
from smoothgen.data_source import DataSource, Split
from smoothgen.errors import DataError, NoClosedFormError, NoDensityError, ShapeError
from smoothgen.event import EventSpec
from smoothgen_datasets.checkerboard import log_normal_mass
from smoothgen_datasets.curve import reach_across
from smoothgen_datasets.toy import ToyConfig, ToySource

BOXES: dict[str, tuple[tuple[float, float], tuple[float, float], float]] = {
    "rings": ((-3.8, 3.8), (-3.8, 3.8), 0.03),
    "olympics": ((-3.65, 3.65), (-1.65, 1.65), 0.006),
    "checkerboard": ((-4.0, 4.0), (-4.0, 4.0), 0.05),
    "thin_ring": ((-1.1, 1.1), (-1.1, 1.1), 0.004),
    "eight_gaussians": ((-6.0, 6.0), (-6.0, 6.0), 0.1),
    "pinwheel": ((-6.0, 6.0), (-6.0, 6.0), 0.03),
    "two_spirals": ((-4.1, 4.1), (-4.1, 4.1), 0.045),
    "moons": ((-1.9, 2.9), (-1.5, 2.0), 0.04),
    "gaussian": ((-8.5, 8.5), (-8.5, 8.5), 0.1),
    "curve": ((-1.9, 1.9), (-1.9, 1.9), 0.03),
}
"""What holds all the mass of a set in the plane, and a step that resolves it."""
LINES = {"mixture_1d": 0.01, "six_modes": 0.01, "ten_modes": 0.005, "two_gaussians": 0.005}
"""The step of each set on the line; all lie within 8 of the origin."""
TAGS = [*BOXES, *LINES]
KEYS: dict[str, dict[str, Any]] = {"curve": {"frequencies": (2, 3), "noise": 0.1}}
"""What brings a set into the plane."""
SMOOTHED = [tag for tag in TAGS if tag != "pinwheel"]


def build(tag: str, **keys: Any) -> ToySource:
    source = smoothgen.installed().find("data", tag)(**KEYS.get(tag, {}) | keys).build()  # type: ignore[attr-defined]
    assert isinstance(source, ToySource)
    return source


@cache
def shipped(tag: str) -> ToySource:
    return build(tag)


def midpoints(low: float, high: float, step: float, pieces: int = 1) -> tuple[Tensor, float]:
    """Midpoints of equal cells, a multiple of `pieces` of them and no wider than `step`; their width."""
    cells = pieces * math.ceil((high - low) / (step * pieces))
    width = (high - low) / cells
    return low + (torch.arange(cells, dtype=torch.float64) + 0.5) * width, width


def sides(tag: str) -> tuple[list[tuple[float, float]], float, int]:
    """The box around a set, a step that resolves it, and into how many pieces a test of samples cuts each side."""
    return ([(-8.0, 8.0)], LINES[tag], 64) if tag in LINES else ([*BOXES[tag][:2]], BOXES[tag][2], 16)


def grid(tag: str) -> tuple[Tensor, float]:
    """Midpoints of equal cells that cover the mass, (n, D), and a cell's volume."""
    box, step, pieces = sides(tag)
    axes = [midpoints(low, high, step, pieces) for low, high in box]
    points = torch.cartesian_prod(*[axis for axis, _ in axes]).reshape(-1, len(axes))
    return points, math.prod(width for _, width in axes)


@cache
def log_density_on_grid(tag: str) -> Tensor:
    return shipped(tag).log_prob(grid(tag)[0])


@pytest.mark.parametrize("tag", TAGS)
def test_the_mass_is_one_and_the_entropy_is_its_integral(tag):
    log_p, volume = log_density_on_grid(tag), grid(tag)[1]
    assert log_p.dtype == torch.float64
    assert log_p.exp().sum().item() * volume == pytest.approx(1.0, abs=1e-7)
    entropy = -torch.special.xlogy(log_p.exp(), log_p.exp()).sum().item() * volume
    # the curve's entropy is in part a quasi-random mean
    assert shipped(tag).entropy == pytest.approx(entropy, abs=2e-4 if tag == "curve" else 2e-6)


@pytest.mark.parametrize("tag", SMOOTHED)
@pytest.mark.parametrize("sigma", [0.15, 0.9])
def test_the_smoothed_density_is_the_convolution(tag, sigma):
    points, volume = grid(tag)
    x = 1.5 * torch.randn(40, points.shape[1], generator=torch.Generator().manual_seed(3)).double()
    log_noise = -torch.cdist(x, points).square() / (2 * sigma**2) - points.shape[1] * math.log(
        math.sqrt(2 * math.pi) * sigma
    )
    convolved = torch.logsumexp(log_noise + log_density_on_grid(tag), 1) + math.log(volume)
    # midpoints know the checkerboard's edges no better than to step^2
    tolerance = 1e-2 if tag == "checkerboard" else 1e-6
    near = convolved > -30.0  # further away, what lies beyond the grid would count
    assert int(near.sum()) >= 20
    torch.testing.assert_close(
        shipped(tag).smoothed_log_prob(x, sigma)[near], convolved[near], rtol=tolerance, atol=tolerance
    )


@pytest.mark.parametrize("tag", SMOOTHED)
def test_little_smoothing_changes_little(tag):
    x = shipped(tag).split("test").x[:200].double()
    exact = shipped(tag).log_prob(x)
    torch.testing.assert_close(shipped(tag).smoothed_log_prob(x, 0.0), exact, rtol=0.0, atol=0.0)
    if tag != "checkerboard":  # its edges move
        torch.testing.assert_close(shipped(tag).smoothed_log_prob(x, 1e-5), exact, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("tag", "keys", "entropy", "tolerance"),
    [
        ("rings", {}, 2.6232, 5e-5),
        ("olympics", {}, 0.6423, 5e-4),
        ("olympics", {"noise": 0.02}, 0.922, 1e-3),
        ("checkerboard", {}, math.log(32.0), 1e-12),
        ("six_modes", {}, 1.31358, 5e-6),
        ("ten_modes", {}, 0.72579, 5e-6),
        ("two_gaussians", {}, -0.19435, 5e-6),
        ("eight_gaussians", {"radius": 4.0 / 1.414, "noise": 0.5 / 1.414}, 2.832, 5e-4),
        ("gaussian", {"dimensions": 3, "std": (1.0, 2.0, 0.5)}, 1.5 * math.log(2.0 * math.pi * math.e), 1e-12),
    ],
)
def test_entropies_that_are_known(tag, keys, entropy, tolerance):
    """Source: shared/reference/science.md, section 1, and numerics.md, section 7: other people's code."""
    assert build(tag, **keys).entropy == pytest.approx(entropy, abs=tolerance)


def test_the_thin_ring_has_the_entropy_of_its_radius_and_angle():
    """H = H(R) + E log R + log 2 pi; E log R = -noise^2 / 2 to second order. Source: change of variables."""
    radius = 0.5 * math.log(2.0 * math.pi * math.e * 0.01**2)
    assert shipped("thin_ring").entropy == pytest.approx(radius - 0.5 * 0.01**2 + math.log(2.0 * math.pi), abs=1e-7)


@pytest.mark.parametrize("noise", [0.05, 0.4])
def test_entropies_of_noisier_circles_that_reach_the_centre(noise):
    source = build("rings", radii=[0.2, 1.0], noise=noise)
    axis, width = midpoints(-1.0 - 9 * noise, 1.0 + 9 * noise, noise / 4)
    log_p = source.log_prob(torch.cartesian_prod(axis, axis))
    assert source.entropy == pytest.approx(-(log_p.exp() * log_p).sum().item() * width**2, abs=1e-6)


def departure(tag: str, x: Tensor) -> float:
    """(chi^2 - df) / sqrt(2 df) of samples in coarse cells against the density's mass there; about normal(0, 1)."""
    points, volume = grid(tag)
    masses = log_density_on_grid(tag).exp() * volume
    box, _, pieces = sides(tag)
    low, high = torch.tensor(box, dtype=torch.float64).unbind(1)

    def cell(values: Tensor) -> Tensor:
        place = ((values.double() - low) / (high - low) * pieces).floor().long().clamp(0, pieces - 1)
        return place @ torch.tensor([pieces**i for i in range(len(low))])

    cells = pieces ** len(low)
    expected = torch.zeros(cells, dtype=torch.float64).index_add_(0, cell(points), masses) * len(x)
    count = torch.bincount(cell(x), minlength=cells).double()
    rare = expected < 10.0
    expected, count = (torch.cat([v[~rare], v[rare].sum()[None] + 1e-9]) for v in (expected, count))
    if expected[-1] < 10.0:  # too few to test on their own
        expected, count = (torch.cat([v[1:-1], (v[0] + v[-1])[None]]) for v in (expected, count))
    freedom = len(expected) - 1
    return (((count - expected).square() / expected).sum().item() - freedom) / math.sqrt(2.0 * freedom)


@pytest.mark.parametrize("tag", TAGS)
def test_samples_follow_the_density(tag):
    source = shipped(tag)
    x = source.split("test").x
    nats = -source.log_prob(x.double())
    standard_error = nats.std().item() / math.sqrt(len(nats))
    assert abs(nats.mean().item() - source.entropy) <= 4.0 * standard_error + 1e-9
    assert abs(departure(tag, x)) < 4.5


@pytest.mark.parametrize(
    ("tag", "keys"),
    [
        ("rings", {"radii": (0.75, 1.5, 2.25, 3.05)}),
        ("olympics", {"noise": 0.018}),
        ("pinwheel", {"twist": 0.75}),
        ("two_spirals", {"noise": 0.12}),
        ("mixture_1d", {"weights": (0.47, 0.53)}),
        ("curve", {"noise": 0.12}),
    ],
)
def test_the_test_of_samples_notices_another_density(tag, keys):
    source, x = shipped(tag), build(tag, **keys).split("test").x
    nats = -source.log_prob(x.double())
    surprise = abs(nats.mean().item() - source.entropy) / (nats.std().item() / math.sqrt(len(nats)))
    assert surprise > 6.0 or departure(tag, x) > 6.0


def test_the_checkerboard_is_the_usual_one_and_its_edges_belong_to_it():
    source = shipped("checkerboard")
    inside = torch.tensor([[-3.0, -3.0], [1.0, 1.0], [-1.0, 1.0 - 2.0], [3.0, -1.0], [0.0, 1.0], [4.0, 4.0]])
    outside = torch.tensor([[-3.0, -1.0], [1.0, -1.0], [4.001, 3.0], [-5.0, -5.0]])
    assert source.log_prob(inside).tolist() == pytest.approx([-math.log(32.0)] * 6)
    assert (source.log_prob(outside) == -math.inf).all()
    x = build("checkerboard", test_size=200_000).split("test").x
    assert bool(source.log_prob(x).isfinite().all())


def test_normal_masses_are_exact_in_both_tails():
    low = torch.tensor([-40.0, -1.0, 0.0, 39.0, 10.0], dtype=torch.float64)
    high = torch.tensor([-39.0, 1.0, 1.0, 40.0, 1e6], dtype=torch.float64)
    # log(Phi(1) - Phi(-1)), log(Phi(1) - 1/2) by erf; the rest by log_ndtr of the lower tail
    tail = torch.special.log_ndtr(torch.tensor(-39.0, dtype=torch.float64)).item()
    wanted = [tail, math.log(math.erf(1 / math.sqrt(2))), math.log(math.erf(1 / math.sqrt(2)) / 2), tail]
    wanted.append(torch.special.log_ndtr(torch.tensor(-10.0, dtype=torch.float64)).item())
    assert log_normal_mass(low, high).tolist() == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("tag", ["two_spirals", "moons"])
def test_the_integral_along_the_curve_is_exact_far_beyond_the_noise(tag):
    source = shipped(tag)
    u = (torch.arange(400_000, dtype=torch.float64) + 0.5) / 400_000
    curve = source._curve(u)
    both = torch.cat([curve, 2.0 * torch.tensor(source.centre, dtype=torch.float64) - curve])
    noise = source.noise
    x = source.split("test").x[:12].double()
    x = torch.cat([x, x + 10.0 * noise, both[[0, -1, 399_999]] + 6.0 * noise])
    distances = torch.stack([(row - both).square().sum(1) for row in x])
    brute = torch.logsumexp(-distances / (2 * noise**2), 1) - math.log(len(both) * 2 * math.pi * noise**2)
    torch.testing.assert_close(source.log_prob(x), brute, rtol=0.0, atol=3e-6)


def test_narrow_noise_has_nodes_enough():
    source = build("moons", noise=0.02)
    x = source.split("test").x.double()
    nats = -source.log_prob(x[:3000])
    assert abs(nats.mean().item() - source.entropy) < 4.0 * nats.std().item() / math.sqrt(len(nats))


@pytest.mark.parametrize("tag", TAGS)
def test_single_precision_tails_and_gradients(tag):
    source = shipped(tag)
    x = source.split("validation").x[:500]
    torch.testing.assert_close(source.log_prob(x), source.log_prob(x.double()).float(), rtol=1e-4, atol=2e-3)
    assert source.log_prob(x).dtype == torch.float32
    far = torch.tensor([[1e3], [-1e3], [0.0], [1e6]]).expand(4, source.event.dimensions).clone().requires_grad_(True)
    values = source.log_prob(far)
    if tag == "checkerboard":
        values = source.smoothed_log_prob(far, 0.5)
    assert bool(values.isfinite().all())
    assert values[3] < values[0] < -1e4
    (gradient,) = torch.autograd.grad(values.sum(), far)
    assert bool(gradient.isfinite().all())
    if tag != "pinwheel":  # its arms twist ever faster
        assert bool((gradient[0] < 0).all()) and bool((gradient[1] > 0).all())


def test_no_closed_form_is_said_and_a_negative_sigma_refused():
    with pytest.raises(NoClosedFormError, match="pinwheel"):
        shipped("pinwheel").smoothed_log_prob(torch.zeros(3, 2), 0.3)
    with pytest.raises(ValueError, match="sigma must be 0 or more"):
        shipped("rings").smoothed_log_prob(torch.zeros(3, 2), -0.3)


@pytest.mark.parametrize("x", [torch.zeros(3), torch.zeros(3, 1), torch.zeros(3, 2, dtype=torch.long)])
def test_wrong_shapes_are_refused(x):
    with pytest.raises(ShapeError, match=r"rings: x must be floating point of shape \(batch, 2\)"):
        shipped("rings").log_prob(x)


@pytest.mark.parametrize("tag", TAGS)
def test_draws(tag):
    source = shipped(tag)
    assert source.fresh
    first, second = (source.draw(512, torch.Generator().manual_seed(5)).x for _ in range(2))
    assert torch.equal(first, second)
    assert first.shape == (512, source.event.dimensions) and first.dtype == torch.float32
    generator = torch.Generator().manual_seed(5)
    source.draw(512, generator)
    assert not torch.equal(source.draw(512, generator).x, first)
    state = torch.get_rng_state()
    source.draw(512, generator)
    assert torch.equal(torch.get_rng_state(), state)
    assert source.draw(0, generator).x.shape == (0, source.event.dimensions)
    assert source.log_prob(torch.zeros(0, source.event.dimensions)).shape == (0,)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("tag", TAGS)
def test_another_default_dtype_draws_the_same(tag):
    assert torch.equal(build(tag).split("validation").x, shipped(tag).split("validation").x)


@pytest.mark.parametrize("tag", TAGS)
def test_splits_are_reproducible_and_independent(tag):
    keys = {"train_size": 3000, "validation_size": 2000, "test_size": 4000}
    source, again, other = build(tag, **keys), build(tag, **keys), build(tag, **keys, seed=1)
    splits = {name: source.split(name).x for name in ("train", "validation", "test")}
    assert {name: len(x) for name, x in splits.items()} == {"train": 3000, "validation": 2000, "test": 4000}
    for name, x in splits.items():
        assert x is source.split(name).x
        assert torch.equal(x, again.split(name).x)
        assert not torch.equal(x, other.split(name).x)
    pairs = [("train", "validation"), ("validation", "test"), ("train", "test")]
    for first, second in pairs:
        a, b = splits[first][:2000].double(), splits[second][:2000].double()
        correlation = ((a - a.mean(0)) * (b - b.mean(0))).mean(0) / (a.std(0) * b.std(0))
        assert correlation.abs().max() < 4.5 / math.sqrt(2000)
        assert (a[:, None] == b[None]).all(2).sum() <= 10  # coincidences of float32 on the line


def test_a_fixed_training_set_draws_nothing_new():
    source = build("rings", train_size=100)
    assert not source.fresh
    with pytest.raises(DataError, match="cannot draw"):
        source.draw(10, torch.Generator())
    assert len(shipped("rings").split("train")) == 20_000


@pytest.mark.parametrize(
    ("tag", "keys", "message"),
    [
        ("mixture_1d", {"means": [0.0, 1.0], "stds": [1.0]}, "equally long"),
        ("mixture_1d", {"means": [0.0], "stds": [0.0]}, "greater than 0"),
        ("thin_ring", {"noise": 0.5}, "above a fifth of radius"),
        ("gaussian", {"dimensions": 3, "mean": [0.0, 1.0]}, "mean has 2 numbers for dimensions: 3"),
        ("rings", {"radii": []}, "at least 1"),
        ("rings", {"train_size": 0}, "greater than 0"),
        ("two_spirals", {"noise": 0.001}, "0.02"),
        ("curve", {"frequencies": [3]}, "at least 2"),
    ],
)
def test_bad_keys_are_refused(tag, keys, message):
    with pytest.raises(ValueError, match=message):
        build(tag, **keys)


def test_every_toy_set_is_tested_here():
    found: dict[str, type[ComponentConfig]] = smoothgen.installed().components["data"]
    assert {tag for tag, cls in found.items() if issubclass(cls, ToyConfig)} == set(TAGS)


def test_unequal_weights_hold_for_samples_and_density():
    source = build("mixture_1d", means=[-1.0, 2.0], stds=[0.1, 0.2], weights=[3.0, 1.0], test_size=40_000)
    density = source.log_prob(torch.tensor([[-1.0], [2.0]], dtype=torch.float64)).exp()
    peak = 1.0 / math.sqrt(2.0 * math.pi)
    assert density.tolist() == pytest.approx([0.75 * peak / 0.1, 0.25 * peak / 0.2], rel=1e-9)
    x = source.split("test").x[:, 0]
    assert (x > 0.5).double().mean().item() == pytest.approx(0.25, abs=4.0 * math.sqrt(0.25 * 0.75 / 40_000))
    assert x[x > 0.5].std().item() == pytest.approx(0.2, rel=0.03)


def test_the_curves_are_the_ones_described():
    u = torch.tensor([0.0, 0.25, 1.0], dtype=torch.float64)
    spiral = torch.tensor([[0.0, 0.0], [0.0, -math.pi / 2.0], [math.pi, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(shipped("two_spirals")._curve(u), spiral, atol=1e-12, rtol=0.0)
    moon = torch.tensor([[1.0, 0.0], [math.sqrt(0.5), math.sqrt(0.5)], [-1.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(shipped("moons")._curve(u), moon, atol=1e-12, rtol=0.0)
    assert shipped("moons").centre == (0.5, 0.25) and shipped("two_spirals").centre == (0.0, 0.0)


BEYOND = math.erfc(3.0 / math.sqrt(2.0))
"""P(|N(0, 1)| > 3)."""


def beyond_circle(radius: float, noise: float, others: tuple[float, ...] = ()) -> float:
    """P(the distance from the centre of a noisy circle is more than 3 noise from its radius and all others).

    The distance is Rice's: the radial density is 2 pi rho times that of the plane, here by the midpoint rule.
    """
    rho, width = midpoints(0.0, radius + 12.0 * noise, noise / 1000.0)
    log_p = -0.5 * ((rho - radius) / noise).square() + torch.special.i0e(rho * radius / noise**2).log()
    off = torch.stack([(rho - r).abs() > 3.0 * noise for r in (radius, *others)]).all(0)
    return ((rho / noise**2) * log_p.exp())[off].sum().item() * width


def beyond_eight(distance: float, noise: float) -> float:
    """Of the plane's Gaussians on a circle: exp(-9/2), less the mass of the first in the discs of all others.

    P(|z - c| < 3) of a standard normal in the plane: over the disc's radius, Rice's law around the distance |c|.
    """
    caught = 0.0
    for k in range(1, 8):
        away = 2.0 * distance * math.sin(k * math.pi / 8.0) / noise
        r, width = midpoints(0.0, 3.0, 1e-4)
        caught += (r * (-0.5 * (r - away).square()).exp() * torch.special.i0e(r * away)).sum().item() * width
    return math.exp(-4.5) - caught


RINGS = (0.75, 1.5, 2.25, 3.0)
OFF_SUPPORT: list[tuple[str, dict[str, Any], float]] = [
    ("rings", {}, sum(beyond_circle(r, 0.08, RINGS) for r in RINGS) / 4.0),
    ("rings", {"radii": [1.0], "noise": 0.3}, beyond_circle(1.0, 0.3)),
    ("olympics", {}, 0.00257),  # by quadrature over the circles' angles: the crossings catch 5 % of beyond_circle's
    ("thin_ring", {}, BEYOND),
    ("checkerboard", {}, 0.0),
    ("six_modes", {}, BEYOND),
    ("ten_modes", {}, BEYOND),
    ("two_gaussians", {}, BEYOND / 2.0),  # their intervals touch
    ("mixture_1d", {"means": [-1.0, 9.0], "stds": [0.1, 2.0], "weights": [3.0, 1.0]}, BEYOND),
    ("eight_gaussians", {}, beyond_eight(2.83, 0.354)),
    ("eight_gaussians", {"noise": 0.1}, math.exp(-4.5)),
]


@pytest.mark.parametrize(("tag", "keys", "rate"), OFF_SUPPORT)
def test_true_data_are_off_the_support_at_the_exact_rate(tag, keys, rate):
    n = 500_000
    on = build(tag, **keys).on_support(build(tag, **keys).draw(n, torch.Generator().manual_seed(7)).x)
    assert on.shape == (n,) and on.dtype == torch.bool
    assert abs((~on).double().mean().item() - rate) <= 3.5 * math.sqrt(rate * (1.0 - rate) / n)


def test_the_rates_that_the_documentation_states():
    assert OFF_SUPPORT[0][2] == pytest.approx(0.00269, abs=5e-6)
    assert pytest.approx(0.00270, abs=5e-6) == BEYOND
    assert OFF_SUPPORT[-2][2] == pytest.approx(0.00989, abs=5e-6)
    circle = beyond_circle(1.0, 0.015)
    assert 0.9 * circle < 0.00257 < circle


@pytest.mark.parametrize(
    ("tag", "inside", "outside"),
    [
        ("rings", [[0.0, 0.98], [-3.2, 0.0]], [[0.0, 1.01], [0.0, 0.0], [3.25, 0.0]]),
        ("olympics", [[-1.25, 0.54], [2.5, 1.46]], [[-2.5, 0.5], [2.5, 1.56]]),
        ("thin_ring", [[0.0, 1.029], [-0.971, 0.0]], [[0.0, 1.031], [0.0, 0.0]]),
        ("checkerboard", [[4.0, 4.0], [0.0, 1.0]], [[4.001, 3.0], [1.0, -1.0]]),
        ("six_modes", [[5.44], [-0.56]], [[5.46], [0.0], [-0.54]]),
        ("eight_gaussians", [[2.83 + 1.06, 0.0], [0.0, -1.78]], [[2.83 + 1.07, 0.0], [0.0, 0.0]]),
    ],
)
def test_where_the_support_ends(tag, inside, outside):
    source = shipped(tag)
    bad = [math.nan] * source.event.dimensions
    x = torch.tensor([*inside, *outside, bad], dtype=torch.float64)
    assert source.on_support(x).tolist() == [True] * len(inside) + [False] * (len(outside) + 1)
    with pytest.raises(ShapeError, match="x must be floating point"):
        source.on_support(x[:, None])


@pytest.mark.parametrize("tag", ["pinwheel", "two_spirals", "moons", "gaussian"])
def test_sets_without_a_support_say_so(tag):
    with pytest.raises(NoDensityError, match=f"{tag}: no region is defined"):
        shipped(tag).on_support(torch.zeros(3, 2))


def test_a_source_that_knows_nothing_says_so():
    class Unknown(DataSource):
        def split(self, name):
            return Split(torch.zeros(1, 2))

    source = Unknown(EventSpec(shape=(2,)))
    with pytest.raises(NoDensityError, match="Unknown defines no region"):
        source.on_support(torch.zeros(1, 2))
    with pytest.raises(NoClosedFormError, match="density of Unknown after Gaussian noise"):
        source.smoothed_log_prob(torch.zeros(1, 2), 0.1)


def brute_curve(x: Tensor, frequencies: tuple[int, ...], noise: float, nodes: int = 200_003) -> Tensor:
    """log of the mean over t of N(x; c(t), noise^2), with many more nodes than the set takes and none shared."""
    t = (torch.arange(nodes, dtype=torch.float64) + 0.37) * (2.0 * math.pi / nodes)
    curve = torch.stack([torch.cos(k * t + i) for i, k in enumerate(frequencies)], dim=1)
    distances = torch.stack([(row - curve).square().sum(1) for row in x])
    normaliser = 0.5 * len(frequencies) * math.log(2.0 * math.pi * noise**2)
    return torch.logsumexp(-distances / (2.0 * noise**2), 1) - math.log(nodes) - normaliser


def test_the_curve_in_eight_dimensions_is_exact_on_it_and_far_away():
    frequencies = (8, 4, 6, 2, 5, 3, 7, 1)
    source = build("curve", frequencies=frequencies, noise=0.02)
    x = source.split("test").x[:8].double()
    x = torch.cat([x, x + 0.1, x.roll(1, 0), 3.0 * x, torch.zeros(1, 8, dtype=torch.float64)])
    torch.testing.assert_close(source.log_prob(x), brute_curve(x, frequencies, 0.02), rtol=1e-9, atol=1e-7)
    wide = brute_curve(x, frequencies, math.hypot(0.02, 0.3))
    torch.testing.assert_close(source.smoothed_log_prob(x, 0.3), wide, rtol=1e-9, atol=1e-7)


def test_the_curve_in_eight_dimensions_has_the_entropy_of_its_samples():
    source = build("curve", frequencies=(8, 4, 6, 2, 5, 3, 7, 1), noise=0.02)
    nats = -source.log_prob(source.split("test").x.double())
    assert abs(nats.mean().item() - source.entropy) < 4.0 * nats.std().item() / math.sqrt(len(nats))


@pytest.mark.parametrize("tag", ["rings", "olympics"])
def test_circles_are_a_mixture_of_gaussians(tag):
    source = shipped(tag)
    mixture = source.as_mixture()
    x = source.split("test").x[:500].double()
    x = torch.cat([x, x + 3.0 * source.noise])
    torch.testing.assert_close(mixture.log_prob(x), source.log_prob(x), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(mixture.log_prob(x, 0.3), source.smoothed_log_prob(x, 0.3), rtol=1e-9, atol=1e-9)
    assert mixture.log_weights.exp().sum().item() == pytest.approx(1.0, abs=1e-12)
    with pytest.raises(NoDensityError, match="no mixture"):
        shipped("checkerboard").as_mixture()


def test_the_curve_catches_all_but_the_rate_of_three_noises():
    source = build("curve", frequencies=(8, 4, 6, 2, 5, 3, 7, 1), noise=0.02)
    x = source.split("test").x
    off = 1.0 - source.on_support(x.double()).double().mean().item()
    assert off == pytest.approx(math.erfc(3.0 / math.sqrt(2.0)), abs=4.0 * math.sqrt(0.0027 / len(x)) + 2e-4)
    noise = torch.randn(400_000, 7, generator=torch.Generator().manual_seed(0))
    assert (noise.norm(dim=1) > reach_across(7)).double().mean().item() == pytest.approx(0.0027, abs=4e-4)
    assert reach_across(1) == pytest.approx(3.0, abs=1e-9)
    assert not source.on_support(torch.zeros(1, 8)).item()
    assert not source.on_support(torch.full((1, 8), math.nan)).item()
