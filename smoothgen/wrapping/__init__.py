"""Densities of normflows, nflows, zuko, torch or your own hand as backbones, held to the contract by `wrap`."""

from __future__ import annotations

from smoothgen.wrapping.faults import FAULTS
from smoothgen.wrapping.wrapped_density import WrappedDensity
from smoothgen.wrapping.wrapper import wrap

__all__ = ["FAULTS", "WrappedDensity", "wrap"]
