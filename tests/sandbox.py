"""A virtual environment of its own in which commands run as a reader types them, without a network.

It sees what the tests' environment has (torch, pytest, hatchling, ...), the smoothgen of this checkout, and what is
installed into it with pip.
"""

from __future__ import annotations

import os
import subprocess
import sysconfig
import venv
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
COMMANDS = {"pip": "pip", "pytest": "pytest", "smoothgen": "smoothgen"}


@dataclass
class Answer:
    """What a command printed, both streams together, and the code it left."""

    code: int
    text: str


class Sandbox:
    """directory: where the environment and what is made in it lie."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.environment = directory / "environment"
        venv.create(self.environment, with_pip=False, symlinks=os.name != "nt")
        binaries = self.environment / "bin"
        site = next((self.environment / "lib").glob("python*")) / "site-packages"
        # as `venv --system-site-packages`, with the environment that runs the tests as the system's
        (site / "outer.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
        for name, module in COMMANDS.items():
            script = binaries / name
            script.write_text(f'#!/bin/sh\nexec "{binaries / "python"}" -m {module} "$@"\n')
            script.chmod(0o755)
        # pip builds with the hatchling that is here, and has to find every dependency here; 0 is its word for
        # "no isolation": https://pip.pypa.io/en/stable/topics/configuration/#environment-variables
        outer = [path for path in (os.environ.get("PYTHONPATH"),) if path]
        self.variables = os.environ | {
            "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}",
            "VIRTUAL_ENV": str(self.environment),
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "plugins"), *outer]),
            "PIP_NO_INDEX": "1",
            "PIP_NO_BUILD_ISOLATION": "0",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PIP_QUIET": "1",
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "200",
        }

    def run(self, command: str, cwd: Path | None = None, seconds: int = 280) -> Answer:
        """A line or more of the shell, stopped at the first that fails."""
        done = subprocess.run(
            ["bash", "-e", "-o", "pipefail", "-c", command],
            cwd=cwd or self.directory,
            env=self.variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=seconds,
        )
        return Answer(done.returncode, done.stdout)
