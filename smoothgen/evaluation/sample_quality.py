"""FID, KID, inception score, precision and recall of samples, in the features of a network that is named."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Generator, Tensor, nn

from smoothgen.errors import ConfigError, DataError, DependencyError
from smoothgen.evaluation.nearest import wide
from smoothgen.evaluation.precision_recall import precision_recall_with_errors
from smoothgen.evaluation.subsets import GROUPS, JACKKNIFE, groups_of, jackknife
from smoothgen.event import EventSpec
from smoothgen.feature_network import FeatureNetwork
from smoothgen.likelihood import standard_error

FEWEST_FOR_FID = 2048
KID_BLOCK = 1000
"""Largest block of KID, which costs the square of its size."""


class QualitySettings(Protocol):
    """few_samples: allow an FID of fewer than 2048 examples."""

    @property
    def few_samples(self) -> bool: ...


class _Given(nn.Module):
    """What torchmetrics takes for a network: features computed before, once."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


@dataclass(frozen=True)
class TorchMetrics:
    """The three classes of torchmetrics."""

    fid: Any
    kid: Any
    inception_score: Any


def torchmetrics() -> TorchMetrics:
    """torchmetrics, imported when first used. Raises DependencyError where a broken torchvision takes it down."""
    try:
        from torchmetrics.image.fid import FrechetInceptionDistance
        from torchmetrics.image.inception import InceptionScore
        from torchmetrics.image.kid import KernelInceptionDistance
    except Exception as error:  # a torchvision that does not match torch raises RuntimeError while being imported
        raise DependencyError(
            f"torchmetrics cannot be imported ({type(error).__name__}: {error}); remove torchvision, or install the "
            f"build of it that matches torch {torch.__version__}"
        ) from error
    return TorchMetrics(FrechetInceptionDistance, KernelInceptionDistance, InceptionScore)


@torch.no_grad()
def sample_quality(
    samples: Mapping[str, Tensor],
    reference: Tensor,
    network: FeatureNetwork,
    event: EventSpec,
    settings: QualitySettings,
    generator: Generator | None = None,
) -> dict[str, Any]:
    """Every set of samples against the reference, as plain values, each with n, standard error and its method.

    samples: sets (n, *event.shape); reference (m, *event.shape); all in the model's coordinates. They are first
    brought to values that the event can take: no metric sees anything an image file cannot hold. `sets` maps a set to
    its metrics, whose names start with the network's, for FIDs of different networks have nothing in common.

    Raises ConfigError for an FID of few examples unless settings.few_samples, DataError for samples that are not
    finite, DependencyError.
    """
    for name, x in (("reference", reference), *samples.items()):
        refuse_few(name, len(x), settings.few_samples)
    features = {name: features_of(network, quantised(x, event, name)) for name, x in samples.items()}
    real = features_of(network, quantised(reference, event, "reference"))
    fid = FrechetDistance(real)
    return {
        "network": {"name": network.name, "fingerprint": network.fingerprint, "features": network.num_features},
        "reference": len(reference),
        "quantisation": quantisation_rule(event),
        "sets": {
            name: {
                f"{network.name} {metric}": value
                for metric, value in _of_set(fid, real, fake, network, generator).items()
            }
            for name, fake in features.items()
        },
    }


def refuse_few(name: str, n: int, allowed: bool) -> None:
    """Raises ConfigError for an FID of so few examples that it mostly measures their number."""
    if n < FEWEST_FOR_FID and not allowed:
        raise ConfigError(
            f"sample quality: {name} has {n} examples; an FID of fewer than {FEWEST_FOR_FID} is biased upwards "
            "too much to compare with anything else. Take more (evaluate.quality_samples), or set "
            "evaluate.few_samples: true"
        )


def quantised(x: Tensor, event: EventSpec, name: str) -> Tensor:
    """x (n, *event.shape), the model's coordinates, as values that the event can take. Raises DataError for others."""
    if not bool(x.isfinite().all()):
        raise DataError(f"{name}: {int((~x.isfinite()).sum())} of {x.numel()} values are not finite; mend the model")
    return event.standard().quantize(x)


def quantisation_rule(event: EventSpec) -> str:
    """What `quantised` does, for the record."""
    if event.levels is not None:
        return f"nearest of {event.levels} levels from {event.low:g} to {event.high:g}"
    return "none" if event.low is None and event.high is None else f"clamped to [{event.low}, {event.high}]"


@torch.no_grad()
def features_of(network: FeatureNetwork, x: Tensor, rows: int = 500) -> Tensor:
    """(n, F) in float64, computed `rows` examples at a time. Raises DataError where they are not finite."""
    network.eval()
    features = torch.cat([wide(network.features(block)) for block in x.split(rows)])
    if not bool(features.isfinite().all()):
        raise DataError(f"{network.name}: its features are not finite")
    return features


def _of_set(
    fid: FrechetDistance, real: Tensor, fake: Tensor, network: FeatureNetwork, generator: Generator | None
) -> dict[str, dict[str, Any]]:
    frechet = jackknife(fid, fake, generator)
    counts = {"n_real": len(real), "n_fake": len(fake)}
    note = "biased upwards: few examples" if min(counts.values()) < FEWEST_FOR_FID else None
    errors = {"stderr": frechet.stderr, "bias": frechet.bias, "error_from": JACKKNIFE, "note": note}
    results: dict[str, dict[str, Any]] = {"FID": {"value": frechet.value, **errors, **counts}}
    results["KID"] = kernel_distance(real, fake, generator)
    logits = _logits(network, fake)
    if logits is not None:
        score = jackknife(inception_score, logits, generator)
        results["IS"] = {"value": score.value, "stderr": score.stderr, "error_from": JACKKNIFE, "n_fake": len(fake)}
    return results | precision_recall_with_errors(real, fake, generator)


def _logits(network: FeatureNetwork, features: Tensor) -> Tensor | None:
    """In the network's own precision and place, then float64."""
    own = next(network.parameters(), features)
    logits = network.logits_of(features.to(device=own.device, dtype=own.dtype))
    return None if logits is None else wide(logits)


class FrechetDistance:
    """fake (n, F) -> FID to fixed reals (m, F): |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)), float64.

    Source: Heusel et al. 2017, arXiv 1706.08500, Eq. 6; computed by torchmetrics.
    """

    def __init__(self, real: Tensor) -> None:
        with quietly():
            self.metric = (
                torchmetrics()
                .fid(feature=_Given(real.shape[1]), reset_real_features=False, normalize=False)
                .to(real.device)
            )
        self.metric.update(real, real=True)

    def __call__(self, fake: Tensor) -> float:
        self.metric.reset()
        self.metric.update(fake, real=False)
        with quietly():
            return float(self.metric.compute())


def kernel_distance(real: Tensor, fake: Tensor, generator: Generator | None = None) -> dict[str, Any]:
    """The unbiased squared MMD with kernel (x.y / F + 1)^3: mean over disjoint blocks of both sets, and its error.

    Being unbiased, it may be below zero, and blocks of different size compare. Source: Binkowski et al. 2018, arXiv
    1801.01401; computed by torchmetrics, one block at a time.
    """
    n = min(len(real), len(fake))
    blocks = min(n // 2, max(GROUPS, n // KID_BLOCK))
    size = min(n // max(blocks, 1), KID_BLOCK)
    if size < 2:
        raise DataError(f"KID needs at least 4 examples of each kind, got {n}")
    pairs = zip(groups_of(len(real), generator, blocks), groups_of(len(fake), generator, blocks), strict=True)
    values = []
    with quietly():
        for mine, theirs in pairs:
            metric = torchmetrics().kid(feature=_Given(real.shape[1]), subsets=1, subset_size=size, normalize=False)
            metric.update(real[mine[:size].to(real.device)], real=True)
            metric.update(fake[theirs[:size].to(fake.device)], real=False)
            values.append(float(metric.compute()[0]))
    return {
        "value": sum(values) / blocks,
        "stderr": standard_error(torch.tensor(values, dtype=torch.float64)),
        "error_from": f"{blocks} disjoint blocks of {size} reals and {size} samples",
        "n_real": blocks * size,
        "n_fake": blocks * size,
    }


def inception_score(logits: Tensor) -> float:
    """exp E_x KL(p(y | x) || p(y)) of all logits (n, classes) at once, not of splits.

    Source: Salimans et al. 2016, arXiv 1606.03498, section 4; computed by torchmetrics.
    """
    with quietly():
        metric = torchmetrics().inception_score(feature=_Given(logits.shape[1]), splits=1, normalize=False)
        metric.update(logits)
        return float(metric.compute()[0])


@contextmanager
def quietly() -> Iterator[None]:
    """Without torchmetrics' warnings of its memory, and with random numbers of its own: it shuffles what it is given,
    which changes the order of sums."""
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore", UserWarning)
        torch.default_generator.manual_seed(0)
        yield
