"""Arguments of a library's classes as data: only known names and plain values, never code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError
from torch import nn
from torch.nn import functional as F

from smoothgen.component import nearest

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "elu": nn.ELU, "silu": nn.SiLU, "tanh": nn.Tanh}
FUNCTIONS = {"relu": F.relu, "elu": F.elu, "silu": F.silu, "tanh": F.tanh}
"""What libraries that take functions in place of modules are given."""


@dataclass(frozen=True)
class Kind:
    """What values an argument takes: in words, and as a type that pydantic checks strictly."""

    words: str
    type: Any

    def checked(self, value: Any) -> Any:
        """The value, lists as tuples. Raises ValidationError."""
        return TypeAdapter(self.type).validate_python(value)


Count = Annotated[int, Field(strict=True, ge=1)]
COUNT = Kind("a whole number from 1", Count)
BINS = Kind("a whole number from 2", Annotated[int, Field(strict=True, ge=2)])
WIDTHS = Kind("a list of widths", Annotated[tuple[Count, ...], Field(min_length=1)])
POSITIVE = Kind("a positive number", Annotated[float, Field(gt=0.0, allow_inf_nan=False)])
FRACTION = Kind("a number from 0 to below 1", Annotated[float, Field(ge=0.0, lt=1.0, allow_inf_nan=False)])
SWITCH = Kind("true or false", Annotated[bool, Field(strict=True)])
ACTIVATION = Kind("one of " + ", ".join(ACTIVATIONS), Annotated[str, Field(pattern=f"^({'|'.join(ACTIVATIONS)})$")])


def checked(owner: str, given: Mapping[str, Any], allowed: Mapping[str, Kind], ours: Mapping[str, str]) -> dict:
    """The arguments, checked. owner: whose they are. ours: those that smoothgen sets itself, each with the reason.

    Raises ValueError for a name that is not allowed, or a value of the wrong kind: what would be right.
    """
    takes = ", ".join(allowed) or "none"
    result = {}
    for name, value in given.items():
        if name in ours:
            raise ValueError(f"argument {name} of {owner} is set by smoothgen: {ours[name]}; it takes {takes}")
        if name not in allowed:
            raise ValueError(f"{owner} takes no argument {name}{nearest(name, allowed)}; it takes {takes}")
        try:
            result[name] = allowed[name].checked(value)
        except ValidationError:
            raise ValueError(f"argument {name} of {owner} must be {allowed[name].words}, got {value!r:.60}") from None
    return result


def with_activation(arguments: Mapping[str, Any], functions: bool = False) -> dict[str, Any]:
    """The arguments with the activation's name replaced by its class, or by its function."""
    name = arguments.get("activation")
    if name is None:
        return dict(arguments)
    return {**arguments, "activation": FUNCTIONS[name] if functions else ACTIVATIONS[name]}
