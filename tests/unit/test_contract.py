"""The contract: sound parts keep it, every planted fault is killed by the law that names it, and the ways to ask."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from mutants import (
    CONFIGS,
    Density,
    Inversion,
    Kernel,
    Source,
    data_config,
    density_config,
    inverter_config,
    judged,
    kernel_config,
    killers,
)

import smoothgen
from smoothgen.component import ComponentConfig
from smoothgen.errors import ConfigError
from smoothgen.testing import BrokenLawError, check, laws_of
from smoothgen.testing.material import PLANE
from smoothgen_datasets.mixture import SixModesConfig
from smoothgen_inverters.conditional import ConditionalConfig
from smoothgen_inverters.gradient import GradientConfig
from smoothgen_kernels.gaussian import GaussianConfig
from smoothgen_kernels.laplace import LaplaceConfig
from smoothgen_kernels.uniform import UniformConfig
from smoothgen_made.made import MADEConfig
from smoothgen_realnvp.realnvp import RealNVPConfig

ROOT = Path(__file__).parents[2]
SOUND: list[ComponentConfig] = [
    GaussianConfig(sigma=0.3, learnable=True),
    LaplaceConfig(sigma=0.3),
    UniformConfig(sigma=(0.2)),
    MADEConfig(hidden=(16, 16)),
    RealNVPConfig(layers=4, hidden=(16,)),
    ConditionalConfig(density=MADEConfig(hidden=(16, 16))),
    GradientConfig(),
    SixModesConfig(),
]
MAY_NOT_APPLY = {"order", "learnable", "mass", "samples", "features-reach", "learns"}


@pytest.mark.parametrize("config", SOUND, ids=lambda config: config.type)
def test_sound_parts_keep_the_contract(config):
    report = check(config)
    assert not report.broken
    held = {finding.law for finding in report.findings if finding.outcome == "holds"}
    assert {law.name for law in laws_of(config)} - held <= MAY_NOT_APPLY, "a law that never applies"
    assert "holds on" in str(report)


@pytest.mark.parametrize(
    "config",
    [density_config(Density), kernel_config(Kernel), inverter_config(Inversion), data_config(Source)],
    ids=lambda config: config.interface,
)
def test_what_mutants_are_made_of_is_sound(config):
    assert not judged(config).broken


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        pytest.param(config, expected, id=f"{interface}: {name}")
        for interface, mutants in CONFIGS.items()
        for name, config, expected in mutants
    ],
)
def test_a_planted_fault_is_killed(config, expected):
    assert expected <= set(killers(config))


@pytest.mark.parametrize(
    ("interface", "never"),
    # what no mutant can get past: the base class checks shapes, and float32 is told by the gradient in float64
    [("density", {"refusals", "float32"}), ("kernel", {"shapes"})],
)
def test_every_law_kills_some_mutant(interface, never):
    killing = set.union(*(expected for _, _, expected in CONFIGS[interface]))
    assert {law.name for law in laws_of(CONFIGS[interface][0][1])} - killing == never


def test_a_broken_part_is_named_with_its_law_and_event():
    config = next(config for name, config, _ in CONFIGS["density"] if name == "1 % of the mass missing")
    with pytest.raises(BrokenLawError, match=r"breaks \d of its laws\n  .*mass on 2, no context: the mass is 0\.99"):
        check(config, events=[PLANE], contexts=["no context"])
    excused = {"mass": "known to leak", "order": "so do its conditionals"}
    report = check(config, events=[PLANE], contexts=["no context"], leave_out=excused)
    left = [finding.why for finding in report.findings if finding.outcome == "left out"]
    assert left == ["known to leak", "so do its conditionals"]


def test_wrong_questions_are_refused():
    with pytest.raises(ValueError, match="no such law: masses; there are shapes, refusals, mass"):
        check(MADEConfig(), leave_out={"masses": "typing error"})
    features = smoothgen.installed().components["features"]["classifier"]
    with pytest.raises(ConfigError, match='not yet for interface "features"'):
        check(features.model_construct())


def pytest_with(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "mine.py").write_text(
        "from smoothgen_kernels.gaussian import GaussianConfig\n"
        "from mutants import CONFIGS\n"
        "good = [GaussianConfig(sigma=0.3), GaussianConfig(sigma=2.0)]\n"
        "bad = next(c for name, c, _ in CONFIGS['kernel'] if name == 'log_prob not normalised')\n"
    )
    (tmp_path / "test_other.py").write_text("def test_other(): pass\n")
    path = [str(tmp_path), str(ROOT), str(ROOT / "plugins"), str(ROOT / "tests")]
    code = f"import sys; sys.path[:0] = {path!r}; import pytest; sys.exit(pytest.main(sys.argv[1:]))"
    plugin = [] if _installed() else ["-p", "smoothgen.pytest_plugin"]
    command = [sys.executable, "-c", code, "-q", *plugin, *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)


def _installed() -> bool:
    from importlib.metadata import entry_points

    return any(point.value == "smoothgen.pytest_plugin" for point in entry_points(group="pytest11"))


def test_from_the_command_line(tmp_path):
    good = pytest_with(tmp_path, "--smoothgen", "mine:good")
    assert good.returncode == 0 and "test_other" not in good.stdout, good.stdout
    bad = pytest_with(tmp_path, "--smoothgen", "mine:bad", "test_other.py")
    assert bad.returncode == 1 and "exp(log_prob) integrates to 1: the mass is" in bad.stdout, bad.stdout
    left = pytest_with(
        tmp_path, "--smoothgen", "mine:bad", *(f"--smoothgen-leave-out={law}" for law in ("mass", "samples"))
    )
    assert left.returncode == 0, left.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--smoothgen", "mine:nothing"], "module 'mine' has no attribute 'nothing'"),
        (["--smoothgen", "nowhere:x"], "No module named 'nowhere'"),
        (["--smoothgen", "mine:CONFIGS"], "dict is no configuration of a part"),
        (["--smoothgen", "mine:good", "--smoothgen-leave-out", "mas"], "no such law: mas; there are shapes"),
    ],
)
def test_the_command_line_says_what_is_wrong(tmp_path, arguments, message):
    done = pytest_with(tmp_path, *arguments)
    assert done.returncode == 4 and message in done.stdout + done.stderr
