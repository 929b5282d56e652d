"""A small convolutional classifier, whose last hidden layer is the feature space."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from pydantic import PositiveInt, ValidationError
from torch import Tensor, nn

from smoothgen.allocation import build_within, check_event
from smoothgen.checkpoint import FORMAT, load_weights, read_tensors, write_tensors
from smoothgen.component import StrictModel, describe, nearest
from smoothgen.errors import CheckpointError, ConfigError
from smoothgen.event import EventSpec
from smoothgen.feature_network import FeatureNetwork, FeatureNetworkConfig, weights_fingerprint
from smoothgen.regular_file import is_regular

WEIGHTS = Path(__file__).parent / "weights"
KIND = "feature classifier"
GRID = 3
"""The last convolution's output is averaged to GRID x GRID, whatever the size of the images."""


class Architecture(StrictModel):
    """event: what it sees. classes, channels of the three convolutions, num_features: its size."""

    event: EventSpec
    classes: PositiveInt
    channels: tuple[PositiveInt, PositiveInt, PositiveInt] = (16, 32, 64)
    num_features: PositiveInt = 64


class Classifier(FeatureNetwork):
    """Three 3 x 3 convolutions (the last two halve the image), a hidden layer of F features, class scores.

    x (batch, channels, height, width) of any size. Features are divided by `unit`, their root mean square over the
    training data, so that FID and KID have a scale that does not depend on how long the classifier was trained.
    """

    unit: Tensor

    def __init__(self, name: str, architecture: Architecture) -> None:
        super().__init__(name, architecture.event, architecture.num_features)
        self.architecture = architecture
        channels = (architecture.event.shape[0], *architecture.channels)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(channels[i], channels[i + 1], 3, stride=stride, padding=1) for i, stride in enumerate((1, 2, 2))
        )
        self.hidden = nn.Linear(channels[-1] * GRID * GRID, architecture.num_features)
        self.scores = nn.Linear(architecture.num_features, architecture.classes)
        self.register_buffer("unit", torch.ones(()))

    def _features(self, x: Tensor) -> Tensor:
        for convolution in self.convolutions:
            x = F.silu(convolution(x))
        pooled = rearrange(F.adaptive_avg_pool2d(x, GRID), "b c h w -> b (c h w)")
        return F.silu(self.hidden(pooled)) / self.unit

    def _logits(self, features: Tensor) -> Tensor:
        return self.scores(features)

    @torch.no_grad()
    def rescale(self, x: Tensor) -> None:
        """Features of root mean square 1 over x (n, ...); the class scores stay what they are."""
        squares = torch.stack([self.features(block).double().square().mean(1).sum() for block in x.split(1000)])
        ratio = (squares.sum() / len(x)).sqrt().to(self.unit.dtype)
        self.unit.mul_(ratio)
        self.scores.weight.mul_(ratio)


def save_classifier(network: Classifier, path: Path, training: dict[str, Any]) -> None:
    """Writes the weights as safetensors. training: plain values of how they came about; kept with the weights."""
    metadata = {
        "kind": KIND,
        "format": FORMAT,
        "name": network.name,
        "architecture": network.architecture.model_dump(mode="json"),
        "fingerprint": weights_fingerprint(network),
        "training": training,
    }
    write_tensors(path, network.state_dict(), metadata)


def load_classifier(path: Path) -> tuple[Classifier, dict[str, Any]]:
    """The classifier that `save_classifier` wrote, fixed, in evaluation mode, and how it was trained.

    Raises CheckpointError where the file is damaged (any changed weight is noticed) or is something else.
    """
    tensors, metadata = read_tensors(path, KIND)
    try:
        architecture = Architecture.model_validate(metadata.get("architecture"))
    except ValidationError as error:
        raise CheckpointError(f"{path}: its architecture is not readable: {describe(error)}") from error
    check_event(architecture.event, path)
    network = build_within(tensors, lambda: Classifier(str(metadata.get("name")), architecture), path)
    load_weights(network, tensors, path)
    if weights_fingerprint(network) != metadata.get("fingerprint"):
        raise CheckpointError(f"{path} is damaged: its weights are not those that were written; restore it from a copy")
    training = metadata.get("training")
    return network.eval().requires_grad_(False), training if isinstance(training, dict) else {}


def shipped() -> dict[str, Path]:
    """The weights that come with the plugin, by name."""
    return {path.stem: path for path in sorted(WEIGHTS.glob("*.safetensors"))}


def find_weights(weights: str) -> Path:
    """The file of a shipped name or a path. Raises ConfigError."""
    known = shipped()
    path = known.get(weights, Path(weights))
    if not is_regular(path):
        raise ConfigError(
            f'features classifier: weights "{weights}" are neither shipped{nearest(weights, known)} nor a file '
            f"(looked for {path.absolute()}); shipped: {', '.join(known) or 'none'}; train others with "
            "python -m smoothgen_features"
        )
    return path


class ClassifierConfig(FeatureNetworkConfig):
    """A small classifier. weights: the name of shipped ones, or a file that python -m smoothgen_features wrote."""

    type: Literal["classifier"] = "classifier"
    weights: str

    def build(self, event: EventSpec) -> FeatureNetwork:
        network, _ = load_classifier(find_weights(self.weights))
        made, here = ((space.shape, space.low, space.high) for space in (network.event, event))
        if made != here:
            raise ConfigError(
                f'features classifier: weights "{self.weights}" were trained on examples of {_shown(network.event)}, '
                f"the data are {_shown(event)}; choose other weights, or train some with python -m smoothgen_features"
            )
        return network


def _shown(event: EventSpec) -> str:
    return f"shape {event.shape} in [{event.low}, {event.high}]"
