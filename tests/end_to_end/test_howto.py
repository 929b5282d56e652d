"""The how-to pages, followed to the letter: every file written, every command run, in order, in an empty folder."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from sandbox import ROOT, Sandbox

HOW_TO = ROOT / "docs" / "how-to"
EXAMPLE = ROOT / "docs" / "examples" / "smoothgen-zuko-spline"
PAGES = ("backbone", "kernel", "inverter", "data-source", "feature-network")
FENCE = re.compile(r"^```(?P<language>[a-z]+)(?: title=\"(?P<title>[^\"]+)\")?\n(?P<code>.*?)^```$", re.M | re.S)
LINES = 60


def steps(page: Path) -> list[tuple[str | None, str]]:
    """(path, content) of every file and (None, commands) of every block of commands, in the order of the page."""
    text = page.read_text()
    found: list[tuple[str | None, str]] = []
    for match in FENCE.finditer(text):
        skipped = text[: match.start()].rstrip().rpartition("\n")[2].startswith("<!-- not-run")
        if match["title"]:
            found.append((match["title"], match["code"]))
        elif match["language"] == "bash" and not skipped:
            found.append((None, match["code"]))
    return found


def script(page: Path) -> str:
    """All of the page's steps for one shell, so that `cd` holds."""
    lines = []
    for path, content in steps(page):
        if path is None:
            lines.append(content)
        else:
            assert "END_OF_FILE" not in content
            lines.append(f"mkdir -p $(dirname {path})\ncat > {path} <<'END_OF_FILE'\n{content}END_OF_FILE\n")
    return "\n".join(lines)


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Sandbox:
    return Sandbox(tmp_path_factory.mktemp("sandbox"))


@pytest.mark.slow
@pytest.mark.parametrize("name", PAGES)
def test_the_page_works_as_written(sandbox: Sandbox, name: str) -> None:
    folder = sandbox.directory / name
    folder.mkdir()
    answer = sandbox.run(script(HOW_TO / f"{name}.md"), cwd=folder)
    assert answer.code == 0, answer.text
    assert re.search(r"\b[4-9] passed|\b1\d passed", answer.text), answer.text
    assert list(folder.rglob("runs/first/evaluation.json"))
    if name == "backbone":
        compare_with_the_example(folder / EXAMPLE.name)


def compare_with_the_example(made: Path) -> None:
    """The package in docs/examples is what the page makes, file by file, but for the year in its licence."""

    def files(folder: Path) -> dict[str, str]:
        left_out = {"runs", "samples.csv", "__pycache__", ".pytest_cache", ".ruff_cache", ".mypy_cache"}
        paths = [
            path for path in folder.rglob("*") if path.is_file() and not left_out & {*path.relative_to(folder).parts}
        ]
        return {
            str(path.relative_to(folder)): re.sub(r"Copyright \(c\) \d{4}", "Copyright (c)", path.read_text())
            for path in paths
        }

    assert files(made) == files(EXAMPLE)


def test_the_density_is_written_in_60_lines() -> None:
    files = dict(steps(HOW_TO / "backbone.md"))
    code = [line for line in files["src/smoothgen_zuko_spline/density.py"].splitlines() if line.strip()]
    assert len(code) <= LINES


def test_every_page_with_files_is_followed() -> None:
    with_files = {page.stem for page in HOW_TO.glob("*.md") if any(path for path, _ in steps(page))}
    assert with_files == set(PAGES)
