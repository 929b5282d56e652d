"""The densities of other libraries in one form. No library is imported: an object's own modules are loaded already."""

from __future__ import annotations

import copy
import inspect
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn
from torch.distributions import Distribution, Transform

from smoothgen.density_model import DensityModel
from smoothgen.errors import WrapError


class Foreign(nn.Module, ABC):
    """A wrapped density: r (batch, D) or (batch, *event), context (batch, C) or None.

    What it returns is the library's, unchecked. Draws come from torch's global generators.
    """

    unregistered: tuple[str, ...] = ()
    """Names of tensors that want gradients but are no parameters."""

    @abstractmethod
    def log_prob(self, r: Tensor, context: Tensor | None) -> Tensor:
        """Nats; of shape (batch,) if all is well."""

    @abstractmethod
    def draw(self, num_samples: int, context: Tensor | None) -> Tensor:
        """One draw for each row of the context, or num_samples. Raises NoSampler where the library has none."""

    def event_shape(self, context: Tensor | None) -> tuple[int, ...] | None:
        """The shape of one example as the library declares it; None where it does not."""
        return None

    def to_noise(self, r: Tensor, context: Tensor | None) -> Tensor | None:
        """Data -> noise; None for what is not a flow, or does not show its transform."""
        return None

    def from_noise(self, z: Tensor, context: Tensor | None) -> Tensor:
        """Noise -> data; where `to_noise` is not None."""
        raise NotImplementedError

    def noise_log_prob(self, z: Tensor, context: Tensor | None) -> Tensor:
        """(batch,), nats, of the base; where `to_noise` is not None."""
        raise NotImplementedError


class NoSampler(Exception):
    """The library offers no sampling for this density."""


class NflowsFlow(Foreign):
    """nflows.flows.Flow. Its own sample draws noise in float32 on every dtype, and one block for each context row.

    `_transform`, `_distribution` and `_embedding_net` are its parts; nflows 0.14 is the last release.
    """

    def __init__(self, flow: Any) -> None:
        super().__init__()
        self.flow = flow

    def log_prob(self, r: Tensor, context: Tensor | None) -> Tensor:
        return self.flow.log_prob(r, context=context)

    def draw(self, num_samples: int, context: Tensor | None) -> Tensor:
        seen = self._embedded(context)
        noise = _nflows_draw(self.flow._distribution, num_samples, seen)
        like = next((p for p in self.flow.parameters() if p.is_floating_point()), noise)
        return self.flow._transform.inverse(noise.to(like.dtype), context=seen)[0]

    def to_noise(self, r: Tensor, context: Tensor | None) -> Tensor | None:
        return self.flow._transform(r, context=self._embedded(context))[0]

    def from_noise(self, z: Tensor, context: Tensor | None) -> Tensor:
        return self.flow._transform.inverse(z, context=self._embedded(context))[0]

    def noise_log_prob(self, z: Tensor, context: Tensor | None) -> Tensor:
        return self.flow._distribution.log_prob(z, context=self._embedded(context))

    def _embedded(self, context: Tensor | None) -> Tensor | None:
        return None if context is None else self.flow._embedding_net(context)


class NflowsDistribution(Foreign):
    """Any other nflows.distributions.Distribution."""

    def __init__(self, distribution: Any) -> None:
        super().__init__()
        self.distribution = distribution

    def log_prob(self, r: Tensor, context: Tensor | None) -> Tensor:
        return self.distribution.log_prob(r, context=context)

    def draw(self, num_samples: int, context: Tensor | None) -> Tensor:
        return _nflows_draw(self.distribution, num_samples, context)


def _nflows_draw(distribution: Any, num_samples: int, context: Tensor | None) -> Tensor:
    """One draw a row: nflows gives a block of draws for each row of the context."""
    if context is None:
        return distribution.sample(num_samples)
    return distribution.sample(1, context=context)[:, 0]


class NormflowsFlow(Foreign):
    """normflows.NormalizingFlow, and ConditionalNormalizingFlow with a context.

    `forward` and `log_prob` are sound in every dtype; `sample` and `*_and_log_det` add up in float32.
    """

    def __init__(self, flow: Any) -> None:
        super().__init__()
        self.flow = flow
        self.conditional = _accepts(flow.log_prob, "context")

    def log_prob(self, r: Tensor, context: Tensor | None) -> Tensor:
        return self.flow.log_prob(r, *self._given(context))

    def draw(self, num_samples: int, context: Tensor | None) -> Tensor:
        given = self._given(context)
        return self.flow(self.flow.q0(num_samples, *given)[0], *given)

    def to_noise(self, r: Tensor, context: Tensor | None) -> Tensor | None:
        return self.flow.inverse(r, *self._given(context))

    def from_noise(self, z: Tensor, context: Tensor | None) -> Tensor:
        return self.flow(z, *self._given(context))

    def noise_log_prob(self, z: Tensor, context: Tensor | None) -> Tensor:
        return self.flow.q0.log_prob(z, *self._given(context))

    def _given(self, context: Tensor | None) -> tuple[Tensor | None, ...]:
        return (context,) if self.conditional else ()


class DistributionModule(Foreign):
    """A module that is called with the context and gives a torch distribution: zuko's flows, or a network of yours."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.conditional = len(_positional(module.forward)) > 0

    def log_prob(self, r: Tensor, context: Tensor | None) -> Tensor:
        return self._given(context).log_prob(r)

    def draw(self, num_samples: int, context: Tensor | None) -> Tensor:
        distribution = self._given(context)
        a_row_each = context is not None and tuple(distribution.batch_shape[:1]) == (num_samples,)
        return distribution.sample() if a_row_each else distribution.sample((num_samples,))

    def event_shape(self, context: Tensor | None) -> tuple[int, ...] | None:
        return tuple(self._given(context).event_shape)

    def to_noise(self, r: Tensor, context: Tensor | None) -> Tensor | None:
        transform = getattr(self._given(context), "transform", None)
        return transform(r) if isinstance(transform, Transform) else None

    def from_noise(self, z: Tensor, context: Tensor | None) -> Tensor:
        return self._given(context).transform.inv(z)

    def noise_log_prob(self, z: Tensor, context: Tensor | None) -> Tensor:
        return self._given(context).base.log_prob(z)

    def _given(self, context: Tensor | None) -> Any:
        return self.module(context) if self.conditional else self.module()


class FixedDistribution(Foreign):
    """A torch distribution as it is. Its tensors become buffers, so that they move and are saved with the module."""

    def __init__(self, distribution: Distribution) -> None:
        super().__init__()
        theirs = [(owner, name, getattr(owner, name)) for owner in _owners(distribution) for name in _tensors_of(owner)]
        self.unregistered = tuple(f"{type(owner).__name__}.{name}" for owner, name, t in theirs if t.requires_grad)
        self.distribution = copy.deepcopy(distribution, {id(t): t.detach().clone() for _, _, t in theirs})
        self.places: list[tuple[Any, str]] = []
        for owner in _owners(self.distribution):
            for name in _tensors_of(owner):
                self.register_buffer(f"tensor_{len(self.places)}", getattr(owner, name))
                self.places.append((owner, name))

    def log_prob(self, r: Tensor, context: Tensor | None) -> Tensor:
        return self._current().log_prob(r)

    def draw(self, num_samples: int, context: Tensor | None) -> Tensor:
        return self._current().sample((num_samples,))

    def event_shape(self, context: Tensor | None) -> tuple[int, ...] | None:
        return tuple(self.distribution.event_shape)

    def _current(self) -> Any:
        """The distribution with the buffers in its places, and nothing that it derived from others."""
        for owner in {id(owner): owner for owner, _ in self.places}.values():
            for name in _tensors_of(owner):
                delattr(owner, name)
        for index, (owner, name) in enumerate(self.places):
            setattr(owner, name, self.get_buffer(f"tensor_{index}"))
        return self.distribution


class DensityModule(Foreign):
    """Any module with `log_prob(x)` or `log_prob(x, context)`, and `sample(n)` or `sample(n, context)`."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.conditional = _takes_context(_method(module, "log_prob"))

    def log_prob(self, r: Tensor, context: Tensor | None) -> Tensor:
        method = _method(self.module, "log_prob")
        return method(r, context) if self.conditional and context is not None else method(r)

    def draw(self, num_samples: int, context: Tensor | None) -> Tensor:
        method = getattr(self.module, "sample", None)
        if method is None:
            raise NoSampler(f"{type(self.module).__name__} has no method sample")
        given = _takes_context(method) and context is not None
        drawn = method(num_samples, context) if given else method(num_samples)
        return drawn[0] if isinstance(drawn, tuple) else drawn


def recognise(flow: object) -> Foreign:
    """The form of a foreign density. Raises WrapError for what is none, saying what would be."""
    if isinstance(flow, DensityModel):
        raise WrapError(f"wrap: {type(flow).__name__} is a density of smoothgen already; use it as it is")
    if isinstance(flow, Distribution):
        return FixedDistribution(flow)
    if isinstance(flow, nn.Module):
        if _is_a(flow, "nflows.flows.base", "Flow"):
            return NflowsFlow(flow)
        if _is_a(flow, "nflows.distributions.base", "Distribution"):
            return NflowsDistribution(flow)
        if _is_a(flow, "normflows.core", "NormalizingFlow"):
            return NormflowsFlow(flow)
        if _method(flow, "log_prob") is not None:
            return DensityModule(flow)
        if type(flow).forward is not nn.Module.forward:
            return DistributionModule(flow)
    raise WrapError(
        f"wrap: {type(flow).__name__} is no density that can be wrapped; give a flow of normflows, nflows or zuko, a "
        "torch.distributions.Distribution, a module whose forward(context) returns one, or a module with "
        "log_prob(x, context) and sample(n, context)"
    )


def _is_a(value: object, module: str, name: str) -> bool:
    """Whether it is an instance of a library's class. The library is looked at only if something has loaded it."""
    cls = getattr(sys.modules.get(module), name, None)
    return isinstance(cls, type) and isinstance(value, cls)


def _method(module: nn.Module, name: str) -> Any:
    return getattr(module, name, None)


def _positional(function: Callable[..., object]) -> list[str]:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [name for name, p in inspect.signature(function).parameters.items() if p.kind in kinds]


def _accepts(function: Callable[..., object], name: str) -> bool:
    return name in inspect.signature(function).parameters


def _takes_context(function: Callable[..., object]) -> bool:
    return len(_positional(function)) > 1


def _owners(part: object, seen: set[int] | None = None) -> Iterator[Any]:
    """A distribution and every distribution and transform inside it, each once."""
    seen = set() if seen is None else seen
    if isinstance(part, (list, tuple)):
        for item in part:
            yield from _owners(item, seen)
    elif isinstance(part, (Distribution, Transform)) and id(part) not in seen:
        seen.add(id(part))
        yield part
        for value in vars(part).values():
            yield from _owners(value, seen)


def _tensors_of(owner: object) -> list[str]:
    return [name for name, value in vars(owner).items() if isinstance(value, Tensor)]
