"""Registration within a process: all or none, and every mistake named."""

from __future__ import annotations

from typing import Literal

import pytest

from smoothgen import DensityModelConfig, hookimpl
from smoothgen.errors import ConfigError, PluginError
from smoothgen.registry import Registry, installed
from smoothgen_made.made import MADEConfig


class Alpha(MADEConfig):
    type: Literal["alpha"] = "alpha"  # type: ignore[assignment]


class AlphaAgain(MADEConfig):
    type: Literal["alpha"] = "alpha"  # type: ignore[assignment]


class Untagged(DensityModelConfig):
    pass


def plugin(*classes):
    class Plugin:
        @hookimpl
        def smoothgen_components(self):
            return list(classes)

    return Plugin()


def test_a_plugin_registers_its_classes_by_tag():
    registry = Registry()
    registry.add(plugin(Alpha), "mine")
    assert registry.find("density", "alpha") is Alpha
    assert [loaded.name for loaded in registry.plugins] == ["mine"]


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ((Alpha, AlphaAgain), 'type "alpha" of .* is already registered'),
        ((Untagged,), "needs a tag"),
        ((int,), "expected classes derived from"),
        ((DensityModelConfig,), "needs a tag"),
    ],
)
def test_a_bad_plugin_registers_nothing(classes, message):
    registry = Registry()
    with pytest.raises(PluginError, match=message):
        registry.add(plugin(*classes), "mine")
    assert not registry.components["density"]
    registry.add(plugin(Alpha), "mine")


def test_two_plugins_with_one_tag_are_both_named():
    registry = Registry()
    registry.add(plugin(Alpha), "first")
    with pytest.raises(PluginError, match=f"second: the density type .* of {__name__} .* by {__name__}"):
        registry.add(plugin(AlphaAgain), "second")
    assert registry.find("density", "alpha") is Alpha


def test_unknown_tags_name_the_nearest_and_the_installed():
    with pytest.raises(ConfigError, match=r'unknown type "maed"; did you mean "made".*; installed: .*made.*smoothed'):
        installed().find("density", "maed")


def test_the_built_ins_are_all_there():
    components = installed().components
    assert {"made", "realnvp", "smoothed"} <= components["density"].keys()
    assert {"gaussian", "laplace", "uniform"} <= components["kernel"].keys()
    assert {"gradient", "conditional"} <= components["inverter"].keys()
    assert {"digits", "array", "rings", "olympics", "checkerboard", "moons", "pinwheel", "two_spirals",
            "eight_gaussians", "six_modes"} <= components["data"].keys()  # fmt: skip
    assert not installed().broken
