#!/usr/bin/env python3
"""Sets up an environment and does a job: python3 dev.py run, test, coverage, lint, docs, reproduce, release or setup.

Needs git and python3 (3.11 or newer), nothing else. The environment is .venv; it is made again when
pyproject.toml or constraints.txt change.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent
ENVIRONMENT = ROOT / ".venv"
PYTHON = ENVIRONMENT / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
STAMP = ENVIRONMENT / "smoothgen-setup"
EXTRAS = {
    "run": "",
    "reproduce": "[peers]",
    "setup": "[test,docs,dev]",
    "test": "[test]",
    "coverage": "[test]",
    "lint": "[test,dev]",
    "docs": "[docs]",
    "release": "",
}


def call(*command: str, **environment: str) -> None:
    """Runs a command in the repository; ends this program with its exit code if it fails."""
    code = subprocess.run(command, cwd=ROOT, env=os.environ | environment).returncode
    if code:
        sys.exit(code)


def setup(extras: str) -> None:
    """Makes .venv with torch first (so that nothing pulls another), then smoothgen with its pinned dependencies."""
    pinned = (ROOT / "pyproject.toml").read_bytes() + (ROOT / "constraints.txt").read_bytes()
    wanted = hashlib.sha256(pinned + str(ROOT).encode()).hexdigest()
    done = STAMP.read_text().split() if STAMP.exists() else []
    if wanted in done and (extras in done or not extras):
        return
    if wanted not in done:
        done = []
    if not PYTHON.exists():
        print(f"making {ENVIRONMENT}", flush=True)
        venv.create(ENVIRONMENT, with_pip=True)
    pip = (str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    print("installing torch (some hundred megabytes the first time)", flush=True)
    call(*pip, "--constraint", "constraints.txt", "torch")
    print(f"installing smoothgen{extras}", flush=True)
    call(*pip, "--constraint", "constraints.txt", "--editable", f".{extras}")
    STAMP.write_text("\n".join([*dict.fromkeys([*done, wanted, extras])]))


def main() -> None:
    job, *rest = sys.argv[1:] or ["run"]
    if job not in EXTRAS:
        sys.exit(f"dev.py: unknown job {job!r}; one of {', '.join(EXTRAS)}")
    if sys.version_info < (3, 11):  # noqa: UP036 - whoever starts this may have any python
        sys.exit(f"dev.py: smoothgen needs Python 3.11 or newer, this is {sys.version.split()[0]}")
    setup(EXTRAS[job])
    python = str(PYTHON)
    if job == "run":
        call(python, "-m", "smoothgen", "train", *(rest or ["digits"]))
    elif job == "reproduce":
        call(python, "-m", "smoothgen", "reproduce", *(rest or ["all"]))
    elif job == "test":
        call(python, "-m", "pytest", "-n", "2", *rest)
    elif job == "coverage":
        call(python, "-m", "coverage", "erase")
        call(python, "-m", "coverage", "run", "-m", "pytest", "-n", "2", *rest)
        call(python, "-m", "coverage", "combine", "--quiet")
        call(python, "-m", "coverage", "report")
    elif job == "lint":
        call(python, "-m", "ruff", "check", ".")
        call(python, "-m", "ruff", "format", "--check", ".")
        call(python, "-m", "mypy")
    elif job == "docs":
        call(python, "-m", "mkdocs", *(rest or ["build", "--strict"]), NO_MKDOCS_2_WARNING="1")
    elif job == "release":
        call(python, "tests/release.py", *rest)


if __name__ == "__main__":
    main()
