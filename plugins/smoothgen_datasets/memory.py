"""Refuses to fill memory with examples that are streamed because they do not fit."""

from __future__ import annotations

import os

from smoothgen.data_source import Examples, SplitName
from smoothgen.errors import DataError
from smoothgen.event import EventSpec


def refuse_beyond_memory(name: SplitName, examples: Examples, event: EventSpec) -> None:
    """Raises DataError where a split's float32 values take more than the machine's memory."""
    wanted, there = 4 * len(examples) * event.dimensions, memory()
    if wanted > there:
        raise DataError(
            f"the {name} split takes {wanted / 2**30:.1f} GiB in memory, and the machine has {there / 2**30:.1f}; "
            "ask for its examples, which are streamed"
        )


def memory() -> int:
    """Bytes of the machine's memory; without end where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 2**63
