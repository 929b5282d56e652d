"""PixelCNN++: images, pixel by pixel in raster order."""

from smoothgen.component import ComponentConfig
from smoothgen.hooks import hookimpl
from smoothgen_pixelcnnpp.pixelcnnpp import PixelCNNPPConfig


@hookimpl
def smoothgen_components() -> list[type[ComponentConfig]]:
    return [PixelCNNPPConfig]
