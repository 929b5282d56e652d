"""zuko's neural spline flow as a density of smoothgen.

The hook below registers what the package brings.
"""

from smoothgen import hookimpl
from smoothgen.component import ComponentConfig

from smoothgen_zuko_spline.density import ZukoSplineConfig

__version__ = "0.1.0"


@hookimpl
def smoothgen_components() -> list[type[ComponentConfig]]:
    """What the entry point of pyproject.toml registers; list every configuration class of the package here."""
    return [ZukoSplineConfig]
