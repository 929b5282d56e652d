"""Generative models of data whose density is too sharp to model: smooth, model, invert.

Nothing heavy is imported until a name is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "build": "experiment",
    "fit": "experiment",
    "fit_density": "density_fit",
    "load": "experiment",
    "load_config": "config",
    "ExperimentConfig": "config",
    "SmoothedModel": "smoothed_model",
    "DensityModel": "density_model",
    "DensityModelConfig": "density_model",
    "AnyDensityModel": "density_model",
    "NoiseKernel": "noise_kernel",
    "NoiseKernelConfig": "noise_kernel",
    "ProductKernel": "noise_kernel",
    "ScaledKernelConfig": "noise_kernel",
    "AnyNoiseKernel": "noise_kernel",
    "Inverter": "inverter",
    "InverterConfig": "inverter",
    "AnyInverter": "inverter",
    "DataSource": "data_source",
    "DataSourceConfig": "data_source",
    "AnyDataSource": "data_source",
    "Examples": "data_source",
    "Split": "data_source",
    "FeatureNetwork": "feature_network",
    "FeatureNetworkConfig": "feature_network",
    "AnyFeatureNetwork": "feature_network",
    "Logger": "logger",
    "LoggerConfig": "logger",
    "AnyLogger": "logger",
    "EventSpec": "event",
    "ContextSpec": "event",
    "Likelihood": "likelihood",
    "DevicePolicy": "device",
    "hookimpl": "hooks",
    "register": "registry",
    "installed": "registry",
    "SmoothgenError": "errors",
    "wrap": "wrapping",
    "SmoothgenWarning": "errors",
    "SmoothgenDeprecationWarning": "errors",
}

if TYPE_CHECKING:
    from smoothgen.config import ExperimentConfig as ExperimentConfig
    from smoothgen.config import load_config as load_config
    from smoothgen.data_source import AnyDataSource as AnyDataSource
    from smoothgen.data_source import DataSource as DataSource
    from smoothgen.data_source import DataSourceConfig as DataSourceConfig
    from smoothgen.data_source import Examples as Examples
    from smoothgen.data_source import Split as Split
    from smoothgen.density_fit import fit_density as fit_density
    from smoothgen.density_model import AnyDensityModel as AnyDensityModel
    from smoothgen.density_model import DensityModel as DensityModel
    from smoothgen.density_model import DensityModelConfig as DensityModelConfig
    from smoothgen.device import DevicePolicy as DevicePolicy
    from smoothgen.errors import SmoothgenDeprecationWarning as SmoothgenDeprecationWarning
    from smoothgen.errors import SmoothgenError as SmoothgenError
    from smoothgen.errors import SmoothgenWarning as SmoothgenWarning
    from smoothgen.event import ContextSpec as ContextSpec
    from smoothgen.event import EventSpec as EventSpec
    from smoothgen.experiment import build as build
    from smoothgen.experiment import fit as fit
    from smoothgen.experiment import load as load
    from smoothgen.feature_network import AnyFeatureNetwork as AnyFeatureNetwork
    from smoothgen.feature_network import FeatureNetwork as FeatureNetwork
    from smoothgen.feature_network import FeatureNetworkConfig as FeatureNetworkConfig
    from smoothgen.hooks import hookimpl as hookimpl
    from smoothgen.inverter import AnyInverter as AnyInverter
    from smoothgen.inverter import Inverter as Inverter
    from smoothgen.inverter import InverterConfig as InverterConfig
    from smoothgen.likelihood import Likelihood as Likelihood
    from smoothgen.logger import AnyLogger as AnyLogger
    from smoothgen.logger import Logger as Logger
    from smoothgen.logger import LoggerConfig as LoggerConfig
    from smoothgen.noise_kernel import AnyNoiseKernel as AnyNoiseKernel
    from smoothgen.noise_kernel import NoiseKernel as NoiseKernel
    from smoothgen.noise_kernel import NoiseKernelConfig as NoiseKernelConfig
    from smoothgen.noise_kernel import ProductKernel as ProductKernel
    from smoothgen.noise_kernel import ScaledKernelConfig as ScaledKernelConfig
    from smoothgen.registry import installed as installed
    from smoothgen.registry import register as register
    from smoothgen.smoothed_model import SmoothedModel as SmoothedModel
    from smoothgen.wrapping import wrap as wrap

__all__ = [*_HOME, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'smoothgen' has no attribute {name!r}")
    return getattr(importlib.import_module(f"smoothgen.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
