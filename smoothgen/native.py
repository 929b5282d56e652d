"""C sources compiled for this machine's processor when they are first wanted, and kept for the next time.

Plain C without torch's headers: a second to compile, whatever torch is installed. The compiler is $CC, cc, gcc or
clang, or the one of the package ziglang (`pip install smoothgen[compiled]`).
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from filelock import FileLock

from smoothgen.errors import SmoothgenError, SmoothgenWarning

SHARED = Path(__file__).parent / "c"
"""C files that any source may include."""
FLAGS = ("-O3", "-std=gnu11", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC")
SECONDS = 120


class NativeError(SmoothgenError, RuntimeError):
    """C code that cannot be compiled or loaded here: no compiler, a compiler that fails, nowhere to keep the result."""


class NativeWarning(SmoothgenWarning):
    """Something runs without compiled code, and slower for it."""


def library(directory: Path, source: str, defines: tuple[str, ...] = ()) -> ctypes.CDLL:
    """The library made of one file in a directory of C files, compiled with these macros defined.

    Kept in $SMOOTHGEN_CACHE, or the user's cache directory, under a name that depends on the sources, the compiler and
    the processor. Raises NativeError; a process tries once.
    """
    found = _library(directory, source, defines)
    if isinstance(found, NativeError):
        raise found
    return found


@lru_cache(maxsize=32)
def _library(directory: Path, source: str, defines: tuple[str, ...]) -> ctypes.CDLL | NativeError:
    try:
        compiler = _compiler()
        options = [*FLAGS, *_target(), f"-I{SHARED}", *(f"-D{name}" for name in defines)]
        command = [*compiler, *options, str(directory / source)]
        key = hashlib.sha256()
        for part in (*command[:-1], source, _version(compiler), _processor()):
            key.update(part.encode() + b"\0")
        for path in sorted([*SHARED.glob("*.[ch]"), *directory.glob("*.[ch]")]):
            key.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
        made = _cache() / f"{Path(source).stem}-{key.hexdigest()[:24]}.so"
        with FileLock(made.with_suffix(".lock"), timeout=SECONDS):
            if made.exists():
                try:
                    return ctypes.CDLL(str(made))
                except OSError:  # damaged: made anew
                    made.unlink()
            _compile(command, made)
        return ctypes.CDLL(str(made))
    except NativeError as error:
        return error
    except OSError as error:
        return NativeError(f"compiled {source} cannot be kept or loaded: {error}; set SMOOTHGEN_CACHE to a directory")


def _compiler() -> tuple[str, ...]:
    """The command of a C compiler."""
    chosen = os.environ.get("CC")
    if chosen:
        return tuple(shlex.split(chosen))
    for name in ("cc", "gcc", "clang"):
        found = shutil.which(name)
        if found:
            return (found,)
    if find_spec("ziglang") is not None:
        return (sys.executable, "-m", "ziglang", "cc")
    raise NativeError("no C compiler found (cc, gcc or clang, or $CC); pip install smoothgen[compiled] brings one")


def _target() -> tuple[str, ...]:
    """Options for the very processor of this machine."""
    return ("-mcpu=native",) if platform.machine() in ("arm64", "aarch64") else ("-march=native",)


@lru_cache(maxsize=8)
def _version(compiler: tuple[str, ...]) -> str:
    return _run([*compiler, "--version"]).stdout


@lru_cache(maxsize=1)
def _processor() -> str:
    """What tells one processor's abilities from another's: a home directory may serve different machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()} {platform.node()}"
    telling = ("model name", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(telling)}))


def _cache() -> Path:
    """The directory of compiled libraries: nobody else's, since what lies there is run."""
    chosen = os.environ.get("SMOOTHGEN_CACHE")
    base = Path(chosen) if chosen else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "smoothgen"
    place = base / "native"
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = place.stat()
    if hasattr(os, "getuid") and (status.st_uid != os.getuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)):
        raise NativeError(
            f"{place} belongs to, or can be written by, another user; set SMOOTHGEN_CACHE to a directory of your own"
        )
    return place


def _compile(command: Sequence[str], path: Path) -> None:
    """Compiles to the path, or leaves nothing there."""
    with tempfile.TemporaryDirectory(dir=path.parent) as room:
        made = Path(room) / path.name
        done = _run([*command, "-o", str(made), "-lm"])
        if done.returncode or not made.exists():
            last = "\n".join(done.stderr.strip().splitlines()[-4:])
            raise NativeError(f"{shlex.join(command)} failed with exit code {done.returncode}: {last}")
        os.replace(made, path)


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NativeError(f"the C compiler {shlex.join(command)} cannot be run: {error}") from error


def compiler() -> tuple[str, str]:
    """The command of the C compiler, and the first line of what it says of its version. Raises NativeError."""
    command = _compiler()
    said = _run([*command, "--version"])
    if said.returncode:
        raise NativeError(f"the C compiler {shlex.join(command)} fails with exit code {said.returncode}")
    return shlex.join(command), said.stdout.partition("\n")[0]


def cache() -> tuple[Path, int]:
    """Where compiled libraries are kept, and how many there are. Raises NativeError where they cannot be."""
    try:
        place = _cache()
        return place, len(list(place.glob("*.so")))
    except OSError as error:
        raise NativeError(f"compiled code cannot be kept: {error}; set SMOOTHGEN_CACHE to a directory") from error
