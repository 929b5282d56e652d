"""Networks whose features sample quality is measured in: x -> features, and class scores where there are classes."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from typing import Annotated, ClassVar, final

import torch
from torch import Tensor, nn

from smoothgen.component import ComponentConfig
from smoothgen.errors import ShapeError
from smoothgen.event import EventSpec
from smoothgen.readable import ReadableModule, event_text
from smoothgen.registry import ComponentField


class FeatureNetwork(ReadableModule, ABC):
    """A fixed map from examples to features. Every result is named after it: "digits-classifier FID".

    name: what the network is and was trained on. event: the space of x, in the model's coordinates (images in
    [-1, 1]). num_features: F. A network writes `_features`, and `_logits` if it tells classes apart.
    """

    def __init__(self, name: str, event: EventSpec, num_features: int) -> None:
        super().__init__()
        self.name = name
        self.event = event
        self.num_features = num_features

    @final
    def features(self, x: Tensor) -> Tensor:
        """x (batch, *event_shape), the model's coordinates -> (batch, F). Raises ShapeError."""
        if tuple(x.shape[1:]) != self.event.shape:
            expected = ", ".join(map(str, self.event.shape))
            raise ShapeError(f"{self.name}: x must have shape (batch, {expected}), got {tuple(x.shape)}")
        features = self._features(x)
        if tuple(features.shape) != (len(x), self.num_features):
            raise ShapeError(
                f"{self.name}: expected features of shape ({len(x)}, {self.num_features}), got "
                f"{tuple(features.shape)}; the plugin's num_features or _features is wrong"
            )
        return features

    @final
    def logits(self, x: Tensor) -> Tensor | None:
        """x (batch, *event_shape) -> (batch, classes), log probabilities up to a constant; None without classes."""
        return self.logits_of(self.features(x))

    @final
    def logits_of(self, features: Tensor) -> Tensor | None:
        """The same from features (batch, F), which are then computed once."""
        return self._logits(features)

    @abstractmethod
    def _features(self, x: Tensor) -> Tensor: ...

    def _logits(self, features: Tensor) -> Tensor | None:
        return None

    def _facts(self) -> list[str]:
        return [self.name, event_text(self.event), f"{self.num_features} features"]

    @property
    def fingerprint(self) -> str:
        """sha256 of the weights, hex: two results compare only where it is the same."""
        return weights_fingerprint(self)


def weights_fingerprint(module: nn.Module) -> str:
    """sha256 over name, dtype, shape and bytes of every tensor of a module's state, in the order of the names."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class FeatureNetworkConfig(ComponentConfig):
    """The configuration of a feature network."""

    interface: ClassVar[str] = "features"

    def build(self, event: EventSpec) -> FeatureNetwork:
        """The network for examples of this event, with its weights.

        Raises ConfigError where it was made for another event, CheckpointError where its weights are damaged.
        """
        raise TypeError(f"{type(self).__name__} must define build(event)")


AnyFeatureNetwork = Annotated[FeatureNetworkConfig, ComponentField("features")]
"""The type of a configuration field that holds any registered feature network."""
