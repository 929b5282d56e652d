"""All that is measured of a trained model: likelihoods, sample quality, nearest neighbours, two-sample measures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from smoothgen.config import ExperimentConfig
from smoothgen.data_source import DataSource
from smoothgen.density_model import DensityModel
from smoothgen.device import DevicePolicy
from smoothgen.errors import ConfigError, DataError
from smoothgen.evaluation.likelihoods import evaluate
from smoothgen.evaluation.nearest import draw_neighbours, memorisation
from smoothgen.evaluation.pictures import is_image_event
from smoothgen.evaluation.sample_quality import FEWEST_FOR_FID, features_of, refuse_few, sample_quality
from smoothgen.evaluation.sample_sets import sample_sets
from smoothgen.evaluation.two_sample import FEWEST, two_sample
from smoothgen.event import EventSpec
from smoothgen.feature_network import FeatureNetwork
from smoothgen.progress import Progress
from smoothgen.smoothed_model import SmoothedModel
from smoothgen.training_data import placed


def check_measurable(config: ExperimentConfig, data: DataSource) -> None:
    """Refuses, before training, what could not be measured after it. Raises ConfigError, DataError, CheckpointError."""
    settings = config.evaluate
    if settings.metrics != ():
        data.examples("test")
    compares_points(config, data)
    if not (settings.measures("quality", data.event) or settings.measures("neighbours", data.event)):
        return
    build_network(config, data.event)
    if settings.measures("quality", data.event):
        if settings.features is None:
            raise ConfigError(
                f"{config.name}: evaluate.metrics asks for quality, which is measured in features of a network; "
                "set evaluate.features, for example {type: classifier, weights: mnist}"
            )
        refuse_few("a model", settings.quality_samples, settings.few_samples)
        refuse_few("the test split", len(data.examples("test")), settings.few_samples)
        refuse_few("the training split", len(data.examples("train")), settings.few_samples)


def compares_points(config: ExperimentConfig, data: DataSource) -> bool:
    """Whether two-sample measures are to be made: where they are asked for, or by default and with points enough.

    Raises DataError where they are asked for by name and there are too few.
    """
    if not config.evaluate.measures("two-sample", data.event):
        return False
    n = min(len(data.examples("test")), len(data.examples("train")))
    if n < FEWEST and config.evaluate.metrics is not None:
        raise DataError(
            f"{config.name}: evaluate.metrics asks for two-sample, which needs {FEWEST} examples of the training and "
            f"of the test split, got {n}; drop it, or give more examples"
        )
    return n >= FEWEST


def build_network(config: ExperimentConfig, event: EventSpec) -> FeatureNetwork | None:
    """The feature network of the configuration, on the CPU, fixed; None where there is none."""
    features = config.evaluate.features
    if features is None:
        return None
    with torch.random.fork_rng(devices=[]):
        network = features.build(event.standard())
    return network.eval().requires_grad_(False)


def measure(
    config: ExperimentConfig,
    model: SmoothedModel,
    baseline: DensityModel | None,
    data: DataSource,
    policy: DevicePolicy,
    progress: Progress,
    directory: Path | None = None,
) -> dict[str, Any]:
    """Everything measured, as plain values: `evaluation.json`. directory: where neighbours.png goes, if anywhere.

    Sample quality ("quality"), nearest neighbours ("neighbours") and two-sample measures ("two_sample") are of the same
    samples, against the training split (where it is streamed, `reference` examples of it, spread evenly, out of
    `of`: "training_reference"), the last against fresh data where there are such; the set "test" is the floor that a
    perfect model would reach. Processes share the likelihoods and the samples; all but the main get {}.
    """
    results = evaluate(config, model, baseline, data, policy, progress)
    settings = config.evaluate
    quality, neighbours = (settings.measures(metric, data.event) for metric in ("quality", "neighbours"))
    points = compares_points(config, data)
    if not (quality or neighbours or points):
        return results
    check_measurable(config, data)
    network = build_network(config, model.event)
    if network is not None:
        network = network.to(policy.device)
    drawn = settings.quality_samples if quality else settings.neighbour_samples if neighbours else 0
    count = max(drawn, settings.two_sample_points if points else 0)
    sets = sample_sets(config, model, baseline, data, policy, progress, count)
    if sets is None:
        return {}
    examples = data.examples("train")
    train = placed(examples.sketch(_reference(model.event)), policy).x
    if examples.streamed:
        results["training_reference"] = {"reference": len(train), "of": len(examples)}
    if quality and network is not None:
        generator = policy.generator(config.seed, "evaluate", "quality")
        first = _first(sets, settings.quality_samples)
        results["quality"] = sample_quality(first, train, network, model.event, settings, generator)
    if neighbours:
        few = _first(sets, min(settings.neighbour_samples, drawn))
        results["neighbours"] = _neighbours(few, train, network, model.event, directory)
    if points:
        results["two_sample"] = _two_sample(config, _first(sets, settings.two_sample_points), train, data, policy)
    return results


def _reference(event: EventSpec) -> int:
    """How many examples, spread evenly, stand for streamed training data: as many as CIFAR-10 has, or fit a GiB."""
    return max(FEWEST_FOR_FID, min(50_000, 2**28 // event.dimensions))


def _first(sets: dict[str, Tensor], n: int) -> dict[str, Tensor]:
    return {name: x[:n] for name, x in sets.items()}


def _two_sample(
    config: ExperimentConfig, sets: dict[str, Tensor], train: Tensor, data: DataSource, policy: DevicePolicy
) -> dict[str, Any]:
    """`two_sample` against fresh data, or as many training examples, chosen at random, where all are given."""
    settings, n = config.evaluate, config.evaluate.two_sample_points
    generator = policy.generator(config.seed, "evaluate", "two-sample")
    if data.fresh:
        source, reference = "fresh draws", policy.place(data.draw(n, generator).x)
    else:
        order = torch.randperm(len(train), generator=generator, device=generator.device)
        source, reference = "training examples", train[order[:n].to(train.device)]
    measured = two_sample(sets, reference, data, generator, settings.two_sample_bandwidths)
    return {"reference_from": source} | measured


def _neighbours(
    sets: dict[str, Tensor], train: Tensor, network: FeatureNetwork | None, event: EventSpec, directory: Path | None
) -> dict[str, Any]:
    """`memorisation` in each space, and the picture of the first set of samples."""
    spaces = {"pixel space": sets | {"train": train}}
    if network is not None:
        named = sets | {"train": train}
        spaces[f"{network.name} features"] = {name: features_of(network, x) for name, x in named.items()}
    if directory is not None and is_image_event(event):
        first = next(iter(sets))
        pairs = {space: (rows[first], rows["train"]) for space, rows in spaces.items()}
        images = (event.to_data(sets[first]), event.to_data(train))
        draw_neighbours(directory / "neighbours.png", *images, pairs, event)
    return {
        space: memorisation({name: x for name, x in rows.items() if name != "train"}, rows["train"])
        for space, rows in spaces.items()
    }
