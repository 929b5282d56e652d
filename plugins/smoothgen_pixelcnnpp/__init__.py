"""PixelCNN++: images, pixel by pixel in raster order."""

from smoothgen.component import ComponentConfig
from smoothgen.hooks import hookimpl


@hookimpl
def smoothgen_components() -> list[type[ComponentConfig]]:
    return []
