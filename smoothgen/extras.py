"""Libraries that are extras of the installation: imported when a part wants them, missed with one clear line."""

from __future__ import annotations

import importlib
from typing import Any

from smoothgen.errors import DependencyError


def required(module: str, part: str, extra: str, library: str | None = None) -> Any:
    """A module of such a library. part: what needs it, as in "density zuko_nsf". library: if it is not the module's.

    Raises DependencyError naming the part, the library and the extra that has it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise DependencyError(
            f"{part} needs {library or module.partition('.')[0]}, which cannot be imported ({error}); "
            f'install the extra that has it: pip install "smoothgen[{extra}]"'
        ) from error
