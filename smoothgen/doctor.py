"""What is installed and what is wrong with it. Needs neither torch nor plugins: it is for when they do not work."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import smoothgen

Level = Literal["ok", "note", "wrong"]


@dataclass(frozen=True)
class Finding:
    """One line. level: "wrong" is what breaks something, "note" what costs speed or a feature; `remedy` mends it."""

    section: str
    name: str
    value: str
    level: Level = "ok"
    remedy: str = ""


Check = Callable[[], Iterator[Finding]]
DISTRIBUTION = "smoothgen"
MODULES = {"scikit-learn": "sklearn", "pillow": "PIL", "pyyaml": "yaml"}
"""What is imported where it is not called as its distribution is."""
IMPORT_SECONDS = 120
TESTED = """
import importlib, sys
for name in sys.argv[1:]:
    print(f"{name} importing", flush=True)
    try:
        importlib.import_module(name)
    except BaseException as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())
        print(f"{name} failed {text}", flush=True)
    else:
        print(f"{name} ok", flush=True)
"""
VARIABLES = {
    "SMOOTHGEN_CACHE": "where compiled code is kept",
    "XDG_CACHE_HOME": "the same, of all programs",
    "CC": "the C compiler",
    "OMP_NUM_THREADS": "threads of torch",
    "MKL_NUM_THREADS": "threads of its matrix products",
    "CUDA_VISIBLE_DEVICES": "the GPUs that torch sees",
    "PYTORCH_CUDA_ALLOC_CONF": "how GPU memory is taken",
    "PYTHONPATH": "searched for modules first",
    "WORLD_SIZE": "set by torchrun: processes",
    "RANK": "set by torchrun: which of them",
    "LOCAL_RANK": "set by torchrun: which on this machine",
    "MASTER_ADDR": "set by torchrun: where they meet",
    "MASTER_PORT": "set by torchrun: the port there",
}
GIBIBYTE = 2**30
LITTLE = 1.0
"""GiB of disk or memory below which a run may end badly."""


def examine() -> list[Finding]:
    """Every finding. A check that fails itself is one."""
    findings: list[Finding] = []
    usable = True
    for name, check in CHECKS.items():
        if name in AFTER_TORCH and not usable:
            findings.append(Finding(name, "not examined", "torch cannot be imported", "note", "mend torch first"))
            continue
        try:
            findings += check()
        except Exception as error:  # whatever is broken must not hide the rest
            text = " ".join(f"{type(error).__name__}: {error}".split())
            findings.append(Finding(name, "not examined", text, "wrong", "the check itself failed; please report it"))
        usable = usable and not any(f.section == "packages" and f.name == "torch" and _broken(f) for f in findings)
    return findings


def _broken(finding: Finding) -> bool:
    return finding.level == "wrong" and ("cannot be imported" in finding.value or finding.value == "missing")


def text(findings: list[Finding]) -> str:
    """For a person: every section, then what is wrong and what to do."""
    marks = {"ok": " ", "note": "-", "wrong": "!"}
    width = max(len(finding.name) for finding in findings)
    lines: list[str] = []
    for section in dict.fromkeys(finding.section for finding in findings):
        lines += ["", section]
        lines += [f"{marks[f.level]} {f.name:<{width}}  {f.value}" for f in findings if f.section == section]
    for level, heading in (("note", "could be better"), ("wrong", "what is wrong")):
        found = [finding for finding in findings if finding.level == level]
        if found:
            lines += ["", heading]
            lines += [f"{marks[level]} {f.section}: {f.name}: {f.value}\n    {f.remedy}" for f in found]
    if all(finding.level != "wrong" for finding in findings):
        lines += ["", "nothing is wrong"]
    return "\n".join(lines).strip()


def as_json(findings: list[Finding]) -> str:
    """For a program: {"ok": ..., "findings": [{"section", "name", "value", "level", "remedy"}, ...]}."""
    fine = all(finding.level != "wrong" for finding in findings)
    return json.dumps({"ok": fine, "findings": [asdict(finding) for finding in findings]}, indent=2, ensure_ascii=False)


def _python() -> Iterator[Finding]:
    """The interpreter and smoothgen itself."""
    yield Finding("python", "smoothgen", f"{smoothgen.__version__}, {Path(smoothgen.__file__).parent}")
    yield Finding("python", "python", f"{platform.python_version()}, {sys.executable}")
    yield Finding("python", "platform", platform.platform())
    try:
        installed = importlib.metadata.version(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        remedy = "pip install -e . in the checkout; without it no entry point, hence no part, is found"
        yield Finding("python", "installation", "smoothgen is imported but not installed", "wrong", remedy)
        return
    if installed != smoothgen.__version__:
        value = f"pip installed {installed}, but {smoothgen.__version__} is imported"
        yield Finding("python", "installation", value, "wrong", "install again, or look at PYTHONPATH")


def _packages() -> Iterator[Finding]:
    """Every dependency: its version against the bounds, and whether it can be imported, tried in a process apart."""
    from packaging.requirements import Requirement

    needed = [Requirement(line) for line in _requirements()]
    core = [item for item in needed if item.marker is None or item.marker.evaluate({"extra": ""})]
    versions = {item.name: _version(item.name) for item in core}
    present = [_module(item.name) for item in core if versions[item.name] is not None]
    failures = _import_failures(present)
    for item in core:
        version, failure = versions[item.name], failures.get(_module(item.name))
        install = f"pip install '{item.name}{item.specifier}'"
        if version is None:
            yield Finding("packages", item.name, "missing", "wrong", install)
        elif failure is not None:
            value = f"{version} cannot be imported: {failure}"
            yield Finding("packages", item.name, value, "wrong", f"{install} --force-reinstall; {_hint(failure)}")
        elif not item.specifier.contains(version, prereleases=True):
            yield Finding("packages", item.name, f"{version}, but {item.specifier} is needed", "wrong", install)
        else:
            yield Finding("packages", item.name, f"{version} ({item.specifier})")


def _hint(failure: str) -> str:
    if "torchvision" in failure:
        return "a torchvision that does not match torch: remove it, or install the build that matches"
    return "if that does not help, make a new environment"


def _extras() -> Iterator[Finding]:
    """What each extra brings, and what of it is here."""
    from packaging.requirements import Requirement

    extras: dict[str, list[str]] = {}
    for line in _requirements():
        item = Requirement(line)
        found = re.findall(r"extra\s*==\s*['\"]([\w.-]+)['\"]", line)
        if not found:
            continue
        version = _version(item.name)
        fits = version is not None and item.specifier.contains(version, prereleases=True)
        state = f"{item.name} {version}" + ("" if fits else f", but {item.specifier} is wanted")
        extras.setdefault(found[0], []).append(state if version is not None else f"{item.name} missing")
    for extra, states in extras.items():
        incomplete = any("missing" in state or "is wanted" in state for state in states)
        yield Finding("extras", extra, ("not complete: " if incomplete else "") + ", ".join(states))


def _devices() -> Iterator[Finding]:
    from smoothgen import device

    for name, description in device.devices().items():
        yield Finding("devices", name, description)
    unused = device.unused_accelerator()
    if unused is not None:
        remedy = "nvidia-smi shows whether the driver runs and is new enough; CUDA_VISIBLE_DEVICES may hide the GPUs"
        yield Finding("devices", "accelerator", f"torch is built for {unused} and finds no GPU", "note", remedy)
    backends = device.distributed_backends()
    if backends:
        yield Finding("devices", "distributed backends", ", ".join(backends))
    else:
        remedy = "install a torch built with gloo to train on several processes"
        yield Finding("devices", "distributed backends", "none", "note", remedy)


def _compiled() -> Iterator[Finding]:
    """The C compiler, its cache, and whether one thing can be compiled and loaded."""
    from smoothgen import native

    try:
        place, count = native.cache()
        yield Finding("compiled code", "cache", f"{place}, {count} libraries")
    except native.NativeError as error:
        yield Finding("compiled code", "cache", str(error), "wrong", "set SMOOTHGEN_CACHE to a directory of your own")
        return
    try:
        command, version = native.compiler()
    except native.NativeError as error:
        chosen = os.environ.get("CC")
        if chosen:
            yield Finding("compiled code", "compiler", str(error), "wrong", "mend the variable CC, or unset it")
        else:
            remedy = "pip install 'smoothgen[compiled]'; without it some parts take two to six times as long"
            yield Finding("compiled code", "compiler", str(error), "note", remedy)
        return
    yield Finding("compiled code", "compiler", f"{command}: {version}")
    try:
        native.library(native.SHARED, "dense.c")
    except native.NativeError as error:
        first = str(error).partition("\n")[0]
        remedy = "the compiler cannot make what smoothgen needs; set CC to another, or unset it"
        yield Finding("compiled code", "compiling", first, "wrong", remedy)
    else:
        yield Finding("compiled code", "compiling", "works")


def _plugins() -> Iterator[Finding]:
    import warnings

    from smoothgen.registry import installed

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # broken plugins are told below
        registry = installed()
    for plugin in registry.plugins:
        parts = ", ".join(f"{cls.interface} {cls.tag()}" for cls in plugin.components)
        yield Finding("plugins", plugin.name, f"{plugin.version}: {parts}" if parts else plugin.version)
    for broken in registry.broken:
        reason = " ".join(broken.error.split())
        distribution = broken.name.partition(":")[0]
        remedy = f"smoothgen plugins shows the traceback; mend or pip uninstall {distribution}"
        yield Finding("plugins", broken.name, f"not loaded: {reason}", "wrong", remedy)
    if not any(plugin.name.startswith(f"{DISTRIBUTION}:") for plugin in registry.plugins):
        yield Finding("plugins", "built-in parts", "none found", "wrong", "install smoothgen again: pip install -e .")


def _machine() -> Iterator[Finding]:
    """Free disk here and where temporary files go, and memory."""
    import tempfile

    for name, place in (("disk here", Path.cwd()), ("disk for temporary files", Path(tempfile.gettempdir()))):
        free = shutil.disk_usage(place).free / GIBIBYTE
        little = free < LITTLE
        remedy = "free some space: a run writes checkpoints" if little else ""
        yield Finding("machine", name, f"{free:.1f} GiB free in {place}", "wrong" if little else "ok", remedy)
    memory = _memory()
    if memory is not None:
        total, free = memory
        little = free < LITTLE
        remedy = "end other programs, or choose a smaller trainer.batch_size" if little else ""
        value = f"{free:.1f} of {total:.1f} GiB free"
        yield Finding("machine", "memory", value, "note" if little else "ok", remedy)


def _environment() -> Iterator[Finding]:
    """The variables that change what smoothgen does, where they are set."""
    values = os.environ
    for name, meaning in VARIABLES.items():
        if name in values:
            problem = _wrong_value(name, values)
            remedy = f"unset {name}, or correct it" if problem else ""
            value = f"{values[name]!r} ({meaning}){problem}"
            yield Finding("environment", name, value, "wrong" if problem else "ok", remedy)
    if not any(name in values for name in VARIABLES):
        yield Finding("environment", "variables", "none of those that matter is set")


def _wrong_value(name: str, values: Mapping[str, str]) -> str:
    """What is wrong with a variable, or nothing."""
    value = values[name]
    if name.endswith("_NUM_THREADS") and not re.fullmatch(r"\s*[1-9]\d*(,[1-9]\d*)*\s*", value):
        return ": not a number of threads"
    if name in ("WORLD_SIZE", "RANK", "LOCAL_RANK") and not value.isdecimal():
        return ": not a whole number"
    if name == "WORLD_SIZE" and int(value) > 1:
        missing = [other for other in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if other not in values]
        return f": without {', '.join(missing)}, which torchrun sets too" if missing else ""
    return ""


def _requirements() -> list[str]:
    """What the installed smoothgen says that it needs. Raises PackageNotFoundError where it is not installed."""
    return importlib.metadata.requires(DISTRIBUTION) or []


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _module(distribution: str) -> str:
    return MODULES.get(distribution, distribution.replace("-", "_"))


def _import_failures(modules: list[str]) -> dict[str, str]:
    """Why modules cannot be imported; in a process apart, since a broken binary may end it."""
    failures: dict[str, str] = {}
    remaining = list(modules)
    while remaining:
        command = [sys.executable, "-c", TESTED, *remaining]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=IMPORT_SECONDS)
            ended = f"it ends the process with exit code {done.returncode}"
            said = done.stdout
        except subprocess.TimeoutExpired as error:
            ended = f"it takes longer than {IMPORT_SECONDS} s"
            said = error.stdout.decode() if isinstance(error.stdout, bytes) else error.stdout or ""
        last = ""
        for line in said.splitlines():
            name, _, outcome = line.partition(" ")
            if name in remaining and outcome == "importing":
                last = name
            elif name == last and (outcome == "ok" or outcome.startswith("failed ")):
                if outcome != "ok":
                    failures[name] = outcome.removeprefix("failed ")
                remaining.remove(name)
        if remaining:
            culprit = last if last in remaining else remaining[0]
            failures[culprit] = ended
            remaining.remove(culprit)
    return failures


def _memory() -> tuple[float, float] | None:
    """Total and available, GiB; None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    sizes = {line.partition(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.endswith(" kB")}
    if not {"MemTotal", "MemAvailable"} <= sizes.keys():
        return None
    return sizes["MemTotal"] / GIBIBYTE, sizes["MemAvailable"] / GIBIBYTE


CHECKS: dict[str, Check] = {
    "python": _python,
    "packages": _packages,
    "extras": _extras,
    "devices": _devices,
    "compiled code": _compiled,
    "plugins": _plugins,
    "machine": _machine,
    "environment": _environment,
}
AFTER_TORCH = ("devices", "plugins")
"""What imports torch itself: not asked where that would end this process."""
