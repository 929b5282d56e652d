"""nflows' flows by name: whole ones, or layers of one transform with something that mixes the coordinates between."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import PositiveInt, model_validator
from torch import nn

from smoothgen.density_model import DensityModel
from smoothgen.errors import ConfigError
from smoothgen.event import ContextSpec, EventSpec
from smoothgen.extras import required
from smoothgen_adapters.adapter import AdapterConfig, BaseEncoder, refuse_one_coordinate
from smoothgen_adapters.arguments import (
    ACTIVATION,
    BINS,
    COUNT,
    FRACTION,
    POSITIVE,
    SWITCH,
    Kind,
    checked,
    with_activation,
)

FlowName = Literal[
    "MaskedAffineAutoregressiveTransform",
    "MaskedPiecewiseRationalQuadraticAutoregressiveTransform",
    "AffineCouplingTransform",
    "PiecewiseRationalQuadraticCouplingTransform",
    "MaskedAutoregressiveFlow",
    "SimpleRealNVP",
]
Mixing = Literal["LULinear", "RandomPermutation", "ReversePermutation", "none"]
WHOLE = ("MaskedAutoregressiveFlow", "SimpleRealNVP")
COUPLINGS = ("AffineCouplingTransform", "PiecewiseRationalQuadraticCouplingTransform", "SimpleRealNVP")
RESIDUAL = {"hidden_features": COUNT, "num_blocks": COUNT, "activation": ACTIVATION, "dropout_probability": FRACTION}
MASKED = {**RESIDUAL, "use_residual_blocks": SWITCH, "random_mask": SWITCH, "use_batch_norm": SWITCH}
SPLINE = {"num_bins": BINS, "tail_bound": POSITIVE}
ENTIRE = {
    "hidden_features": COUNT,
    "num_layers": COUNT,
    "num_blocks_per_layer": COUNT,
    "activation": ACTIVATION,
    "dropout_probability": FRACTION,
    "batch_norm_within_layers": SWITCH,
    "batch_norm_between_layers": SWITCH,
}
ARGUMENTS: dict[str, dict[str, Kind]] = {
    "MaskedAffineAutoregressiveTransform": MASKED,
    "MaskedPiecewiseRationalQuadraticAutoregressiveTransform": {**MASKED, **SPLINE},
    "AffineCouplingTransform": {**RESIDUAL, "use_batch_norm": SWITCH},
    "PiecewiseRationalQuadraticCouplingTransform": {**RESIDUAL, "use_batch_norm": SWITCH, **SPLINE},
    "MaskedAutoregressiveFlow": {
        **ENTIRE,
        "use_residual_blocks": SWITCH,
        "use_random_masks": SWITCH,
        "use_random_permutations": SWITCH,
    },
    "SimpleRealNVP": {**ENTIRE, "use_volume_preserving": SWITCH},
}
DEFAULTS: dict[str, Any] = {"hidden_features": 64, "num_blocks": 2}
ENTIRE_DEFAULTS: dict[str, Any] = {"hidden_features": 64, "num_layers": 4, "num_blocks_per_layer": 2}
OURS = {
    "features": "it is the size of the event",
    "context_features": "it is the size of the context",
    "mask": "every second coordinate, in turn",
    "transform_net_create_fn": "it is code; nflows' ResidualNet is used",
    "tails": "linear, as the density has to be positive everywhere",
    "apply_unconditional_transform": "off",
}


class NflowsConfig(AdapterConfig):
    """One of nflows' flows; needs nflows, of the extra `bench`.

    flow: a transform, of which `layers` follow each other, or one of nflows' whole flows, which take no context.
    layers: how many (4). mixing: what stands between them (LULinear, after a random permutation, as in arXiv
    1906.04032). encoder: widths of the network by which a context moves and scales the base; without it nflows' masks
    keep the context from the first coordinate. arguments: of the transform or flow in nflows. anchor, allow: as for
    every adapter.
    """

    type: Literal["nflows"] = "nflows"
    flow: FlowName = "MaskedPiecewiseRationalQuadraticAutoregressiveTransform"
    layers: PositiveInt | None = None
    mixing: Mixing | None = None
    encoder: tuple[PositiveInt, ...] = (64,)

    @model_validator(mode="after")
    def _whole_flows_have_their_own_layers(self) -> NflowsConfig:
        if self.flow in WHOLE and (self.layers is not None or self.mixing is not None):
            raise ValueError(f"{self.flow} is a whole flow: set arguments.num_layers in place of layers and mixing")
        return self

    def checked_arguments(self) -> dict[str, Any]:
        return checked(f"nflows' {self.flow}", self.arguments, ARGUMENTS[self.flow], OURS)

    def build(self, event: EventSpec, context: ContextSpec | None = None) -> DensityModel:
        size = event.dimensions
        if self.flow in COUPLINGS:
            refuse_one_coordinate("nflows", self.flow, event)
        required("nflows.transforms", "density nflows", "bench")
        flows = required("nflows.flows", "density nflows", "bench")
        given = with_activation(self.checked_arguments(), functions=True)
        if self.flow in WHOLE:
            if context is not None:
                raise ConfigError(
                    f"nflows: {self.flow} takes no context, as nflows builds it; choose flow: "
                    f"{'AffineCouplingTransform' if self.flow in COUPLINGS else 'MaskedAffineAutoregressiveTransform'}"
                )
            return self.wrapped(getattr(flows, self.flow)(size, **{**ENTIRE_DEFAULTS, **given}), event, context)
        features = None if context is None else context.dimensions
        layers: list[nn.Module] = []
        for index in range(self.layers or 4):
            layers += [*_mixed(self.mixing or "LULinear", size), _layer(self.flow, size, features, index, given)]
        flow = flows.base.Flow(_transforms().CompositeTransform(layers), self._base(size, features))
        return self.wrapped(flow, event, context)

    def _base(self, size: int, features: int | None) -> nn.Module:
        normal = required("nflows.distributions.normal", "density nflows", "bench")
        if features is None:
            return normal.StandardNormal([size])
        return normal.ConditionalDiagonalNormal([size], BaseEncoder(features, self.encoder, size))


def _transforms() -> Any:
    return required("nflows.transforms", "density nflows", "bench")


def _layer(name: FlowName, size: int, features: int | None, index: int, given: dict[str, Any]) -> nn.Module:
    """One transform; couplings move the odd and the even coordinates in turn."""
    transform = getattr(_transforms(), name)
    spline = {key: given[key] for key in SPLINE if key in given}
    if "RationalQuadratic" in name:
        spline = {"tail_bound": 5.0, **spline, "tails": "linear"}
    rest = {**DEFAULTS, **{key: value for key, value in given.items() if key not in SPLINE}}
    if name not in COUPLINGS:
        return transform(features=size, context_features=features, **spline, **rest)
    nets = required("nflows.nn.nets", "density nflows", "bench")
    mask = torch.ones(size)
    mask[index % 2 :: 2] = -1

    def residual_net(inputs: int, outputs: int) -> nn.Module:
        return nets.ResidualNet(inputs, outputs, context_features=features, **rest)

    return transform(mask=mask, transform_net_create_fn=residual_net, **spline)


def _mixed(name: Mixing, size: int) -> list[nn.Module]:
    transforms = _transforms()
    if name == "none" or size == 1:
        return []
    if name == "LULinear":
        return [transforms.RandomPermutation(size), transforms.LULinear(size)]
    return [getattr(transforms, name)(size)]
