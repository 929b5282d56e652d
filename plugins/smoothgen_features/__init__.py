"""Feature networks: what sample quality is measured in."""

from smoothgen.component import ComponentConfig
from smoothgen.hooks import hookimpl
from smoothgen_features.classifier import ClassifierConfig
from smoothgen_features.torchscript import TorchScriptConfig


@hookimpl
def smoothgen_components() -> list[type[ComponentConfig]]:
    return [ClassifierConfig, TorchScriptConfig]
