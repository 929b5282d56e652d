"""The bounds, from both stages and from the first alone, the baseline and the exact density, on the same examples."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Generator, Tensor

from smoothgen.config import ExperimentConfig
from smoothgen.data_source import DataSource, Split
from smoothgen.density_model import DensityModel
from smoothgen.device import DevicePolicy
from smoothgen.errors import NoClosedFormError, NoDensityError
from smoothgen.event import EventSpec
from smoothgen.likelihood import Likelihood, standard_error
from smoothgen.progress import Progress
from smoothgen.shares import shared
from smoothgen.smoothed_model import SmoothedModel
from smoothgen.training_data import placed

ROWS = 500
"""(example, draw) pairs of a chunk, whose noise comes from a generator of its own."""
Measured = Callable[[Split, Generator], Likelihood | None]
"""Some examples and a generator -> their likelihood, or None where there is none to measure."""


def evaluate(
    config: ExperimentConfig,
    model: SmoothedModel,
    baseline: DensityModel | None,
    data: DataSource,
    policy: DevicePolicy,
    progress: Progress,
) -> dict[str, Any]:
    """Everything measured on the test split, as plain values: `evaluation.json`.

    Each likelihood carries its unit, kind, terms, n and standard error; where the data's exact density is known,
    `gap` is the mean of log p_exact(x) - log p_model(x) over the same examples, with its standard error.
    """
    settings = config.evaluate
    results: dict[str, Any] = {
        "name": config.name,
        "seed": config.seed,
        "split": "test",
        "sigma": model.kernel.sigma.detach().flatten().tolist(),
        "parameters": parameter_counts(model, baseline),
        "entropy": data.entropy,
        "likelihoods": {},
    }
    if settings.metrics is not None and "elbo" not in settings.metrics:
        return results if policy.is_main else {}
    test = placed(data.examples("test").first(settings.max_examples), policy)
    few = Split(
        test.x[: settings.importance_examples],
        None if test.context is None else test.context[: settings.importance_examples],
    )
    measured: dict[str, tuple[Likelihood, Split]] = {}

    def measured_in_shares(name: str, key: int | str, of: Measured, split: Split, draws: int = 1) -> None:
        likelihood = _in_shares(of, split, policy, (config.seed, "evaluate", key), draws)
        if likelihood is not None:
            measured[name] = (likelihood, split)

    if model.inverter.has_density:
        counts = sorted({1, *settings.importance_samples})
        with progress.stage("likelihood", len(counts)) as bar:
            for done, draws in enumerate(counts, start=1):
                name = "elbo" if draws == 1 else f"iw-{draws}"
                measured_in_shares(name, draws, partial(_of_model, model, draws), test if draws == 1 else few, draws)
                bar.update(done, name)
    if data.event.levels is not None:
        measured_in_shares("stage-one", "stage-one", partial(_stage_one, model), test)
    if baseline is not None:
        measured_in_shares("baseline", "baseline", partial(_plain, baseline, data.event), test)
    if not policy.is_main:
        return {}
    for name, (likelihood, split) in measured.items():
        results["likelihoods"][name] = likelihood.summary() | _gap(likelihood, split, data)
        progress.note(f"{name}: {likelihood}")
    if baseline is not None:
        plain = measured["baseline"][0].per_example
        results["gain_over_baseline"] = {
            name: _paired(likelihood.per_example - plain[: likelihood.n])
            for name, (likelihood, _) in measured.items()
            if name != "baseline"
        }
    return results


def _paired(difference: Tensor) -> dict[str, float]:
    """Mean and standard error of differences between two models on the same examples, nats per example."""
    return {"nats": difference.mean().item(), "stderr": standard_error(difference)}


def _of_model(model: SmoothedModel, draws: int, split: Split, generator: Generator) -> Likelihood:
    return model.likelihood_at(split.x, split.context, importance_samples=draws, generator=generator)


def _stage_one(model: SmoothedModel, split: Split, generator: Generator) -> Likelihood | None:
    with contextlib.suppress(NoClosedFormError):  # noise that is not independent between coordinates
        return model.stage_one_likelihood(model.event.to_data(split.x), split.context, generator=generator)
    return None


def _plain(density: DensityModel, event: EventSpec, split: Split, generator: Generator) -> Likelihood:
    return plain_likelihood(density, split, event, generator)


def _in_shares(
    of: Measured, split: Split, policy: DevicePolicy, key: tuple[int | str, ...], draws: int
) -> Likelihood | None:
    """The likelihood of a split in the main process, the examples shared between all; None in the others."""
    found: list[Likelihood] = []

    def work(chunk: int, rows: slice) -> dict[str, Tensor]:
        part = Split(split.x[rows], None if split.context is None else split.context[rows])
        likelihood = of(part, policy.generator(*key, chunk))
        if likelihood is None:
            return {}
        found.append(likelihood)
        return likelihood.tensors()

    whole = shared(work, len(split), policy, max(25, ROWS // draws))
    return found[0].with_tensors(whole) if whole else None


@torch.no_grad()
def plain_likelihood(density: DensityModel, split: Split, event: EventSpec, generator: Generator | None) -> Likelihood:
    """log p(x) of a plain density, in the units of the data; exact where the density is."""
    chunks = [
        density.log_prob(x, context, generator=generator).cpu().double()
        for x, context in _chunks(split, min(1024, density.rows_at_once))
    ]
    log_prob = torch.cat(chunks)
    terms: dict[str, Tensor] = {"log p(x)": log_prob}
    if event.scale and event.levels is None:
        terms["units of the data"] = torch.full_like(log_prob, -event.log_scale)
    return Likelihood(
        per_example=log_prob - event.log_scale,
        dimensions=event.dimensions,
        measure=density.measure,
        kind="exact" if density.exact else "lower bound",
        terms=terms,
        draws=0 if density.exact else 1,
    )


def parameter_counts(model: SmoothedModel, baseline: DensityModel | None) -> dict[str, int]:
    """Trainable numbers of each part."""
    parts = {"density": model.density, "inverter": model.inverter, "kernel": model.kernel, "baseline": baseline}
    return {
        name: sum(parameter.numel() for parameter in part.parameters())
        for name, part in parts.items()
        if part is not None
    }


def _gap(likelihood: Likelihood, split: Split, data: DataSource) -> dict[str, Any]:
    try:
        exact = data.log_prob(split.x.cpu().double())
    except NoDensityError:
        return {}
    gap = _paired(exact - likelihood.per_example)
    return {"gap": gap["nats"], "gap_stderr": gap["stderr"]}


def _chunks(split: Split, size: int) -> list[tuple[Tensor, Tensor | None]]:
    return [
        (split.x[start : start + size], None if split.context is None else split.context[start : start + size])
        for start in range(0, len(split), size)
    ]
