"""Densities of normflows, nflows, zuko and torch.distributions, each by the names of its own library."""

from smoothgen.component import ComponentConfig
from smoothgen.hooks import hookimpl
from smoothgen_adapters.nflows_flow import NflowsConfig
from smoothgen_adapters.normflows_flow import NormflowsConfig
from smoothgen_adapters.torch_distribution import TorchDistributionConfig
from smoothgen_adapters.zuko_flow import ZukoConfig


@hookimpl
def smoothgen_components() -> list[type[ComponentConfig]]:
    return [NormflowsConfig, NflowsConfig, ZukoConfig, TorchDistributionConfig]
