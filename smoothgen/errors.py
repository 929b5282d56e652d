"""What can go wrong, each with one clear line: what was expected, what came, where, what to do; and the warnings."""

from __future__ import annotations

from typing import ClassVar

LONGEST = 4000
"""Characters of a message: what a file put into it may be long."""


class SmoothgenError(Exception):
    """Base of every error a user can cause and mend; the command line prints its message and exits with 2.

    The message is one line that a terminal only shows: names and values from files can hold anything, so characters
    that would break the line or command the terminal are escaped. `lines`: whether the message is a list of lines.
    """

    lines: ClassVar[bool] = False

    def __init__(self, message: str = "") -> None:
        super().__init__(_shown(message, "\n" if self.lines else ""))


def _shown(message: str, kept: str) -> str:
    if not kept and len(message) > LONGEST:
        message = message[:LONGEST] + "..."
    if message.isprintable():
        return message
    return "".join(
        character if character.isprintable() or character in kept else ascii(character)[1:-1] for character in message
    )


class SmoothgenWarning(UserWarning):
    """Base of every warning: `warnings.filterwarnings("error", category=SmoothgenWarning)` stops at any of them."""


class SmoothgenDeprecationWarning(SmoothgenWarning, FutureWarning):
    """Something that a later version will not have; names that version and what to use instead."""


class ConfigError(SmoothgenError, ValueError):
    """A key, value or combination of the configuration that cannot be built."""


class DocumentError(SmoothgenError, ValueError):
    """A YAML or JSON document that is malformed, too large, or reaches outside itself."""


class PluginError(SmoothgenError):
    """A plugin that is broken, misspelt or clashes with another."""


class DataError(SmoothgenError, ValueError):
    """Data that are missing, unreadable, not finite, or outside their declared range."""


class ShapeError(SmoothgenError, ValueError):
    """A tensor of the wrong shape, dtype or device."""


class MeasureError(SmoothgenError, ValueError):
    """A unit asked of a likelihood whose measure does not have it."""


class NoDensityError(SmoothgenError, RuntimeError):
    """A density asked of a part that only maps points to points."""


class NoClosedFormError(SmoothgenError, RuntimeError):
    """A formula that does not exist (or cannot be afforded) for this kernel, density or dimension: of empirical Bayes,
    or of some coordinates given the others."""


class DeviceError(SmoothgenError, RuntimeError):
    """A device or precision that this machine does not have."""


class DistributedError(SmoothgenError, RuntimeError):
    """Another process of the same run died, does not answer, or runs something else."""


class CheckpointError(SmoothgenError, RuntimeError):
    """A saved model or checkpoint that is missing, damaged, or of something else."""


class DamagedError(CheckpointError):
    """A file that is cut short, or that does not hold what was written into it."""


class RunDirectoryError(SmoothgenError, RuntimeError):
    """A run directory that is in use, already full, or cannot be written."""


class NonFiniteError(SmoothgenError, ArithmeticError):
    """A loss, gradient or weight that is not a finite number; names the stage, step and module, or the example."""


class JobsFailedError(SmoothgenError, RuntimeError):
    """Some jobs of a reproduction failed; the others went on and are kept."""

    lines = True


class Interrupted(SmoothgenError):
    """Training stopped by a signal after its state was saved; `signum` is the signal."""

    def __init__(self, message: str, signum: int) -> None:
        super().__init__(message)
        self.signum = signum


class DependencyError(SmoothgenError, ImportError):
    """A library that is missing or does not fit another."""


class RecoveryWarning(SmoothgenWarning):
    """Something was damaged, and what follows goes on from an older state."""


class PictureWarning(SmoothgenWarning):
    """A picture could not be drawn; everything else is there."""


class WrapError(SmoothgenError, ValueError):
    """A density of another library that cannot be wrapped, or gets something wrong that nobody has accepted."""
