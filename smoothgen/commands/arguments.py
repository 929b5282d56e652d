"""What several commands take, and how it becomes a device, examples, numbers."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from torch import Tensor

    from smoothgen.device import DevicePolicy
    from smoothgen.smoothed_model import SmoothedModel


def _recipes(incomplete: str) -> list[str]:
    """For shell completion: what is shipped, without reading it."""
    shipped = Path(__file__).parents[1] / "recipes"
    return sorted(path.stem for path in shipped.glob("*.yaml") if path.stem.startswith(incomplete))


RunArgument = Annotated[Path, typer.Argument(help="Directory of a finished run.", metavar="RUN")]
ConfigArgument = Annotated[
    str, typer.Argument(help="A recipe's name or a YAML file.", metavar="CONFIG|RECIPE", autocompletion=_recipes)
]
OverridesArgument = Annotated[
    list[str] | None, typer.Argument(help="trainer.max_steps=1000 and the like.", metavar="[KEY=VALUE]...")
]
SeedOption = Annotated[int, typer.Option(help="Seed of every draw.", min=0)]
OutOption = Annotated[Path | None, typer.Option(help="File to write: .npy, .npz, .csv, .safetensors or .png.")]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]


def seed_numbers(text: str) -> list[int]:
    """The numbers of the option --seeds. Raises ConfigError."""
    from smoothgen.errors import ConfigError

    try:
        return [int(seed) for seed in text.split(",")]
    except ValueError:
        raise ConfigError(f'--seeds: expected whole numbers with commas between, got "{text}"') from None


def refuse_processes(command: str) -> None:
    """Raises ConfigError where torchrun started several processes of a command that shares no work between them."""
    from smoothgen.errors import ConfigError
    from smoothgen.launch import Launch

    world = Launch.from_environment().world
    if world > 1:
        raise ConfigError(f"{command} runs in one process, not {world}; start it without torchrun")


def free_directory(wanted: Path) -> Path:
    """The directory itself, or the first of wanted-2, wanted-3, ... that does not exist."""
    path, number = wanted, 1
    while path.exists():
        number += 1
        path = wanted.with_name(f"{wanted.name}-{number}")
    return path


def console_of_output() -> Console:
    """Standard output, wide enough for the tables where it is no terminal."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 160)


def policy_of(device: str) -> DevicePolicy:
    """The policy for the option --device. Raises ConfigError and DeviceError."""
    from smoothgen.component import describe
    from smoothgen.device import DeviceConfig, DevicePolicy
    from smoothgen.errors import ConfigError

    try:
        config = DeviceConfig.model_validate({"device": device})
    except ValueError as error:
        from pydantic import ValidationError

        message = describe(error) if isinstance(error, ValidationError) else str(error)
        raise ConfigError(f"--device: {message}") from error
    return DevicePolicy(config)


def examples_of(path: Path, key: str | None, model: SmoothedModel, policy: DevicePolicy) -> Tensor:
    """What a file holds as examples of the model, in data units, on the device. Values may be nan, as empty cells are.

    Of a csv file with a header, the columns that the model was trained on, wherever they stand.
    """
    import numpy as np
    import torch

    from smoothgen.errors import DataError
    from smoothgen.tables import CsvFormat, read_named

    values = read_named(path, key, model.event.names, CsvFormat(empty=math.nan)).values
    shape, wanted = values.shape[1:], model.event_shape
    if shape != wanted and shape == (*wanted[1:], wanted[0]) and len(wanted) == 3:
        values = np.moveaxis(values, 3, 1)  # images with their channels last, as the data source takes them too
    elif shape != wanted:
        if (shape != wanted[1:] and shape != (model.event.dimensions,)) or values[0].size != model.event.dimensions:
            raise DataError(f"{path}: examples have shape {shape}, the model's {wanted}")
        values = values.reshape(-1, *wanted)
    # units of their own may need all digits, which Apple's GPUs do not have
    wide = bool(model.event.scale) and not policy.place(torch.zeros(())).is_mps
    return policy.place(torch.tensor(values, dtype=torch.float64 if wide else torch.float32))
