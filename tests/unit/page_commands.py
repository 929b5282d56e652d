"""The commands of a documentation page, run in this process: trainings are cut to two steps, all else is as written."""

from __future__ import annotations

import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from smoothgen import cli
from smoothgen.config import load_config

ROOT = Path(__file__).parents[2]
STEPS = (
    "trainer.max_steps=2",
    "trainer.warmup_steps=1",
    "evaluate.importance_samples=[2]",
    "evaluate.max_examples=20",
    "evaluate.importance_examples=10",
    "evaluate.samples=4",
    "evaluate.two_sample_points=50",
)
ELSEWHERE = ("device.stages=apart", "device.strategy=fsdp")
"""What takes several processes; tests/end_to_end/test_distributed.py and tests/distributed run that."""


def commands(block: str) -> list[str]:
    """The lines of a bash block, continued ones joined, without comments."""
    lines = re.sub(r"\\\n\s*", "", block).splitlines()
    return [line for line in (re.sub(r"\s+#.*$", "", each).strip() for each in lines) if line]


def short(source: str, overrides: list[str]) -> list[str]:
    """What makes a training as short as it can be, of the parts that this configuration has."""
    config = load_config(source, overrides)
    cuts = list(STEPS)
    for place, part in (
        ("density", config.density),
        ("inverter.density", getattr(config.inverter, "density", None)),
        ("baseline", config.baseline),
    ):
        if getattr(part, "type", None) == "made":
            cuts.append(f"{place}.hidden=[16]")
    if config.kernel.searches:
        cuts += ["trainer.sigma_search.steps=1", "trainer.sigma_search.candidates=2"]
    return cuts


class PageShell:
    """Runs a page's commands in the current folder.

    wanted: what makes a run or a file, by its path, that a command takes as being there.
    """

    def __init__(self, wanted: dict[str, Callable[[], None]]) -> None:
        self.wanted = wanted

    def run(self, line: str) -> None:
        """Raises AssertionError where a command fails, or is none of those that a page may hold."""
        words = shlex.split(line)
        for path, make in self.wanted.items():
            made_here = "train" in words and (path not in words or words[words.index(path) - 1] == "--run-dir")
            if path in words and not Path(path).exists() and not made_here:
                make()
        name, *rest = words
        if name == "smoothgen":
            self.smoothgen(rest)
        elif name == "torchrun":
            self.torchrun(rest)
        elif name == "sbatch":
            script, config, run_dir, *overrides = rest
            assert (ROOT / "docs" / "assets" / script).is_file()
            self.smoothgen(["train", config, "--run-dir", run_dir, *overrides])
        elif words[:2] == ["pip", "install"]:
            self.installs(rest[1:])
        elif words[:2] == ["python3", "dev.py"]:
            jobs = runpy.run_path(str(ROOT / "dev.py"))["EXTRAS"]
            assert words[2] in jobs, line
        elif words[:2] == ["python", "-m"]:
            self.called(words[2:], lambda: runpy.run_module(words[2], run_name="__main__", alter_sys=True))
        elif name == "tensorboard":
            assert shutil.which("tensorboard", path=str(Path(sys.executable).parent)), line
        else:
            assert name == "printf", f"no rule for {line!r}"
            subprocess.run(["bash", "-euo", "pipefail", "-c", line], check=True)

    def smoothgen(self, words: list[str]) -> None:
        """One command. Pages and studies that take long, or wait for a person, are only parsed."""
        name, *rest = (word.removeprefix("/") if word.startswith("/shared/") else word for word in words)
        if name in ("ui", "reproduce", "compare"):
            command = typer.main.get_command(cli.app).commands[name]  # type: ignore[attr-defined]
            command.make_context(name, list(rest))
            if name == "compare":
                load_config(rest[0], [word for word in rest[1:] if "=" in word])
            if name == "ui":
                assert Path(rest[0], "model.safetensors").exists()
            return
        if name == "train":
            rest = [word for word in rest if word not in ELSEWHERE]
            rest += short(rest[0], [word for word in rest[1:] if "=" in word and not word.startswith("-")])
        self.called(["smoothgen", name, *rest], cli.main)

    def called(self, words: list[str], main: Callable[[], object]) -> None:
        """Runs a program's main with these words as its command line."""
        code: int | str | None = 0
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", words)
            try:
                main()
            except SystemExit as leaving:
                code = leaving.code
        assert not code, f"{shlex.join(words)}: exit code {code}"

    def torchrun(self, words: list[str]) -> None:
        """The launcher's options are parsed; one process does the work."""
        from torch.distributed.run import get_args_parser

        found = get_args_parser().parse_args(words)
        assert found.module and found.training_script == "smoothgen"
        self.smoothgen(found.training_script_args)

    def installs(self, words: list[str]) -> None:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        for word in words:
            extra = re.fullmatch(r"(?:smoothgen|\.)\[([\w,]+)\]", word)
            assert extra and set(extra[1].split(",")) <= project["optional-dependencies"].keys(), word
