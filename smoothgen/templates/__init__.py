"""What `smoothgen new-plugin` writes: a package for one part, whole and with tests that pass as written."""

from __future__ import annotations

import keyword
import re
import string
from importlib import metadata
from importlib.resources import files
from pathlib import Path

from smoothgen.checkpoint import write_atomically
from smoothgen.errors import ConfigError, RunDirectoryError
from smoothgen.registry import installed

KINDS = ("density", "kernel", "inverter", "data")
COMMON = {
    "pyproject.toml": "pyproject.toml.tmpl",
    "README.md": "README.md.tmpl",
    "LICENSE": "LICENSE.tmpl",
    ".gitignore": "gitignore.tmpl",
    ".github/workflows/test.yml": "workflow.yml.tmpl",
    "src/$module/__init__.py": "package.py.tmpl",
    "src/$module/py.typed": "",
    "tests/test_contract.py": "test_contract.py.tmpl",
    "tests/test_training.py": "test_training.py.tmpl",
}
"""File to write and the template of its text, by which every kind has them."""


def names_of(name: str) -> dict[str, str]:
    """The package's name as pip, Python and a configuration spell it, and its classes'. Raises ConfigError."""
    if not re.fullmatch(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*", name):
        raise ConfigError(f'"{name}" cannot be a package: use small letters, digits and single dashes, as in my-flow')
    module = name.replace("-", "_")
    if keyword.iskeyword(module) or keyword.issoftkeyword(module):
        raise ConfigError(f'"{name}" is a word of Python; choose another name')
    words = module.removeprefix("smoothgen_").split("_")
    title = "".join(word.capitalize() for word in words)
    return {"name": name.replace("_", "-"), "module": module, "type": "-".join(words), "title": title}


def write_package(name: str, kind: str, folder: Path) -> list[Path]:
    """Writes a package for a part of this kind into a folder that does not exist yet; returns its files.

    Raises ConfigError for a name that is no package's, is taken, or an unknown kind; RunDirectoryError where the folder
    exists or cannot be written.
    """
    if kind not in KINDS:
        raise ConfigError(f'--kind: unknown "{kind}"; choose {", ".join(KINDS)}')
    names = names_of(name)
    if names["type"] in installed().components.get(kind, {}):
        raise ConfigError(f'"{names["type"]}" is a {kind} already (see smoothgen plugins); choose another name')
    if names["module"] in metadata.packages_distributions():
        raise ConfigError(f'a package "{names["module"]}" is installed already; choose another name')
    if folder.exists():
        raise RunDirectoryError(f"{folder} exists; choose another name, or another folder with --out")
    texts = files(__name__)
    own = {f"src/$module/{kind}.py": f"{kind}.py.tmpl", "example.yaml": f"{kind}.yaml.tmpl"}
    values = names | {"kind": kind, "version": metadata.version("smoothgen")}
    written = []
    for group, templates in (("common", COMMON), ("kinds", own)):
        for target, template in templates.items():
            text = texts.joinpath(group, template).read_text(encoding="utf-8") if template else ""
            path = folder / string.Template(target).substitute(names)
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise RunDirectoryError(f"cannot make {path.parent}: {error.strerror}") from error
            write_atomically(path, _Text(text).substitute(values).encode())
            written.append(path)
    return sorted(written)


class _Text(string.Template):
    """Placeholders are @{name}, since TOML, YAML and Python use the dollar."""

    delimiter = "@"
    idpattern = "(?!)"
    braceidpattern = "[a-z]+"
