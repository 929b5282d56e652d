"""RealNVP: a normalizing flow of affine couplings."""

from smoothgen.component import ComponentConfig
from smoothgen.hooks import hookimpl
from smoothgen_realnvp.realnvp import RealNVPConfig


@hookimpl
def smoothgen_components() -> list[type[ComponentConfig]]:
    return [RealNVPConfig]
