"""What configurations, models and parts print, for a person to read."""

from __future__ import annotations

import copy

import pytest
from torch import nn

import smoothgen
from smoothgen.density_model import DensityModelConfig
from smoothgen.event import ContextSpec, EventSpec
from smoothgen.readable import ReadableModule, parameters_text
from smoothgen.registry import installed
from smoothgen_inverters.conditional import ConditionalConfig
from smoothgen_inverters.gradient import GradientConfig
from smoothgen_kernels.gaussian import GaussianConfig
from smoothgen_made.made import MADEConfig
from smoothgen_pixelcnnpp.pixelcnnpp import PixelCNNPPConfig
from smoothgen_realnvp.realnvp import RealNVPConfig

PLANE = EventSpec(shape=(2,))


def test_a_configuration_prints_its_type_and_what_was_chosen() -> None:
    assert repr(MADEConfig()) == "MADEConfig(type='made')"
    chosen = MADEConfig(hidden=(16,), components=3, activation="relu")
    assert repr(chosen) == "MADEConfig(type='made', hidden=(16,), activation='relu')", "3 components are the default"
    assert repr(GaussianConfig(sigma=0.3)) == "GaussianConfig(type='gaussian', sigma=0.3)", "what is required is shown"
    nested = ConditionalConfig(density=chosen)
    assert repr(nested) == f"ConditionalConfig(type='conditional', density={chosen!r})"
    assert repr(PLANE) == "EventSpec(shape=(2,))"


def test_what_a_configuration_prints_makes_it_again() -> None:
    config = MADEConfig(hidden=(16,), order=(1, 0), fourier_period=2.5)
    assert eval(repr(config), {"MADEConfig": MADEConfig}) == config


@pytest.mark.parametrize("recipe", ["rings", "cifar10", "checkerboard-realnvp"])
def test_a_recipe_prints_no_default(recipe: str) -> None:
    text = repr(smoothgen.load_config(recipe))
    assert len(text) < 1500 and "name=" in text
    assert "None" not in text and "validation_size" not in text


def test_a_smoothed_model_prints_event_sigma_and_the_parameters_of_its_parts() -> None:
    density = {"type": "made", "hidden": [16, 16], "components": 2}
    model = smoothgen.build(
        {
            "data": {"type": "rings", "train_size": 500, "validation_size": 10, "test_size": 10},
            "kernel": {"type": "gaussian", "sigma": 0.3},
            "density": density,
            "inverter": {"type": "conditional", "density": density},
        }
    )
    counts = [f"{sum(p.numel() for p in part.parameters()):,}" for part in (model, model.density, model.inverter)]
    assert repr(model).splitlines() == [
        f"SmoothedModel(event (2,), lower bound on the density, {counts[0]} parameters)",
        "  kernel: GaussianKernel(event (2,), sigma 0.3)",
        f"  density: MADE(event (2,), density, {counts[1]} parameters)",
        f"    conditioner: MaskedConditioner({counts[1]} parameters)",
        f"  inverter: ConditionalInverter(event (2,), with a density, {counts[2]} parameters)",
        f"    density: MADE(event (2,), context (2,), density, {counts[2]} parameters)",
        f"      conditioner: MaskedConditioner({counts[2]} parameters)",
    ]


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (GaussianConfig(sigma=(0.1, 0.25)), "GaussianKernel(event (2,), sigma 0.1 to 0.25)"),
        (GaussianConfig(sigma=0.5, learnable=True), "GaussianKernel(event (2,), sigma 0.5, 1 parameter)"),
    ],
)
def test_a_kernel_prints_its_sigma(config: GaussianConfig, words: str) -> None:
    kernel = config.build(PLANE)
    assert repr(kernel) == words
    assert "sigma" not in repr(copy.deepcopy(kernel).to("meta")), "there are no numbers on the meta device"


def test_inverters_and_densities_of_levels_say_what_they_give() -> None:
    levels = EventSpec(shape=(2,), low=-1.0, high=1.0, levels=4)
    assert repr(GradientConfig().build(PLANE, GaussianConfig(sigma=0.3).build(PLANE))) == (
        "GradientInverter(event (2,), without a density)"
    )
    first = repr(MADEConfig(hidden=(8,)).build(levels, ContextSpec(features=3))).splitlines()[0]
    assert first.startswith("MADE(event (2,), 4 levels from -1 to 1, context (3,), probability of levels, ")


def test_a_feature_network_prints_its_name_and_size() -> None:
    images = EventSpec(shape=(1, 8, 8), low=-1.0, high=1.0, levels=17)
    config = installed().find("features", "classifier").model_validate({"type": "classifier", "weights": "digits"})
    assert isinstance(config, smoothgen.FeatureNetworkConfig)
    text = repr(config.build(images))
    assert text.startswith("Classifier(digits-classifier, event (1, 8, 8), 64 features, ")
    assert "parameters, 0 trained" in text


@pytest.mark.parametrize(
    "config",
    [MADEConfig(), RealNVPConfig(), PixelCNNPPConfig(filters=8, blocks=1, resolutions=2)],
    ids=lambda config: config.type,
)
def test_every_density_prints_on_one_screen(config: DensityModelConfig) -> None:
    event = EventSpec(shape=(1, 8, 8))
    lines = repr(config.build(event, ContextSpec(noisy_copy=event.shape))).splitlines()
    assert 2 <= len(lines) <= 10 and all(len(line) <= 120 for line in lines), lines


def test_frozen_parameters_are_told() -> None:
    layer = nn.Linear(3, 2)
    layer.bias.requires_grad_(False)
    assert parameters_text(layer) == ["8 parameters, 6 trained"] and parameters_text(nn.ReLU()) == []

    class Whole(ReadableModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.nothing = layer, nn.ReLU()

    assert repr(Whole()) == "Whole(8 parameters, 6 trained)\n  layer: Linear(8 parameters, 6 trained)"
