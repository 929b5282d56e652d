"""Noise over equally spaced levels: the sum over the lattice, and the level that a noisy value came from."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Generator, Tensor

from smoothgen.errors import DataError
from smoothgen.event import EventSpec
from smoothgen.noise_kernel import NoiseKernel

NUMBERS_AT_ONCE = 2**21
"""How many noise densities are held at once: rows times coordinates times levels."""


@torch.no_grad()
def log_lattice_sum(kernel: NoiseKernel, v: Tensor, event: EventSpec) -> Tensor:
    """log sum_k q(v_d | level k) of every coordinate: v (batch, *event_shape) -> same shape, nats per unit of x.

    Its gradient would hold levels times the size of v, so there is none. -inf where v is in reach of no level.
    Raises NoClosedFormError for noise that is not independent between coordinates; DataError without levels.
    """
    return torch.cat([_log_sum(kernel, rows, event) for rows in _rows(v, event)])


@torch.no_grad()
def draw_levels(kernel: NoiseKernel, v: Tensor, event: EventSpec, generator: Generator | None = None) -> Tensor:
    """x ~ P(x | v), proportional to q(v | x) over the levels, each coordinate by itself; v and x (batch, *event_shape).

    v in reach of no level goes to the nearest. Raises what `log_lattice_sum` raises.
    """
    uniform = torch.empty_like(v).uniform_(generator=generator)
    size = _rows_at_once(v, event)
    parts = zip(v.split(size), uniform.split(size), strict=True)
    return torch.cat([_draw(kernel, rows, event, quantiles) for rows, quantiles in parts])


def _draw(kernel: NoiseKernel, v: Tensor, event: EventSpec, uniform: Tensor) -> Tensor:
    """The first level whose cumulated probability exceeds a uniform number."""
    total = _log_sum(kernel, v, event)
    level, below, count = torch.zeros_like(v), torch.zeros_like(v), 0
    for log_noise in _log_noise(kernel, v, event):
        cumulated = below + (log_noise - total).exp().cumsum(0)
        level += (~(cumulated > uniform)).sum(0)  # what is nan, in reach of no level, passes them all
        below, count = cumulated[-1], count + len(log_noise)
    drawn = level * event.bin_width + (event.low or 0.0)
    return torch.where(level < count, drawn, event.quantize(v))


def _log_sum(kernel: NoiseKernel, v: Tensor, event: EventSpec) -> Tensor:
    total = torch.full_like(v, -math.inf)
    for log_noise in _log_noise(kernel, v, event):
        total = torch.logaddexp(total, torch.logsumexp(log_noise, 0))
    return total


def _log_noise(kernel: NoiseKernel, v: Tensor, event: EventSpec) -> Iterator[Tensor]:
    """log q(v_d | level k), (levels of this part, batch, *event_shape), for one part of the levels after another."""
    levels = _count(event)
    at_once = max(1, NUMBERS_AT_ONCE // max(1, v.numel()))
    for start in range(0, levels, at_once):
        index = torch.arange(start, min(start + at_once, levels), dtype=v.dtype, device=v.device)
        x = (index * event.bin_width + (event.low or 0.0)).reshape(-1, *[1] * v.dim()).expand(-1, *v.shape)
        each = kernel.log_prob_each(v.expand_as(x).flatten(0, 1), x.flatten(0, 1))
        yield each.reshape(x.shape)


def _rows(v: Tensor, event: EventSpec) -> tuple[Tensor, ...]:
    return v.split(_rows_at_once(v, event))


def _rows_at_once(v: Tensor, event: EventSpec) -> int:
    return max(1, NUMBERS_AT_ONCE // (_count(event) * event.dimensions))


def _count(event: EventSpec) -> int:
    if event.levels is None:
        raise DataError("a continuous event has no levels to sum over")
    return event.levels
