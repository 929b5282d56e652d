"""Single-step denoising: the posterior mean, from the smoothed density alone."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Generator, Tensor

from smoothgen.density_model import DensityModel, Score
from smoothgen.event import EventSpec
from smoothgen.inverter import Inverter, InverterConfig
from smoothgen.noise_kernel import NoiseKernel
from smoothgen.particles import Particles


class GradientInverter(Inverter):
    """x = E[x | x_tilde] by empirical Bayes (Eq. 2 for Gaussian noise). Deterministic; no density, so no bound."""

    has_density = False

    def __init__(self, event: EventSpec, score: Score = "full") -> None:
        super().__init__(event)
        self.score: Score = score

    def invert(
        self,
        x_tilde: Tensor,
        smoothed: DensityModel,
        kernel: NoiseKernel,
        *,
        context: Tensor | None = None,
        generator: Generator | None = None,
    ) -> Tensor:
        return kernel.posterior_mean(x_tilde, smoothed, context=context, score=self.score)

    def complete(
        self,
        x: Tensor,
        known: Tensor,
        x_tilde: Tensor,
        smoothed: DensityModel,
        kernel: NoiseKernel,
        *,
        context: Tensor | None = None,
        particles: Particles | None = None,
        log_reference: Tensor | None = None,
        generator: Generator | None = None,
    ) -> Tensor:
        """The posterior mean at unknown coordinates. It weighs nothing: a mean has no density for the known ones."""
        return torch.where(known, x, self.invert(x_tilde, smoothed, kernel, context=context))

    def check(self, smoothed: DensityModel, kernel: NoiseKernel) -> None:
        kernel.check_posterior_mean(smoothed, self.score)


class GradientConfig(InverterConfig):
    """The posterior mean E[x | x_tilde].

    score: "full" differentiates the whole log p(x_tilde), as Eq. 2 says; "causal" is what the paper's released code
    computes, E[x_i | x_tilde_1..i], kept to reproduce it.
    """

    type: Literal["gradient"] = "gradient"
    score: Score = "full"

    def build(self, event: EventSpec, kernel: NoiseKernel, features: int = 0) -> Inverter:
        return GradientInverter(event, self.score)
