"""Whether a file is still the one that was looked at first."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from smoothgen.errors import DataError


@dataclass(frozen=True)
class Stamp:
    """A file's size in bytes and the time of its last change, in nanoseconds."""

    size: int
    changed: int

    @classmethod
    def of(cls, path: Path) -> Stamp:
        """Raises DataError where there is no such file, or it cannot be looked at."""
        try:
            return cls.from_status(path.stat())
        except (OSError, ValueError) as error:  # ValueError: no file name can hold such a path
            raise DataError(
                f"{path} cannot be read: {getattr(error, 'strerror', error)}; give the path of a data file"
            ) from error

    @classmethod
    def from_status(cls, status: os.stat_result) -> Stamp:
        return cls(status.st_size, status.st_mtime_ns)

    def check(self, path: Path) -> None:
        """Raises DataError where the file has vanished or changed since."""
        try:
            now = Stamp.from_status(path.stat())
        except OSError as error:
            raise vanished(path, error) from error
        self.compare(now, path)

    def compare(self, now: Stamp, path: Path) -> None:
        """Raises DataError where the two differ."""
        if now != self:
            what = "was written again" if now.size == self.size else f"had {self.size} bytes and now has {now.size}"
            raise DataError(f"{path} {what} while it was in use; put the file back as it was, or train anew")


def vanished(path: Path, error: OSError) -> DataError:
    """The error for a file that was there before."""
    return DataError(f"{path} can no longer be read: {error.strerror}; put it back as it was, then resume")
