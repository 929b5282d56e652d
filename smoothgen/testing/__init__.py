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
from smoothgen.density_model import DensityModelConfig
from smoothgen.errors import ConfigError
from smoothgen.event import EventSpec
from smoothgen.noise_kernel import NoiseKernelConfig
from smoothgen.testing.density_laws import DENSITY_LAWS, DensitySubject
from smoothgen.testing.kernel_laws import KERNEL_LAWS, KernelSubject
from smoothgen.testing.law import BrokenLawError, DoesNotApply, Finding, Law, Report, judge, require, verdict
from smoothgen.testing.material import EVENTS

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


def laws_of(config: ComponentConfig) -> tuple[Law, ...]:
    """The laws of a part's interface. Raises ConfigError for an interface without a contract."""
    if isinstance(config, DensityModelConfig):
        return DENSITY_LAWS
    if isinstance(config, NoiseKernelConfig):
        return KERNEL_LAWS
    raise ConfigError(
        f"{type(config).__name__}: there is a contract for densities and kernels, not yet for interface "
        f'"{config.interface}"'
    )


def subjects_of(
    config: ComponentConfig, events: Sequence[EventSpec] = EVENTS, contexts: Sequence[str] = CONTEXTS, **settings: Any
) -> list[DensitySubject | KernelSubject]:
    """The part for every event, and a density for every context, that it does not refuse by a ConfigError.

    settings: of `DensitySubject`: noise, accuracy. Raises ConfigError where it refuses all of them.
    """
    laws_of(config)
    found: list[DensitySubject | KernelSubject] = []
    refused: list[str] = []
    for event in events:
        if isinstance(config, NoiseKernelConfig):
            candidates: list[DensitySubject | KernelSubject] = [KernelSubject(config, event)]
        else:
            assert isinstance(config, DensityModelConfig)
            candidates = [DensitySubject(config, event, kind, **settings) for kind in contexts]
        for subject in candidates:
            try:
                subject.kernel() if isinstance(subject, KernelSubject) else subject.model()
            except ConfigError as error:
                refused.append(f"{subject.name}: {error}")
            else:
                found.append(subject)
    if not found:
        raise ConfigError(f"{type(config).__name__} refuses every event it was tried on: {'; '.join(refused)}")
    return found


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
