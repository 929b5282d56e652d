"""Every registered density and kernel, ready to test: a plugin that registers a part is covered without further ado.

A part with required keys, or with defaults too large for a test, has its settings here; any other is built from
its defaults, with small values for the usual keys of a network.
"""

from __future__ import annotations

import copy
import importlib.util
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from pydantic import ValidationError

import smoothgen
from smoothgen.component import ComponentConfig
from smoothgen.density_model import DensityModel, DensityModelConfig
from smoothgen.event import ContextSpec, EventSpec
from smoothgen.noise_kernel import NoiseKernelConfig
from smoothgen.testing.density_laws import built
from smoothgen.testing.material import CONTEXTS, context_spec, event_name

MADE = {"type": "made", "hidden": [16, 16], "components": 3}
DENSITIES: dict[str, dict[str, dict[str, Any]]] = {
    "made": {
        "": {"hidden": (16, 16), "components": 3},
        "fourier": {
            "hidden": (12, 16),
            "components": 2,
            "fourier": 2,
            "order": "random",
            "order_seed": 5,
            "activation": "tanh",
        },
        "dequantised": {"hidden": (16, 16), "components": 2, "head": "continuous"},
        "separate": {"network": "separate", "hidden": (12, 12), "components": 2, "fourier": 1, "order": "random"},
        "gaussian": {"family": "gaussian", "hidden": (16, 16), "components": 2, "head": "continuous"},
    },
    "realnvp": {
        "": {"layers": 4, "hidden": (16, 16)},
        "fourier": {"layers": 5, "hidden": (16,), "fourier": 1, "split": "halves", "activation": "tanh"},
        "bare": {"layers": 3, "hidden": (16,), "split": "random", "split_seed": 1, "actnorm": False, "anchor": False},
    },
    "pixelcnnpp": {
        "": {"filters": 5, "blocks": 1, "resolutions": 2, "components": 3},
        "stacked": {"filters": 4, "blocks": 1, "resolutions": 2, "components": 2, "conditioning": "stack"},
        "plain": {"filters": 4, "blocks": 2, "resolutions": 1, "initialization": "plain", "head": "continuous"},
    },
    "zuko_nsf": {
        "": {"transforms": 2, "hidden": (16, 16), "bins": 4},
        "coupling": {"transforms": 2, "hidden": (16,), "bins": 2, "passes": 2, "activation": "tanh", "bound": 3.5},
        "bare": {
            "transforms": 2,
            "hidden": (12,),
            "bins": 4,
            "activation": "silu",
            "order": "random",
            "order_seed": 3,
            "anchor": False,
        },
    },
    "dequantized": {
        "": {"density": MADE},
        "gaussian": {"density": MADE, "noise": {"type": "gaussian", "sigma": 0.4}},
        "laplace": {"density": MADE, "noise": {"type": "laplace", "sigma": 0.6}},
    },
    "smoothed": {
        "": {
            "kernel": {"type": "laplace", "sigma": 0.8},
            "density": MADE,
            "inverter": {"type": "conditional", "density": MADE},
        }
    },
}
KERNELS: dict[str, dict[str, Any]] = {}
SMALL = {"hidden": (16, 16), "components": 3, "couplings": 4, "layers": 4, "depth": 2, "width": 16, "filters": 8}
SENSITIVITY = {"pixelcnnpp": 0.2, "zuko_nsf": 0.3}
"""How much less parameters are moved where a network is so deep that its densities would become too sharp to sum."""
LEAST_COORDINATES = {"realnvp": 2}
"""Densities that refuse fewer coordinates."""
ADAPTERS = ("normflows", "nflows", "torch", "zuko")
"""Densities of other libraries: tests/unit/test_adapters.py holds them to `smoothgen.testing.check`, in less time."""
NEEDS = {"zuko_nsf": "zuko"}
"""Libraries that are not installed everywhere."""


@dataclass(frozen=True)
class DensityCase:
    """A density to build: one set of settings of one registered configuration."""

    name: str
    config: DensityModelConfig

    def builds(self, event: EventSpec) -> bool:
        """Whether these settings make sense for the event."""
        if (self.config.type == "dequantized" or "dequantised" in self.name) and event.levels is None:
            return False
        return event.dimensions >= LEAST_COORDINATES.get(self.config.type, 1)

    def build(
        self,
        event: EventSpec,
        context: ContextSpec | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float64,
        noise: float = 0.15,
    ) -> DensityModel:
        """Untrained, but initialised on lopsided data and with noise on every parameter: nothing is symmetric."""
        noise = noise * SENSITIVITY.get(self.config.type, 1.0)
        return built(self.config, event, context, dtype, noise).to(device)


def _of_ours(cls: type[ComponentConfig]) -> bool:
    return any(
        cls in plugin.components and plugin.name.startswith("smoothgen:") for plugin in smoothgen.installed().plugins
    )


def _defaults(cls: type[ComponentConfig], **first_try: Any) -> ComponentConfig | None:
    """The configuration with small values for the keys it knows; None for a stranger's that needs more."""
    known = {key: value for key, value in {**SMALL, **first_try}.items() if key in cls.model_fields}
    for keys in (known, first_try, {}):
        try:
            return cls(**{key: value for key, value in keys.items() if key in cls.model_fields})
        except ValidationError as error:
            problem = error
    if _of_ours(cls):
        raise LookupError(f"tests/property/registered.py needs settings for {cls.interface} {cls.tag()}: {problem}")
    return None


def density_cases() -> list[DensityCase]:
    """Every registered density, in each of its settings."""
    cases = []
    for tag, cls in sorted(smoothgen.installed().components["density"].items()):
        if tag in ADAPTERS:
            continue
        for name, keys in DENSITIES.get(tag, {"": None}).items():
            config = _defaults(cls) if keys is None else cls(**copy.deepcopy(keys))
            if config is not None:
                assert isinstance(config, DensityModelConfig)
                cases.append(DensityCase(f"{tag} {name}".strip(), config))
    return cases


def kernel_config(tag: str, **keys: Any) -> NoiseKernelConfig:
    """A registered kernel's configuration. Skips a stranger's kernel that does not know these keys."""
    cls = smoothgen.installed().components["kernel"][tag]
    config = _defaults(cls, **{**KERNELS.get(tag, {}), **keys})
    if config is None or any(key not in cls.model_fields for key in keys):
        pytest.skip(f"kernel {tag} does not take {', '.join(keys)}")
    assert isinstance(config, NoiseKernelConfig)
    return config


KERNEL_TAGS = sorted(smoothgen.installed().components["kernel"])


def density_params(*events: EventSpec, contexts: tuple[str, ...] = CONTEXTS) -> Any:
    """Parametrises a test over (case, event, context) for every registered density."""
    return pytest.mark.parametrize(
        ("case", "event", "context"),
        [
            pytest.param(
                case,
                event,
                context_spec(kind, event),
                id=f"{case.name}-{event_name(event)}-{kind}",
                marks=_missing(case.config.type),
            )
            for case in density_cases()
            for event in events
            if case.builds(event)
            for kind in contexts
        ],
    )


def _missing(tag: str) -> list[pytest.MarkDecorator]:
    """Skips where the library that a density needs is not installed."""
    library = NEEDS.get(tag)
    if library is None or importlib.util.find_spec(library) is not None:
        return []
    return [pytest.mark.skip(reason=f"{tag} needs {library}, which is not installed: extra peers")]
