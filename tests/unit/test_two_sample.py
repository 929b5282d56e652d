"""MMD^2 against a double loop and closed forms, its errors against repeated draws, and the other measures."""

from __future__ import annotations

import math

import pytest
import torch

import smoothgen
from smoothgen.errors import DataError
from smoothgen.evaluation.mean_discrepancy import mmd_squared, pairs_between, pairs_within
from smoothgen.evaluation.two_sample import FRACTIONS, median_distance, two_sample

WIDTHS = (0.3, 1.0)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def gaussian(n, seed=0, mean=0.0, std=1.0, dimensions=2):
    generator = seed if isinstance(seed, torch.Generator) else seeded(seed)
    return mean + std * torch.randn(n, dimensions, generator=generator, dtype=torch.float64)


def toy(tag, **keys):
    return smoothgen.installed().find("data", tag)(**keys).build()


def by_pairs(fake, real, widths):
    """The definition, pair by pair."""

    def k(a, b):
        squared = sum((u - v) ** 2 for u, v in zip(a, b, strict=True))
        return sum(math.exp(-squared / (2 * h**2)) for h in widths) / len(widths)

    def own(x):
        return sum(k(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j) / (len(x) * (len(x) - 1))

    fake, real = fake.tolist(), real.tolist()
    cross = sum(k(a, b) for a in fake for b in real) / (len(fake) * len(real))
    return own(fake) + own(real) - 2 * cross


def between_gaussians(shift, s, t, widths, dimensions=2):
    """MMD^2 of N(0, s^2 I) and N(shift, t^2 I), shift along every axis.

    E k = (1 + v / h^2)^(-D/2) exp(-d^2 / (2 (h^2 + v))), v the sum of both variances and d the distance of the means,
    for k is a Gaussian density up to a constant.
    """

    def mean(v, d2, h):
        return (1 + v / h**2) ** (-dimensions / 2) * math.exp(-d2 / (2 * (h**2 + v)))

    d2 = dimensions * shift**2
    each = [mean(2 * s**2, 0, h) + mean(2 * t**2, 0, h) - 2 * mean(s**2 + t**2, d2, h) for h in widths]
    return sum(each) / len(widths)


def repeated(draws, n, m, shift=0.0, std=1.0):
    """value, stderr and null_sd of so many independent draws, each (draws,)."""
    generator = seeded(11)
    found = [mmd_squared(gaussian(n, generator, shift, std), gaussian(m, generator), WIDTHS) for _ in range(draws)]
    return [torch.tensor([each[key] for each in found], dtype=torch.float64) for key in ("value", "stderr", "null_sd")]


def test_mmd_against_a_double_loop():
    fake, real = gaussian(13, 1, mean=0.4), gaussian(17, 2, std=1.3)
    found = mmd_squared(fake, real, WIDTHS)
    assert found["value"] == pytest.approx(by_pairs(fake, real, WIDTHS), rel=1e-12)
    assert (found["n_fake"], found["n_real"]) == (13, 17)
    one = mmd_squared(real, fake, WIDTHS)  # the measure is symmetric, and so is its error
    assert (one["value"], one["stderr"]) == pytest.approx((found["value"], found["stderr"]), rel=1e-12)


@pytest.mark.parametrize("block", [1, 100, 37 * 90])
def test_blocks_change_nothing(block):
    fake, real = gaussian(150, 1, mean=0.4), gaussian(90, 2)
    whole, parts = mmd_squared(fake, real, WIDTHS, block=2**40), mmd_squared(fake, real, WIDTHS, block=block)
    for key in ("value", "stderr", "null_sd"):
        assert parts[key] == pytest.approx(whole[key], rel=1e-11)
    given = mmd_squared(fake, real, WIDTHS, pairs_within(real, WIDTHS))
    assert given["value"] == pytest.approx(whole["value"], rel=1e-12)


def test_means_over_pairs_are_those_of_the_matrix():
    a, b = gaussian(31, 1), gaussian(23, 2)
    kernel = sum((-torch.cdist(a, b).square() / (2 * h**2)).exp() for h in WIDTHS) / len(WIDTHS)
    found = pairs_between(a, b, WIDTHS, block=50)
    torch.testing.assert_close(found.rows, kernel.mean(1))
    torch.testing.assert_close(found.columns, kernel.mean(0))
    centred = kernel - kernel.mean(1, keepdim=True) - kernel.mean(0) + kernel.mean()
    assert found.interaction == pytest.approx(centred.square().mean().item(), rel=1e-9)


@pytest.mark.parametrize(("shift", "std"), [(0.5, 1.0), (0.0, 0.7), (2.0, 1.5)])
def test_mmd_of_two_gaussians_is_the_closed_form(shift, std):
    exact = between_gaussians(shift, 1.0, std, WIDTHS)
    found = mmd_squared(gaussian(2000, 5, shift, std), gaussian(2500, 6), WIDTHS)
    assert abs(found["value"] - exact) < 4 * found["stderr"] < 0.5 * exact


def test_mmd_of_the_same_distribution_is_unbiased_around_0():
    value, _, null_sd = repeated(200, 100, 140)
    assert abs(value.mean().item()) < 4 * value.std().item() / math.sqrt(200)
    assert (value < 0).double().mean().item() > 0.3
    assert null_sd.mean().item() == pytest.approx(value.std().item(), rel=0.2)


def test_mmd_of_different_distributions_is_unbiased():
    value, _, _ = repeated(200, 40, 60, shift=0.4, std=0.8)
    exact = between_gaussians(0.4, 1.0, 0.8, WIDTHS)
    assert abs(value.mean().item() - exact) < 4 * value.std().item() / math.sqrt(200)


@pytest.mark.parametrize(
    ("n", "m", "shift", "std"),
    [(200, 200, 0.15, 1.0), (200, 200, 0.6, 1.0), (80, 300, 0.3, 0.6), (300, 80, 0.3, 0.6)],
)
def test_the_standard_error_is_that_of_repeated_draws(n, m, shift, std):
    value, error, _ = repeated(200, n, m, shift, std)
    assert error.mean().item() == pytest.approx(value.std().item(), rel=0.2)


@pytest.mark.parametrize(("n", "m"), [(100, 100), (50, 200)])
def test_for_equal_distributions_the_standard_error_is_a_little_large_and_null_sd_right(n, m):
    value, error, null_sd = repeated(800, n, m)
    spread = value.std().item()  # known to 2.5 %
    assert 1.0 < error.mean().item() / spread < 1.25
    assert null_sd.mean().item() == pytest.approx(spread, rel=0.08)


def test_what_mmd_cannot_be_made_of_is_refused():
    with pytest.raises(DataError, match="needs 2 points of each set and a bandwidth, got 1, 9 and 2"):
        mmd_squared(gaussian(1), gaussian(9), WIDTHS)
    with pytest.raises(DataError, match="got 9, 9 and 0"):
        mmd_squared(gaussian(9), gaussian(9), ())


def test_bandwidths_are_fractions_of_the_median_or_those_given():
    data, real = toy("gaussian"), gaussian(900)
    sets = {"mine": gaussian(200, 1)}
    expected = math.sqrt(2 * 2 * math.log(2))  # |x - x'|^2 / 4 is exponential with mean 1 for two coordinates
    assert median_distance(real) == pytest.approx(expected, rel=0.03)
    found = two_sample(sets, real, data, seeded())
    assert found["bandwidths"] == pytest.approx([fraction * median_distance(real) for fraction in FRACTIONS])
    given = two_sample(sets, real, data, seeded(), WIDTHS)
    assert given["bandwidths"] == list(WIDTHS)
    direct = mmd_squared(sets["mine"], real, WIDTHS)
    assert given["sets"]["mine"]["MMD^2"]["value"] == pytest.approx(direct["value"], rel=1e-12)


def test_equal_distributions_disjoint_ones_and_the_data_themselves():
    data = toy("rings")
    real, same, elsewhere = (data.draw(1000, seeded(seed)).x for seed in (1, 2, 3))
    sets = {"itself": real.clone(), "same": same, "again": data.draw(1000, seeded(4)).x, "elsewhere": elsewhere + 50.0}
    found = two_sample(sets, real, data, seeded())["sets"]
    itself, same, again = found["itself"], found["same"], found["again"]
    assert itself["precision"]["value"] == itself["recall"]["value"] == 1.0
    for measure in ("precision", "recall"):
        error = math.hypot(same[measure]["stderr"], again[measure]["stderr"])
        assert abs(same[measure]["value"] - again[measure]["value"]) < 4 * error
        assert same[measure]["value"] > 0.9
    assert abs(same["MMD^2"]["value"]) < 4 * same["MMD^2"]["null_sd"]
    far = found["elsewhere"]
    assert far["precision"]["value"] == far["recall"]["value"] == 0.0
    assert far["off support"]["value"] == 1.0
    assert far["MMD^2"]["value"] > 100 * far["MMD^2"]["null_sd"]


def test_precision_and_recall_are_of_standardised_coordinates_and_mmd_is_not():
    scale = torch.tensor([1.0, 1000.0], dtype=torch.float64)
    fake, real, data = gaussian(300, 1, 0.5), gaussian(400, 2), toy("gaussian")
    one, other = (two_sample({"x": fake * s}, real * s, data, seeded(), (1.0,))["sets"]["x"] for s in (1.0, scale))
    for measure in ("precision", "recall"):
        assert one[measure]["value"] == pytest.approx(other[measure]["value"], abs=1e-12)
    assert other["MMD^2"]["value"] != pytest.approx(one["MMD^2"]["value"], rel=0.5)
    flat = two_sample({"x": fake * 0.0 + fake[:, :1]}, real[:, :1].repeat(1, 2) * torch.tensor([1.0, 0.0]), data)
    assert math.isfinite(flat["sets"]["x"]["precision"]["value"])


def test_the_share_off_the_support_and_its_error():
    data = toy("checkerboard")
    x = data.draw(400, seeded()).x
    x[:30] += 100.0
    found = two_sample({"x": x}, data.draw(100, seeded(1)).x, data, seeded())["sets"]["x"]["off support"]
    assert found["value"] == pytest.approx(30 / 400)
    assert found["stderr"] == pytest.approx(math.sqrt(0.075 * 0.925 / 400))
    assert found["n_fake"] == 400


def test_without_a_support_its_share_is_left_out():
    found = two_sample({"x": gaussian(50)}, gaussian(60, 1), toy("gaussian"), seeded())
    assert set(found["sets"]["x"]) == {"MMD^2", "precision", "recall"}


def test_results_depend_on_the_generator_alone():
    data, real, sets = toy("rings"), gaussian(300, 1), {"x": gaussian(200)}
    first = two_sample(sets, real, data, seeded())
    torch.manual_seed(5)
    assert two_sample(sets, real, data, seeded()) == first
    single = two_sample({"x": sets["x"].float()}, real.float(), data, seeded())["sets"]["x"]["MMD^2"]["value"]
    assert single == pytest.approx(first["sets"]["x"]["MMD^2"]["value"], rel=1e-4)


def test_bad_points_are_refused():
    data, bad = toy("rings"), gaussian(50)
    bad[7, 1] = math.nan
    with pytest.raises(DataError, match="mine: 1 of 100 values are not finite"):
        two_sample({"mine": bad}, gaussian(60), data)
    with pytest.raises(DataError, match="reference has 19 points; at least 20"):
        two_sample({"mine": gaussian(50)}, gaussian(19), data)
    with pytest.raises(DataError, match="half of all pairs of the reference coincide"):
        two_sample({"mine": gaussian(50)}, torch.zeros(30, 2), data)
