"""Placeholder."""

from smoothgen.hooks import hookimpl


@hookimpl
def smoothgen_components() -> list:
    return []
