"""Files that a kill cannot half-write: safetensors and JSON only."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, PositiveFloat, ValidationError
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from smoothgen import __version__
from smoothgen.allocation import build_within, check_event
from smoothgen.checksums import digest
from smoothgen.component import StrictModel, describe
from smoothgen.density_model import AnyDensityModel, DensityModel, DensityModelConfig
from smoothgen.dequantization import UniformDequantization, build_density
from smoothgen.documents import parse_json, read_json
from smoothgen.errors import CheckpointError, DamagedError, RunDirectoryError
from smoothgen.event import Axes, ContextSpec, EventSpec
from smoothgen.limits import EVENT_DIMENSIONS
from smoothgen.regular_file import is_regular
from smoothgen.tensor_file import open_tensors

FORMAT = 1
CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"


class ModelDescription(StrictModel):
    """config.json: everything but the weights. Unknown formats are refused."""

    format: int
    smoothgen: str
    event: EventSpec
    noisy_copy: Axes | None = None
    noise_std: tuple[PositiveFloat, ...] = ()
    features: Annotated[int, Field(ge=0, lt=1 << 31)] = 0
    dequantized: bool = False
    model: AnyDensityModel


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file that is either whole or not there: to a neighbour, flushed to disk, then renamed."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise RunDirectoryError(
            f"cannot write {path}: {error.strerror or error}; free some space or choose another place"
        ) from error


def check_writable(path: Path) -> None:
    """Raises RunDirectoryError where a file could not be written: before hours of work, not after."""
    folder = path.absolute().parent
    if not folder.is_dir():
        raise RunDirectoryError(f"cannot write {path}: there is no folder {folder}; make it, or choose another place")
    if path.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        reason = "it is a folder" if path.is_dir() else f"{folder} cannot be written to"
        raise RunDirectoryError(f"cannot write {path}: {reason}; choose another place")


def _cannot_write(path: Path, error: Exception) -> RunDirectoryError:
    reason = getattr(error, "strerror", None) or error
    return RunDirectoryError(f"cannot write {path}: {reason}; free some space or choose another place")


def write_json(path: Path, value: Any) -> None:
    """Atomic JSON, indented, in UTF-8; numbers that are not finite become null."""
    text = json.dumps(finite(value), indent=2, ensure_ascii=False, allow_nan=False)
    write_atomically(path, f"{text}\n".encode())


def finite(value: Any) -> Any:
    """The value with null for every number that is not finite: what JSON can say."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any], former: Path | None = None
) -> None:
    """Atomic safetensors; the metadata travel as one JSON string, with a digest of everything.

    former: where the file that is replaced is kept. At every moment one of the two is whole.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    owned = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    try:
        text = json.dumps({**metadata, "digest": digest(owned, metadata)})
        save_file(owned, temporary, metadata={"smoothgen": text})
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        if former is not None and path.exists():
            _keep(path, former)
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        temporary.unlink(missing_ok=True)
        raise _cannot_write(path, error) from error


def _keep(path: Path, former: Path) -> None:
    """Gives a file a second name, atomically; where links are not possible, its only name."""
    link = former.with_name(f".{former.name}.tmp")
    link.unlink(missing_ok=True)
    try:
        os.link(path, link)
    except OSError:
        os.replace(path, former)
    else:
        os.replace(link, former)


def read_tensors(path: Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and metadata of a file of the given kind.

    Raises DamagedError where it is cut short or a bit of it is not what was written; CheckpointError where it is
    missing, foreign, of another kind or of another format.
    """
    if not is_regular(path):
        raise CheckpointError(f"{path} does not exist; give the directory of a finished or interrupted run")
    try:
        with open_tensors(path, "pt") as file:
            metadata = parse_json((file.metadata() or {}).get("smoothgen", "null"), finite=False)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError, ValueError) as error:
        raise DamagedError(f"{path} is damaged ({error}); restore it from a copy, or train again") from error
    if not isinstance(metadata, dict):
        raise CheckpointError(f"{path} was not written by smoothgen as a {kind}; it belongs to something else")
    expected = metadata.pop("digest", None)
    if expected is not None and expected != digest(tensors, metadata):
        raise DamagedError(
            f"{path} is damaged (its checksum is not that of what was written); restore it from a copy, or train again"
        )
    if metadata.get("kind") != kind:
        raise CheckpointError(f"{path} was not written by smoothgen as a {kind}; it belongs to something else")
    if metadata.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} has format {metadata.get('format')}, this smoothgen reads format {FORMAT}; "
            "install the version that wrote it"
        )
    if expected is None:
        raise DamagedError(f"{path} is damaged (it has no checksum); restore it from a copy, or train again")
    return tensors, metadata


def load_weights(module: nn.Module, tensors: Mapping[str, Tensor], source: Path) -> None:
    """Copies tensors into a module, strictly. Raises CheckpointError naming the first that does not fit."""
    own = module.state_dict()
    for problem, names in (
        ("is missing", own.keys() - tensors.keys()),
        ("is not part of this model", tensors.keys() - own.keys()),
    ):
        if names:
            raise CheckpointError(
                f"{source}: {sorted(names)[0]} {problem} ({len(names)} such); it holds the weights of another model"
            )
    for name, value in own.items():
        given = tensors[name]
        if value.shape != given.shape:
            raise CheckpointError(
                f"{source}: {name} has shape {tuple(given.shape)}, this model {tuple(value.shape)}; "
                "it holds the weights of another model"
            )
        if value.is_floating_point() != given.is_floating_point():
            raise CheckpointError(
                f"{source}: {name} is {given.dtype}, this model's {value.dtype}; it holds the weights of another model"
            )
    module.load_state_dict(dict(tensors))


def save_model(model: DensityModel, config: DensityModelConfig | None, directory: Path) -> None:
    """Writes config.json and model.safetensors of a density built from `config`."""
    if config is None:
        raise CheckpointError(
            "this model was assembled from modules and has no configuration to save; make it with smoothgen.build, "
            "or save its state_dict yourself"
        )
    context = model.context or ContextSpec()
    description = ModelDescription(
        format=FORMAT,
        smoothgen=__version__,
        event=model.event,
        noisy_copy=context.noisy_copy,
        noise_std=context.noise_std,
        features=context.features,
        dequantized=isinstance(model, UniformDequantization),
        model=config,
    )
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunDirectoryError(f"cannot make {directory}: {error.strerror}") from error
    write_tensors(directory / WEIGHTS_FILE, model.state_dict(), {"kind": "model", "format": FORMAT})
    write_json(directory / CONFIG_FILE, description.model_dump(mode="json"))


def load_model(directory: Path) -> DensityModel:
    """The density that `save_model` wrote, on the CPU, in evaluation mode."""
    path = directory / CONFIG_FILE
    if not is_regular(path):
        hint = (
            "training has not finished"
            if is_regular(directory / "checkpoint.safetensors")
            else "no model is saved there"
        )
        raise CheckpointError(f"{path} does not exist: {hint}; give the directory of a finished run")
    try:
        description = ModelDescription.model_validate(read_json(path))
    except (ValidationError, ValueError, OSError) as error:
        message = describe(error) if isinstance(error, ValidationError) else str(error)
        raise CheckpointError(f"{path} is not a model description: {message}") from error
    if description.format != FORMAT:
        raise CheckpointError(f"{path} has format {description.format}, this smoothgen reads format {FORMAT}")
    tensors, _ = read_tensors(directory / WEIGHTS_FILE, "model")
    context = _context(description, path)
    make = partial(build_density, description.model) if description.dequantized else description.model.build
    model = build_within(tensors, lambda: make(description.event, context), path)
    load_weights(model, tensors, directory / WEIGHTS_FILE)
    return model.eval()


def _context(description: ModelDescription, path: Path) -> ContextSpec | None:
    """What the model is given besides x. Raises CheckpointError where sizes contradict each other or are too large."""
    check_event(description.event, path)
    copy, std = description.noisy_copy, description.noise_std
    if copy not in (None, description.event.shape) or len(std) not in (0, math.prod(copy or (0,))):
        raise CheckpointError(
            f"{path}: noisy_copy {copy} with {len(std)} noise_std is not of an event of shape {description.event.shape}"
        )
    if excess := EVENT_DIMENSIONS.excess(description.features):
        raise CheckpointError(f"{path}: features {description.features} are {excess}")
    context = ContextSpec(copy, std, description.features)
    return context if context.dimensions else None
