"""Training the classifier on any data source of images with labels: deterministic, one thread, minutes at most."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, ValidationError
from torch import Generator, Tensor

from smoothgen.component import StrictModel, describe
from smoothgen.config import read_yaml
from smoothgen.data_source import AnyDataSource, Split
from smoothgen.device import derived_seed
from smoothgen.errors import ConfigError
from smoothgen.regular_file import is_regular
from smoothgen_features.classifier import WEIGHTS, Architecture, Classifier

Share = Annotated[float, Field(ge=0.0, lt=1.0)]


class TrainingConfig(StrictModel):
    """name: what results are named after. data: a source with labels. The rest: AdamW with one cosine cycle.

    max_shift: training images are moved by up to so many pixels each way; dropout: of the features.
    """

    name: str
    data: AnyDataSource
    channels: tuple[PositiveInt, PositiveInt, PositiveInt] = (16, 32, 64)
    num_features: PositiveInt = 64
    steps: PositiveInt = 1000
    batch_size: PositiveInt = 128
    learning_rate: PositiveFloat = 3e-3
    weight_decay: NonNegativeFloat = 0.01
    dropout: Share = 0.2
    max_shift: NonNegativeInt = 1
    seed: NonNegativeInt = 0


def recorded(config: TrainingConfig) -> dict[str, Any]:
    """The configuration as plain values to keep with the weights; of a path only the last part."""
    return {key: _plain(value) for key, value in config.model_dump().items()}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value.name if isinstance(value, Path) else value


def load_training_config(source: str) -> TrainingConfig:
    """The recipe that a shipped name or a YAML file describes. Raises ConfigError."""
    path = WEIGHTS / f"{source}.yaml"
    path = path if is_regular(path) else Path(source)
    if not is_regular(path):
        known = ", ".join(item.stem for item in sorted(WEIGHTS.glob("*.yaml")))
        raise ConfigError(f'"{source}" is neither a shipped recipe nor a file; shipped: {known}')
    try:
        return TrainingConfig.model_validate(read_yaml(path))
    except ValidationError as error:
        raise ConfigError(f"{path.name}: {describe(error)}") from error


def train_classifier(config: TrainingConfig) -> tuple[Classifier, float, int]:
    """The trained classifier, its accuracy on the test split, and how many test examples that is of.

    The weights depend on the configuration and torch's number of threads alone. Raises ConfigError for data that are
    no images or have no labels.
    """
    source = config.data.build()
    if len(source.event.shape) != 3:
        raise ConfigError(
            f"data {config.data.type}: expected images (channels, height, width), got {source.event.shape}"
        )
    train, test = source.split("train"), source.split("test")
    labels, test_labels = labels_of(train, config.data.type), labels_of(test, config.data.type)
    event = source.event.model_copy(update={"levels": None})
    architecture = Architecture(
        event=event, classes=source.features, channels=config.channels, num_features=config.num_features
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(config.seed, "build"))
        network = Classifier(config.name, architecture)
        _descend(network, train.x, labels, config)
    network.eval().requires_grad_(False)
    network.rescale(train.x)
    return network, accuracy(network, test.x, test_labels), len(test)


def labels_of(split: Split, data: str) -> Tensor:
    """(n,) integers of a one-hot context. Raises ConfigError where the context is none."""
    context = split.context
    if context is None:
        raise ConfigError(f"data {data}: a classifier needs labels; set data.labels: true")
    if not bool(((context == 0) | (context == 1)).all() & (context.sum(1) == 1).all()):
        raise ConfigError(f"data {data}: the context is not one-hot, so it names no classes")
    return context.argmax(1)


def accuracy(network: Classifier, x: Tensor, labels: Tensor) -> float:
    """The share of examples whose highest score is the label's."""
    with torch.no_grad():
        right = [
            (network.logits(x[i : i + 1000]).argmax(1) == labels[i : i + 1000]).sum().item()  # type: ignore[union-attr]
            for i in range(0, len(x), 1000)
        ]
    return sum(right) / len(x)


def _descend(network: Classifier, x: Tensor, labels: Tensor, config: TrainingConfig) -> None:
    generator = torch.Generator().manual_seed(derived_seed(config.seed, "batches"))
    optimizer = torch.optim.AdamW(network.parameters(), config.learning_rate, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.learning_rate, total_steps=config.steps)
    network.train()
    for _ in range(config.steps):
        rows = torch.randint(len(x), (config.batch_size,), generator=generator)
        features = network.features(shifted(x[rows], config.max_shift, generator))
        logits = network.logits_of(F.dropout(features, config.dropout))
        assert logits is not None
        optimizer.zero_grad()
        F.cross_entropy(logits, labels[rows]).backward()
        optimizer.step()
        schedule.step()


def shifted(x: Tensor, most: int, generator: Generator) -> Tensor:
    """Each image (b, c, h, w) moved by -most to most pixels both ways; what comes in repeats the edge."""
    if most == 0:
        return x
    batch, _, height, width = x.shape
    padded = F.pad(x, (most,) * 4, mode="replicate")
    top, left = torch.randint(2 * most + 1, (2, batch, 1), generator=generator)
    rows = (top + torch.arange(height))[:, None, :, None]
    columns = (left + torch.arange(width))[:, None, None, :]
    return padded[
        torch.arange(batch)[:, None, None, None], torch.arange(x.shape[1])[None, :, None, None], rows, columns
    ]
