"""A network of the user's own as a TorchScript file, such as an Inception for the FID of the literature."""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from smoothgen.errors import CheckpointError, ConfigError
from smoothgen.event import EventSpec
from smoothgen.feature_network import FeatureNetwork, FeatureNetworkConfig
from smoothgen.regular_file import is_regular, open_regular

TRUST = "SMOOTHGEN_TRUST_TORCHSCRIPT"
"""The environment variable that lists the sha256 of the scripts that may run."""


class TorchScriptFeatures(FeatureNetwork):
    """The script applied to images brought to the channels, size and range that it wants."""

    def __init__(self, config: TorchScriptConfig, event: EventSpec, script: Any, fingerprint: str) -> None:
        super().__init__(config.name, event, config.num_features)
        self.config = config
        self.script = script
        self.file_fingerprint = fingerprint

    @property
    def fingerprint(self) -> str:
        """sha256 of the file: weights and code."""
        return self.file_fingerprint

    def prepared(self, x: Tensor) -> Tensor:
        """x (batch, c, h, w) in the event's range -> what the script takes: range, channels, size, in this order."""
        config, event = self.config, self.event
        assert event.low is not None and event.high is not None
        low, high = config.input_range
        x = low + (high - low) * (x - event.low) / (event.high - event.low)
        if x.shape[1] == 1 and config.channels > 1:
            x = x.expand(-1, config.channels, -1, -1)
        if config.input_size is not None:
            x = F.interpolate(x, (config.input_size,) * 2, mode="bilinear", antialias=True)
        if config.mean:
            shape = (1, -1, 1, 1)
            x = (x - x.new_tensor(config.mean).view(shape)) / x.new_tensor(config.std).view(shape)
        return x

    def _features(self, x: Tensor) -> Tensor:
        x = self.prepared(x)
        return self.script(x, return_features=True) if self.config.return_features else self.script(x)


class TorchScriptConfig(FeatureNetworkConfig):
    """A TorchScript file. It is code and runs with your rights: it is loaded only if SMOOTHGEN_TRUST_TORCHSCRIPT, an
    environment variable, lists its sha256 (several with commas between). A configuration cannot vouch for itself.

    path: the file. name: what results are named after. num_features: F, how many numbers it gives for an image.
    channels: what it takes; grey images are repeated. input_range: of the values it takes. input_size: height and
    width it takes, by antialiased bilinear interpolation; None hands the images over in their own size. mean, std:
    subtracted and divided by afterwards, one number per channel. return_features: call script(x,
    return_features=True), as the Inception scripts made for StyleGAN want.
    """

    type: Literal["torchscript"] = "torchscript"
    path: Path
    name: Annotated[str, Field(min_length=1)]
    num_features: PositiveInt
    channels: PositiveInt = 3
    input_range: tuple[float, float] = (0.0, 1.0)
    input_size: PositiveInt | None = None
    mean: tuple[float, ...] = ()
    std: tuple[PositiveFloat, ...] = ()
    return_features: bool = False

    def build(self, event: EventSpec) -> FeatureNetwork:
        self._check(event)
        try:
            content = self._trusted()
            script = torch.jit.load(io.BytesIO(content), map_location="cpu")
        except ConfigError:
            raise
        except Exception as error:  # torch's reader raises anything for what is no script
            reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
            raise CheckpointError(f"features torchscript: {self.path} is not a TorchScript file: {reason}") from error
        script.eval()
        for parameter in script.parameters():
            parameter.requires_grad_(False)
        return TorchScriptFeatures(self, event, script, hashlib.sha256(content).hexdigest()).eval()

    def _trusted(self) -> bytes:
        """The file's content, once the user has vouched for it. Raises ConfigError, OSError."""
        with open_regular(self.path) as file:
            content = file.read()
        sha256 = hashlib.sha256(content).hexdigest()
        if sha256 not in os.environ.get(TRUST, "").replace(" ", "").lower().split(","):
            raise ConfigError(
                f"features torchscript: {self.path} is code and would run with your rights; if you trust its origin, "
                f"set {TRUST}={sha256}"
            )
        return content

    def _check(self, event: EventSpec) -> None:
        if not is_regular(self.path):
            raise ConfigError(
                f"features torchscript: path {self.path} is not a file (looked for {self.path.absolute()})"
            )
        if len(event.shape) != 3 or event.shape[0] not in (1, self.channels):
            raise ConfigError(
                f"features torchscript: takes images of 1 or {self.channels} channels (channels, height, width), "
                f"the data have shape {event.shape}"
            )
        if event.low is None or event.high is None:
            raise ConfigError("features torchscript: needs data with a range (low, high) to scale from")
        if len(self.mean) != len(self.std) or len(self.mean) not in (0, self.channels):
            raise ConfigError(f"features torchscript: mean and std need {self.channels} numbers each, or none")
