"""Parts with one fault planted each, and which laws of the contract kill them.

python tests/mutants.py            # the table of docs/concepts/contract.md
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
from torch import Generator, Tensor

from smoothgen.component import ComponentConfig
from smoothgen.data_source import DataSource, DataSourceConfig, Examples, Split
from smoothgen.density_model import DensityModel, DensityModelConfig
from smoothgen.event import ContextSpec, EventSpec
from smoothgen.inverter import Inverter, InverterConfig
from smoothgen.noise_kernel import NoiseKernel, NoiseKernelConfig
from smoothgen.testing import Report, laws_of, subjects_of
from smoothgen.testing.law import judge
from smoothgen.testing.material import LEVELS, LINE, PLANE
from smoothgen_inverters.conditional import ConditionalConfig, ConditionalInverter
from smoothgen_kernels.gaussian import GaussianConfig
from smoothgen_made.made import MADEConfig


class Density(DensityModel):
    """A sound MADE behind what a mutant changes."""

    def __init__(self, event: EventSpec, context: ContextSpec | None) -> None:
        super().__init__(event, context)
        self.inner = MADEConfig(hidden=(16, 16), components=2).build(event, context)
        self.measure, self.exact = self.inner.measure, self.inner.exact

    def _log_prob(self, x: Tensor, context: Tensor | None, generator: Generator | None) -> Tensor:
        return self.inner.log_prob(x, context, generator=generator)

    def _sample(self, num_samples: int, context: Tensor | None, generator: Generator | None) -> Tensor:
        return self.inner.sample(num_samples, context, generator=generator)

    def _initialize(self, x: Tensor, context: Tensor | None) -> None:
        self.inner.initialize(x, context)

    def _conditionals(self, x: Tensor, context: Tensor | None) -> Tensor:
        return self.inner.log_conditionals(x, context)

    @property
    def coordinate_order(self) -> tuple[int, ...]:
        return self.inner.coordinate_order


class BlindFirstCoordinate(Density):
    """The first coordinate ignores the context, as nflows' and normflows' autoregressive flows do."""

    def _log_prob(self, x, context, generator):
        if context is None:
            return super()._log_prob(x, context, generator)
        blind = self.inner.log_conditionals(x, torch.zeros_like(context))[:, 0]
        return blind + self.inner.log_conditionals(x, context)[:, 1:].sum(1)

    def _sample(self, num_samples, context, generator):
        if context is None:
            return super()._sample(num_samples, context, generator)
        first = self.inner.sample(num_samples, torch.zeros_like(context), generator=generator)
        known = torch.zeros_like(first, dtype=torch.bool)
        known[:, 0] = True
        return self.inner.complete(first, known, context, generator=generator)


class WrongLogDet(Density):
    """x = 2 z, and log |dx / dz| added where it has to be subtracted."""

    def _log_prob(self, x, context, generator):
        return super()._log_prob(0.5 * x, context, generator) + x[0].numel() * math.log(2.0)

    def _sample(self, num_samples, context, generator):
        return 2.0 * super()._sample(num_samples, context, generator)


class ShiftedRows(Density):
    """Samples get the context of the row before."""

    def _sample(self, num_samples, context, generator):
        return super()._sample(num_samples, None if context is None else context.roll(1, 0), generator)


class WideSamples(Density):
    """Samples spread 10 % too far."""

    def _sample(self, num_samples, context, generator):
        return 1.1 * super()._sample(num_samples, context, generator)


class BatchStatistics(Density):
    """Rows are centred by their batch."""

    def _log_prob(self, x, context, generator):
        return super()._log_prob(x - 0.1 * x.mean(0), context, generator)


class LeftBehind(Density):
    """A tensor is made on the CPU, wherever the input is."""

    def _log_prob(self, x, context, generator):
        return super()._log_prob(x, context, generator) + torch.zeros(len(x), dtype=x.dtype)


class StaleCache(Density):
    """What was computed from the parameters once is kept when they change."""

    kept: Tensor | None = None

    def _log_prob(self, x, context, generator):
        if self.kept is None:
            self.kept = next(self.parameters()).detach().mean()
        return super()._log_prob(x, context, generator) + 1e-3 * (self.kept - next(self.parameters()).mean())


class OwnRandomness(Density):
    """Samples from the global generator."""

    def _sample(self, num_samples, context, generator):
        return super()._sample(num_samples, context, None)


class Detached(Density):
    """Parameters that nothing learns."""

    def __init__(self, event, context):
        super().__init__(event, context)
        self.shift = torch.nn.Parameter(torch.zeros(event.shape))

    def _log_prob(self, x, context, generator):
        return super()._log_prob(self.event.quantize(x - 0.0 * self.shift.detach()), context, generator)


class SinglePrecision(Density):
    """Computes in float32 whatever the dtype."""

    def _log_prob(self, x, context, generator):
        return super()._log_prob(x.float().to(x), context, generator)


class HalfLikelihood(Density):
    """The likelihood in bfloat16 under autocast."""

    def _log_prob(self, x, context, generator):
        value = super()._log_prob(x, context, generator)
        return value.bfloat16() if torch.is_autocast_enabled("cpu") else value


class FalseOrder(Density):
    """Claims the order in which it is not."""

    @property
    def coordinate_order(self):
        return self.inner.coordinate_order[::-1]


class SharedCopies(Density):
    """Copies share their parameters."""

    def __deepcopy__(self, memo: Any) -> SharedCopies:
        return self


class GraphBreak(Density):
    """Looks at a value, which torch.compile cannot."""

    def _log_prob(self, x, context, generator):
        value = super()._log_prob(x, context, generator)
        if x.device.type != "meta" and value.sum().item() > 1e9:
            value = value.clamp(max=1e9)
        return value


class PlaceInBatch(Density):
    """The place of a row in its batch is a part of its value."""

    def _log_prob(self, x, context, generator):
        value = super()._log_prob(x, context, generator)
        return value + 1e-4 * torch.arange(len(x), dtype=x.dtype, device=x.device)


class ColumnOfValues(Density):
    """log_prob is (batch, 1)."""

    def _log_prob(self, x, context, generator):
        return super()._log_prob(x, context, generator)[:, None]


class ForgottenFeature(Density):
    """The last number of the context is not used."""

    def _without(self, context):
        if context is None:
            return None
        return torch.cat([context.flatten(1)[:, :-1], torch.zeros_like(context.flatten(1)[:, :1])], 1)

    def _log_prob(self, x, context, generator):
        return super()._log_prob(x, self._without(context), generator)

    def _sample(self, num_samples, context, generator):
        return super()._sample(num_samples, self._without(context), generator)


class MissingMass(Density):
    """One percent of the mass is missing."""

    def _log_prob(self, x, context, generator):
        return super()._log_prob(x, context, generator) - 0.01


class Kernel(NoiseKernel):
    """A sound Gaussian kernel of learned sigma behind what a mutant changes."""

    def __init__(self, event: EventSpec) -> None:
        super().__init__(event)
        self.inner = GaussianConfig(sigma=0.3, learnable=True).build(event)

    @property
    def sigma(self) -> Tensor:
        return self.inner.sigma

    def _sample(self, x: Tensor, generator: Generator | None) -> Tensor:
        return self.inner.sample(x, generator=generator)

    def _log_prob(self, x_tilde: Tensor, x: Tensor) -> Tensor:
        return self.inner.log_prob(x_tilde, x)


class WrongDeviation(Kernel):
    """Noise and density agree, with 1.01 times the standard deviation that sigma claims."""

    def _sample(self, x, generator):
        return x + 1.01 * (self.inner.sample(x, generator=generator) - x)

    def _log_prob(self, x_tilde, x):
        return self.inner.log_prob(x_tilde / 1.01, x / 1.01) - x[0].numel() * math.log(1.01)


class OtherNoise(Kernel):
    """The noise is uniform, the density Gaussian."""

    def _sample(self, x, generator):
        u = torch.rand(x.shape, dtype=x.dtype, device=x.device, generator=generator)
        return x + math.sqrt(12.0) * self.sigma * (u - 0.5)


class NoNormaliser(Kernel):
    """log_prob without its constant."""

    def _log_prob(self, x_tilde, x):
        return super()._log_prob(x_tilde, x) + 0.1


class Leaning(Kernel):
    """Noise with a mean."""

    def _sample(self, x, generator):
        return super()._sample(x, generator) + 0.05

    def _log_prob(self, x_tilde, x):
        return super()._log_prob(x_tilde - 0.05, x)


class OwnNoise(Kernel):
    """Noise from the global generator."""

    def _sample(self, x, generator):
        return super()._sample(x, None)


class NotReparameterised(Kernel):
    """Noise that does not move with sigma."""

    def _sample(self, x, generator):
        return super()._sample(x, generator).detach() + 0.0 * x

    @property
    def sigma(self):
        return self.inner.sigma


class BatchNoise(Kernel):
    """The density of a row depends on its batch."""

    def _log_prob(self, x_tilde, x):
        return super()._log_prob(x_tilde, x) + 1e-3 * (x_tilde - x).square().mean()


class NoiseLeftBehind(Kernel):
    """A tensor is made on the CPU, wherever the input is."""

    def _sample(self, x, generator):
        return super()._sample(x, generator) + torch.zeros(len(x), *x.shape[1:], dtype=x.dtype)


class Inversion(ConditionalInverter):
    """A sound inverter behind what a mutant changes: p(x | x_tilde) by a small MADE."""

    def __init__(self, event: EventSpec, kernel: NoiseKernel, features: int) -> None:
        config = ConditionalConfig(density=MADEConfig(hidden=(16, 16), components=2))
        sound = config.build(event, kernel, features)
        super().__init__(event, sound.context, sound.density)


class ShiftedCopies(Inversion):
    """Draws get the x_tilde of the row before."""

    def invert(self, x_tilde, smoothed, kernel, *, context=None, generator=None):
        return super().invert(x_tilde.roll(1, 0), smoothed, kernel, context=context, generator=generator)


class MeanForDraw(Inversion):
    """A draw pulled half way to x_tilde."""

    def invert(self, x_tilde, smoothed, kernel, *, context=None, generator=None):
        x = super().invert(x_tilde, smoothed, kernel, context=context, generator=generator)
        return self.event.quantize(0.5 * (x + x_tilde))


class FeaturesForgotten(Inversion):
    """The features are not used."""

    def invert(self, x_tilde, smoothed, kernel, *, context=None, generator=None):
        context = None if context is None else torch.zeros_like(context)
        return super().invert(x_tilde, smoothed, kernel, context=context, generator=generator)

    def log_prob(self, x, x_tilde, *, context=None, generator=None):
        context = None if context is None else torch.zeros_like(context)
        return super().log_prob(x, x_tilde, context=context, generator=generator)


class Source(DataSource):
    """A standard normal in two coordinates, sound, behind what a mutant changes."""

    fresh = True
    seeds: ClassVar[dict[str, int]] = {"train": 1, "validation": 2, "test": 3}

    def __init__(self) -> None:
        super().__init__(EventSpec(shape=(2,)))

    def split(self, name):
        return self.draw(3000, Generator().manual_seed(self.seeds[name]))

    def draw(self, n, generator):
        return Split(torch.randn(n, 2, generator=generator))

    def log_prob(self, x):
        return -0.5 * x.square().sum(1) - math.log(2.0 * math.pi)

    @property
    def entropy(self):
        return 1.0 + math.log(2.0 * math.pi)


class TestIsTrain(Source):
    """The test split is the training split."""

    seeds: ClassVar[dict[str, int]] = {"train": 1, "validation": 2, "test": 1}


class Restless(Source):
    """Splits change from call to call."""

    def split(self, name):
        return Split(torch.randn(3000, 2))


class WrongEntropy(Source):
    """The entropy of another scale."""

    @property
    def entropy(self):
        return 1.3 + math.log(2.0 * math.pi)


class WildDraws(Source):
    """Draws from the global generator."""

    def draw(self, n, generator):
        return Split(torch.randn(n, 2))

    def split(self, name):
        return Split(torch.randn(3000, 2, generator=Generator().manual_seed(self.seeds[name])))


class NextRows(Examples):
    """Examples read from the file, each in the place of the one before it."""

    streamed = True

    def __init__(self, split: Split) -> None:
        self.of = split

    def __len__(self) -> int:
        return len(self.of)

    def rows(self, which):
        return self.of.rows((which + 1) % len(self.of))

    def sketch(self, most):
        return self.spread(most)


class ShiftedExamples(Source):
    """Streams the example after the one that is asked for."""

    def examples(self, name):
        return NextRows(self.split(name))


DENSITY_MUTANTS: dict[str, tuple[type[Density], set[str]]] = {
    "first coordinate blind to the context": (BlindFirstCoordinate, {"context-reaches"}),
    "wrong sign of the log-determinant": (WrongLogDet, {"mass", "samples"}),
    "sampler off by one row": (ShiftedRows, {"samples"}),
    "samples 10 % too wide": (WideSamples, {"samples"}),
    "statistics shared over the batch": (BatchStatistics, {"rows-apart"}),
    "CPU tensor in the middle": (LeftBehind, {"meta"}),
    "stale cache": (StaleCache, {"saved"}),
    "samples from the global generator": (OwnRandomness, {"generator"}),
    "a parameter without a gradient": (Detached, {"learns"}),
    "float32 inside": (SinglePrecision, {"gradient"}),
    "likelihood in bfloat16": (HalfLikelihood, {"bfloat16"}),
    "false order of the coordinates": (FalseOrder, {"order"}),
    "copies share parameters": (SharedCopies, {"copies"}),
    "graph break": (GraphBreak, {"compiles"}),
    "value depends on the place in the batch": (PlaceInBatch, {"permutation", "rows-apart"}),
    "log_prob of shape (batch, 1)": (ColumnOfValues, {"shapes"}),
    "a number of the context unused": (ForgottenFeature, {"context-matters", "context-reaches"}),
    "1 % of the mass missing": (MissingMass, {"mass"}),
}
KERNEL_MUTANTS: dict[str, tuple[type[Kernel], set[str]]] = {
    "standard deviation wrong by 1 %": (WrongDeviation, {"deviation"}),
    "noise of another shape": (OtherNoise, {"samples"}),
    "log_prob not normalised": (NoNormaliser, {"mass"}),
    "noise with a mean": (Leaning, {"deviation", "symmetric"}),
    "noise from the global generator": (OwnNoise, {"generator"}),
    "not reparameterised": (NotReparameterised, {"learnable"}),
    "density depends on the batch": (BatchNoise, {"rows-apart"}),
    "CPU tensor in the noise": (NoiseLeftBehind, {"meta"}),
}


INVERTER_MUTANTS: dict[str, tuple[type[Inversion], set[str]]] = {
    "draws off by one row": (ShiftedCopies, {"samples"}),
    "draws half way to the mean": (MeanForDraw, {"samples"}),
    "features unused": (FeaturesForgotten, {"features-reach"}),
}
DATA_MUTANTS: dict[str, tuple[type[Source], set[str]]] = {
    "the test split is the training split": (TestIsTrain, {"apart"}),
    "splits that change": (Restless, {"splits"}),
    "streamed examples off by one": (ShiftedExamples, {"examples"}),
    "wrong entropy": (WrongEntropy, {"entropy"}),
    "draws from the global generator": (WildDraws, {"draws"}),
}


def density_config(made: Callable[[EventSpec, ContextSpec | None], DensityModel]) -> DensityModelConfig:
    """A configuration, not registered, that builds a mutant."""

    class Config(DensityModelConfig):
        type: Literal["mutant"] = "mutant"

        def build(self, event: EventSpec, context: ContextSpec | None = None) -> DensityModel:
            return made(event, context)

    return Config()


def kernel_config(made: Callable[[EventSpec], NoiseKernel]) -> NoiseKernelConfig:
    """The same for a kernel."""

    class Config(NoiseKernelConfig):
        type: Literal["mutant"] = "mutant"

        def build(self, event: EventSpec) -> NoiseKernel:
            return made(event)

    return Config()


def inverter_config(made: Callable[[EventSpec, NoiseKernel, int], Inverter]) -> InverterConfig:
    """The same for an inverter."""

    class Config(InverterConfig):
        type: Literal["mutant"] = "mutant"

        def build(self, event: EventSpec, kernel: NoiseKernel, features: int = 0) -> Inverter:
            return made(event, kernel, features)

    return Config()


def data_config(made: Callable[[], DataSource]) -> DataSourceConfig:
    """The same for a data source."""

    class Config(DataSourceConfig):
        type: Literal["mutant"] = "mutant"

        def build(self) -> DataSource:
            return made()

    return Config()


CONFIGS: dict[str, list[tuple[str, ComponentConfig, set[str]]]] = {
    "density": [(name, density_config(made), laws) for name, (made, laws) in DENSITY_MUTANTS.items()],
    "kernel": [(name, kernel_config(made), laws) for name, (made, laws) in KERNEL_MUTANTS.items()],
    "inverter": [(name, inverter_config(made), laws) for name, (made, laws) in INVERTER_MUTANTS.items()],
    "data": [(name, data_config(made), laws) for name, (made, laws) in DATA_MUTANTS.items()],
}


def judged(config: ComponentConfig, **settings: Any) -> Report:
    """By every law, on few events."""
    events = (PLANE, LEVELS) if isinstance(config, DensityModelConfig) else (LINE, PLANE)
    return judge("mutant", laws_of(config), subjects_of(config, events, **settings), {})


def killers(config: ComponentConfig) -> list[str]:
    """The laws that a mutant breaks, in their order."""
    broken = {finding.law for finding in judged(config).broken}
    return [law.name for law in laws_of(config) if law.name in broken]


def main() -> None:
    torch.set_num_threads(1)
    print("| part | fault planted | killed by |\n|---|---|---|")
    for interface, mutants in CONFIGS.items():
        for name, config, _ in mutants:
            print(f"| {interface} | {name} | {', '.join(killers(config))} |", flush=True)


if __name__ == "__main__":
    main()
