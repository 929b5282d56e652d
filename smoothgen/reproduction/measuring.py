"""What a table says of a trained model: likelihoods against the exact density, the parts of their gap, its samples."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from smoothgen.data_source import DataSource, Split
from smoothgen.device import derived_seed
from smoothgen.errors import NoClosedFormError
from smoothgen.evaluation.likelihoods import plain_likelihood
from smoothgen.evaluation.two_sample import two_sample
from smoothgen.likelihood import standard_error
from smoothgen.reproduction.training import Trained
from smoothgen.smoothed_model import SmoothedModel

CHUNK = 4096
IMPORTANCE = {10: 8000, 100: 2000, 1000: 500}


@dataclass(frozen=True)
class Effort:
    """points: test points of the bound or likelihood. importance: K of each importance-weighted bound, and its points.
    samples: of every kind, and of the data they are compared with; at most half of the test split.
    """

    points: int = 20_000
    samples: int = 4_000
    importance: tuple[tuple[int, int], ...] = tuple(IMPORTANCE.items())

    @staticmethod
    def chosen(quick: bool) -> Effort:
        """The usual one, or one that costs next to nothing."""
        return Effort(500, 200, ((10, 50), (100, 20), (1000, 5))) if quick else Effort()


def draw_sets(trained: Trained, count: int, seed: int) -> dict[str, Tensor]:
    """`count` samples of every kind that the model defines, (count, *event), what it is judged by first.

    Of a smoothed model "two-step", or "single-step" where its inverter is one; then "single-step" where there is a
    posterior mean, and "smoothed", x_tilde itself: all from the same x_tilde. Of a plain one "plain".
    """
    generator = Generator().manual_seed(derived_seed(seed, "sample"))
    model = trained.smoothed
    if model is None:
        return {"plain": trained.model.sample(count, generator=generator)}
    x, x_tilde = model.sample(count, generator=generator, return_smoothed=True)
    if not model.inverter.has_density:
        return {"single-step": x, "smoothed": x_tilde}
    sets = {"two-step": x}
    with contextlib.suppress(NoClosedFormError):
        sets["single-step"] = model.denoise(x_tilde, method="single-step")
    return sets | {"smoothed": x_tilde}


def measure_row(
    trained: Trained, seed: int, effort: Effort = Effort(), sets: Mapping[str, Tensor] | None = None
) -> dict[str, Any]:
    """Everything a table shows, as plain values, on the test split of the model's data source, which has an entropy.

    Every gap is the mean of log p_exact(x) - log p_model(x) over the same points, so that the points' own luck cancels;
    `nll` and `iw_K` are that gap plus the exact entropy, with the gap's error. nll is minus the bound of Eq. 3 for a
    smoothed model (kind "bound"), exact for a plain one; absent without a density. smoothing_gap, inversion_gap: its
    parts, see `gap_parts`. sets: "off support", "MMD^2", "precision", "recall" of every set of samples, each with its
    value and error; those of the first set also by themselves, as off_support, mmd, precision, recall.
    """
    generator = Generator().manual_seed(derived_seed(seed, "measure"))
    test = trained.data.split("test").x
    numbers: dict[str, Any] = {
        "entropy": trained.data.entropy,
        "parameters": trained.parameters,
        "cpu_seconds": trained.cpu_seconds,
        "steps": trained.steps,
        "sigma": trained.sigma,
    }
    numbers |= likelihoods(trained, test, effort, generator)
    if sets is None:
        sets = draw_sets(trained, effort.samples, seed)
    return numbers | measure_sets(sets, trained.data, effort.samples, seed)


def measure_sets(sets: Mapping[str, Tensor], data: DataSource, count: int, seed: int) -> dict[str, Any]:
    """Sets of samples against the last `count` test points: `sets`, and the numbers of the first by themselves."""
    generator = Generator().manual_seed(derived_seed(seed, "two-sample"))
    reference = data.split("test").x[-count:]
    measured = two_sample(sets, reference, data, generator)["sets"]
    first = next(iter(measured.values()))
    names = {"off support": "off_support", "MMD^2": "mmd", "precision": "precision", "recall": "recall"}
    return {key: first[name]["value"] for name, key in names.items() if name in first} | {"sets": measured}


def likelihoods(trained: Trained, examples: Tensor, effort: Effort, generator: Generator) -> dict[str, Any]:
    """The likelihood part of `measure_row` on any examples (n, *event), training examples for instance."""
    data, model, x = trained.data, trained.smoothed, examples[: effort.points]
    exact = data.log_prob(x.double())
    entropy = data.entropy
    assert entropy is not None  # every study's data have one
    if model is None:
        log_prob = plain_likelihood(trained.model, Split(x), data.event, generator).per_example
        return {"kind": "exact"} | _against(exact - log_prob, "nll", "gap", entropy)
    if not model.inverter.has_density:
        return {}
    total, smoothing = bound_and_smoothing(model, x, data, trained.kernel, trained.sigma, generator)
    numbers = {"kind": "bound"} | _against(exact - total, "nll", "gap", entropy)
    if smoothing is not None:
        numbers |= gap_parts(exact - total, smoothing)
    for draws, points in effort.importance:
        weighted = model.likelihood_at(x[:points], importance_samples=draws, generator=generator).per_example
        numbers |= _against(exact[:points] - weighted, f"iw_{draws}", f"iw_{draws}_gap", entropy)
    return numbers


def _against(difference: Tensor, name: str, gap: str, entropy: float) -> dict[str, float]:
    """A gap with its error, and the negative log-likelihood that it stands for."""
    mean, error = difference.mean().item(), standard_error(difference)
    return {name: entropy + mean, f"{name}_stderr": error, gap: mean, f"{gap}_stderr": error}


@torch.no_grad()
def bound_and_smoothing(
    model: SmoothedModel, x: Tensor, data: DataSource, kernel: str | None, sigma: float | None, generator: Generator
) -> tuple[Tensor, Tensor | None]:
    """One draw of the bound for every x, and log q(x_tilde) - log p(x_tilde) of the same x_tilde: each (n,), nats.

    q(x_tilde) is the data's exact smoothed density: None where the noise is not Gaussian or there is no closed form.
    """
    totals, smoothing = [], []
    exact = kernel == "gaussian" and sigma is not None
    for rows in x.split(min(CHUNK, model.rows_at_once)):
        x_tilde = model.kernel.sample(rows, generator=generator)
        log_smoothed = model.density.log_prob(x_tilde, generator=generator).double()
        inverse = model.inverter.log_prob(rows, x_tilde, generator=generator)
        totals.append(log_smoothed - model.kernel.log_prob(x_tilde, rows) + inverse)
        try:
            if exact and sigma is not None:
                smoothing.append(data.smoothed_log_prob(x_tilde.double(), sigma) - log_smoothed)
        except NoClosedFormError:
            exact = False
    return torch.cat(totals), torch.cat(smoothing) if exact else None


def gap_parts(gap: Tensor, smoothing: Tensor) -> dict[str, float]:
    """The two parts of a bound's gap (n,): of the smoothed density, log q(x_tilde) - log p(x_tilde), and of the
    inversion, log q(x | x_tilde) - log p(x | x_tilde). They add up for every point, since q is exact."""
    inversion = gap - smoothing
    return {
        "smoothing_gap": smoothing.mean().item(),
        "smoothing_gap_stderr": standard_error(smoothing),
        "inversion_gap": inversion.mean().item(),
        "inversion_gap_stderr": standard_error(inversion),
    }
