"""Loggers: TensorBoard and Weights & Biases, each an extra of its own."""

from smoothgen.component import ComponentConfig
from smoothgen.hooks import hookimpl
from smoothgen_loggers.tensorboard import TensorBoardConfig
from smoothgen_loggers.wandb import WandbConfig


@hookimpl
def smoothgen_components() -> list[type[ComponentConfig]]:
    return [TensorBoardConfig, WandbConfig]
