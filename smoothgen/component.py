"""Configurations that register themselves: the `type` tag names a part, `build` makes it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, ClassVar, Literal, Self, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

MOST_UNKNOWN = 20
"""So many unknown keys are named; each costs a search for the nearest known one."""


def nearest(word: object, known: Iterable[str]) -> str:
    """`; did you mean "x"?` for the closest known names, or nothing."""
    close = difflib.get_close_matches(str(word)[:100], list(known), n=2, cutoff=0.5)
    return "; did you mean " + " or ".join(f'"{name}"' for name in close) + "?" if close else ""


def _is_number(annotation: Any) -> bool:
    """Whether a field of that type holds a number, among other things perhaps, and never true or false."""
    kinds = list(_kinds(annotation))
    return (int in kinds or float in kinds) and bool not in kinds


def _kinds(annotation: Any) -> Iterator[Any]:
    """The types that an annotation is made of; of a Literal, those of its values."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        yield from map(type, parts)
    elif parts:
        for part in parts[:1] if origin is Annotated else parts:
            yield from _kinds(part)
    else:
        yield annotation


class StrictModel(BaseModel):
    """Frozen; refuses unknown keys (naming the nearest known one), NaN, infinity, and true or false for a number;
    prints as it was written."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True)

    def __repr_args__(self) -> Iterator[tuple[str, Any]]:
        """The type, and the keys that differ from their defaults: what a person would have written."""
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if name == "type" or field.is_required() or value != field.get_default(call_default_factory=True):
                yield name, value

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys_and_switches_for_numbers(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        errors = [
            InitErrorDetails(type=PydanticCustomError("boolean", "must be a number"), loc=(key,), input=data[key])
            for key, field in cls.model_fields.items()
            if isinstance(data.get(key), bool) and _is_number(field.annotation)
        ]
        known = list(cls.model_fields)
        unknown = [key for key in data if key not in cls.model_fields]
        errors += [
            InitErrorDetails(
                type=PydanticCustomError(
                    "unknown_key",
                    "unknown key{hint} (known: {known})",
                    {"hint": nearest(key, known), "known": ", ".join(known)},
                ),
                loc=(str(key),),
                input=data[key],
            )
            for key in unknown[:MOST_UNKNOWN]
        ]
        if errors:
            raise ValidationError.from_exception_data(cls.__name__, errors)
        return data


class ComponentConfig(StrictModel):
    """The configuration of one part, and its registration.

    A subclass of one of the interface bases (`DensityModelConfig`, `NoiseKernelConfig`, `InverterConfig`,
    `DataSourceConfig`, `FeatureNetworkConfig`, `LoggerConfig`) declares `type: Literal["tag"] = "tag"`, the keys it
    reads, and `build`. Returning the class from the hook `smoothgen_components` registers it.
    """

    interface: ClassVar[str] = ""
    """Which interface the part fills: a name of registry.INTERFACES; set by the interface's base."""

    type: str

    @classmethod
    def tag(cls) -> str:
        """The name by which a configuration file asks for this part."""
        return str(cls.model_fields["type"].default)

    def resolve(self, data: Any) -> Self:
        """This configuration with every value that depends on the training data replaced by a number.

        data: (n, *event_shape). The default resolves nested components and keeps everything else.
        """
        changed = {}
        for name in type(self).model_fields:
            value = getattr(self, name)
            if isinstance(value, ComponentConfig):
                resolved = value.resolve(data)
                if resolved is not value:
                    changed[name] = resolved
        return self.model_copy(update=changed) if changed else self


def describe(error: ValidationError, limit: int = 5) -> str:
    """A validation error as one line: the path of each key, what is wrong, and the value that came."""
    problems = []
    for item in error.errors()[:limit]:
        where = f"{'.'.join(str(part) for part in item['loc']):.200}" or "configuration"
        value = item.get("input")
        plain = isinstance(value, (dict, BaseModel)) or item["type"] in ("unknown_key", "component", "missing")
        shown = "" if plain else f", got {value!r:.80}"
        problems.append(f"{where}: {item['msg'].removeprefix('Value error, ')}{shown}")
    more = len(error.errors()) - limit
    return "; ".join(problems) + (f"; and {more} more" if more > 0 else "")
