"""The contract of a part, for those who write one: `check(MyConfig())` judges it by every law of its interface.

    from smoothgen.testing import check

    def test_my_density_keeps_the_contract():
        check(MyDensityConfig(width=16))

or, without a test file, `pytest --smoothgen mypackage:MyDensityConfig`. See docs/concepts/contract.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from smoothgen.component import ComponentConfig
from smoothgen.data_source import DataSourceConfig
from smoothgen.density_model import DensityModelConfig
from smoothgen.errors import ConfigError
from smoothgen.event import EventSpec
from smoothgen.inverter import InverterConfig
from smoothgen.noise_kernel import NoiseKernelConfig
from smoothgen.registry import installed
from smoothgen.testing.data_laws import DATA_LAWS, DataSubject
from smoothgen.testing.density_laws import DENSITY_LAWS, DensitySubject
from smoothgen.testing.inverter_laws import INVERTER_LAWS, InverterSubject
from smoothgen.testing.kernel_laws import KERNEL_LAWS, KernelSubject
from smoothgen.testing.law import BrokenLawError, DoesNotApply, Finding, Law, Report, judge, require, verdict
from smoothgen.testing.material import EVENTS, NOISE_STD

__all__ = [
    "BrokenLawError",
    "DoesNotApply",
    "Finding",
    "Law",
    "Report",
    "check",
    "laws_of",
    "require",
    "subjects_of",
    "verdict",
]

CONTEXTS = ("no context", "noisy copy + features")
Subject = DensitySubject | KernelSubject | InverterSubject | DataSubject


def laws_of(config: ComponentConfig) -> tuple[Law, ...]:
    """The laws of a part's interface. Raises ConfigError for an interface without a contract."""
    if isinstance(config, DensityModelConfig):
        return DENSITY_LAWS
    if isinstance(config, NoiseKernelConfig):
        return KERNEL_LAWS
    if isinstance(config, InverterConfig):
        return INVERTER_LAWS
    if isinstance(config, DataSourceConfig):
        return DATA_LAWS
    raise ConfigError(
        f"{type(config).__name__}: there is a contract for densities, kernels, inverters and data sources, not yet "
        f'for interface "{config.interface}"'
    )


def subjects_of(
    config: ComponentConfig, events: Sequence[EventSpec] = EVENTS, contexts: Sequence[str] = CONTEXTS, **settings: Any
) -> list[Subject]:
    """The part for every event, and every context where it can have one, that it does not refuse by a ConfigError.

    settings: of `DensitySubject` (noise, accuracy) or `InverterSubject` (noise). Raises ConfigError if all are refused.
    """
    laws_of(config)
    found: list[Subject] = []
    refused: list[str] = []
    for subject in _candidates(config, events, contexts, settings):
        try:
            _build(subject)
        except ConfigError as error:
            refused.append(f"{subject.name}: {error}")
        else:
            found.append(subject)
    if not found:
        raise ConfigError(f"{type(config).__name__} refuses every event it was tried on: {'; '.join(refused)}")
    return found


def _candidates(
    config: ComponentConfig, events: Sequence[EventSpec], contexts: Sequence[str], settings: Mapping[str, Any]
) -> list[Subject]:
    if isinstance(config, DataSourceConfig):
        return [DataSubject(config)]
    if isinstance(config, NoiseKernelConfig):
        return [KernelSubject(config, event) for event in events]
    if isinstance(config, DensityModelConfig):
        return [DensitySubject(config, event, kind, **settings) for event in events for kind in contexts]
    assert isinstance(config, InverterConfig)
    kernel = installed().components["kernel"].get("gaussian")
    if kernel is None:
        raise ConfigError("the contract of an inverter needs the kernel gaussian, which is not installed")
    gaussian = kernel.model_validate({"type": "gaussian", "sigma": NOISE_STD})
    assert isinstance(gaussian, NoiseKernelConfig)
    return [InverterSubject(config, gaussian, event, count, **settings) for event in events for count in (0, 2)]


def _build(subject: Subject) -> None:
    if isinstance(subject, DensitySubject):
        subject.model()
    elif isinstance(subject, KernelSubject):
        subject.kernel()
    elif isinstance(subject, InverterSubject):
        subject.inverter()
    else:
        subject.source()


def check(
    config: ComponentConfig,
    *,
    events: Sequence[EventSpec] = EVENTS,
    contexts: Sequence[str] = CONTEXTS,
    leave_out: Mapping[str, str] | None = None,
    **settings: Any,
) -> Report:
    """Judges a part by every law of its interface, on several events and contexts, in some seconds.

    leave_out: names of laws that the part is excused from, each with the reason, which the report repeats. settings:
    noise (how far parameters are moved from their start, 0.15) and accuracy (of the mass, 1e-6; less for densities
    whose slope jumps). Raises BrokenLawError with every broken law; otherwise returns the report.
    """
    subjects = subjects_of(config, events, contexts, **settings)
    return judge(type(config).__name__, laws_of(config), subjects, leave_out or {}).raise_if_broken()
