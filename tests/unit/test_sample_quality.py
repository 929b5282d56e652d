"""FID, KID, IS, precision and recall: against direct formulas, and against cases whose answer is known."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pytest
import torch

import smoothgen
from smoothgen.errors import ConfigError, DataError, DependencyError
from smoothgen.evaluation.precision_recall import inside, manifold_radii, precision_recall, recall_without
from smoothgen.evaluation.sample_quality import (
    FrechetDistance,
    inception_score,
    kernel_distance,
    quantisation_rule,
    sample_quality,
    torchmetrics,
)
from smoothgen.evaluation.subsets import groups_of, jackknife
from smoothgen.event import EventSpec


@dataclass
class Settings:
    few_samples: bool = True


class Flat(smoothgen.FeatureNetwork):
    """Features are the coordinates; scores are the first three."""

    def _features(self, x):
        return x.flatten(1)

    def _logits(self, features):
        return 3 * features[:, :3]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def gaussian(n, features=5, seed=0, mean=0.0, std=1.0):
    return mean + std * torch.randn(n, features, generator=seeded(seed), dtype=torch.float64)


def numpy_fid(real, fake):
    """tr((S1 S2)^1/2) by the symmetric S1^1/2 S2 S1^1/2."""
    difference = real.mean(0) - fake.mean(0)
    first, second = np.cov(real, rowvar=False), np.cov(fake, rowvar=False)
    values, vectors = np.linalg.eigh(first)
    root = vectors * np.sqrt(values) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ second @ root).clip(0)).sum()
    return difference @ difference + np.trace(first) + np.trace(second) - 2 * cross


def numpy_mmd(real, fake):
    """The unbiased estimate by explicit sums over pairs."""

    def kernel(a, b):
        return (a @ b.T / a.shape[1] + 1) ** 3

    n, m = len(real), len(fake)
    own = kernel(real, real)
    other = kernel(fake, fake)
    own_mean = (own.sum() - np.trace(own)) / (n * (n - 1))
    other_mean = (other.sum() - np.trace(other)) / (m * (m - 1))
    return own_mean + other_mean - 2 * kernel(real, fake).mean()


def test_fid_against_numpy():
    real, fake = gaussian(300, 6), gaussian(200, 6, seed=1, mean=0.3, std=1.4) @ torch.randn(6, 6).double()
    fid = FrechetDistance(real)
    assert fid(fake) == pytest.approx(numpy_fid(real.numpy(), fake.numpy()), rel=1e-6)
    assert fid(real) == pytest.approx(0.0, abs=1e-6)
    assert fid(fake) == pytest.approx(numpy_fid(real.numpy(), fake.numpy()), rel=1e-6)  # nothing was kept


def test_kid_against_numpy():
    real, fake = gaussian(43), gaussian(57, seed=1, mean=0.5)
    result = kernel_distance(real, fake, seeded(3))
    generator = seeded(3)
    mine, theirs = groups_of(43, generator), groups_of(57, generator)
    direct = [numpy_mmd(real[a[:4]].numpy(), fake[b[:4]].numpy()) for a, b in zip(mine, theirs, strict=True)]
    assert result["value"] == pytest.approx(np.mean(direct), rel=1e-6)
    assert result["stderr"] == pytest.approx(np.std(direct, ddof=1) / math.sqrt(10), rel=1e-6)
    assert (result["n_real"], result["n_fake"]) == (40, 40)


def test_kid_is_unbiased_and_its_error_is_right():
    real, fake = gaussian(6000, seed=4), gaussian(6000, seed=5, mean=0.2)
    result = kernel_distance(real, fake, seeded())
    whole = numpy_mmd(real.numpy(), fake.numpy())
    assert abs(result["value"] - whole) < 4 * result["stderr"]
    same = kernel_distance(real, gaussian(6000, seed=6), seeded())
    assert abs(same["value"]) < 4 * same["stderr"] < 0.05 * whole * 10


def test_inception_score_against_numpy():
    logits = gaussian(400, 7, std=2.0)
    p = np.exp(logits.numpy())
    p /= p.sum(1, keepdims=True)
    direct = math.exp((p * (np.log(p) - np.log(p.mean(0)))).sum(1).mean())
    assert inception_score(logits) == pytest.approx(direct, rel=1e-6)
    certain = 100 * torch.eye(10, dtype=torch.float64).repeat(7, 1)
    assert inception_score(certain) == pytest.approx(10.0, rel=1e-6)
    assert inception_score(torch.zeros(70, 10, dtype=torch.float64)) == pytest.approx(1.0, rel=1e-6)


def brute_inside(points, centres, k):
    distances = np.linalg.norm(centres[:, None] - centres[None], axis=-1)
    np.fill_diagonal(distances, np.inf)
    radii = np.sort(distances, axis=1)[:, k - 1]
    return (np.linalg.norm(points[:, None] - centres[None], axis=-1) <= radii).any(1)


@pytest.mark.parametrize("features", [2, 5, 300])
@pytest.mark.parametrize("k", [1, 3])
def test_precision_and_recall_against_brute_force(k, features):
    real, fake = gaussian(120, features), gaussian(90, features, seed=1, mean=0.5 / math.sqrt(features), std=0.9)
    precision, recall = precision_recall(real, fake, k)
    assert precision == pytest.approx(brute_inside(fake.numpy(), real.numpy(), k).mean())
    assert recall == pytest.approx(brute_inside(real.numpy(), fake.numpy(), k).mean())
    assert 0 < precision < 1 or features == 300


def test_blocks_change_nothing():
    real, fake = gaussian(100), gaussian(70, seed=1)
    radii = manifold_radii(real, 3)
    torch.testing.assert_close(manifold_radii(real, 3, rows=7), radii)
    assert torch.equal(inside(fake, real, radii, rows=9), inside(fake, real, radii))


@pytest.mark.parametrize("features", [2, 300])
def test_recall_without_groups_is_the_recall_of_the_rest(features):
    real, fake = (
        gaussian(80, features),
        gaussian(65, features, seed=1, mean=0.4 / features, std=0.8 if features < 9 else 1.0),
    )
    fake[7] = fake[20]
    groups = groups_of(65, seeded(2))
    whole, without = recall_without(real, fake, groups, rows=11)
    assert whole == pytest.approx(precision_recall(real, fake)[1])
    for group, value in zip(groups, without, strict=True):
        rest = np.delete(fake.numpy(), group.numpy(), axis=0)
        assert value == pytest.approx(brute_inside(real.numpy(), rest, 3).mean())
    assert len(set(without)) > 1


def test_precision_and_recall_of_known_cases():
    real = gaussian(200)
    assert precision_recall(real, real.clone()) == (1.0, 1.0)
    assert precision_recall(real, real + 1e3) == (0.0, 0.0)
    modes = torch.cat([gaussian(200), gaussian(200, seed=1) + 100])
    dropped = gaussian(400, seed=2)
    precision, recall = precision_recall(modes, dropped)
    assert precision > 0.9 and 0.42 < recall <= 0.5
    assert precision_recall(modes, torch.cat([gaussian(200, seed=2), gaussian(200, seed=3) + 100]))[1] > 0.85
    collapsed = real[:1].repeat(50, 1)
    precision, recall = precision_recall(real, collapsed)
    assert precision == 1.0 and recall == pytest.approx(1 / 200)


def test_the_jackknife_of_a_mean_is_exact():
    x = gaussian(500, 1, seed=7)[:, 0]
    result = jackknife(lambda rows: rows.mean().item(), x, seeded(1))
    means = torch.stack([x[group].mean() for group in groups_of(500, seeded(1))])
    assert result.value == pytest.approx(x.mean().item())
    assert result.stderr == pytest.approx((means.std() / math.sqrt(10)).item())
    assert result.bias == pytest.approx(0.0, abs=1e-12)


def test_groups_are_a_partition():
    groups = groups_of(103, seeded())
    assert sorted(torch.cat(groups).tolist()) == list(range(103))
    assert {len(group) for group in groups} == {10, 11}


def test_the_error_and_bias_of_fid_are_those_of_repeated_draws():
    """Between equal Gaussians the FID is 0, so that its mean over draws is its bias."""
    fid = FrechetDistance(gaussian(200_000, 4, seed=99))
    results = [jackknife(fid, gaussian(400, 4, seed=seed, mean=0.0), seeded(seed)) for seed in range(60)]
    values = np.array([result.value for result in results])
    assert np.mean([result.bias for result in results]) == pytest.approx(values.mean(), rel=0.15)
    shifted = [jackknife(fid, gaussian(400, 4, seed=seed, mean=0.5), seeded(seed)) for seed in range(60)]
    spread = np.std([result.value for result in shifted], ddof=1)
    assert np.mean([result.stderr for result in shifted]) == pytest.approx(spread, rel=0.25)


def test_the_error_of_recall_is_that_of_repeated_draws():
    real = gaussian(300, 3, seed=50)

    def recall(fake):
        return precision_recall(real, fake)[1]

    results = [jackknife(recall, gaussian(300, 3, seed=seed, mean=0.8, std=0.7), seeded(seed)) for seed in range(40)]
    spread = np.std([result.value for result in results], ddof=1)
    assert np.mean([result.stderr for result in results]) == pytest.approx(spread, rel=0.35)


EVENT = EventSpec(shape=(1, 2, 3), low=-1.0, high=1.0, levels=5)


def quality(samples, reference, event=EVENT, few=True):
    network = Flat("flat", event, event.dimensions)
    return sample_quality(samples, reference, network, event, Settings(few), seeded())


def images(n, seed=0, std=0.6):
    return (std * torch.randn(n, 1, 2, 3, generator=seeded(seed))).clamp(-1, 1)


def test_results_name_the_network_its_weights_and_the_numbers():
    result = quality({"mine": images(60), "test": images(50, 2)}, EVENT.quantize(images(80, 1)))
    assert result["network"]["name"] == "flat" and len(result["network"]["fingerprint"]) == 64
    assert result["quantisation"] == "nearest of 5 levels from -1 to 1"
    assert set(result["sets"]) == {"mine", "test"}
    names = {f"flat {metric}" for metric in ("FID", "KID", "IS", "precision", "recall")}
    for values in result["sets"].values():
        assert set(values) == names
        assert all(math.isfinite(value["stderr"]) and value["error_from"] for value in values.values())
    fid = result["sets"]["mine"]["flat FID"]
    assert (fid["n_real"], fid["n_fake"]) == (80, 60) and "biased upwards" in fid["note"]
    assert result["sets"]["test"]["flat precision"]["n_real"] == 50


def test_samples_are_quantised_before_the_features():
    rough, reference = images(60), EVENT.quantize(images(80, 1))
    assert not torch.equal(EVENT.quantize(rough), rough)
    assert quality({"a": rough}, reference) == quality({"a": EVENT.quantize(rough)}, reference)
    direct = numpy_fid(*(EVENT.quantize(x).flatten(1).double().numpy() for x in (reference, rough)))
    value = quality({"a": rough}, reference)["sets"]["a"]["flat FID"]["value"]
    assert value == pytest.approx(direct, rel=1e-6)
    assert quantisation_rule(EventSpec(shape=(2,))) == "none"


def test_results_depend_on_the_generator_alone():
    reference = images(80, 1)
    torch.manual_seed(1)
    first = quality({"a": images(60)}, reference)
    state = torch.random.get_rng_state()
    torch.manual_seed(2)
    assert quality({"a": images(60)}, reference) == first
    torch.manual_seed(1)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize(("n", "m", "culprit"), [(100, 2048, "mine"), (2048, 100, "reference")])
def test_an_fid_of_few_is_refused_unless_allowed(n, m, culprit):
    with pytest.raises(ConfigError, match=rf"{culprit} has 100 examples; .* evaluate.few_samples: true"):
        quality({"mine": images(n)}, images(m), few=False)


def test_an_fid_of_enough_has_no_note():
    result = quality({"mine": images(2048, std=0.5)}, images(2048, 1), few=False)
    assert result["sets"]["mine"]["flat FID"]["note"] is None


def test_samples_that_are_not_finite_are_refused():
    bad = images(60)
    bad[3] = math.nan
    with pytest.raises(DataError, match="mine: 6 of 360 values are not finite"):
        quality({"mine": bad}, images(80))


def test_too_few_for_an_error_is_refused():
    with pytest.raises(DataError, match="needs at least 20 examples, got 15"):
        quality({"mine": images(15)}, images(80))


def test_a_broken_torchvision_is_one_clear_line(monkeypatch):
    class Breaks:
        def find_spec(self, name, path=None, target=None):
            if name == "torchmetrics.image.fid":
                raise RuntimeError("operator torchvision::nms does not exist")

    for name in [name for name in sys.modules if name.startswith("torchmetrics")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Breaks(), *sys.meta_path])
    with pytest.raises(DependencyError, match=r"nms does not exist\); remove torchvision, or install the build"):
        torchmetrics()


def test_torchmetrics_is_imported_when_used():
    code = "import smoothgen.experiment, sys; print('torchmetrics' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
