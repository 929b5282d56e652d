"""How much a file from elsewhere may make this program hold: every limit, why it is there, and how to raise it."""

from __future__ import annotations

import os
from dataclasses import dataclass

from smoothgen.errors import ConfigError

PREFIX = "SMOOTHGEN_MAX_"


@dataclass(frozen=True)
class Limit:
    """A number that a file must keep to. name, default, unit: what is counted and how many; why: what it protects from.

    The environment variable SMOOTHGEN_MAX_NAME replaces the default: who sets it has looked at the file. A file
    cannot set it.
    """

    name: str
    default: int
    unit: str
    why: str

    @property
    def variable(self) -> str:
        """The environment variable that replaces the default."""
        return PREFIX + self.name.upper()

    @property
    def value(self) -> int:
        """The limit in force. Raises ConfigError where the variable holds no positive whole number."""
        text = os.environ.get(self.variable, "").strip()
        if not text:
            return self.default
        if not (text.isascii() and text.isdigit() and len(text) <= 18 and int(text) > 0):
            raise ConfigError(f"{self.variable}={text[:40]!r} is no positive whole number; correct or unset it")
        return int(text)

    def excess(self, amount: int) -> str:
        """What to say where the amount is over the limit; nothing where it is not."""
        if amount <= self.value:
            return ""
        return f"more than the {self.value} {self.unit} that are read; if you trust its origin, set {self.variable}"


JSON_BYTES = Limit(
    "json_bytes",
    1 << 24,
    "bytes",
    "parsed JSON takes up to thirty times its bytes; a shift and a scale for each of 200,000 coordinates have 8 MB",
)
YAML_BYTES = Limit("yaml_bytes", 1 << 20, "bytes", "a file of settings; the longest recipe has 4 kB")
YAML_VALUES = Limit(
    "yaml_values",
    100_000,
    "values",
    "aliases and references can multiply a few lines to billions, and 100,000 values take seconds to parse",
)
DOCUMENT_DEPTH = Limit("document_depth", 64, "levels", "parsers and validators recurse; recipes have 8 levels at most")
DOCUMENT_VALUES = Limit("document_values", 1_000_000, "values", "the same in JSON, which is parsed faster")
LOG_BYTES = Limit("log_bytes", 1 << 26, "bytes", "a metrics.jsonl is held as a whole; a million steps log 5 MB")
UNPACKED_BYTES = Limit(
    "unpacked_bytes", 1 << 33, "bytes", "compressed arrays and pictures grow a thousandfold when they are unpacked"
)
PICTURE_PIXELS = Limit(
    "picture_pixels",
    1 << 25,
    "pixels",
    "a picture is decoded as a whole, to 4 bytes a pixel and a copy; cameras have 12 to 33 million",
)
EVENT_DIMENSIONS = Limit(
    "event_dimensions",
    1 << 20,
    "coordinates",
    "the coordinates of a saved model are listed one by one; 512 x 512 in colour have 0.8 million",
)
BUILD_BYTES = Limit(
    "build_bytes",
    1 << 28,
    "bytes",
    "what building a saved model may allocate besides 32 bytes for each byte of its weights",
)
BUILD_FACTOR = 32
"""Building allocates masks and starting values besides the weights: models here need 1 to 5 bytes for each byte."""

LIMITS = (
    JSON_BYTES,
    DOCUMENT_VALUES,
    YAML_BYTES,
    YAML_VALUES,
    DOCUMENT_DEPTH,
    LOG_BYTES,
    UNPACKED_BYTES,
    PICTURE_PIXELS,
    EVENT_DIMENSIONS,
    BUILD_BYTES,
)
