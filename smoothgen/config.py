"""A whole experiment as one validated document: recipe name, YAML file, dict or object."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from smoothgen import documents
from smoothgen.component import StrictModel, describe, nearest
from smoothgen.data_source import AnyDataSource
from smoothgen.density_model import AnyDensityModel
from smoothgen.device import DeviceConfig
from smoothgen.errors import ConfigError, DocumentError
from smoothgen.event import EventSpec
from smoothgen.feature_network import AnyFeatureNetwork
from smoothgen.inverter import AnyInverter
from smoothgen.logger import AnyLogger
from smoothgen.noise_kernel import AnyNoiseKernel
from smoothgen.regular_file import is_regular
from smoothgen.smoothed_model import SmoothedConfig

RECIPES = Path(__file__).parent / "recipes"
SCHEMA_FILE = "smoothgen.schema.json"
StageName = Literal["density", "inverter", "joint", "baseline"]
MetricName = Literal["elbo", "samples", "quality", "neighbours", "two-sample"]


POINT_DIMENSIONS = 16
"""Up to so many coordinates are vectors points, on which two-sample measures say something without a network."""
Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]


class StageConfig(StrictModel):
    """How one stage is trained: AdamW with warm-up, decay, clipping, accumulation and an average of the weights.

    batch_size: examples per step, over all processes and micro-batches. accumulate: micro-batches per process and
    step. decay: of the learning rate after the warm-up: "cosine" to zero, "exponential" by `decay_rate` per step,
    or "constant". clip_norm: largest gradient norm; 0 for none. ema_decay: of the exponential moving average of the
    weights, which is what is evaluated and saved; 0 for none. patience: stop after so many validations without a new
    best, and keep the best weights; 0 trains to the end and keeps the last.
    """

    max_steps: PositiveInt = 5000
    batch_size: PositiveInt = 256
    accumulate: PositiveInt = 1
    learning_rate: PositiveFloat = 2e-3
    weight_decay: NonNegativeFloat = 0.0
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    warmup_steps: NonNegativeInt = 100
    decay: Literal["cosine", "exponential", "constant"] = "cosine"
    decay_rate: PositiveFloat = 0.999995
    clip_norm: NonNegativeFloat = 5.0
    ema_decay: Fraction = 0.999
    patience: NonNegativeInt = 0


class StageOverrides(StrictModel):
    """The keys of the trainer that one stage changes; the others stay as they are for all."""

    max_steps: PositiveInt | None = None
    batch_size: PositiveInt | None = None
    accumulate: PositiveInt | None = None
    learning_rate: PositiveFloat | None = None
    weight_decay: NonNegativeFloat | None = None
    betas: tuple[Fraction, Fraction] | None = None
    warmup_steps: NonNegativeInt | None = None
    decay: Literal["cosine", "exponential", "constant"] | None = None
    decay_rate: PositiveFloat | None = None
    clip_norm: NonNegativeFloat | None = None
    ema_decay: Fraction | None = None
    patience: NonNegativeInt | None = None


class SigmaSearchConfig(StrictModel):
    """How `kernel.sigma: auto` is found: by successive halving.

    candidates: how many sigmas, evenly spaced in log sigma from `low` to `high` times the median rule's (appendix C.1).
    steps: of the first training of each; the better half then trains anew for twice as many, until one is left. By
    default max_steps / 20, with which 6 candidates take together as many steps as the final training. Stages with
    their own max_steps, and every warm-up, are shortened in proportion.
    """

    candidates: Annotated[int, Field(ge=2)] = 6
    low: PositiveFloat = 0.1
    high: PositiveFloat = 1.2
    steps: PositiveInt | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.low < self.high:
            raise ValueError(f"low {self.low} must be below high {self.high}")
        return self


class TrainerConfig(StageConfig):
    """The stages' common settings, what single stages change (`density`, `inverter`, `joint`, `baseline`), how often
    to validate, log and save, in steps, what to do about a bad step, and how a sigma that is to be found is searched
    for.

    on_bad_step: a step whose loss or gradient is not finite, or spikes, ends the training with the state before it
    saved (stop), is left out (skip), or sends the stage back to its last checkpoint, to go on with `rollback_factor`
    times the learning rate and other noise (rollback). bad_steps: so many may be skipped, or rolled back, in a stage.
    spike_factor: a gradient norm above so many times the recent ones' geometric mean is a spike; 0: none is.
    """

    validate_every: PositiveInt = 500
    validation_examples: PositiveInt = 2000
    log_every: PositiveInt = 50
    checkpoint_every: PositiveInt = 1000
    on_bad_step: Literal["stop", "skip", "rollback"] = "stop"
    bad_steps: PositiveInt = 10
    rollback_factor: Annotated[float, Field(gt=0, le=1)] = 0.5
    spike_factor: Annotated[float, Field(ge=0)] = 0.0
    density: StageOverrides = StageOverrides()
    inverter: StageOverrides = StageOverrides()
    joint: StageOverrides = StageOverrides()
    baseline: StageOverrides = StageOverrides()
    sigma_search: SigmaSearchConfig = SigmaSearchConfig()

    def stage(self, name: StageName) -> StageConfig:
        """The settings of one stage."""
        common = {key: getattr(self, key) for key in StageConfig.model_fields}
        return StageConfig(**common | getattr(self, name).model_dump(exclude_none=True))


class EvaluationConfig(StrictModel):
    """What is measured on the test split once training ends.

    importance_samples: draws K of the importance-weighted bounds, besides the bound itself (K = 1).
    max_examples: test examples for the bound; importance_examples: fewer of them for the costlier bounds.
    samples: how many samples are drawn for the pictures. features: the network in whose features sample quality is
    measured. quality_samples: how many samples of each kind for it; few_samples: allow fewer than an FID needs.
    score_steps: for these sigma, also measure the baseline's samples after x + sigma^2 grad log p(x) (appendix C.6).
    neighbour_samples: how many of them to look up in the training set. two_sample_points: how many points of each kind
    the two-sample measures compare. two_sample_bandwidths: of their kernels, in the model's coordinates; by default
    fractions of the data's median distance. metrics: what to measure; by default all that the model's parts, and
    features, define.
    """

    importance_samples: tuple[PositiveInt, ...] = (100,)
    max_examples: PositiveInt = 10000
    importance_examples: PositiveInt = 1000
    samples: PositiveInt = 1000
    features: AnyFeatureNetwork | None = None
    quality_samples: PositiveInt = 10000
    score_steps: tuple[PositiveFloat, ...] = ()
    few_samples: bool = False
    neighbour_samples: PositiveInt = 1000
    two_sample_points: Annotated[int, Field(ge=20)] = 2000
    two_sample_bandwidths: tuple[PositiveFloat, ...] = ()
    metrics: tuple[MetricName, ...] | None = None

    def measures(self, metric: MetricName, event: EventSpec) -> bool:
        """Whether it is asked for. By default everything is: sample quality and neighbours where there are features,
        two-sample measures of continuous vectors with at most 16 coordinates."""
        if self.metrics is not None:
            return metric in self.metrics
        if metric == "two-sample":
            return event.levels is None and len(event.shape) == 1 and event.dimensions <= POINT_DIMENSIONS
        return metric in ("elbo", "samples") or self.features is not None


class ExperimentConfig(StrictModel):
    """Data, kernel, smoothed density, inverter, and how to train and measure them.

    baseline: a plain density of x, trained and measured beside the smoothed model. loggers: where else the run is
    followed while it goes on.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] = "experiment"
    description: str = ""
    data: AnyDataSource
    kernel: AnyNoiseKernel
    density: AnyDensityModel
    inverter: AnyInverter
    baseline: AnyDensityModel | None = None
    trainer: TrainerConfig = TrainerConfig()
    evaluate: EvaluationConfig = EvaluationConfig()
    device: DeviceConfig = DeviceConfig()
    loggers: tuple[AnyLogger, ...] = ()
    seed: Annotated[int, Field(ge=0, le=2**64 - 1)] = 0

    def model(self) -> SmoothedConfig:
        """The part that becomes the smoothed model."""
        return SmoothedConfig(kernel=self.kernel, density=self.density, inverter=self.inverter)


def recipes() -> dict[str, Path]:
    """The shipped configurations by name."""
    return {path.stem: path for path in sorted(RECIPES.glob("*.yaml"))}


def load_config(
    source: str | Path | dict[str, Any] | ExperimentConfig, overrides: Sequence[str] = ()
) -> ExperimentConfig:
    """The experiment that a recipe name, a YAML file, a dict or an object describes.

    overrides: "trainer.max_steps=1000" and the like, applied in order. Raises ConfigError in one line: the source,
    the path of the key, what is wrong and the nearest known name.
    """
    if isinstance(source, ExperimentConfig) and not overrides:
        return source
    document, name = _document(source)
    return validated(_merge(document, overrides, name), name)


def validated(document: dict[str, Any], name: str) -> ExperimentConfig:
    """The experiment that plain values describe. Raises ConfigError that begins with their source's name."""
    try:
        return ExperimentConfig.model_validate(document)
    except ValidationError as error:
        raise ConfigError(f"{name}: {describe(error)}") from error


def _document(source: str | Path | dict[str, Any] | ExperimentConfig) -> tuple[dict[str, Any], str]:
    if isinstance(source, ExperimentConfig):
        return source.model_dump(mode="json"), source.name
    if isinstance(source, dict):
        return source, "configuration"
    if not isinstance(source, (str, os.PathLike)):
        raise ConfigError(
            f"expected a recipe's name, the path of a YAML file, a dict or an ExperimentConfig, got {source!r:.80}"
        )
    known = recipes()
    path = known.get(str(source), Path(source))
    if not is_regular(path):
        raise ConfigError(
            f'"{source}" is neither a recipe{nearest(source, known)} nor a file (looked for {path.absolute()}); '
            f"recipes: {', '.join(known)}"
        )
    document = read_yaml(path)
    document.setdefault("name", re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).strip("._-") or "experiment")
    return document, path.name


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file as plain values; ${a.b} refers to other keys, never to outside the file. Raises ConfigError."""
    try:
        document = documents.read_yaml(path)
    except (DocumentError, OSError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{path.name}: not readable as YAML: {reason}") from error
    if not isinstance(document, dict):
        raise ConfigError(f"{path.name}: expected keys and values, got {type(document).__name__}")
    return document


def _merge(document: dict[str, Any], overrides: Sequence[str], name: str) -> dict[str, Any]:
    """The document with `key.path=value` overrides; a new `type` replaces the whole component it belongs to."""
    for override in overrides:
        path, separator, value = override.partition("=")
        keys = path.split(".")
        if not separator or not all(keys):
            raise ConfigError(f'{name}: override "{override}" must read key.path=value, as in trainer.max_steps=1000')
        try:
            parsed = documents.parse_yaml(value)
        except DocumentError as error:
            raise ConfigError(f'{name}: override "{override}": {error}') from error
        document = _set(document, keys, parsed, override, name)
    return document


def _set(node: Any, keys: list[str], value: Any, override: str, name: str) -> dict[str, Any]:
    if isinstance(node, str):
        node = {"type": node}
    if not isinstance(node, dict) and node is not None:
        raise ConfigError(f'{name}: override "{override}": nothing below {node!r} can be set')
    node = dict(node or {})
    key = keys[0]
    if len(keys) > 1:
        return node | {key: _set(node.get(key), keys[1:], value, override, name)}
    if key == "type" and node.get("type") != value:
        return {"type": value}
    return node | {key: value}
