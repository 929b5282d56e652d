"""smoothgen doctor: right about a sound installation, about each thing that can be wrong, and never struck by it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from smoothgen import doctor
from smoothgen.doctor import Finding

ROOT = Path(__file__).parents[2]


def examined(path: Path, *arguments: str, **variables: str) -> tuple[int, str]:
    """`smoothgen doctor` in a new process that finds what lies in `path` before anything else."""
    outer = [other for other in (os.environ.get("PYTHONPATH"),) if other]
    places = os.pathsep.join([str(path), str(ROOT), str(ROOT / "plugins"), *outer])
    environment = os.environ | {"PYTHONPATH": places} | variables
    command = [sys.executable, "-m", "smoothgen", "doctor", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=path, timeout=250)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout


def found(text: str) -> dict[tuple[str, str], Finding]:
    return {(item["section"], item["name"]): Finding(**item) for item in json.loads(text)["findings"]}


def test_a_sound_installation_is_called_so(tmp_path: Path) -> None:
    code, text = examined(tmp_path, "--json")
    findings = found(text)
    wrong = [finding for finding in findings.values() if finding.level == "wrong"]
    assert (code, json.loads(text)["ok"], wrong) == (0, True, [])
    import torch

    assert findings["packages", "torch"].value.startswith(torch.__version__)
    assert findings["devices", "cpu"].value.endswith(f"of {os.cpu_count()} cores")
    assert "density made" in findings["plugins", "smoothgen:made"].value
    assert ("environment", "PYTHONPATH") in findings and "GiB free" in findings["machine", "disk here"].value
    assert {"test", "peers", "docs"} <= {name for section, name in findings if section == "extras"}


def test_a_broken_torch_a_module_that_ends_the_process_and_bad_bounds(tmp_path: Path) -> None:
    """All at once: each costs a start of Python."""
    (tmp_path / "torch.py").write_text("raise ImportError('libtorch_cpu.so: cannot open shared object file')")
    (tmp_path / "einops.py").write_text("import os; os._exit(3)")
    info = tmp_path / "smoothgen-0.0.9.dist-info"
    info.mkdir()
    needed = ["torch>=2.8", "einops>=0.8", "pluggy>=99", "no-such-package>=1", "numpy>=1"]
    lines = ["Metadata-Version: 2.1", "Name: smoothgen", "Version: 0.0.9", *(f"Requires-Dist: {n}" for n in needed)]
    (info / "METADATA").write_text("\n".join(lines) + "\n")
    variables = {"CC": "/nowhere/cc", "SMOOTHGEN_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "many"}
    code, text = examined(tmp_path, "--json", WORLD_SIZE="2", RANK="first", **variables)
    findings = found(text)
    assert code == 2 and json.loads(text)["ok"] is False
    expected = {
        ("packages", "torch"): "cannot be imported: ImportError: libtorch_cpu.so",
        ("packages", "einops"): "it ends the process with exit code 3",
        ("packages", "pluggy"): "but >=99 is needed",
        ("packages", "no-such-package"): "missing",
        ("python", "installation"): "pip installed 0.0.9, but",
        ("compiled code", "compiler"): "/nowhere/cc",
        ("environment", "OMP_NUM_THREADS"): "not a number of threads",
        ("environment", "WORLD_SIZE"): "without LOCAL_RANK, MASTER_ADDR, MASTER_PORT",
        ("environment", "RANK"): "not a whole number",
    }
    for key, words in expected.items():
        assert words in findings[key].value and findings[key].level == "wrong" and findings[key].remedy, findings[key]
    assert findings["packages", "numpy"].level == "ok", "what comes after the module that ended the process is examined"
    assert findings["devices", "not examined"].level == findings["plugins", "not examined"].level == "note"
    assert {finding.section for finding in findings.values() if finding.level == "wrong"} == {
        section for section, _ in expected
    }


def test_a_broken_plugin_is_named_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from smoothgen import registry

    broken = registry.Registry()
    broken.broken.append(registry.BrokenPlugin("strange:part", "strange", "ImportError: needs\nlibfoo", "..."))
    monkeypatch.setattr(registry, "installed", lambda: broken)
    by_name = {finding.name: finding for finding in doctor._plugins()}
    assert by_name["strange:part"].value == "not loaded: ImportError: needs libfoo"
    assert "pip uninstall strange" in by_name["strange:part"].remedy
    assert by_name["built-in parts"].level == "wrong"


def test_a_check_that_fails_is_a_finding_and_hides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing() -> None:
        raise RuntimeError("unforeseen")

    checks = {"first": failing, "second": lambda: iter([Finding("second", "thing", "fine")])}
    monkeypatch.setattr(doctor, "CHECKS", checks)
    first, second = doctor.examine()
    assert first.level == "wrong" and "unforeseen" in first.value and second.value == "fine"


@pytest.mark.parametrize(
    ("free", "level"), [(0.5 * doctor.GIBIBYTE, "wrong"), (5.0 * doctor.GIBIBYTE, "ok")], ids=["little", "enough"]
)
def test_little_disk_is_wrong(monkeypatch: pytest.MonkeyPatch, free: float, level: str) -> None:
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda place: type("Usage", (), {"free": free}))
    monkeypatch.setattr(doctor, "_memory", lambda: (8.0, 0.25))
    here, temporary, memory = doctor._machine()
    assert here.level == temporary.level == level and memory.level == "note"


def test_the_text_says_what_is_wrong_and_what_to_do() -> None:
    findings = [
        Finding("packages", "torch", "missing", "wrong", "pip install 'torch>=2.8'"),
        Finding("compiled code", "compiler", "none", "note", "pip install 'smoothgen[compiled]'"),
        Finding("python", "python", "3.11"),
    ]
    text = doctor.text(findings)
    assert "what is wrong\n! packages: torch: missing\n    pip install 'torch>=2.8'" in text
    assert "could be better\n- compiled code: compiler: none\n    pip install 'smoothgen[compiled]'" in text
    assert "nothing is wrong" not in text
    assert doctor.text(findings[1:]).endswith("nothing is wrong")


def test_a_missing_compiler_costs_speed_and_an_unusable_cache_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from smoothgen import native

    monkeypatch.setenv("SMOOTHGEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(native.shutil, "which", lambda name: None)
    monkeypatch.setattr(native, "find_spec", lambda name: None)
    cache, compiler = doctor._compiled()
    assert cache.level == "ok" and compiler.level == "note" and "smoothgen[compiled]" in compiler.remedy
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SMOOTHGEN_CACHE", str(tmp_path / "file"))
    (cache,) = doctor._compiled()
    assert cache.level == "wrong"
