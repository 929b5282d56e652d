"""Densities of other libraries as backbones: `wrap` holds a flow of normflows, nflows, zuko or torch to the contract."""

from __future__ import annotations

from smoothgen.wrapping.faults import FAULTS
from smoothgen.wrapping.wrap import wrap
from smoothgen.wrapping.wrapped_density import WrappedDensity

__all__ = ["FAULTS", "WrappedDensity", "wrap"]
