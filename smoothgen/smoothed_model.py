"""Kernel, smoothed density and inverter as one density: samples, bounds with units, denoised and completed data."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, Self, overload

import torch
from torch import Generator, Tensor

from smoothgen.bound import bound
from smoothgen.checkpoint import load_model, save_model
from smoothgen.component import ComponentConfig
from smoothgen.density_model import AnyDensityModel, DensityModel, DensityModelConfig, Score
from smoothgen.dequantization import build_density
from smoothgen.errors import CheckpointError, ConfigError, MeasureError, NoDensityError
from smoothgen.event import ContextSpec, EventSpec
from smoothgen.hooks import hookimpl
from smoothgen.inpainting import Effort, complete_both, inpaint, known_values
from smoothgen.inverter import AnyInverter, Inverter
from smoothgen.kernel_dequantization import DequantizedConfig, KernelDequantization
from smoothgen.likelihood import Likelihood
from smoothgen.noise_kernel import AnyNoiseKernel, NoiseKernel
from smoothgen.objectives import bound_terms
from smoothgen.particles import Particles

Denoiser = Literal["inverter", "single-step"]


class SmoothedModel(DensityModel):
    """p(x) through p(x_tilde) and p(x | x_tilde) (or E[x | x_tilde]); its `log_prob` is a one-draw lower bound.

    Everything public here is in the data's own units; the kernel, the density and the inverter work in the model's
    coordinates, `event.to_model(data)`, which are the same unless the event carries a shift and a scale.
    """

    exact = False

    def __init__(
        self,
        kernel: NoiseKernel,
        density: DensityModel,
        inverter: Inverter,
        event: EventSpec,
        context: ContextSpec | None = None,
        config: SmoothedConfig | None = None,
    ) -> None:
        super().__init__(event, context)
        self.kernel = kernel
        self.density = density
        self.inverter = inverter
        self.config = config
        self.measure = inverter.measure
        self.has_log_prob = inverter.has_density
        inverter.check(density, kernel)

    @property
    def rows_at_once(self) -> int:
        """How many (example, draw) pairs a pass should take, as for its parts."""
        return min(self.density.rows_at_once, self.inverter.rows_at_once)

    def _log_prob(self, x: Tensor, context: Tensor | None, generator: Generator | None) -> Tensor:
        terms = bound_terms(self.kernel, self.density, self.inverter, self._to_model(x), context, generator)
        return terms.total - self.event.log_scale

    @overload  # type: ignore[misc]
    def sample(
        self,
        num_samples: int,
        context: Tensor | None = None,
        *,
        generator: Generator | None = None,
        return_smoothed: Literal[False] = False,
    ) -> Tensor: ...

    @overload
    def sample(
        self,
        num_samples: int,
        context: Tensor | None = None,
        *,
        generator: Generator | None = None,
        return_smoothed: Literal[True],
    ) -> tuple[Tensor, Tensor]: ...

    def sample(
        self,
        num_samples: int,
        context: Tensor | None = None,
        *,
        generator: Generator | None = None,
        return_smoothed: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """(num_samples, *event_shape): x_tilde ~ p(x_tilde), then inverted; values the event can take.

        return_smoothed: also x_tilde, as a pair (x, x_tilde). The one widening of `DensityModel.sample`.
        """
        self._check_count(num_samples)
        self._check_context(context, num_samples)
        with torch.no_grad():
            x_tilde = self.density.sample(num_samples, context, generator=generator)
            x = self.inverter.invert(x_tilde, self.density, self.kernel, context=context, generator=generator)
        x = self.event.nearest_data(x)
        return (x, self.event.to_data(x_tilde)) if return_smoothed else x

    def _sample(self, num_samples: int, context: Tensor | None, generator: Generator | None) -> Tensor:
        return self.sample(num_samples, context, generator=generator)

    @torch.no_grad()
    def likelihood(
        self,
        x: Tensor,
        context: Tensor | None = None,
        *,
        importance_samples: int = 1,
        generator: Generator | None = None,
        rows_at_once: int | None = None,
    ) -> Likelihood:
        """log p(x) of a set of examples, with its terms, units and standard error.

        x (n, *event_shape), data units. importance_samples: K draws of x_tilde for each example; K = 1 is the bound
        of Eq. 3, K > 1 the importance-weighted bound. Raises NoDensityError where the inverter has no density;
        DataError for discrete data that are on no level.
        """
        return self.likelihood_at(
            self._examples(x),
            context,
            importance_samples=importance_samples,
            generator=generator,
            rows_at_once=rows_at_once,
        )

    @torch.no_grad()
    def likelihood_at(
        self,
        x: Tensor,
        context: Tensor | None = None,
        *,
        importance_samples: int = 1,
        generator: Generator | None = None,
        rows_at_once: int | None = None,
    ) -> Likelihood:
        """`likelihood` of examples given in the model's coordinates, as data sources hold them; the same units."""
        if not self.inverter.has_density:
            raise NoDensityError(
                "the inverter has no density, so the bound on log p(x) is undefined; use inverter type: conditional"
            )
        self._check_context(context, len(x))

        def terms(rows: Tensor, contexts: Tensor | None) -> Iterable[Tensor]:
            return bound_terms(self.kernel, self.density, self.inverter, rows, contexts, generator)

        names = ("log p(x̃)", "−log q(x̃|x)", "log p(x|x̃)")
        at_once = self.rows_at_once if rows_at_once is None else rows_at_once
        return bound(terms, names, x, context, self.event, self.measure, importance_samples, at_once)

    @torch.no_grad()
    def stage_one_likelihood(
        self,
        x: Tensor,
        context: Tensor | None = None,
        *,
        importance_samples: int = 1,
        generator: Generator | None = None,
    ) -> Likelihood:
        """A lower bound on log P(x) from p(x_tilde) alone, for discrete data: valid and loose, for any inverter.

        log P(x) >= E_q[log p(x_tilde) - sum_d log sum_k q(x_tilde_d | level k)]: x_tilde is decoded by
        P(x | x_tilde) proportional to q(x_tilde | x) over the levels, as if every level were equally likely.
        x (n, *event_shape). Raises MeasureError for continuous data; NoClosedFormError for noise that is not
        independent between coordinates.
        """
        if self.event.levels is None:
            raise MeasureError(
                "the data are continuous, so p(x_tilde) alone bounds no log p(x); it takes data with levels, or "
                "inverter type: conditional and .likelihood"
            )
        y = self._examples(x)
        self._check_context(context, len(x))
        decoded = KernelDequantization(self.density, self.kernel, self.event.standard(), self.context)

        def terms(rows: Tensor, contexts: Tensor | None) -> Iterable[Tensor]:
            return decoded.terms(rows, contexts, generator)

        names, at_once = ("log p(x̃)", "−log Σ q(x̃|level)"), self.density.rows_at_once
        return bound(terms, names, y, context, self.event, "discrete", importance_samples, at_once)

    @torch.no_grad()
    def denoise(
        self,
        x_tilde: Tensor,
        context: Tensor | None = None,
        *,
        method: Denoiser = "inverter",
        score: Score = "full",
        generator: Generator | None = None,
    ) -> Tensor:
        """x_tilde (batch, *event_shape), data plus the kernel's noise, data units -> x, same shape.

        method "inverter" is what the model was built with: a draw from p(x | x_tilde), or the posterior mean.
        "single-step" is always the posterior mean E[x | x_tilde] by empirical Bayes (Eq. 2), from the whole score, or
        with score "causal" from the truncated one of the paper's released code.
        Raises NoClosedFormError where the kernel has no such formula.
        """
        self._check(x_tilde, self.event_shape, "x_tilde")
        self._check_context(context, len(x_tilde))
        y = self._to_model(x_tilde)
        if method == "single-step":
            return self.event.to_data(self.kernel.posterior_mean(y, self.density, context=context, score=score))
        if method != "inverter":
            raise ConfigError(f'denoise: unknown method "{method}"; choose "inverter" or "single-step"')
        x = self.inverter.invert(y, self.density, self.kernel, context=context, generator=generator)
        return self.event.nearest_data(x) if self.measure == "discrete" else self.event.to_data(x)

    @overload
    def inpaint(
        self,
        x: Tensor,
        mask: Tensor,
        context: Tensor | None = None,
        *,
        particles: int = 1,
        noise_draws: int = 1,
        generator: Generator | None = None,
        rows_at_once: int | None = None,
        return_smoothed: Literal[False] = False,
    ) -> Tensor: ...

    @overload
    def inpaint(
        self,
        x: Tensor,
        mask: Tensor,
        context: Tensor | None = None,
        *,
        particles: int = 1,
        noise_draws: int = 1,
        generator: Generator | None = None,
        rows_at_once: int | None = None,
        return_smoothed: Literal[True],
    ) -> tuple[Tensor, Tensor]: ...

    @torch.no_grad()
    def inpaint(
        self,
        x: Tensor,
        mask: Tensor,
        context: Tensor | None = None,
        *,
        particles: int = 1,
        noise_draws: int = 1,
        generator: Generator | None = None,
        rows_at_once: int | None = None,
        return_smoothed: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """x (batch, *event_shape), data units, with its unknown values drawn given the known ones, which stay exactly.

        mask: bool, True where x is known, of x's shape or the event's. x may hold anything elsewhere, NaN included.

        particles = 1 is the paper's procedure: noise is added to what is known, the rest of x_tilde drawn, then the
        rest of x. Each coordinate is then drawn given those before it alone, so what is known after it has no say.
        More particles correct that: candidates are kept by how well they explain what comes later. In the limit of
        many the draw is exact for exact stages. For stages that are not, the known coordinates' noise, drawn from
        q(x_tilde | x), only stands in for the model's posterior of it; `noise_draws` many noises, weighed against each
        other, correct that too, in the limit for any stages: the target is p(x_tilde) p(x | x_tilde) given x_known.
        The cost is particles * noise_draws samples an example. return_smoothed: also x_tilde, as a pair.

        Raises DataError for known values that the event cannot take; NoClosedFormError where a stage is not
        autoregressive; NonFiniteError where the model thinks the known values impossible; ShapeError, ConfigError.
        """
        self._check(x, self.event_shape, "x")
        self._check_context(context, len(x))
        known = self.check_known(mask, x)
        y = self._known_values(x, known)
        if noise_draws > 1 and not self.inverter.has_density:
            raise NoDensityError(
                "inpaint: noise_draws are weighed by p(x | x_tilde), and this inverter has no density; "
                "use noise_draws=1, or inverter type: conditional"
            )
        effort = Effort(particles, noise_draws, self.rows_at_once if rows_at_once is None else rows_at_once)
        completed, x_tilde = inpaint(self.kernel, self.density, self.inverter, y, known, context, effort, generator)
        filled = torch.where(known, x, self.event.nearest_data(completed))
        return (filled, self.event.to_data(x_tilde)) if return_smoothed else filled

    def check_inpaintable(self, x: Tensor, mask: Tensor) -> Tensor:
        """The mask expanded to x's shape. Raises what `inpaint` does of bad known values, before anything is drawn."""
        known = self.check_known(mask, x)
        self._known_values(x, known)
        return known

    def _known_values(self, x: Tensor, known: Tensor) -> Tensor:
        """x in the model's coordinates, with something valid where it is unknown. Raises DataError for bad values."""
        filler = self.event.nearest_data(torch.zeros_like(x))
        self.event.check_levels(torch.where(known & x.isfinite(), x, filler), "inpaint: x where it is known")
        return known_values(self.event, self._to_model(x), known)

    def _complete(
        self,
        x: Tensor,
        known: Tensor,
        context: Tensor | None,
        particles: Particles | None,
        log_reference: Tensor | None,
        generator: Generator | None,
    ) -> Tensor:
        """Both stages once for every row; known values are alike in each group of particles."""
        units = x.new_tensor(self.event.log_scales).reshape(self.event_shape)
        reference = (torch.zeros_like(x) if log_reference is None else log_reference) + units
        y, reference = self._to_model(x), self._to_dtype(reference)
        completed, _ = complete_both(
            self.kernel,
            self.density,
            self.inverter,
            y,
            known,
            context,
            particles=particles,
            log_reference=reference,
            generator=generator,
        )
        return torch.where(known, x, self.event.nearest_data(completed))

    def smooth(self, x: Tensor, *, generator: Generator | None = None) -> Tensor:
        """x (batch, *event_shape) plus the kernel's noise, in data units: what `denoise` undoes."""
        self._check(x, self.event_shape, "x")
        return self.event.to_data(self.kernel.sample(self._to_model(x), generator=generator))

    def _initialize(self, x: Tensor, context: Tensor | None) -> None:
        y = self._to_model(x)
        x_tilde = self.kernel.sample(y)
        self.density.initialize(x_tilde, context)
        self.inverter.initialize(y, x_tilde, context)

    def _to_model(self, x: Tensor) -> Tensor:
        """Data units -> the model's coordinates, in the model's dtype."""
        return self._to_dtype(self.event.to_model(x))

    def _examples(self, x: Tensor) -> Tensor:
        """Data units -> the model's coordinates. Raises DataError for discrete data that are on no level."""
        self._check(x, self.event_shape, "x")
        self.event.check_levels(x)
        return self._to_model(x)

    def _to_dtype(self, value: Tensor) -> Tensor:
        mine = super()._placement()
        return value if mine is None else value.to(mine.dtype)

    def _placement(self) -> Tensor | None:
        """Data with units of their own may come in float64, whatever the model computes in."""
        return None if self.event.scale else super()._placement()

    def save_pretrained(self, directory: str | Path) -> None:
        """Writes config.json and model.safetensors. Raises CheckpointError for a model assembled by hand."""
        save_model(self, self.config, Path(directory))

    @classmethod
    def from_pretrained(cls, directory: str | Path, *, revision: str | None = None) -> Self:
        """The model that `save_pretrained` (or a training run) wrote, on the CPU, in evaluation mode.

        directory: a folder, or `hf://owner/name` for a model on the Hugging Face hub, at a branch, tag or commit
        `revision`. Raises CheckpointError where files are missing, damaged, or of another kind of model;
        DependencyError without the extra `hub`.
        """
        if not isinstance(directory, (str, os.PathLike)):
            raise ConfigError(f"a model lies in a folder or at hf://owner/name; got {directory!r:.80}, not a path")
        place = Path(directory)
        if str(directory).startswith("hf://"):
            from smoothgen.hub import download

            place = download(str(directory), revision)
        elif revision is not None:
            raise CheckpointError(f"{directory} is a folder: only models at hf://owner/name have a revision")
        model = load_model(place)
        if not isinstance(model, cls):
            raise CheckpointError(f"{directory} holds a {type(model).__name__}, not a SmoothedModel")
        return model

    def push_to_hub(
        self,
        name: str,
        *,
        run_dir: str | Path | None = None,
        private: bool = True,
        revision: str | None = None,
        token: str | None = None,
    ) -> str:
        """Uploads the model to `owner/name` on the Hugging Face hub; returns the address of the commit.

        run_dir: the run that trained it; its card, picture and measurements go along. A repository made by this is
        private by default. Raises CheckpointError; DependencyError without the extra `hub`.
        """
        from smoothgen.hub import upload

        options: dict[str, Any] = {"run_dir": run_dir, "private": private, "revision": revision, "token": token}
        return upload(self, self.config, name, **options)


class SmoothedConfig(DensityModelConfig):
    """A smoothed model: a noise kernel, a density of x_tilde, an inverter.

    Itself a density, so that p(x_tilde) can be a smoothed model in turn: several noise levels by composition.
    """

    type: Literal["smoothed"] = "smoothed"
    kernel: AnyNoiseKernel
    density: AnyDensityModel
    inverter: AnyInverter

    def build(self, event: EventSpec, context: ContextSpec | None = None) -> SmoothedModel:
        standard = event.standard()
        kernel = self.kernel.build(standard)
        density = build_density(self.density, standard.smoothed(), context)
        inverter = self.inverter.build(standard, kernel, context.dimensions if context else 0)
        if event.levels is not None and inverter.has_density and inverter.measure != "discrete":
            raise ConfigError(
                f'inverter "{self.inverter.type}" gives a density, but the data have {event.levels} levels'
            )
        return SmoothedModel(kernel, density, inverter, event, context, self)


@hookimpl
def smoothgen_components() -> list[type[ComponentConfig]]:
    return [SmoothedConfig, DequantizedConfig]
