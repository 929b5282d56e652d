"""Gaussian noise, whose posterior mean is Tweedie's formula (Eq. 2)."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Generator, Tensor

from smoothgen.density_model import DensityModel, Score
from smoothgen.event import EventSpec
from smoothgen.noise_kernel import NoiseKernel, ProductKernel, ScaledKernelConfig


class GaussianKernel(ProductKernel):
    """q(x_tilde | x) = N(x_tilde; x, sigma^2). Entropy per coordinate: log(2 pi e sigma^2) / 2 nats."""

    def _standard_noise(self, like: Tensor, generator: Generator | None) -> Tensor:
        return torch.empty_like(like).normal_(generator=generator)

    def _standard_log_prob(self, noise: Tensor, rounding: Tensor) -> Tensor:
        return -0.5 * noise.square() - 0.5 * math.log(2.0 * math.pi)

    def check_posterior_mean(self, smoothed: DensityModel, score: Score = "full") -> None:
        smoothed.check_score(score)

    def _posterior_mean(self, x_tilde: Tensor, smoothed: DensityModel, context: Tensor | None, score: Score) -> Tensor:
        """x_tilde + sigma^2 grad log p(x_tilde). Source: arXiv 2103.15089, Eq. 2 (Tweedie's formula)."""
        return x_tilde + self.sigma.detach() ** 2 * smoothed.score(x_tilde, context, kind=score)


class GaussianConfig(ScaledKernelConfig):
    """Gaussian noise."""

    type: Literal["gaussian"] = "gaussian"

    def build(self, event: EventSpec) -> NoiseKernel:
        return GaussianKernel(event, self.number(), learnable=self.learnable)
