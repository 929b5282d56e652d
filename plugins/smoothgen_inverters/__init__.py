"""Inverters of the smoothing: gradient (single step) and conditional (p(x | x_tilde))."""

from smoothgen.component import ComponentConfig
from smoothgen.hooks import hookimpl
from smoothgen_inverters.conditional import ConditionalConfig
from smoothgen_inverters.gradient import GradientConfig


@hookimpl
def smoothgen_components() -> list[type[ComponentConfig]]:
    return [GradientConfig, ConditionalConfig]
