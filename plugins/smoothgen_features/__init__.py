"""Feature networks: what sample quality is measured in."""

from smoothgen.component import ComponentConfig
from smoothgen.hooks import hookimpl


@hookimpl
def smoothgen_components() -> list[type[ComponentConfig]]:
    return []
