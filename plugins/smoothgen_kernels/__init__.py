"""Noise kernels q(x_tilde | x): gaussian, laplace, uniform."""

from smoothgen.component import ComponentConfig
from smoothgen.hooks import hookimpl
from smoothgen_kernels.gaussian import GaussianConfig
from smoothgen_kernels.laplace import LaplaceConfig
from smoothgen_kernels.uniform import UniformConfig


@hookimpl
def smoothgen_components() -> list[type[ComponentConfig]]:
    return [GaussianConfig, LaplaceConfig, UniformConfig]
