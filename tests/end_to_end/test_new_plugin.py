"""smoothgen new-plugin: each kind of package installs with pip and passes its own tests; bad requests are one line."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from command_line import call
from sandbox import Sandbox

import smoothgen
from smoothgen import new_plugin
from smoothgen.errors import ConfigError
from smoothgen.new_plugin import KINDS, PluginName, package, write_plugin


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Sandbox:
    return Sandbox(tmp_path_factory.mktemp("sandbox"))


@pytest.mark.slow
def test_what_the_command_prints_leads_to_passing_tests(sandbox: Sandbox) -> None:
    made = sandbox.run("smoothgen new-plugin my-density --kind density")
    assert made.code == 0, made.text
    commands = re.findall(r"^  (cd .*|pip .*|pytest)$", made.text, flags=re.M)
    assert len(commands) == 3, made.text
    tested = sandbox.run("\n".join(commands))
    assert tested.code == 0 and passed(tested.text) >= 6, tested.text
    again = sandbox.run("smoothgen new-plugin my-density --kind density --out elsewhere")
    assert again.code == 2 and "is registered by my_density.density; choose another name" in again.text


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "density"])
def test_a_package_installs_and_passes_its_own_tests(sandbox: Sandbox, kind: new_plugin.Kind) -> None:
    folder = write_plugin(f"my-{kind}", kind, sandbox.directory / f"my-{kind}")
    tested = sandbox.run('pip install -e ".[test]"\npytest', cwd=folder)
    assert tested.code == 0 and passed(tested.text) >= 6, tested.text


def passed(text: str) -> int:
    """How many tests pytest says have passed."""
    return int(re.findall(r"(\d+) passed", text)[-1])


@pytest.mark.parametrize("kind", KINDS)
def test_a_package_is_whole(tmp_path: Path, kind: new_plugin.Kind) -> None:
    folder = write_plugin("smoothgen-fresh-part", kind, tmp_path / "deep" / "fresh", author='Ada "A" Lovelace')
    project = tomllib.loads((folder / "pyproject.toml").read_text())
    assert project["project"]["name"] == "smoothgen-fresh-part"
    assert project["project"]["entry-points"]["smoothgen"] == {"fresh_part": "smoothgen_fresh_part"}
    assert project["project"]["license"] == "MIT" and project["project"]["authors"] == [{"name": 'Ada "A" Lovelace'}]
    assert 'Ada "A" Lovelace' in (folder / "LICENSE").read_text()
    assert (folder / "src" / "smoothgen_fresh_part" / "py.typed").read_text() == ""
    workflow = yaml.safe_load((folder / ".github" / "workflows" / "tests.yml").read_text())
    steps = [step.get("run") for step in workflow["jobs"]["tests"]["steps"]]
    assert steps[-2:] == ['pip install -e ".[test]"', "pytest"]
    assert yaml.safe_load((folder / "experiment.yaml").read_text())["name"] == "smoothgen-fresh-part"
    for file in folder.rglob("*"):
        if file.is_file() and file.name != "tests.yml":
            assert "$" not in file.read_text(), f"{file} has a placeholder left"
    assert not list((tmp_path / "deep").glob(".new-plugin-*"))


@pytest.mark.parametrize(("license", "words"), [("BSD-3-Clause", "Redistribution"), ("Apache-2.0", "Version 2.0")])
def test_the_licence_is_chosen(license: new_plugin.License, words: str) -> None:
    files = package(PluginName("mine"), "kernel", license, "Somebody", "Noise.")
    assert words in files["LICENSE"]
    assert tomllib.loads(files["pyproject.toml"])["project"]["license"] == license


def test_without_a_licence_the_readme_says_so() -> None:
    files = package(PluginName("mine"), "kernel", "none", "Somebody", "Noise.")
    assert "LICENSE" not in files and "license" not in tomllib.loads(files["pyproject.toml"])["project"]
    assert "nobody else may use" in files["README.md"]


@pytest.mark.parametrize(("version", "bounds"), [("0.1.0", ">=0.1,<0.2"), ("2.5.1", ">=2.5,<3")])
def test_the_dependency_follows_the_version(monkeypatch: pytest.MonkeyPatch, version: str, bounds: str) -> None:
    monkeypatch.setattr(smoothgen, "__version__", version)
    project = tomllib.loads(package(PluginName("mine"), "data", "MIT", "me", "Data.")["pyproject.toml"])["project"]
    assert project["dependencies"] == [f"smoothgen{bounds}"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Mine", "lower-case letters"),
        ("1st", "must begin with a letter"),
        ("my--part", "single dashes"),
        ("my part", "lower-case letters"),
        ("../part", "lower-case letters"),
        ("part\n", "lower-case letters"),
        ("pärt", "lower-case letters"),
        ("x" * 61, "60 at most"),
        ("", "must begin with a letter"),
        ("class", "no name of a Python module"),
        ("smoothgen-3d", "no name of a Python module"),
        ("json", "there is a module json already"),
        ("smoothgen", "there is a module smoothgen already"),
        ("tests", "there is a module tests already"),
        ("made", 'the density type "made" is registered by smoothgen_made.made'),
        ("smoothgen-made", 'the density type "made" is registered by'),
        ("einops", "a module einops is installed here already"),
        ("frame", "its class would hide Frame, which the part needs"),
        ("density-model", "its class would hide DensityModel"),
    ],
)
def test_bad_names_are_one_clear_line(
    name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    answer = call(capsys, monkeypatch, "new-plugin", name, "--kind", "density")
    assert answer.code == 2
    line, rest = answer.err.split("\n", 1) if "\n" not in name else (answer.err.replace("\n", " "), "")
    assert line.startswith("error: ") and message in line and not rest
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("option", ["--author", "--description"])
@pytest.mark.parametrize("text", ["two\nlines", 'a """ quote', "a \\ slash"])
def test_texts_that_would_break_a_file_are_refused(
    option: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    answer = call(capsys, monkeypatch, "new-plugin", "fresh", "--kind", "data", option, text)
    assert answer.code == 2 and answer.err.startswith(f"error: {option} ") and answer.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_the_type_of_another_interface_may_be_taken(tmp_path: Path) -> None:
    assert "laplace" in smoothgen.installed().components["kernel"]
    assert write_plugin("laplace", "density", tmp_path / "laplace").is_dir()


def test_what_exists_is_never_touched(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("precious")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for taken in ("full", "dangling"):
        with pytest.raises(ConfigError, match="exists already"):
            write_plugin("fresh", "data", tmp_path / taken)
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine.txt"]
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        write_plugin("fresh", "data", tmp_path / "file" / "below")


def test_nothing_is_left_when_writing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[Path] = []

    def failing(path: Path, text: str, encoding: str) -> int:
        written.append(path)
        if len(written) == 4:
            raise OSError(28, "No space left on device")
        return len(text)

    monkeypatch.setattr(Path, "write_text", failing)
    with pytest.raises(ConfigError, match="No space left on device"):
        write_plugin("fresh", "data", tmp_path / "fresh")
    assert len(written) == 4 and not list(tmp_path.iterdir())


def test_an_unknown_kind_names_the_known_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    answer = call(capsys, monkeypatch, "new-plugin", "fresh", "--kind", "densty")
    assert answer.code == 2 and "density" in answer.err and "inverter" in answer.err
