"""A pixel's distribution: a mixture of logistics whose components are shared by the channels, which are coupled."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from smoothgen import logistic_mixture
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

    logits: Tensor
    loc: Tensor
    log_scale: Tensor
    coupling: Tensor

    @staticmethod
    def size(channels: int, components: int) -> int:
        """How many numbers a pixel's distribution has."""
        return components * (1 + 2 * channels + channels * (channels - 1) // 2)

    @classmethod
    def of(cls, raw: Tensor, channels: int, components: int) -> PixelMixture:
        """From what the network gives: (..., size)."""
        sizes = [1, channels, channels, channels * (channels - 1) // 2]
        parts = raw.unflatten(-1, (-1, components)).split(sizes, dim=-2)
        log_scale = LOG_SCALE_BOUND * torch.tanh(parts[2] / LOG_SCALE_BOUND)
        return cls(parts[0].squeeze(-2), parts[1], log_scale, torch.tanh(parts[3]))

    def detach(self) -> PixelMixture:
        """The same numbers, as constants."""
        return PixelMixture(self.logits.detach(), self.loc.detach(), self.log_scale.detach(), self.coupling.detach())

    def loc_given(self, channel: int, earlier: list[Tensor]) -> Tensor:
        """Means (..., K) of a channel, given the standardised values (...) of those before it."""
        loc = self.loc[..., channel, :]
        first = channel * (channel - 1) // 2
        for index, value in enumerate(earlier):
            loc = loc + self.coupling[..., first + index, :] * value.unsqueeze(-1)
        return loc


class PixelDistribution:
    """What a pixel can be: its channels, its levels if it has any, and the units of the mixture.

    shift, unit: (C,), by which a channel is standardised: y = (x - shift) / unit.
    """

    def __init__(self, event: EventSpec, channels: int, components: int, discretized: bool) -> None:
        self.event, self.channels, self.components, self.discretized = event, channels, components, discretized

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
            earlier = [y[..., index] for index in range(channel)]
            loc = mixture.loc_given(channel, earlier)
            total = total + self._log_components(x[..., channel], y[..., channel], loc, mixture, channel, shift, unit)
        log_prob = torch.logsumexp(total, -1) - torch.logsumexp(mixture.logits, -1)
        return log_prob if self.discretized else log_prob - unit.log().sum()

    def _log_components(
        self, x: Tensor, y: Tensor, loc: Tensor, mixture: PixelMixture, channel: int, shift: Tensor, unit: Tensor
    ) -> Tensor:
        log_scale = mixture.log_scale[..., channel, :]
        if not self.discretized:
            return logistic_mixture.log_density_of_components(y, loc, log_scale)
        loc, log_scale = shift[channel] + unit[channel] * loc, log_scale + unit[channel].log()
        return logistic_mixture.log_mass_of_components(x, loc, log_scale, self.event)

    def draw(self, logit_u: Tensor, raw: Tensor, shift: Tensor, unit: Tensor) -> Tensor:
        """logit_u (..., C), raw (..., size) -> x (..., C), channel by channel through the inverse CDF.

        Given the channels before it, a channel's components are weighted by how well they explain those.
        """
        mixture = PixelMixture.of(raw, self.channels, self.components)
        logits, values, standardised = mixture.logits, [], []
        for channel in range(self.channels):
            loc = mixture.loc_given(channel, standardised)
            x, y = self._draw_channel(logit_u[..., channel], logits, loc, mixture, channel, shift, unit)
            values.append(x)
            standardised.append(y)
            if channel < self.channels - 1:
                logits = logits + self._log_components(x, y, loc, mixture, channel, shift, unit)
        return torch.stack(values, dim=-1)

    def _draw_channel(
        self,
        logit_u: Tensor,
        logits: Tensor,
        loc: Tensor,
        mixture: PixelMixture,
        channel: int,
        shift: Tensor,
        unit: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """The channel's value, and the same standardised."""
        log_scale = mixture.log_scale[..., channel, :]
        if not self.discretized:
            y = logistic_mixture.inverse_cdf(logit_u, logits, loc, log_scale)
            return shift[channel] + unit[channel] * y, y
        assert self.event.low is not None
        loc, log_scale = shift[channel] + unit[channel] * loc, log_scale + unit[channel].log()
        level = logistic_mixture.quantile_level(logit_u, logits, loc, log_scale, self.event)
        x = level.to(loc.dtype) * self.event.bin_width + self.event.low
        return x, (x - shift[channel]) / unit[channel]
