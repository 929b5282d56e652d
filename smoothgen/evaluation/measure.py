"""All that is measured of a trained model: likelihoods, sample quality, nearest neighbours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from smoothgen.config import ExperimentConfig
from smoothgen.data_source import DataSource
from smoothgen.density_model import DensityModel
from smoothgen.device import DevicePolicy
from smoothgen.errors import ConfigError
from smoothgen.evaluation.likelihoods import evaluate
from smoothgen.evaluation.nearest import draw_neighbours, memorisation
from smoothgen.evaluation.pictures import is_image_event
from smoothgen.evaluation.sample_quality import features_of, refuse_few, sample_quality
from smoothgen.evaluation.sample_sets import sample_sets
from smoothgen.event import EventSpec
from smoothgen.feature_network import FeatureNetwork
from smoothgen.progress import Progress
from smoothgen.smoothed_model import SmoothedModel


def check_measurable(config: ExperimentConfig, data: DataSource) -> None:
    """Refuses, before training, what could not be measured after it. Raises ConfigError, DataError, CheckpointError."""
    settings = config.evaluate
    if settings.metrics != ():
        data.split("test")
    if not (settings.measures("quality") or settings.measures("neighbours")):
        return
    build_network(config, data.event)
    if settings.measures("quality"):
        if settings.features is None:
            raise ConfigError(
                f"{config.name}: evaluate.metrics asks for quality, which is measured in features of a network; "
                "set evaluate.features, for example {type: classifier, weights: mnist}"
            )
        refuse_few("a model", settings.quality_samples, settings.few_samples)
        refuse_few("the test split", len(data.split("test")), settings.few_samples)
        refuse_few("the training split", len(data.split("train")), settings.few_samples)


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

    Sample quality ("quality") and nearest neighbours ("neighbours") are of the same samples, against the training
    split; the set "test" is the floor that a perfect model would reach.
    """
    results = evaluate(config, model, baseline, data, policy, progress)
    settings = config.evaluate
    quality, neighbours = settings.measures("quality"), settings.measures("neighbours")
    if not (quality or neighbours):
        return results
    check_measurable(config, data)
    network = build_network(config, model.event)
    if network is not None:
        network = network.to(policy.device)
    count = settings.quality_samples if quality else settings.neighbour_samples
    sets = sample_sets(config, model, baseline, data, policy, progress, count)
    train = policy.place(data.split("train").x)
    if quality and network is not None:
        generator = policy.generator(config.seed, "evaluate", "quality")
        results["quality"] = sample_quality(sets, train, network, model.event, settings, generator)
    if neighbours:
        few = {name: x[: settings.neighbour_samples] for name, x in sets.items()}
        results["neighbours"] = _neighbours(few, train, network, model.event, directory)
    return results


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
