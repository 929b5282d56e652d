"""A pinwheel: elongated Gaussians bent into spiral arms by a map that keeps areas."""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Generator, Tensor

from smoothgen.data_source import DataSource
from smoothgen_datasets.quadrature import around
from smoothgen_datasets.toy import ToyConfig, ToySource, category, normal

SCALE = 2.0


class Pinwheel(ToySource):
    """x = 2 T(y): y from equal Gaussians N((1, 0), diag(radial^2, tangential^2)) turned by 2 pi k / arms, T the twist.

    T rotates each point by twist * |y| radians. It keeps |y|, so its Jacobian is one and its inverse rotates back:
    p(x) = p(y) / 4 exactly.
    """

    def __init__(self, config: PinwheelConfig) -> None:
        super().__init__(config, dimensions=2)
        self.arms, self.twist = config.arms, config.twist
        self.radial_std, self.tangential_std = config.radial_std, config.tangential_std

    def _sample(self, n: int, generator: Generator) -> Tensor:
        along, across = normal((2, n), generator)
        along, across = 1.0 + self.radial_std * along, self.tangential_std * across
        arm = category(n, self.arms, generator).to(along.dtype)
        angle = arm * (2.0 * math.pi / self.arms) + self.twist * along.hypot(across)
        return torch.stack(rotate(SCALE * along, SCALE * across, angle), dim=1)

    def _log_prob(self, x: Tensor) -> Tensor:
        distance = torch.linalg.vector_norm(x / SCALE, dim=1)
        first, second = rotate(x[:, 0] / SCALE, x[:, 1] / SCALE, -self.twist * distance)
        return self._log_straight(first, second) - 2.0 * math.log(SCALE)

    def _log_straight(self, first: Tensor, second: Tensor) -> Tensor:
        """The log density before the twist."""
        angle = torch.arange(self.arms, dtype=first.dtype, device=first.device) * (2.0 * math.pi / self.arms)
        along, across = rotate(first[:, None], second[:, None], -angle)
        exponent = ((along - 1.0) / self.radial_std).square() + (across / self.tangential_std).square()
        return torch.logsumexp(-0.5 * exponent, 1) - math.log(
            2.0 * math.pi * self.radial_std * self.tangential_std * self.arms
        )

    def _compute_entropy(self) -> float:
        """Of the straight arms plus log 4; over the arm on the first axis (all are alike), by Gauss-Legendre."""
        width = min(self.radial_std, self.tangential_std)
        first, first_weights = around(1.0, self.radial_std, width=width)
        second, second_weights = around(0.0, self.tangential_std, width=width)
        along, across = torch.cartesian_prod(first, second).unbind(1)
        exponent = ((along - 1.0) / self.radial_std).square() + (across / self.tangential_std).square()
        arm = (-0.5 * exponent).exp() / (2.0 * math.pi * self.radial_std * self.tangential_std)
        weights = torch.outer(first_weights, second_weights).flatten() * arm
        return 2.0 * math.log(SCALE) - (weights * self._log_straight(along, across)).sum().item()


def rotate(first: Tensor, second: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
    """(first, second) turned anticlockwise by an angle in radians."""
    cosine, sine = angle.cos(), angle.sin()
    return first * cosine - second * sine, first * sine + second * cosine


class PinwheelConfig(ToyConfig):
    """Spiral arms.

    Source: our own definition, after the pinwheel of Johnson et al. (arXiv 1603.06277) and FFJORD (arXiv 1810.01367).
    Theirs bends each arm by an angle that depends on one coordinate alone, exponentially; this one by an angle
    proportional to the distance from the centre, which makes the density exact.

    arms: how many. radial_std, tangential_std: of an arm, along and across it, before all is doubled in size.
    twist: radians per unit of distance, before the doubling.
    """

    type: Literal["pinwheel"] = "pinwheel"
    arms: PositiveInt = 5
    radial_std: PositiveFloat = 0.3
    tangential_std: PositiveFloat = 0.1
    twist: float = 0.7

    def build(self) -> DataSource:
        return Pinwheel(self)
