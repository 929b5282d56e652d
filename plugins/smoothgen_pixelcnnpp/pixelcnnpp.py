"""PixelCNN++ as a density: any image, any context, discrete or continuous."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field, PositiveInt
from torch import Generator, Tensor, nn

from smoothgen import logistic_mixture
from smoothgen.density_model import DensityModel, DensityModelConfig
from smoothgen.errors import ConfigError
from smoothgen.event import ContextSpec, EventSpec
from smoothgen.particles import Particles
from smoothgen_pixelcnnpp.convolutions import NormedConv
from smoothgen_pixelcnnpp.encoder import Encoder
from smoothgen_pixelcnnpp.head import Pinned, PixelDistribution, PixelMixture
from smoothgen_pixelcnnpp.network import Network
from smoothgen_pixelcnnpp.samplers import Algorithm, Given, Request, images_at_once, sample_images, weighed_images

Conditioning = Literal["aligned", "stack"]
INITIAL_IMAGES = 128
"""How many training images the data-dependent initialisation looks at."""


class PixelCNNPP(DensityModel):
    """p(x) = prod_i p(x_i | x_<i, context) over the pixels i in raster order.

    A pixel's channels come one after the other, coupled inside the mixture. An event of shape (D,) is an image of one
    row, (H, W) one of one channel. With a noisy copy among the context, `conditioning` says how the network is given
    x_tilde: "stack" puts it above x as 2 H rows (arXiv 2103.15089, appendix C.1), "aligned" adds what an unmasked
    encoder finds in it where x is. Further features (class labels) shift every block.
    Source: Salimans et al. 2017 (arXiv 1701.05517).
    """

    autoregressive = True
    shift: Tensor
    unit: Tensor

    def __init__(
        self,
        event: EventSpec,
        context: ContextSpec | None,
        *,
        filters: int,
        blocks: int,
        resolutions: int,
        components: int,
        dropout: float,
        conditioning: Conditioning,
        encoder_blocks: int,
        discretized: bool,
        data_dependent: bool,
        sampler: Algorithm,
    ) -> None:
        super().__init__(event, context)
        self.measure = "discrete" if discretized else "density"
        self.image_shape = as_image(event.shape)
        self.conditioning, self.data_dependent, self.sampler = conditioning, data_dependent, sampler
        channels = self.image_shape[0]
        self.pixel = PixelDistribution(event, channels, components, discretized)
        self.network = Network(
            channels,
            filters,
            PixelMixture.size(channels, components),
            blocks=blocks,
            resolutions=resolutions,
            dropout=dropout,
        )
        counts = self.network.counts
        noisy = context is not None and context.noisy_copy is not None
        self.stacked = noisy and conditioning == "stack"
        self.encoder = (
            Encoder(channels, filters, blocks=encoder_blocks, counts=counts, target=filters, dropout=dropout)
            if noisy and conditioning == "aligned"
            else None
        )
        self.features = (
            nn.Linear(context.features, 2 * filters * 2 * sum(map(sum, counts)), bias=False)
            if context is not None and context.features
            else None
        )
        self.register_buffer("shift", torch.zeros(channels))
        self.register_buffer("unit", torch.ones(channels))
        with torch.no_grad():
            self._set_spread(torch.linspace(-1.5, 1.5, 2 * components + 1)[1::2].expand(channels, -1))

    @property
    def rows_at_once(self) -> int:
        return images_at_once(self)

    def _log_prob(self, x: Tensor, context: Tensor | None, generator: Generator | None) -> Tensor:
        return self.log_pixels(x, context).flatten(1).sum(1)

    def log_pixels(self, x: Tensor, context: Tensor | None) -> Tensor:
        """log p(x_i | x_<i, context) of every pixel: (batch, H, W), nats."""
        image = self.image(x)
        raw = self.parameters_of(image, self.given(context))
        return self.pixel.log_prob(channels_last(image), raw, self.shift, self.unit)

    def image(self, x: Tensor) -> Tensor:
        """(batch, *event_shape) -> (batch, C, H, W)."""
        return x.reshape(len(x), *self.image_shape)

    def standardise(self, image: Tensor) -> Tensor:
        """What the network sees of pixels: (batch, C, H, W)."""
        return (image - self.shift[:, None, None]) / self.unit[:, None, None]

    def given(self, context: Tensor | None) -> Given:
        """What the context says, once for all pixels."""
        if context is None or self.context is None:
            return Given(None, None, None)
        noisy_copy, features = self.context.split(context)
        above = None if noisy_copy is None else self.standardise(self.image(noisy_copy))
        added = None if self.encoder is None or above is None else self.encoder(above)
        shifted = None
        if self.features is not None and features is not None:
            flat = self.features(features)[:, :, None, None].split(2 * self.network.filters, dim=1)
            counts = [2 * sum(count) for count in self.network.counts]
            shifted = [flat[sum(counts[:level]) : sum(counts[: level + 1])] for level in range(len(counts))]
        return Given(above if self.stacked else None, added, shifted)

    def parameters_of(self, image: Tensor, given: Given) -> Tensor:
        """The raw parameters of every pixel's mixture: (batch, H, W, size), in the dtype of the image."""
        y = self.standardise(image)
        if given.above is not None:
            y = torch.cat([given.above, y], dim=2)
        raw = self.network(y, given.added, given.shifted)
        return channels_last(raw[:, :, -image.shape[2] :]).to(image.dtype)

    def _sample(self, num_samples: int, context: Tensor | None, generator: Generator | None) -> Tensor:
        """One uniform for every pixel and channel, drawn at once, whatever the algorithm and the memory."""
        channels, height, width = self.image_shape
        logit_u = logistic_mixture.logit_uniform((num_samples, height, width, channels), self.unit, generator)
        at_once = images_at_once(self, self.sampler)
        parts = []
        for start in range(0, num_samples, at_once):
            rows = slice(start, start + at_once)
            given = self.given(None if context is None else context[rows])
            done = (start / num_samples, min(start + at_once, num_samples) / num_samples)
            parts.append(sample_images(self, self.sampler, Request(logit_u[rows], given), done).image)
        images = torch.cat(parts) if parts else logit_u
        return images.movedim(-1, 1).reshape(num_samples, *self.event_shape)

    def _complete(
        self,
        x: Tensor,
        known: Tensor,
        context: Tensor | None,
        particles: Particles | None,
        log_reference: Tensor | None,
        generator: Generator | None,
    ) -> Tensor:
        """The uniforms are those of `_sample`. Known pixels weigh once a row, all images at once."""
        values, pinned = channels_last(self.image(x)).contiguous(), channels_last(self.image(known))
        logit_u = logistic_mixture.logit_uniform(tuple(values.shape), self.unit, generator)
        request = Request(logit_u, self.given(context), Pinned(values, pinned))
        if particles is None:
            return sample_images(self, self.sampler, request).image.movedim(-1, 1).reshape(x.shape)
        weights = particles
        reference = None if log_reference is None else channels_last(self.image(log_reference))

        def after_row(row: int, pixels: Tensor, raw: Tensor) -> Tensor | None:
            here = pinned[:, row]
            if not bool(here.any()):
                return None
            log_prob = self.pixel.log_channels(pixels, raw, self.shift, self.unit)
            increment = log_prob if reference is None else log_prob - reference[:, row]
            return weights.weigh(increment.where(here, 0.0).flatten(1).sum(1))

        return weighed_images(self, request, after_row).movedim(-1, 1).reshape(x.shape)

    def _causal_score(self, x: Tensor, context: Tensor | None) -> Tensor:
        """The derivative of every pixel's own conditional, the parameters held fixed; channels stay coupled."""
        image = self.image(x)
        with torch.no_grad():
            raw = self.parameters_of(image, self.given(context))
        with torch.enable_grad():
            variable = channels_last(image).detach().requires_grad_(True)
            total = self.pixel.log_prob(variable, raw, self.shift, self.unit).sum()
            (gradient,) = torch.autograd.grad(total, variable)
        return gradient.movedim(-1, 1).reshape(x.shape)

    def _initialize(self, x: Tensor, context: Tensor | None) -> None:
        """Standardises by the batch, spreads the components over its values, and lets every layer start at spread 1."""
        pixels = self.image(x).movedim(1, 0).flatten(1)
        self.shift.copy_(pixels.mean(1))
        spread = pixels.std(1, correction=0)
        self.unit.copy_(torch.where(spread > 0, spread, torch.ones_like(spread)))
        if self.data_dependent:
            rows = torch.linspace(0, len(x) - 1, min(INITIAL_IMAGES, len(x)), device=x.device).long()
            convolutions = [module for module in self.modules() if isinstance(module, NormedConv)]
            _set_initializing(convolutions, True)
            try:
                self.parameters_of(self.image(x)[rows], self.given(None if context is None else context[rows]))
            finally:
                _set_initializing(convolutions, False)
        standardised = self.standardise(self.image(x)).movedim(1, 0).flatten(1)
        low, high = standardised.amin(1, keepdim=True), standardised.amax(1, keepdim=True)
        places = (torch.arange(self.pixel.components, device=x.device) + 0.5) / self.pixel.components
        self._set_spread(low + (high - low) * places.to(low.dtype))

    def _set_spread(self, loc: Tensor) -> None:
        """Starts the components of every channel at `loc` (C, K), each about as wide as the gaps between them."""
        components = loc.shape[1]
        gap = (loc[:, -1:] - loc[:, :1]) / max(components - 1, 1) if components > 1 else torch.ones_like(loc)
        log_scale = (0.5 * gap).clamp(min=0.05).log().expand_as(loc)
        zero = loc.new_zeros(self.network.out.bias.numel() - components - 2 * loc.numel())
        bias = torch.cat([loc.new_zeros(components), loc.flatten(), log_scale.flatten(), zero])
        self.network.out.bias.copy_(bias.to(self.network.out.bias))


def as_image(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """(C, H, W) of an event's shape."""
    if len(shape) > 3:
        raise ConfigError(f"pixelcnnpp: events have shape (C, H, W), (H, W) or (D,), not {shape}")
    channels, height, width = (1,) * (3 - len(shape)) + shape
    return channels, height, width


def channels_last(image: Tensor) -> Tensor:
    """(batch, C, H, W) -> (batch, H, W, C), a view."""
    return image.movedim(1, -1)


def _set_initializing(convolutions: list[NormedConv], value: bool) -> None:
    for convolution in convolutions:
        convolution.initializing = value


class PixelCNNPPConfig(DensityModelConfig):
    """PixelCNN++ over images (C, H, W).

    filters: channels of the network; the paper has 40 for MNIST and 160 for CIFAR-10. blocks: gated residual blocks
    per resolution and direction (one more on the way back up). resolutions: 1 to 3, each half as large as the last.
    components: logistics per pixel. dropout: share of hidden units dropped in training.
    conditioning: how p(x | x_tilde) is given x_tilde: "aligned", by an unmasked encoder of `encoder_blocks` blocks per
    resolution and direction, or "stack", above x as the paper does.
    initialization: "data" lets every layer start with mean 0 and spread 1 on training images, "plain" with weights of
    norm 1. head: "discretized" gives probabilities of levels, "continuous" a density, "auto" follows the event.
    sampler: "cached" computes every activation once, and "compiled" does so in C where it can (on the CPU, with a C
    compiler), "naive" all of them for every pixel, "fixed-point" iterates on the whole image, "fixed-point-rows" row by
    row; all give the same samples.
    """

    type: Literal["pixelcnnpp"] = "pixelcnnpp"
    filters: PositiveInt = 40
    blocks: PositiveInt = 5
    resolutions: Annotated[int, Field(ge=1, le=4)] = 3
    components: PositiveInt = 10
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    conditioning: Conditioning = "aligned"
    encoder_blocks: PositiveInt = 1
    initialization: Literal["data", "plain"] = "data"
    head: Literal["auto", "continuous", "discretized"] = "auto"
    sampler: Algorithm = "compiled"

    def build(self, event: EventSpec, context: ContextSpec | None = None) -> DensityModel:
        if self.head == "discretized" and event.levels is None:
            raise ConfigError('pixelcnnpp: head "discretized" needs discrete data; this event is continuous')
        return PixelCNNPP(
            event,
            context,
            filters=self.filters,
            blocks=self.blocks,
            resolutions=self.resolutions,
            components=self.components,
            dropout=self.dropout,
            conditioning=self.conditioning,
            encoder_blocks=self.encoder_blocks,
            discretized=event.levels is not None and self.head != "continuous",
            data_dependent=self.initialization == "data",
            sampler=self.sampler,
        )
