"""Densities of other libraries, to be compared with; each needs the extra `peers`."""

from smoothgen.component import ComponentConfig
from smoothgen.hooks import hookimpl
from smoothgen_peers.spline_flow import ZukoNSFConfig


@hookimpl
def smoothgen_components() -> list[type[ComponentConfig]]:
    return [ZukoNSFConfig]
