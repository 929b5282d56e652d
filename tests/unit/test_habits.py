"""Python habits: --version, python -m, shell completion, typed packages."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import smoothgen

ROOT = Path(__file__).parents[2]
AS_INSTALLED = "import sys; sys.argv[0] = 'smoothgen'; from smoothgen.cli import main; main()"
"""The program by its own name, which completion is registered for."""


def complete(shell: str, line: str) -> list[str]:
    """What is offered for the last word of a line, as the shell's own script asks for it."""
    words = line.split(" ")
    variables = {
        "bash": {"COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)},
        "zsh": {"_TYPER_COMPLETE_ARGS": line},
        "fish": {"_TYPER_COMPLETE_ARGS": line, "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
    }[shell]
    environment = os.environ | variables | {"_SMOOTHGEN_COMPLETE": f"complete_{shell}"}
    done = subprocess.run([sys.executable, "-c", AS_INSTALLED], capture_output=True, text=True, env=environment)
    assert not done.stderr, done.stderr
    return done.stdout.splitlines()


def test_bash_completes_commands_recipes_and_kinds() -> None:
    assert complete("bash", "smoothgen tra") == ["train"]
    assert complete("bash", "smoothgen train dig") == ["digits", "digits-pixelcnn"]
    assert complete("bash", "smoothgen new-plugin mine --kind ") == ["density", "kernel", "inverter", "data"]
    assert "--json" in complete("bash", "smoothgen doctor --")


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_complete_too(shell: str) -> None:
    offered = "\n".join(complete(shell, "smoothgen doc"))
    assert "doctor" in offered and "denoise" not in offered


def test_completion_is_fast_enough_to_use() -> None:
    """It must not import torch."""
    code = AS_INSTALLED.replace("main()", "\ntry: main()\nexcept SystemExit: pass\nprint('torch' in sys.modules)")
    variables = {"COMP_WORDS": "smoothgen train ri", "COMP_CWORD": "2", "_SMOOTHGEN_COMPLETE": "complete_bash"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | variables)
    assert done.stdout.split() == ["rings", "False"], done.stdout + done.stderr


def test_python_m_smoothgen_prints_the_version() -> None:
    done = subprocess.run([sys.executable, "-m", "smoothgen", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"smoothgen {smoothgen.__version__}\n"), done.stderr


def test_the_version_is_semantic_and_the_changelogs() -> None:
    from packaging.version import Version

    assert len(Version(smoothgen.__version__).release) == 3
    assert f"## {smoothgen.__version__}" in (ROOT / "docs" / "changelog.md").read_text()


def test_every_package_of_the_wheel_is_typed() -> None:
    """PEP 561: without the marker type checkers see `Any` in the package of whoever uses it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert len(packages) >= 9
    for package in packages:
        assert (ROOT / package / "py.typed").is_file(), f"{package}/py.typed is missing"
