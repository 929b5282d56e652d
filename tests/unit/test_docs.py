"""The documentation: its code runs, its links lead somewhere, it needs no network, and it names every key."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from page_commands import PageShell, commands, short
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

import smoothgen
from smoothgen.config import EvaluationConfig, ExperimentConfig, TrainerConfig, recipes
from smoothgen.device import DeviceConfig
from smoothgen.registry import installed
from smoothgen_datasets.toy import ToyConfig

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(page for page in DOCS.rglob("*.md") if "examples" not in page.relative_to(DOCS).parts)
FENCE = re.compile(r"^(?P<indent> *)```(?P<language>[a-z]*)[^\n]*\n(?P<code>.*?)^(?P=indent)```$", re.M | re.S)


def blocks(page: Path, language: str) -> list[tuple[int, str, bool]]:
    """(first line, code, whether it runs) of every fenced block in this language."""
    text = page.read_text()
    found = []
    for match in FENCE.finditer(text):
        if match["language"] == language:
            line = text.count("\n", 0, match.start()) + 2
            before = text[: match.start()].rstrip().rpartition("\n")[2].strip()
            code = re.sub(rf"^{match['indent']}", "", match["code"], flags=re.M)
            found.append((line, code, not before.startswith("<!-- not-run")))
    return found


def titled(page: Path) -> list[tuple[str, str]]:
    """(file name, content) of every YAML block that names a file: the page's code may read it."""
    found = re.findall(r"^```yaml title=\"([\w.-]+)\"\n(.*?)^```$", page.read_text(), flags=re.M | re.S)
    return [(name, code) for name, code in found]


def without_code(text: str) -> str:
    """The page without fenced blocks and code spans."""
    return re.sub(r"`[^`\n]*`", "", FENCE.sub("", text))


def names(pages: list[Path]) -> list[str]:
    return [str(page.relative_to(DOCS)) for page in pages]


@pytest.fixture
def _fresh_registry() -> Iterator[None]:
    """A page may register plugins; the tests after it must not see them."""
    yield
    installed.cache_clear()


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that `smoothgen train digits` leaves, after two steps."""
    directory = tmp_path_factory.mktemp("docs") / "digits"
    smoothgen.fit("digits", directory, overrides=short("digits", []))
    return directory


OF_THEIR_OWN = {f"how-to/{name}.md" for name in ("backbone", "data-source", "feature-network", "inverter", "kernel")}
"""Pages whose commands make and install a package: tests/end_to_end/test_howto.py runs them to the letter."""

PAGES_WITH_CODE = [page for page in PAGES if blocks(page, "python") or blocks(page, "bash")]


def own_table() -> None:
    """The file and the configuration that docs/tutorials/own-data.md begins with."""
    page = DOCS / "tutorials" / "own-data.md"
    for title, code in titled(page):
        Path(title).write_text(code)
    exec(blocks(page, "python")[0][1], {})


def own_run() -> None:
    if not Path("mine.yaml").exists():
        own_table()
    smoothgen.fit("mine.yaml", "runs/mine", overrides=short("mine.yaml", []))


def images() -> None:
    np.save("images.npy", smoothgen.load_config("digits").data.build().split("test").x[:2].numpy())


@pytest.mark.parametrize("page", PAGES_WITH_CODE, ids=names(PAGES_WITH_CODE))
@pytest.mark.usefixtures("_fresh_registry")
def test_code_blocks_run(
    page: Path, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    languages = ("python",) if str(page.relative_to(DOCS)) in OF_THEIR_OWN else ("python", "bash")
    runs = sorted((line, code, kind) for kind in languages for line, code, run in blocks(page, kind) if run)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()

    def digits() -> None:
        (tmp_path / "runs" / "digits").symlink_to(request.getfixturevalue("digits_run"))

    wanted = {"runs/digits": digits, "mine.yaml": own_table, "runs/mine": own_run, "images.npy": images}
    for name in ("runs/rings", "runs/rings-2"):
        wanted[name] = functools.partial(smoothgen.fit, "rings", name, overrides=short("rings", []))
    shell = PageShell(wanted)
    if page.name != "digits.md" and any("runs/digits" in code for _, code, kind in runs if kind == "python"):
        digits()
    for title, code in titled(page):
        (tmp_path / title).write_text(code.replace("steps: 1000", "steps: 5"))
    module = ModuleType(f"docs_{page.stem.replace('-', '_')}")  # pydantic and pluggy look their names up in a module
    monkeypatch.setitem(sys.modules, module.__name__, module)
    with torch.random.fork_rng(devices=[]):
        for line, code, kind in runs:
            if kind == "bash":
                for command in commands(code):
                    shell.run(command)
                continue
            source = "\n" * (line - 1) + code  # so that a traceback shows the page's own line
            exec(compile(source, str(page), "exec"), vars(module))


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_internal_links_and_images_exist(page: Path) -> None:
    text = re.sub(r"<!--.*?-->", "", without_code(page.read_text()), flags=re.S)
    targets = re.findall(r"\]\(([^)\s]+)[^)]*\)", text) + re.findall(r"(?:src|href)=\"([^\"]+)\"", text)
    for target in targets:
        path, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", path):
            continue
        linked = (page.parent / path).resolve() if path else page
        assert linked.is_file(), f"{page.name} links to {target}, which does not exist"
        if anchor and linked.suffix == ".md" and not anchor.startswith("smoothgen."):
            assert anchor in anchors(linked), f"{page.name} links to {target}; {linked.name} has no such heading"


def anchors(page: Path) -> set[str]:
    """The identifiers of a page's headings and of what it says explicitly."""
    text = FENCE.sub("", page.read_text())
    headings = re.findall(r"^#+ +(.+)$", text, flags=re.M)
    slugs = {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}
    return slugs | set(re.findall(r"id=\"([^\"]+)\"", text))


def test_the_navigation_holds_every_page() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text()
    for page in names(PAGES):
        assert re.search(rf": {re.escape(page)}$", navigation, flags=re.M), f"mkdocs.yml: {page} is not in nav"


def test_nothing_is_fetched_from_elsewhere() -> None:
    """Scripts, styles, fonts and images are in the repository, so that the built site reads without a network."""
    loads = re.compile(r"<(?:script|link|img|iframe|source|use)\b[^>]*(?:src|href)=\"(?:https?:)?//", re.I)
    files = [file for file in DOCS.rglob("*") if file.suffix in {".md", ".css", ".js", ".html", ".svg"}]
    for file in files:
        text = file.read_text()
        assert not loads.search(text), f"{file}: loads something from the network"
        assert not re.search(r"!\[[^\]]*\]\((?:https?:)?//", text), f"{file}: an image from the network"
        assert not re.search(r"(?:url\(|@import\s+)[\"']?(?:https?:)?//", text), f"{file}: a style from the network"
        assert "```mermaid" not in text, f"{file}: mermaid comes from a CDN; draw an SVG"
    settings = (ROOT / "mkdocs.yml").read_text()
    assert not re.search(r"https?://", settings), "mkdocs.yml names an address"
    assert "font: false" in settings, "mkdocs.yml: without theme.font false the pages load Google's fonts"


def test_the_site_builds_strictly(tmp_path: Path) -> None:
    pytest.importorskip("material")
    pytest.importorskip("mkdocstrings")
    result = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    loads = re.compile(r"<(?:script|img|iframe|link(?![^>]*rel=\"canonical\"))\b[^>]*(?:src|href)=\"?(?:https?:)?//")
    for page in (tmp_path / "site").rglob("*.html"):
        assert not loads.search(page.read_text()), f"{page.relative_to(tmp_path)} loads something from the network"


def shown(default: Any) -> str:
    """A default value as the tables print it."""
    if default is PydanticUndefined:
        return "required"
    if isinstance(default, tuple):
        return "[" + ", ".join(str(value) for value in default) + "]"
    if default is None or isinstance(default, bool):
        return "null" if default is None else str(default).lower()
    return str(default)


def documented() -> list[tuple[str, type[BaseModel]]]:
    """(heading in config.md, class) of everything that a configuration file can hold."""
    core = [
        ("Experiment", ExperimentConfig),
        ("Trainer", TrainerConfig),
        ("Evaluate", EvaluationConfig),
        ("Device", DeviceConfig),
    ]
    own = [
        ("Toy sets" if issubclass(cls, ToyConfig) else tag, cls)
        for components in installed().components.values()
        for tag, cls in components.items()
        if cls.__module__.partition(".")[0].startswith("smoothgen")
    ]
    return core + own


@pytest.mark.parametrize(("heading", "cls"), documented(), ids=lambda value: getattr(value, "__name__", value))
def test_the_configuration_reference_is_complete(heading: str, cls: type[BaseModel]) -> None:
    """Every key has a row | `key` | default | meaning | under the component's heading, with its true default.

    The toy sets share a heading: there a set has a row | `set` |, and its own keys have rows | `set.key` |.
    """
    sections = re.split(r"^#+ +", (DOCS / "reference" / "config.md").read_text(), flags=re.M)
    found = [s for s in sections if heading in re.split(r", *", s.partition("\n")[0].strip())]
    assert found, f"docs/reference/config.md: no heading for {heading!r} ({cls.__name__})"
    rows = dict(re.findall(r"^\| `([\w.]+)` \| ([^|]*?) *\|", "\n".join(found), flags=re.M))
    if issubclass(cls, ToyConfig):
        own = f"{cls.tag()}."
        assert cls.tag() in rows, f"docs/reference/config.md: {heading}: no row for `{cls.tag()}`"
        rows |= {name.removeprefix(own): default for name, default in rows.items() if name.startswith(own)}
    for key, field in cls.model_fields.items():
        if key == "type":
            continue
        assert key in rows, f"docs/reference/config.md: {heading}: no row for `{key}`"
        default = field.get_default(call_default_factory=True)
        if not isinstance(default, BaseModel):
            assert rows[key].strip() == shown(default), f"docs/reference/config.md: {heading}.{key}: default"


def test_yaml_blocks_are_valid_configurations() -> None:
    import yaml

    for page in PAGES:
        for line, code, run in blocks(page, "yaml"):
            document = yaml.safe_load(code)
            if run and isinstance(document, dict) and {"data", "kernel", "density", "inverter"} <= set(document):
                try:
                    smoothgen.load_config(document)
                except smoothgen.SmoothgenError as error:
                    raise AssertionError(f"{page.name}, line {line}: {error}") from error


def test_the_command_reference_names_every_command_and_option() -> None:
    from typer.main import get_command

    from smoothgen.cli import app

    (_, summary, _), *_ = blocks(DOCS / "reference" / "cli.md", "text")
    usage = {line.split()[1]: line for line in summary.splitlines()}
    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        assert name in usage, f"docs/reference/cli.md does not name the command {name}"
        for parameter in command.params:
            options = [option for option in parameter.opts if option.startswith("-")]
            opening = " " if parameter.required else "["
            known = not options or any(f"{opening}{option}" in usage[name] for option in options)
            assert known or "--help" in options, f"docs/reference/cli.md: {name} without {options[0]}"
        for option in re.findall(r"\[(-[\w-]+)", usage[name]):
            named = any(option in parameter.opts for parameter in command.params)
            assert named, f"docs/reference/cli.md: {name} has no {option}"


def test_the_configuration_reference_names_every_recipe() -> None:
    page = (DOCS / "reference" / "config.md").read_text()
    for name in recipes():
        assert f"| `{name}` |" in page, f"docs/reference/config.md: no row for the recipe {name}"


def test_every_public_name_is_in_the_python_reference() -> None:
    page = (DOCS / "reference" / "api.md").read_text()
    for name in smoothgen.__all__:
        assert name == "__version__" or f"`{name}`" in page, f"docs/reference/api.md does not name smoothgen.{name}"
