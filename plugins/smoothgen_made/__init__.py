"""MADE: a masked network whose conditionals are mixtures of logistics."""

from smoothgen.component import ComponentConfig
from smoothgen.hooks import hookimpl
from smoothgen_made.made import MADEConfig


@hookimpl
def smoothgen_components() -> list[type[ComponentConfig]]:
    return [MADEConfig]
