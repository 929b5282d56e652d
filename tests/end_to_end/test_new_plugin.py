"""Packages that `smoothgen new-plugin` writes pass their own tests as written, found by their own entry point."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from command_line import call

from smoothgen.errors import ConfigError, RunDirectoryError
from smoothgen.templates import KINDS, names_of, write_package


def installed_by_hand(package: Path, site: Path) -> None:
    """What pip writes for a package's metadata, from its own pyproject.toml."""
    project = tomllib.loads((package / "pyproject.toml").read_text())["project"]
    info = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    lines = [f"{name} = {module}" for name, module in project["entry-points"]["smoothgen"].items()]
    (info / "entry_points.txt").write_text("\n".join(["[smoothgen]", *lines]) + "\n")


def own_tests(package: Path, site: Path) -> subprocess.CompletedProcess[str]:
    """`pytest` in the package's folder, in a process of its own."""
    installed_by_hand(package, site)
    path = os.pathsep.join([str(package / "src"), str(site), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"], cwd=package, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}, timeout=280,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_it_passes_its_own_tests_as_written(kind, tmp_path):
    package = tmp_path / f"try-{kind}"
    write_package(f"try-{kind}", kind, package)
    done = own_tests(package, tmp_path / "site")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout


def test_what_is_written_is_whole(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answer = call(capsys, monkeypatch, "new-plugin", "my-flow")
    assert answer.code == 0, answer.err
    files = {str(path.relative_to("my-flow")) for path in Path("my-flow").rglob("*") if path.is_file()}
    assert files == {
        "pyproject.toml", "README.md", "LICENSE", ".gitignore", ".github/workflows/test.yml", "example.yaml",
        "src/my_flow/__init__.py", "src/my_flow/density.py", "src/my_flow/py.typed", "tests/test_contract.py",
        "tests/test_training.py",
    }  # fmt: skip
    assert all(file in answer.out for file in files)
    text = "".join(Path("my-flow", file).read_text() for file in files)
    assert "@{" not in text
    assert "pip install -e '.[test]' && pytest" in answer.out
    assert len(Path("my-flow/src/my_flow/density.py").read_text().splitlines()) <= 75


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("My Flow", "density", "cannot be a package"),
        ("../flow", "density", "cannot be a package"),
        ("3d", "density", "cannot be a package"),
        ("class", "density", "a word of Python"),
        ("match", "density", "a word of Python"),
        ("made", "density", r'"made" is a density already'),
        ("smoothgen-made", "density", r'"made" is a density already'),
        ("torch", "kernel", r'a package "torch" is installed already'),
        ("flow", "network", r'--kind: unknown "network"; choose density, kernel, inverter, data'),
    ],
)
def test_names_that_cannot_be_are_refused(tmp_path, name, kind, message):
    with pytest.raises(ConfigError, match=message):
        write_package(name, kind, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_nothing_is_overwritten(tmp_path):
    with pytest.raises(RunDirectoryError, match="exists; choose another"):
        write_package("flow", "density", tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(RunDirectoryError, match="cannot make"):
        write_package("flow", "density", tmp_path / "file" / "below")


def test_names_in_every_spelling():
    assert names_of("smoothgen-neural-spline") == {
        "name": "smoothgen-neural-spline", "module": "smoothgen_neural_spline", "type": "neural-spline",
        "title": "NeuralSpline",
    }  # fmt: skip
