"""Uniform noise on a box. It has no usable posterior mean: a learned density's errors are not damped."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Generator, Tensor

from smoothgen.density_model import DensityModel, Score
from smoothgen.errors import NoClosedFormError
from smoothgen.event import EventSpec
from smoothgen.noise_kernel import NoiseKernel, ProductKernel, ScaledKernelConfig

HALF_WIDTH = math.sqrt(3.0)


class UniformKernel(ProductKernel):
    """Independent noise on [-a, a], a = sigma sqrt(3). Entropy per coordinate: log(2 a) nats."""

    def _standard_noise(self, like: Tensor, generator: Generator | None) -> Tensor:
        uniform = torch.empty_like(like).uniform_(generator=generator)
        return (2.0 * uniform - 1.0) * HALF_WIDTH

    def _standard_log_prob(self, noise: Tensor, rounding: Tensor) -> Tensor:
        """-log(2 sqrt(3)) inside, -inf outside; what may be inside but for rounding counts as inside."""
        inside = noise.abs() <= HALF_WIDTH * (1.0 + 64.0 * torch.finfo(noise.dtype).eps) + rounding
        return torch.where(inside, noise.new_full((), -math.log(2.0 * HALF_WIDTH)), -math.inf)

    def check_posterior_mean(self, smoothed: DensityModel, score: Score = "full") -> None:
        raise NoClosedFormError(
            "kernel uniform: its empirical-Bayes formula is a sum of density differences over the whole line, which "
            "a 1 % error of a learned density ruins (worse than not denoising at all on the thin rings); "
            "use inverter type: conditional, or a gaussian kernel"
        )


class UniformConfig(ScaledKernelConfig):
    """Uniform noise on a box."""

    type: Literal["uniform"] = "uniform"

    def build(self, event: EventSpec) -> NoiseKernel:
        return UniformKernel(event, self.number(), learnable=self.learnable)
