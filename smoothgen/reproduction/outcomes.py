"""Outcomes on disk: each written as it comes, whole or not at all, and found again by what it was computed from."""

from __future__ import annotations

import hashlib
import io
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smoothgen import __version__
from smoothgen.checkpoint import write_atomically, write_json
from smoothgen.documents import parse_json
from smoothgen.errors import DataError
from smoothgen.reproduction.study import Job, Outcome


@dataclass(frozen=True)
class Record:
    """What computing a job took, in seconds of the worker's processor and of the clock, and where it ran."""

    cpu_seconds: float
    wall_seconds: float
    versions: dict[str, str]
    machine: str


@dataclass(frozen=True)
class Finished:
    """An outcome and its record."""

    outcome: Outcome
    record: Record


class OutcomeStore:
    """DIRECTORY/STUDY/NAME-seedS-HASH.json with the numbers, and .npz beside it where there are arrays.

    The hash is over study, name, seed, settings and smoothgen's version, so a changed setting is another file and
    everything else is found again. A change of code under the same version is not seen: remove the outcomes then.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def path(self, job: Job) -> Path:
        """Where the numbers of a job are."""
        name = re.sub(r"[^A-Za-z0-9._]+", "-", job.name).strip("-.") or "job"
        return self.directory / job.study / f"{name}-seed{job.seed}-{digest(job)}.json"

    def write(self, job: Job, outcome: Outcome, record: Record) -> Finished:
        """Writes an outcome and returns it as it will be read. Raises DataError for what is no plain value."""
        path = self.path(job)
        path.parent.mkdir(parents=True, exist_ok=True)
        packed = _pack(job, outcome.arrays)
        if packed:
            write_atomically(path.with_suffix(".npz"), packed)
        try:
            document = {
                "job": asdict(job),
                "numbers": outcome.numbers,
                "record": asdict(record),
                "arrays": hashlib.blake2b(packed).hexdigest() if packed else None,
            }
            write_json(path, document)  # last: an outcome exists when its numbers do
        except (TypeError, ValueError) as error:
            raise DataError(f"{label(job)}: the numbers of an outcome must be plain JSON values: {error}") from error
        return self.read(job)

    def read(self, job: Job) -> Finished:
        """The outcome of a job. Raises FileNotFoundError where there is none, DataError where it is damaged."""
        path = self.path(job)
        text = path.read_bytes()
        try:
            document = parse_json(text.decode())
            arrays: dict[str, NDArray[Any]] = {}
            if document["arrays"] is not None:
                packed = path.with_suffix(".npz").read_bytes()
                if hashlib.blake2b(packed).hexdigest() != document["arrays"]:
                    raise ValueError("the arrays are not those that were written")
                with np.load(io.BytesIO(packed), allow_pickle=False) as loaded:
                    arrays = {name: loaded[name] for name in loaded.files}
            if not isinstance(document["numbers"], dict):
                raise ValueError("its numbers are not keys and values")
            return Finished(Outcome(document["numbers"], arrays), Record(**document["record"]))
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise DataError(f"{path} is damaged ({error}); it is computed again") from error


def label(job: Job) -> str:
    """How a job is called in messages."""
    return f"{job.study}/{job.name}, seed {job.seed}"


def digest(job: Job) -> str:
    """Twelve hexadecimal digits over all that a job says, and the version; not over the code that runs it."""
    content = [job.study, job.name, job.seed, job.settings, __version__]
    text = json.dumps(content, sort_keys=True, allow_nan=False)
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()


def _pack(job: Job, arrays: dict[str, NDArray[Any]]) -> bytes:
    """The bytes of a .npz file; nothing for no arrays."""
    for name, value in arrays.items():
        if value.dtype.hasobject:
            raise DataError(f"{label(job)}: array {name} holds Python objects; outcomes hold numbers only")
    if not arrays:
        return b""
    buffer = io.BytesIO()
    named: dict[str, Any] = dict(arrays)
    np.savez_compressed(buffer, **named)
    return buffer.getvalue()
