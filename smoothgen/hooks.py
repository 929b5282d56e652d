"""The one hook of smoothgen.

A plugin is a module (or object) with a function `smoothgen_components`, marked with `hookimpl` and
advertised by an entry point in the group `smoothgen`.
"""

from __future__ import annotations

import pluggy

from smoothgen.component import ComponentConfig

ENTRY_POINT_GROUP = "smoothgen"

hookspec = pluggy.HookspecMarker("smoothgen")
hookimpl = pluggy.HookimplMarker("smoothgen")


@hookspec
def smoothgen_components() -> list[type[ComponentConfig]]:  # type: ignore[empty-body]
    """The configuration classes that this plugin registers."""
