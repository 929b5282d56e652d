"""Where numbers come from: versions and machine."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path

from smoothgen import __version__


def versions() -> dict[str, str]:
    """Of smoothgen, Python, torch and numpy."""
    libraries = {name: importlib.metadata.version(name) for name in ("torch", "numpy")}
    return {"smoothgen": __version__, "python": platform.python_version()} | libraries


def machine() -> str:
    """The processor, the number of its cores, and the system, in words."""
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model)
    except OSError:  # only Linux tells it there
        pass
    return f"{model}, {os.cpu_count()} cores, {platform.system()}"
