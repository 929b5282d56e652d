"""The release checklist as a command: python3 dev.py release [--python PYTHON]... [--out FILE]

From a clean clone of HEAD it builds sdist and wheel twice, in folders of other names and at other times, and compares
their bytes; looks into them; installs the wheel with its own dependencies alone into a new environment for each Python;
imports it, trains on a csv file, samples, and times the way from an empty folder to that picture. It uploads nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import venv
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WANTED = (
    "smoothgen/py.typed",
    "smoothgen/recipes/digits.yaml",
    "smoothgen/recipes/smoothgen.schema.json",
    "smoothgen/c/dense.c",
    "smoothgen_pixelcnnpp/native/",
    "smoothgen_realnvp/native/",
    "smoothgen_features/weights/",
)
UNWANTED = ("tests/", "docs/", ".ci/", "__pycache__", ".venv", ".github/")
OWN_DATA = """\
data: {type: array, path: measurements.csv}
kernel: {type: gaussian, sigma: 0.3}
density: {type: made, hidden: [64, 64], components: 6, fourier: 3}
inverter: {type: conditional, density: {type: made, hidden: [64, 64], components: 6, fourier: 3}}
trainer: {max_steps: 600}
device: {device: cpu}
"""
TABLE = (
    "import csv, math, random\nrandom.seed(0)\n"
    "rows = [(20 + 40 * random.random(),) for _ in range(2000)]\n"
    "writer = csv.writer(open('measurements.csv', 'w', newline=''))\nwriter.writerow(['length_mm', 'weight_g'])\n"
    "writer.writerows([(a, 2e-4 * a**3 * math.exp(random.gauss(0, 0.05))) for (a,) in rows])\n"
)


class Failed(Exception):
    """A check that does not hold."""


@dataclass
class Checklist:
    """What was checked and how it went."""

    lines: list[dict[str, object]] = field(default_factory=list)

    def passed(self, what: str, found: object) -> None:
        """Notes a check that holds, and prints it."""
        self.lines.append({"check": what, "found": found})
        print(f"ok    {what}: {found}", flush=True)


def call(*command: str | Path, cwd: Path, env: dict[str, str] | None = None) -> str:
    """Runs a command; raises Failed with the end of what it said."""
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(list(map(str, command)), cwd=cwd, capture_output=True, text=True, env=clean | (env or {}))
    if done.returncode:
        raise Failed(
            f"{' '.join(map(str, command))} ended with {done.returncode}:\n{(done.stdout + done.stderr)[-3000:]}"
        )
    return done.stdout


def python_of(environment: Path) -> Path:
    """The interpreter of a virtual environment."""
    return environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def check_texts(clone: Path, checklist: Checklist) -> str:
    """One version in code, changelog and citation; returns it."""
    version = re.search(r'__version__ = "([^"]+)"', (clone / "smoothgen/__init__.py").read_text())
    if version is None:
        raise Failed("smoothgen/__init__.py names no version")
    heading = re.search(r"^## (\S+)", (clone / "docs/changelog.md").read_text(), re.M)
    if heading is None or heading[1] != version[1]:
        raise Failed(f"docs/changelog.md begins with {heading and heading[1]}, the code is {version[1]}")
    citation = clone / "CITATION.cff"
    if not citation.is_file() or f"version: {version[1]}" not in citation.read_text():
        raise Failed(f"CITATION.cff does not say version: {version[1]}")
    checklist.passed("version in code, changelog and citation", version[1])
    return version[1]


def build(clone: Path, into: Path, tools: Path, epoch: str) -> dict[str, str]:
    """sdist, and the wheel made of it; their digests by file name."""
    call(python_of(tools), "-m", "build", "--outdir", into, clone, cwd=clone, env={"SOURCE_DATE_EPOCH": epoch})
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(into.iterdir())}


def check_contents(built: Path, checklist: Checklist) -> Path:
    """The wheel holds what it needs and nothing else; returns the wheel."""
    (wheel,), (sdist,) = built.glob("*.whl"), built.glob("*.tar.gz")
    names = zipfile.ZipFile(wheel).namelist()
    missing = [wanted for wanted in WANTED if not any(name.startswith(wanted) for name in names)]
    surplus = [name for name in names if any(part in name for part in UNWANTED)]
    if missing or surplus:
        raise Failed(f"{wheel.name} lacks {missing} and has too much: {surplus[:5]}")
    with tarfile.open(sdist) as archive:
        inside = archive.getnames()
    if not any(name.endswith("/pyproject.toml") for name in inside) or any(".venv" in name for name in inside):
        raise Failed(f"{sdist.name} is not a clean source tree")
    sizes = f"{wheel.stat().st_size / 1e6:.2f} MB wheel, {sdist.stat().st_size / 1e6:.2f} MB sdist"
    checklist.passed("contents", f"{len(names)} files in the wheel; {sizes}")
    return wheel


def check_installed(wheel: Path, interpreter: str, work: Path, checklist: Checklist) -> None:
    """A new environment with the wheel alone: imports, trains on a csv file, samples; timed from the empty folder."""
    version = call(interpreter, "-c", "import platform; print(platform.python_version())", cwd=work).strip()
    place = work / f"python-{version}"
    place.mkdir()
    began = time.monotonic()
    call(interpreter, "-m", "venv", place / "environment", cwd=place)
    python = python_of(place / "environment")
    pip = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-c", ROOT / "constraints.txt")
    call(*pip, "torch", cwd=place)
    call(*pip, wheel, cwd=place)
    installed = time.monotonic()
    call(python, "-m", "pip", "check", cwd=place)
    warm = time.monotonic()
    call(python, "-c", TABLE, cwd=place)
    (place / "mine.yaml").write_text(OWN_DATA)
    program = python.with_name("smoothgen")
    call(program, "train", "mine.yaml", cwd=place)
    call(program, "sample", "runs/mine", "-n", "500", "--out", "samples.csv", cwd=place)
    seconds = time.monotonic() - warm
    if not (place / "runs/mine/samples.png").is_file() or len((place / "samples.csv").read_text().splitlines()) != 501:
        raise Failed(f"python {version}: train and sample left no picture or no samples")
    extras = call(python, "-m", "pip", "list", "--format=freeze", cwd=place).lower()
    surplus = [name for name in ("zuko", "nflows", "pytest", "hypothesis", "mkdocs", "gradio") if f"{name}==" in extras]
    if surplus:
        raise Failed(f"python {version}: the core pulls {surplus}")
    call(python, "-W", "error", "-c", "import smoothgen; smoothgen.build('rings')", cwd=place)
    found = f"environment in {installed - began:.0f} s, then train and sample a csv file in {seconds:.0f} s, 4 commands"
    checklist.passed(f"wheel on python {version}", found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--python", action="append", help="install into this one; repeatable; by default the one that runs"
    )
    parser.add_argument("--out", type=Path, help="JSON file for what was checked")
    options = parser.parse_args()
    checklist = Checklist()
    work = Path(tempfile.mkdtemp(prefix="smoothgen-release-"))
    try:
        clones = [work / "one", work / "another-folder"]
        for clone in clones:
            call("git", "clone", "--quiet", "--no-hardlinks", ROOT, clone, cwd=work)
        changed = call("git", "status", "--porcelain", cwd=ROOT).strip()
        if changed:
            raise Failed(f"the checkout has changes that are not committed:\n{changed}")
        check_texts(clones[0], checklist)
        tools = work / "tools"
        venv.create(tools, with_pip=True)
        call(python_of(tools), "-m", "pip", "install", "--quiet", "build", "twine", cwd=work)
        epoch = call("git", "log", "-1", "--format=%ct", cwd=clones[0]).strip()
        digests = [build(clone, work / f"dist-{n}", tools, epoch) for n, clone in enumerate(clones)]
        if digests[0] != digests[1]:
            raise Failed(f"two builds of one commit differ: {digests}")
        for name, digest in digests[0].items():
            checklist.passed(f"{name} built twice, the same bytes", digest)
        wheel = check_contents(work / "dist-0", checklist)
        call(python_of(tools), "-m", "twine", "check", "--strict", *(work / "dist-0").iterdir(), cwd=work)
        checklist.passed("twine check --strict", "the package index will show it")
        for interpreter in options.python or [sys.executable]:
            check_installed(wheel, interpreter, work, checklist)
    except Failed as failure:
        sys.exit(f"FAILED: {failure}")
    finally:
        shutil.rmtree(work, ignore_errors=True)
    if options.out:
        commit = call("git", "rev-parse", "HEAD", cwd=ROOT).strip()
        options.out.write_text(json.dumps({"commit": commit, "checks": checklist.lines}, indent=2) + "\n")
    print("left to do by hand: date in docs/changelog.md, `git tag -s`, `twine upload`, announce")


if __name__ == "__main__":
    main()
