"""A new plugin package from templates: a working part of one kind, its tests, and what a package needs around it."""

from __future__ import annotations

import ast
import datetime
import importlib.util
import json
import keyword
import re
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Literal, get_args

import smoothgen
from smoothgen.errors import ConfigError

Kind = Literal["density", "kernel", "inverter", "data"]
License = Literal["MIT", "BSD-3-Clause", "Apache-2.0", "none"]
KINDS: tuple[Kind, ...] = get_args(Kind)

TEMPLATES = Path(__file__).parent / "templates"
PREFIX = "smoothgen_"
"""What a package's name may begin with; the type that configurations ask for does without."""
NAME = re.compile(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*")
LONGEST_NAME = 60
TAKEN = ("smoothgen", "tests", "src")
SUMMARIES: dict[Kind, str] = {
    "density": "A density: a mixture of Gaussians computed from the context.",
    "kernel": "A noise kernel: Student-t noise.",
    "inverter": "An inverter: p(x | x_tilde) by independent Gaussians around x_tilde.",
    "data": "A data source: a thin curve whose density is known.",
}
SMALL: dict[Kind, str] = {
    "density": "components=4, hidden=16",
    "kernel": "sigma=0.3",
    "inverter": "hidden=16",
    "data": "",
}
"""The settings that the contract is run with: it does not take long."""

NO_LICENSE = """None has been chosen, so nobody else may use this package. Before you publish it, add a file `LICENSE`
and the key `license` in `pyproject.toml`."""


@dataclass(frozen=True)
class PluginName:
    """How one name is spelt in different places. Raises ConfigError where it cannot be."""

    name: str

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name) or len(self.name) > LONGEST_NAME:
            raise ConfigError(
                f'name "{self.name}": must begin with a letter and hold lower-case letters, digits and single dashes '
                f"only, {LONGEST_NAME} at most, as in my-density"
            )
        if keyword.iskeyword(self.module) or not self.tag.isidentifier():
            raise ConfigError(f'name "{self.name}": {self.module} is no name of a Python module of a part; add a word')
        if self.module in TAKEN or self.module in sys.stdlib_module_names:
            raise ConfigError(f'name "{self.name}": there is a module {self.module} already; add a word')

    @property
    def module(self) -> str:
        """What is imported: underscores for dashes."""
        return self.name.replace("-", "_")

    @property
    def tag(self) -> str:
        """What a configuration asks for by `type`."""
        return self.module.removeprefix(PREFIX)

    @property
    def cls(self) -> str:
        """The part's class."""
        return "".join(word.capitalize() for word in self.tag.split("_"))


def write_plugin(
    name: str,
    kind: Kind,
    out: Path | None = None,
    *,
    license: License = "MIT",
    author: str = "",
    description: str = "",
) -> Path:
    """Writes an installable package into a new folder, `out` or NAME, whole or not at all; returns the folder.

    Raises ConfigError for a name that is bad or taken and for a folder that exists or cannot be made.
    """
    spelt = PluginName(name)
    folder = Path(name) if out is None else out
    if folder.exists() or folder.is_symlink():
        raise ConfigError(f"{folder} exists already; choose another name, or --out a folder that does not exist")
    _refuse_installed(spelt, kind)
    files = package(spelt, kind, license, author or f"The {name} authors", description or SUMMARIES[kind])
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".new-plugin-", dir=folder.parent) as room:
            made = Path(room) / "package"
            for path, text in files.items():
                (made / path).parent.mkdir(parents=True, exist_ok=True)
                (made / path).write_text(text, encoding="utf-8")
            shutil.move(made, folder)
    except OSError as error:
        raise ConfigError(f"{folder} cannot be written: {error}; choose another --out") from error
    return folder


def package(name: PluginName, kind: Kind, license: License, author: str, description: str) -> dict[str, str]:
    """Every file of the package, by its path. Raises ConfigError where the class hides one that the part imports."""
    for option, text in (("author", author), ("description", description)):
        if not text.isprintable() or '"""' in text or "\\" in text:
            raise ConfigError(f"--{option} {text!r}: must be one line without backslashes and triple quotes")
    words = _words(name, kind, license, author, description)
    part = _filled(f"kinds/{kind}/part.py", words)
    hidden = {name.cls, f"{name.cls}Config"} & _imported(part)
    if hidden:
        raise ConfigError(f'name "{name.name}": its class would hide {hidden.pop()}, which the part needs; add a word')
    words["about"] = _filled(f"kinds/{kind}/about.md", words).rstrip()
    words["experiment"] = _filled(f"kinds/{kind}/experiment.yaml", words)
    files = {
        f"src/{name.module}/__init__.py": _filled("package/init.py", words),
        f"src/{name.module}/{kind}.py": part,
        f"src/{name.module}/py.typed": "",
        "tests/test_contract.py": _filled("package/test_contract.py", words),
        f"tests/test_{kind}.py": _filled(f"kinds/{kind}/test_part.py", words),
        "tests/test_experiment.py": _filled("package/test_experiment.py", words),
        "experiment.yaml": words["experiment"],
        "pyproject.toml": _filled("package/pyproject.toml", words),
        "README.md": _filled("package/README.md", words),
        ".gitignore": _filled("package/gitignore", words),
        ".github/workflows/tests.yml": _filled("package/workflow.yml", words),
    }
    if license != "none":
        files["LICENSE"] = _filled(f"licenses/{license}", words)
    return files


def _words(name: PluginName, kind: Kind, license: License, author: str, description: str) -> dict[str, str]:
    """What stands for the placeholders of the templates."""
    major, minor = (int(number) for number in smoothgen.__version__.split(".")[:2])
    known = license != "none"
    return {
        "name": name.name,
        "module": name.module,
        "tag": name.tag,
        "cls": name.cls,
        "kind": kind,
        "kind_words": "data source" if kind == "data" else kind,
        "summary": description,
        "quoted_summary": json.dumps(description, ensure_ascii=False),
        "config": f"{name.cls}Config({SMALL[kind]})",
        "author": author,
        "quoted_author": json.dumps(author, ensure_ascii=False),
        "year": str(datetime.date.today().year),
        "license_keys": f'license = "{license}"\nlicense-files = ["LICENSE"]\n' if known else "",
        "license_words": f"{license}, see `LICENSE`." if known else NO_LICENSE,
        "smoothgen": f"{major}.{minor}",
        # before 1.0 a minor version may change what plugins are built on
        "next_smoothgen": f"{major}.{minor + 1}" if major == 0 else str(major + 1),
    }


def _filled(template: str, words: dict[str, str]) -> str:
    return Template((TEMPLATES / f"{template}.txt").read_text(encoding="utf-8")).substitute(words)


def _imported(source: str) -> set[str]:
    """The names that a module's imports bind."""
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Import | ast.ImportFrom)]
    return {alias.asname or alias.name for node in nodes for alias in node.names}


def _refuse_installed(name: PluginName, kind: Kind) -> None:
    """Raises ConfigError where another package has the module's name or the type."""
    from smoothgen.registry import installed

    taken = installed().components[kind].get(name.tag)
    if taken is not None:
        raise ConfigError(
            f'name "{name.name}": the {kind} type "{name.tag}" is registered by {taken.__module__}; choose another name'
        )
    spec = importlib.util.find_spec(name.module)
    if spec is not None and spec.origin is not None:  # a mere folder of that name has no origin
        raise ConfigError(f'name "{name.name}": a module {name.module} is installed here already; choose another name')
