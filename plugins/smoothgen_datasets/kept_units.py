"""What a pass over large files found, kept until they change."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from smoothgen.checkpoint import write_json
from smoothgen.component import StrictModel
from smoothgen.data_source import SplitName
from smoothgen.errors import RunDirectoryError
from smoothgen.event import EventSpec
from smoothgen_datasets.array import ArrayConfig, Units
from smoothgen_datasets.shards import Shards

KEEP_FROM = 2**26
"""Bytes of files from which on a pass takes so long that its result is kept."""
FORMAT = 2
"""To be raised when the same files would give another result."""


class KeptUnits(StrictModel):
    """`Units` as they lie in a file."""

    event: EventSpec
    context_shift: tuple[float, ...]
    context_scale: tuple[float, ...]


def kept_units(config: ArrayConfig, parts: Mapping[SplitName, Shards]) -> Units | None:
    """What an earlier pass over the same files, with the same configuration, found; None where there was none."""
    try:
        text = _place(config, parts).read_text(encoding="utf-8")
        kept = KeptUnits.model_validate_json(text)
    except (OSError, ValidationError):
        return None
    return Units(kept.event, kept.context_shift, kept.context_scale)


def keep_units(config: ArrayConfig, parts: Mapping[SplitName, Shards], units: Units) -> None:
    """Keeps what a pass found, in $SMOOTHGEN_CACHE or the user's cache directory, if one can write there."""
    if sum(shards.total_bytes for shards in parts.values()) < KEEP_FROM:
        return
    kept = KeptUnits(event=units.event, context_shift=units.context_shift, context_scale=units.context_scale)
    try:
        place = _place(config, parts)
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_json(place, kept.model_dump(mode="json"))
    except (OSError, RunDirectoryError):
        return  # it is found again the next time


def _place(config: ArrayConfig, parts: Mapping[SplitName, Shards]) -> Path:
    """The file of the result, named by all that it depends on: the configuration, and every file's path and stamp."""
    files = {
        name: [(str(file.path), file.stamp.size, file.stamp.changed) for file in shards.files]
        for name, shards in parts.items()
    }
    asked = config.model_dump(mode="json", exclude={"stream"})
    name = hashlib.blake2b(json.dumps([FORMAT, asked, files], sort_keys=True).encode(), digest_size=16).hexdigest()
    chosen = os.environ.get("SMOOTHGEN_CACHE")
    base = Path(chosen) if chosen else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "smoothgen"
    return base / "data" / f"{name}.json"
