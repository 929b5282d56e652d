"""A pixel's distribution: a mixture of logistics whose components are shared by the channels, which are coupled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from smoothgen import logistic_mixture
from smoothgen.array_operations import TORCH, Operations, arrays, tensor
from smoothgen.event import EventSpec

LOG_SCALE_BOUND = 7.0
"""Log scales stay within this of the log of their unit, softly, on both sides."""


@dataclass(frozen=True)
class PixelMixture:
    """logits (..., K); loc, log_scale (..., C, K), in units of the data's spread; coupling (..., C (C-1) / 2, K).

    The components of a pixel are those of all its channels: log p(pixel) = logsumexp_k [log pi_k + sum_c log f_kc], and
    the mean of channel c moves with the values of the channels before it, by the coefficients of the coupling
    (a strictly lower triangular matrix per component, row by row).
    Source: Salimans et al. 2017 (arXiv 1701.05517), section 2.2, for any number of channels.
    """

    logits: Any
    loc: Any
    log_scale: Any
    coupling: Any

    @staticmethod
    def size(channels: int, components: int) -> int:
        """How many numbers a pixel's distribution has."""
        return components * (1 + 2 * channels + channels * (channels - 1) // 2)

    @classmethod
    def of(cls, raw: Any, channels: int, components: int, xp: Operations = TORCH) -> PixelMixture:
        """From what the network gives: (..., size). xp: whether in torch's or numpy's arrays."""
        rows = raw.reshape(*raw.shape[:-1], -1, components)
        log_scale = LOG_SCALE_BOUND * xp.tanh(rows[..., 1 + channels : 1 + 2 * channels, :] / LOG_SCALE_BOUND)
        coupling = rows[..., 1 + 2 * channels :, :]
        return cls(
            rows[..., 0, :], rows[..., 1 : 1 + channels, :], log_scale, xp.tanh(coupling) if channels > 1 else coupling
        )

    def loc_given(self, channel: int, earlier: list[Any]) -> Any:
        """Means (..., K) of a channel, given the standardised values (...) of those before it."""
        loc = self.loc[..., channel, :]
        first = channel * (channel - 1) // 2
        for index, value in enumerate(earlier):
            loc = loc + self.coupling[..., first + index, :] * value[..., None]
        return loc


class Pinned(NamedTuple):
    """Values that are known, (..., C), and where (bool)."""

    values: Tensor
    known: Tensor


class PixelDistribution:
    """What a pixel can be: its channels, its levels if it has any, and the units of the mixture.

    shift, unit: (C,), by which a channel is standardised: y = (x - shift) / unit.
    """

    def __init__(self, event: EventSpec, channels: int, components: int, discretized: bool) -> None:
        self.event, self.channels, self.components, self.discretized = event, channels, components, discretized
        self.values: tuple[float, ...] = ()
        self.midpoints: tuple[float, ...] = ()
        if discretized and event.levels is not None and event.low is not None:
            self.values = tuple(event.low + level * event.bin_width for level in range(event.levels))
            self.midpoints = tuple(event.low + (k + 0.5) * event.bin_width for k in range(event.levels - 1))

    def log_prob(self, x: Tensor, raw: Tensor, shift: Tensor, unit: Tensor) -> Tensor:
        """x (..., C), raw (..., size) -> (...): log mass, or log density per unit of x; nats."""
        return self.log_prob_of(x, PixelMixture.of(raw, self.channels, self.components), shift, unit)

    def log_prob_of(self, x: Tensor, mixture: PixelMixture, shift: Tensor, unit: Tensor) -> Tensor:
        """The same for a mixture."""
        y = (x - shift) / unit
        if self.channels == 1 and not self.discretized:
            loc, log_scale = mixture.loc[..., 0, :], mixture.log_scale[..., 0, :]
            return logistic_mixture.log_density(y[..., 0], mixture.logits, loc, log_scale) - unit.log().sum()
        total = mixture.logits
        for channel in range(self.channels):
            total = total + self._of_channel(x, y, mixture, channel, shift, unit)
        log_prob = torch.logsumexp(total, -1) - torch.logsumexp(mixture.logits, -1)
        return log_prob if self.discretized else log_prob - unit.log().sum()

    def _of_channel(
        self, x: Tensor, y: Tensor, mixture: PixelMixture, channel: int, shift: Tensor, unit: Tensor
    ) -> Tensor:
        """log f_kc of one channel, given the true values of those before it: (..., K)."""
        loc = mixture.loc_given(channel, [y[..., index] for index in range(channel)])
        log_scale = mixture.log_scale[..., channel, :]
        return self._log_components(x[..., channel], y[..., channel], loc, log_scale, shift[channel], unit[channel])

    def _log_components(
        self, x: Tensor, y: Tensor, loc: Tensor, log_scale: Tensor, shift: Tensor, unit: Tensor
    ) -> Tensor:
        """log f_kc of one channel: x, y (...), loc, log_scale (..., K) -> (..., K); shift and unit of the channel."""
        if not self.discretized:
            return logistic_mixture.log_density_of_components(y, loc, log_scale)
        loc, log_scale = shift + unit * loc, log_scale + unit.log()
        return logistic_mixture.log_mass_of_components(x, loc, log_scale, self.event)

    def log_channels(self, x: Tensor, raw: Tensor, shift: Tensor, unit: Tensor) -> Tensor:
        """log p of every channel given those before it, x (..., C) -> (..., C); they sum to `log_prob`."""
        mixture = PixelMixture.of(raw, self.channels, self.components)
        y, total, terms = (x - shift) / unit, mixture.logits, []
        for channel in range(self.channels):
            before = torch.logsumexp(total, -1)
            total = total + self._of_channel(x, y, mixture, channel, shift, unit)
            terms.append(torch.logsumexp(total, -1) - before)
        stacked = torch.stack(terms, dim=-1)
        return stacked if self.discretized else stacked - unit.log()

    def draw(self, logit_u: Tensor, raw: Tensor, shift: Tensor, unit: Tensor, pinned: Pinned | None = None) -> Tensor:
        """logit_u (..., C), raw (..., size) -> x (..., C), channel by channel through the inverse CDF.

        Given the channels before it, a channel's components are weighted by how well they explain those.
        pinned: channels that are known keep their value, and those after them are drawn given it.
        """
        xp, (u, shifts, units, raw_array) = arrays(logit_u, shift, unit, raw)
        mixture = PixelMixture.of(raw_array, self.channels, self.components, xp)
        logits = mixture.logits
        values: list[Any] = []
        standardised: list[Any] = []
        for channel in range(self.channels):
            loc, log_scale = mixture.loc_given(channel, standardised), mixture.log_scale[..., channel, :]
            place, size = shifts[channel], units[channel]
            x = self._draw_channel(xp, u[..., channel], logits, loc, log_scale, place, size)
            if pinned is not None:
                _, (known, value) = arrays(pinned.known[..., channel], pinned.values[..., channel])
                x = xp.where(known, value, x)
            values.append(x)
            standardised.append((x - place) / size)
            if channel < self.channels - 1:
                explained = self._log_components(
                    tensor(x), tensor(standardised[-1]), tensor(loc), tensor(log_scale), shift[channel], unit[channel]
                )
                logits = logits + arrays(explained)[1][0]
        return tensor(xp.stack(values) if self.channels > 1 else values[0][..., None])

    def _draw_channel(
        self, xp: Operations, logit_u: Any, logits: Any, loc: Any, log_scale: Any, shift: Any, unit: Any
    ) -> Any:
        if not self.discretized:
            return shift + unit * logistic_mixture.quantile(xp, logit_u, logits, loc, log_scale)
        loc, log_scale = shift + unit * loc, log_scale + xp.log(unit)
        level = logistic_mixture.quantile_level(xp, logit_u, logits, loc, log_scale, self.midpoints)
        return xp.constant(self.values, loc)[level]
