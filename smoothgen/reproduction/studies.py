"""The studies by name, in the order of the page: a study is one line here."""

from __future__ import annotations

import importlib

from smoothgen.component import nearest
from smoothgen.errors import ConfigError
from smoothgen.reproduction.claims import Claims
from smoothgen.reproduction.study import Study

STUDIES: tuple[str, ...] = (
    "smoothgen.reproduction.thin_ring:ThinRing",
    "smoothgen.reproduction.theorem_1:TheoremOne",
    "smoothgen.reproduction.proposition_1:PropositionOne",
    "smoothgen.reproduction.ten_modes:TenModes",
    "smoothgen.reproduction.plain_mixture:PlainMixture",
    "smoothgen.reproduction.variance:Variance",
    "smoothgen.reproduction.learned_sigma:LearnedSigma",
    "smoothgen.reproduction.plane:Rings",
    "smoothgen.reproduction.plane:Olympics",
    "smoothgen.reproduction.plane:Checkerboard",
    "smoothgen.reproduction.flows:Flows",
    "smoothgen.reproduction.components:Components",
    "smoothgen.reproduction.sigma:SigmaInThePlane",
    "smoothgen.reproduction.data_size:DataSize",
    "smoothgen.reproduction.denoising_1d:Denoising1D",
    "smoothgen.reproduction.compounding:Compounding",
)
"""module:class, so that a worker imports only its own study."""


def studies() -> list[Study]:
    """All that can be chosen by name."""
    found = []
    for place in STUDIES:
        module, _, name = place.partition(":")
        found.append(getattr(importlib.import_module(module), name)())
    return found


def chosen(name: str) -> list[Study]:
    """The study of that name; or all, and first the one that judges the paper's claims by them. Raises ConfigError."""
    known = {study.name: study for study in studies()}
    if name == "all":
        return [Claims(list(known.values())), *known.values()]
    if name == Claims.name:
        raise ConfigError(f"reproduce: {name} are judged by the outcomes of all other studies; run: reproduce all")
    if name not in known:
        names = ", ".join(known)
        raise ConfigError(f'reproduce: unknown study "{name}"{nearest(name, known)}; studies: all, {names}')
    return [known[name]]
