"""The sets of examples that are compared with data: two-step, single-step, the plain baseline, and test data."""

from __future__ import annotations

import contextlib

import torch
from torch import Generator, Tensor

from smoothgen.config import ExperimentConfig
from smoothgen.data_source import DataSource
from smoothgen.density_model import DensityModel
from smoothgen.device import DevicePolicy
from smoothgen.errors import ConfigError, NoClosedFormError
from smoothgen.evaluation.sample_quality import quantised
from smoothgen.progress import Progress
from smoothgen.row_order import chosen
from smoothgen.shares import shared
from smoothgen.smoothed_model import SmoothedModel
from smoothgen.training_data import placed

ROWS = 500
"""Samples drawn at a time, by a generator of their own."""


def sample_sets(
    config: ExperimentConfig,
    model: SmoothedModel,
    baseline: DensityModel | None,
    data: DataSource,
    policy: DevicePolicy,
    progress: Progress,
    count: int,
) -> dict[str, Tensor] | None:
    """`count` examples of each kind, (count, *event.shape), in the model's coordinates, as values the event can take.

    "two-step": model.sample, where the inverter has a density. "single-step": E[x | x_tilde] of the same x_tilde,
    where the kernel has it, and "single-step, truncated" by the causal score of the paper's released code. "baseline":
    the plain model, and "baseline, score step s" for every s of evaluate.score_steps (appendix C.6). "test": a random
    choice of test data (MNIST's first half is the easier one), as many as there are; what a perfect model would reach.
    Contexts are those of training examples, drawn at random. Processes share the work; all but the main get None.

    Raises DataError for samples that are not finite.
    """
    generator = policy.generator(config.seed, "evaluate", "samples")
    contexts = _contexts(data, count, generator, policy)
    seed, steps = config.seed, config.evaluate.score_steps

    def draw(chunk: int, rows: slice) -> dict[str, Tensor]:
        own = policy.generator(seed, "evaluate", "samples", chunk)
        size, context = rows.stop - rows.start, None if contexts is None else contexts[rows]
        drawn = _of_model(model, size, context, own)
        if baseline is not None:
            drawn["baseline"] = baseline.sample(size, context, generator=own)
            drawn |= _score_steps(baseline, drawn["baseline"], context, steps)
        bar.update(rows.stop, "")
        return {name: quantised(x, model.event, name) for name, x in drawn.items()}

    with progress.stage("samples", count) as bar:
        sets = shared(draw, count, policy, ROWS)
    if sets is None:
        return None
    test = data.examples("test")
    return sets | {"test": placed(test.rows(chosen(len(test), count, generator)), policy).x}


def _of_model(model: SmoothedModel, size: int, context: Tensor | None, generator: Generator) -> dict[str, Tensor]:
    x, x_tilde = model.sample(size, context, generator=generator, return_smoothed=True)
    if not model.inverter.has_density:
        return {"single-step": _to_model(model, x)}
    drawn = {"two-step": _to_model(model, x)}
    with contextlib.suppress(NoClosedFormError):  # such a kernel has no single step to measure
        drawn["single-step"] = _to_model(model, model.denoise(x_tilde, context, method="single-step"))
    with contextlib.suppress(NoClosedFormError):
        drawn["single-step, truncated"] = _to_model(
            model, model.denoise(x_tilde, context, method="single-step", score="causal")
        )
    return drawn


def _score_steps(
    baseline: DensityModel, x: Tensor, context: Tensor | None, sigmas: tuple[float, ...]
) -> dict[str, Tensor]:
    """x + sigma^2 grad log p(x) of plain samples, for every sigma: what a step without smoothing does.

    Source: arXiv 2103.15089, Eq. 15 (appendix C.6). Raises ConfigError where log p(x) has no gradient.
    """
    if not sigmas:
        return {}
    density = baseline.continuous
    if density is None:
        raise ConfigError(
            "evaluate.score_steps needs a baseline with a density: probabilities of levels have no gradient; set "
            "baseline.head: continuous"
        )
    score = density.score(x, context)
    return {f"baseline, score step {sigma:g}": x + sigma**2 * score for sigma in sigmas}


def _to_model(model: SmoothedModel, x: Tensor) -> Tensor:
    """Data units -> the model's coordinates, float32 as data sources hold them."""
    return model.event.to_model(x).float()


def _contexts(data: DataSource, count: int, generator: Generator, policy: DevicePolicy) -> Tensor | None:
    if not data.features:
        return None
    train = data.examples("train")
    order = chosen(len(train), count, generator)
    return placed(train.rows(order[torch.arange(count) % len(order)]), policy).context
