"""Data sources: toy sets with exact densities, digits, MNIST, CIFAR-10, the user's own images and arrays."""

from smoothgen.component import ComponentConfig
from smoothgen.hooks import hookimpl
from smoothgen_datasets.array import ArrayConfig
from smoothgen_datasets.checkerboard import CheckerboardConfig
from smoothgen_datasets.cifar10 import CIFAR10Config
from smoothgen_datasets.curve import CurveConfig
from smoothgen_datasets.digits import DigitsConfig
from smoothgen_datasets.eight_gaussians import EightGaussiansConfig
from smoothgen_datasets.gaussian import GaussianDataConfig
from smoothgen_datasets.idx import MNISTConfig
from smoothgen_datasets.images import ImagesConfig
from smoothgen_datasets.mixture import Mixture1DConfig, SixModesConfig, TenModesConfig, TwoGaussiansConfig
from smoothgen_datasets.moons import MoonsConfig
from smoothgen_datasets.olympics import OlympicsConfig
from smoothgen_datasets.pinwheel import PinwheelConfig
from smoothgen_datasets.rings import RingsConfig
from smoothgen_datasets.thin_ring import ThinRingConfig
from smoothgen_datasets.two_spirals import TwoSpiralsConfig


@hookimpl
def smoothgen_components() -> list[type[ComponentConfig]]:
    return [
        RingsConfig,
        OlympicsConfig,
        CheckerboardConfig,
        Mixture1DConfig,
        SixModesConfig,
        TenModesConfig,
        TwoGaussiansConfig,
        EightGaussiansConfig,
        PinwheelConfig,
        TwoSpiralsConfig,
        MoonsConfig,
        ThinRingConfig,
        CurveConfig,
        GaussianDataConfig,
        DigitsConfig,
        MNISTConfig,
        CIFAR10Config,
        ImagesConfig,
        ArrayConfig,
    ]
