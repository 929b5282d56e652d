"""What a wrapped density can get wrong: the names that `allow` takes, with what they mean."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from smoothgen.errors import ConfigError

FAULTS = {
    "shape": "log_prob has not the shape (batch,); accepted, the values of each row are added up",
    "summed": "log_prob is one number for the whole batch; accepted, every row is evaluated by itself",
    "not-finite": "log_prob of ordinary rows is infinite or nan",
    "random": "log_prob in evaluation mode is another number at every call, as with dropout that is always on",
    "batch": "log_prob of a row depends on the other rows of its batch, as with batch statistics",
    "copy": "the module cannot be copied, so its weights cannot be averaged; accepted, little else is looked at",
    "dtype": "it computes in float32 whatever the dtype of its input",
    "device": "it makes or keeps tensors on the CPU that do not move with .to()",
    "parameters": "it learns tensors that are no parameters of the module: no optimizer sees them, no file holds them",
    "idle-parameters": "some parameters get no gradient, which stalls training on several processes",
    "gradient": "the gradient of log_prob by x is missing or wrong, so the score is",
    "context-ignored": "log_prob does not depend on the context",
    "context-partial": "log_prob does not depend on some numbers of the context",
    "context-reach": "some coordinates do not react to the context, as the first one of nflows' and normflows' MADE",
    "context-location": "the context only shifts the density; its shape is the same for every context",
    "no-sampler": "there is no working sample method; accepted, `sample` raises an error",
    "sample-shape": "samples have not the shape of the event",
    "generator": "draws depend on something other than torch's generators, such as numpy's",
    "inverse": "noise to data is not the inverse of data to noise",
    "log-det": "the log determinant is not that of the Jacobian, in value or in sign",
    "mass": "exp(log_prob) does not integrate to 1",
    "samples": "samples do not follow log_prob",
}
"""Name of every fault -> what it is, and what accepting it means where that is more than silence."""


@dataclass(frozen=True)
class Fault:
    """One thing found wrong. name: of FAULTS. detail: what came, in one clause."""

    name: str
    detail: str

    def __str__(self) -> str:
        return f"{self.name}: {self.detail}"


def check_names(allow: Iterable[str]) -> frozenset[str]:
    """The names as a set. Raises ConfigError for one that is no fault's."""
    names = (allow,) if isinstance(allow, str) else tuple(allow)
    for name in names:
        if name not in FAULTS:
            close = difflib.get_close_matches(str(name), FAULTS, n=1)
            hint = f'; did you mean "{close[0]}"?' if close else ""
            raise ConfigError(f'allow: no fault is called "{name}"{hint} (there are: {", ".join(FAULTS)})')
    return frozenset(names)


def not_allowed(found: Iterable[Fault], allow: Collection[str]) -> list[Fault]:
    """The faults that nobody has accepted, each name once."""
    first: dict[str, Fault] = {}
    for fault in found:
        first.setdefault(fault.name, fault)
    return [fault for name, fault in first.items() if name not in allow]
