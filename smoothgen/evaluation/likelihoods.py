"""The bounds, from both stages and from the first alone, the baseline and the exact density, on the same examples."""

from __future__ import annotations

import contextlib
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
from smoothgen.smoothed_model import SmoothedModel
from smoothgen.training_data import placed


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
        return results
    test = placed(data.examples("test").first(settings.max_examples), policy)
    few = Split(
        test.x[: settings.importance_examples],
        None if test.context is None else test.context[: settings.importance_examples],
    )
    measured: dict[str, tuple[Likelihood, Split]] = {}
    if model.inverter.has_density:
        counts = sorted({1, *settings.importance_samples})
        with progress.stage("likelihood", len(counts)) as bar:
            for done, draws in enumerate(counts, start=1):
                split = test if draws == 1 else few
                name = "elbo" if draws == 1 else f"iw-{draws}"
                generator = policy.generator(config.seed, "evaluate", draws)
                measured[name] = (_of_model(model, split, draws, generator), split)
                bar.update(done, name)
    if data.event.levels is not None:
        generator = policy.generator(config.seed, "evaluate", "stage-one")
        with contextlib.suppress(NoClosedFormError):  # noise that is not independent between coordinates
            measured["stage-one"] = (model.stage_one_likelihood(test.x, test.context, generator=generator), test)
    if baseline is not None:
        generator = policy.generator(config.seed, "evaluate", "baseline")
        measured["baseline"] = (plain_likelihood(baseline, test, data.event, generator), test)
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


def _of_model(model: SmoothedModel, split: Split, draws: int, generator: Generator) -> Likelihood:
    return model.likelihood_at(split.x, split.context, importance_samples=draws, generator=generator)


@torch.no_grad()
def plain_likelihood(density: DensityModel, split: Split, event: EventSpec, generator: Generator | None) -> Likelihood:
    """log p(x) of a plain density, in the units of the data; exact where the density is."""
    chunks = [
        density.log_prob(x, context, generator=generator).cpu().double()
        for x, context in _chunks(split, min(1024, density.rows_at_once))
    ]
    log_prob = torch.cat(chunks)
    terms: dict[str, Tensor] = {"log p(x)": log_prob}
    if event.scale:
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
