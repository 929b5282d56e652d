"""RealNVP: affine couplings from data to Gaussian noise, with or without a context."""

from __future__ import annotations

import math
import random
from typing import Annotated, Literal

import normflows as nf
import torch
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Generator, Tensor

from smoothgen.density_model import DensityModel, DensityModelConfig
from smoothgen.errors import ConfigError
from smoothgen.event import ContextSpec, EventSpec
from smoothgen_realnvp.coupling import Couplings, CouplingStack
from smoothgen_realnvp.frame import Frame

Split = Literal["alternate", "halves", "random"]


class StandardNormal(nf.distributions.BaseDistribution):
    """The noise's density. normflows' DiagGaussian calls numpy at every evaluation and divides by a scale of 1."""

    def __init__(self, dimensions: int) -> None:
        super().__init__()
        self.log_normaliser = 0.5 * dimensions * math.log(2.0 * math.pi)

    def log_prob(self, z: Tensor, context: object = None) -> Tensor:
        """z (batch, D) -> (batch,), nats."""
        return -0.5 * z.square().sum(1) - self.log_normaliser


class RealNVP(DensityModel):
    """p(x) or p(x | context) by couplings: exact likelihood and sampling, both in one pass.

    The event is flattened; every coupling, so every coordinate, sees the whole context. Given a noisy copy x_tilde of
    known noise, the flow models the residual (x - x_tilde) / std, so that it starts as q(x_tilde | x) turned around.

    normflows composes the flows: ConditionalNormalizingFlow's `forward` and `log_prob` are sound. Its
    `*_and_log_det` add up in float32 whatever the dtype, `sample` takes no generator, and `save` and `load` pickle:
    none of these is called. The couplings are ours (`CouplingStack` says why); Permute is theirs, with our order.
    Source: Dinh et al. 2017 (arXiv 1605.08803). The anchoring and the Fourier features are ours.
    """

    def __init__(
        self,
        event: EventSpec,
        context: ContextSpec | None,
        *,
        layers: int,
        hidden: tuple[int, ...],
        activation: str,
        max_log_scale: float,
        actnorm: bool,
        fourier: int,
        fourier_period: float | None,
        split: Split,
        split_seed: int,
        anchor: bool,
    ) -> None:
        super().__init__(event, context)
        self.actnorm = actnorm
        size = event.dimensions
        self.frame = Frame(size, context, anchor, fourier, fourier_period)

        def couplings(count: int, kept: list[int]) -> Couplings:
            return Couplings(
                count,
                kept,
                size,
                self.frame.features,
                hidden=hidden,
                activation=activation,
                max_log_scale=max_log_scale,
                fourier=fourier,
            )

        flows: list[nf.flows.Flow] = []  # from data to noise; normflows lists them from noise to data
        coordinates = list(range(size))
        for order, count in _turns(size, layers, split, split_seed):
            coordinates = [coordinates[index] for index in order]
            if order != list(range(size)):
                flows.append(_permutation(order))
            halves = coordinates[: (size + 1) // 2], coordinates[(size + 1) // 2 :]
            flows.append(CouplingStack(count, halves, couplings))
        self.flow = nf.ConditionalNormalizingFlow(StandardNormal(size), flows[::-1])

    def _log_prob(self, x: Tensor, context: Tensor | None, generator: Generator | None) -> Tensor:
        residual = (x.flatten(1) - self.frame.anchor(context)) / self.frame.unit
        return self.flow.log_prob(residual, self.frame.conditions(context)) - self.frame.log_unit()

    def _sample(self, num_samples: int, context: Tensor | None, generator: Generator | None) -> Tensor:
        unit = self.frame.unit
        shape = (num_samples, self.event.dimensions)
        noise = torch.randn(shape, dtype=unit.dtype, device=unit.device, generator=generator)
        flat = self.frame.anchor(context) + unit * self.flow(noise, self.frame.conditions(context))
        return flat.reshape(num_samples, *self.event_shape)

    def _initialize(self, x: Tensor, context: Tensor | None) -> None:
        """Measures the frame, then gives every coupling's output mean 0 and deviation 1 on this batch."""
        self.frame.initialize(x.flatten(1), context)
        if not self.actnorm:
            return
        z = (x.flatten(1) - self.frame.anchor(context)) / self.frame.unit
        conditions = self.frame.conditions(context)
        for flow in reversed(self.flow.flows):
            if isinstance(flow, CouplingStack):
                flow.initialize(z, conditions)
            z, _ = flow.inverse(z, conditions)


def _turns(dimensions: int, layers: int, split: Split, seed: int) -> list[tuple[list[int], int]]:
    """Orders of the coordinates, each relative to the one before, and how many couplings follow in it.

    A random split is drawn anew for every pair of couplings, so that every coordinate moves in every pair; with two
    coordinates there is only one split.
    """
    natural = list(range(dimensions))
    if split == "alternate":
        return [(natural[0::2] + natural[1::2], layers)]
    if split == "halves" or dimensions == 2:
        return [(natural, layers)]
    draw = random.Random(seed)
    return [(draw.sample(natural, dimensions), min(2, layers - start)) for start in range(0, layers, 2)]


def _permutation(order: list[int]) -> nf.flows.Permute:
    """Data to noise: z[:, order]. normflows draws its own order; the seed's replaces it."""
    flow = nf.flows.Permute(len(order), mode="shuffle")
    flow.inv_perm.copy_(torch.tensor(order))
    flow.perm.copy_(torch.tensor(order).argsort())
    return flow


class RealNVPConfig(DensityModelConfig):
    """Affine couplings between the data and Gaussian noise; for two coordinates or more.

    layers: couplings. hidden: widths of the hidden layers of each coupling's network. activation: silu, relu or tanh.
    max_log_scale: how much one coupling can depart from its overall log scale, either way. actnorm: start every
    coupling so that a batch of training data leaves it with mean 0 and deviation 1.
    fourier: octaves of sines and cosines of the coordinates among the networks' inputs; fourier_period: the longest
    period in units of x, by default a quarter more than the range of the training data.
    split: which coordinates move together: every second one (alternate), the first and the last half (halves), or
    a random half, drawn with split_seed anew for every two couplings.
    anchor: model the residual from x_tilde in units of the noise, where the context is a noisy copy of x.
    """

    type: Literal["realnvp"] = "realnvp"
    layers: Annotated[int, Field(ge=2)] = 8
    hidden: tuple[PositiveInt, ...] = (64, 64)
    activation: Literal["silu", "relu", "tanh"] = "silu"
    max_log_scale: PositiveFloat = 3.0
    actnorm: bool = True
    fourier: NonNegativeInt = 0
    fourier_period: PositiveFloat | None = None
    split: Split = "alternate"
    split_seed: NonNegativeInt = 0
    anchor: bool = True

    def build(self, event: EventSpec, context: ContextSpec | None = None) -> DensityModel:
        if event.dimensions < 2:
            raise ConfigError(
                "realnvp: a coupling moves some coordinates by what the others are, so it needs at least 2; with one "
                f"(event shape {event.shape}) the model could only be a Gaussian; use type: made"
            )
        if not self.hidden:
            raise ConfigError("realnvp: hidden needs at least one layer")
        return RealNVP(
            event,
            context,
            layers=self.layers,
            hidden=self.hidden,
            activation=self.activation,
            max_log_scale=self.max_log_scale,
            actnorm=self.actnorm,
            fourier=self.fourier,
            fourier_period=self.fourier_period,
            split=self.split,
            split_seed=self.split_seed,
            anchor=self.anchor,
        )
