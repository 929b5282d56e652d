"""A stranger's package, found by entry point in a temporary folder, trained and sampled; broken ones beside it."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest
import yaml
from command_line import TINY, run

GOOD = """
import math
from typing import Literal

import torch
from pydantic import PositiveFloat
from torch import nn

from smoothgen import DensityModel, DensityModelConfig, hookimpl


class DiagonalGaussian(DensityModel):
    def __init__(self, event, context, spread):
        super().__init__(event, context)
        inputs = context.dimensions if context else 1
        self.net = nn.Linear(inputs, 2 * event.dimensions)
        self.spread = spread

    def _loc_and_log_std(self, context, batch):
        features = self.net.weight.new_ones(batch, 1) if context is None else context.flatten(1)
        loc, log_std = self.net(features).chunk(2, 1)
        return loc, self.spread * log_std.tanh()

    def _log_prob(self, x, context, generator):
        loc, log_std = self._loc_and_log_std(context, len(x))
        z = (x.flatten(1) - loc) * (-log_std).exp()
        return (-0.5 * z**2 - log_std - 0.5 * math.log(2 * math.pi)).sum(1)

    def _sample(self, num_samples, context, generator):
        loc, log_std = self._loc_and_log_std(context, num_samples)
        noise = torch.randn(loc.shape, dtype=loc.dtype, device=loc.device, generator=generator)
        return (loc + log_std.exp() * noise).reshape(num_samples, *self.event_shape)


class DiagonalGaussianConfig(DensityModelConfig):
    type: Literal["diagonal"] = "diagonal"
    spread: PositiveFloat = 3.0

    def build(self, event, context=None):
        return DiagonalGaussian(event, context, self.spread)


@hookimpl
def smoothgen_components():
    return [DiagonalGaussianConfig]
"""
RAISES = "raise ImportError('needs libfoo')"
DUPLICATE = GOOD.replace('"diagonal"', '"made"')
MISSPELT = GOOD.replace("def smoothgen_components", "def smoothgen_component")
NO_HOOK = GOOD.replace("@hookimpl", "")
NOT_A_CONFIG = GOOD.replace("return [DiagonalGaussianConfig]", "return [DiagonalGaussian]")


def install(site: Path, name: str, source: str) -> None:
    """A package as pip would lay it out: a module and a dist-info folder with the entry point."""
    site.mkdir(exist_ok=True)
    (site / f"{name}.py").write_text(textwrap.dedent(source))
    info = site / f"{name}-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
    # every one of them calls its entry point "made", as a stranger may
    (info / "entry_points.txt").write_text(f"[smoothgen]\nmade = {name}\n")


@pytest.fixture
def site(tmp_path):
    install(tmp_path / "site", "diagonal_density", GOOD)
    return tmp_path / "site"


def test_a_strangers_density_trains_and_samples(tmp_path, site):
    config = TINY | {
        "density": {"type": "diagonal", "spread": 2.0},
        "inverter": {"type": "conditional", "density": "diagonal"},
        "trainer": TINY["trainer"] | {"max_steps": 20},
    }
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(config))
    answer = run("train", "mine.yaml", "--run-dir", "run", cwd=tmp_path, path=site)
    assert answer.code == 0, answer.err
    answer = run("sample", "run", "-n", "7", "--out", "s.csv", cwd=tmp_path, path=site)
    assert answer.code == 0, answer.err
    assert len((tmp_path / "s.csv").read_text().splitlines()) == 8
    without = run("sample", "run", cwd=tmp_path)
    assert without.code == 2
    assert 'unknown type "diagonal"' in without.err
    assert "Traceback" not in without.err


def test_broken_plugins_are_listed_by_name_and_the_rest_work(tmp_path, site):
    broken = {
        "raising_plugin": (RAISES, "needs libfoo"),
        "duplicate_plugin": (DUPLICATE, "smoothgen_made"),
        "misspelt_plugin": (MISSPELT, "smoothgen_component"),
        "hookless_plugin": (NO_HOOK, "implements no hook"),
        "confused_plugin": (NOT_A_CONFIG, "DensityModelConfig"),
    }
    for name, (source, _) in broken.items():
        install(site, name, source)
    answer = run("plugins", cwd=tmp_path, path=site)
    assert answer.code == 0, answer.err
    assert "diagonal_density:made" in answer.out
    assert "smoothgen:made" in answer.out
    for name, (_, reason) in broken.items():
        lines = [line for line in answer.out.splitlines() if f"{name}:made" in line and "not loaded" in line]
        assert lines, answer.out
        assert reason in answer.out[answer.out.index(lines[0]) :]
    assert "Traceback (most recent call last)" in answer.out
    typo = run("train", "digits", "density.type=diagonl", "--run-dir", "x", cwd=tmp_path, path=site)
    assert typo.code == 2
    assert 'did you mean "diagonal"' in typo.err
    assert "raising_plugin:made" in typo.err
