"""How something leaves smoothgen: it warns for at least one minor version, then it is gone (docs: Versions)."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TypeVar

from typing_extensions import deprecated as _deprecated

from smoothgen.errors import SmoothgenDeprecationWarning

Part = TypeVar("Part", bound=Callable)


def deprecated(*, removal: str, instead: str) -> Callable[[Part], Part]:
    """Marks a function, method or class: calling it (or deriving from it) warns once for each place that does.

    removal: the version that will not have it, "0.3". instead: what to use. Type checkers and editors that know PEP 702
    see `__deprecated__`.
    """

    def mark(part: Part) -> Part:
        message = deprecation_message(part.__qualname__, removal, instead)
        return _deprecated(message, category=SmoothgenDeprecationWarning)(part)

    return mark


def warn_deprecated(what: str, *, removal: str, instead: str, stacklevel: int = 2) -> None:
    """Warns of what is no function or class: a configuration key, an argument, a file format. Arguments as above.

    stacklevel: as for `warnings.warn`; 2 is the caller of the function that calls this one.
    """
    message = deprecation_message(what, removal, instead)
    warnings.warn(message, SmoothgenDeprecationWarning, stacklevel=stacklevel + 1)


def deprecation_message(what: str, removal: str, instead: str) -> str:
    """The one line."""
    return f"{what} is deprecated and will be gone in smoothgen {removal}; use {instead}"
