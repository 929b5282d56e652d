"""normflows' flows by name: layers of one flow with something that mixes the coordinates between."""

from __future__ import annotations

from typing import Any, Literal

import normflows as nf
import torch
from pydantic import PositiveInt
from torch import nn

from smoothgen.density_model import DensityModel
from smoothgen.errors import ConfigError
from smoothgen.event import ContextSpec, EventSpec
from smoothgen_adapters.adapter import AdapterConfig, BaseEncoder, refuse_one_coordinate
from smoothgen_adapters.arguments import (
    ACTIVATION,
    ACTIVATIONS,
    BINS,
    COUNT,
    FRACTION,
    FUNCTIONS,
    POSITIVE,
    SWITCH,
    WIDTHS,
    Kind,
    checked,
)

FlowName = Literal[
    "CoupledRationalQuadraticSpline",
    "AutoregressiveRationalQuadraticSpline",
    "MaskedAffineAutoregressive",
    "MaskedAffineFlow",
]
Mixing = Literal["LULinearPermute", "Permute", "none"]
COUPLINGS = ("CoupledRationalQuadraticSpline", "MaskedAffineFlow")
SPLINE = {
    "num_blocks": COUNT,
    "num_hidden_channels": COUNT,
    "num_bins": BINS,
    "tail_bound": POSITIVE,
    "activation": ACTIVATION,
    "dropout_probability": FRACTION,
}
ARGUMENTS: dict[str, dict[str, Kind]] = {
    "CoupledRationalQuadraticSpline": SPLINE,
    "AutoregressiveRationalQuadraticSpline": SPLINE,
    "MaskedAffineAutoregressive": {
        "hidden_features": COUNT,
        "num_blocks": COUNT,
        "use_residual_blocks": SWITCH,
        "random_mask": SWITCH,
        "activation": ACTIVATION,
        "dropout_probability": FRACTION,
        "use_batch_norm": SWITCH,
    },
    "MaskedAffineFlow": {"hidden": WIDTHS, "max_log_scale": POSITIVE},
}
SPLINE_DEFAULTS: dict[str, Any] = {"num_blocks": 2, "num_hidden_channels": 64, "tail_bound": 5.0}
OURS = {
    "num_input_channels": "it is the size of the event",
    "num_context_channels": "it is the size of the context",
    "features": "it is the size of the event",
    "context_features": "it is the size of the context",
    "tails": "linear, as the density has to be positive everywhere",
    "reverse_mask": "it alternates between layers",
    "permute_mask": "use mixing",
    "b": "it alternates between layers",
    "s": "it is code; give hidden and max_log_scale",
    "t": "it is code; give hidden",
}


class NormflowsConfig(AdapterConfig):
    """Layers of one of normflows' flows.

    flow: its class there; MaskedAffineFlow, a RealNVP, takes no context. layers: how many. mixing: what stands between
    them. encoder: widths of the network by which a context moves and scales the base; without it normflows' masks keep
    the context from the first coordinate. arguments: of the class in normflows; of MaskedAffineFlow: hidden, the widths
    of both networks, and max_log_scale, how much a layer can stretch. anchor, allow: as for every adapter.
    """

    type: Literal["normflows"] = "normflows"
    flow: FlowName = "CoupledRationalQuadraticSpline"
    layers: PositiveInt = 4
    mixing: Mixing = "LULinearPermute"
    encoder: tuple[PositiveInt, ...] = (64,)

    def checked_arguments(self) -> dict[str, Any]:
        return checked(f"normflows' {self.flow}", self.arguments, ARGUMENTS[self.flow], OURS)

    def build(self, event: EventSpec, context: ContextSpec | None = None) -> DensityModel:
        size = event.dimensions
        if self.flow in COUPLINGS:
            refuse_one_coordinate("normflows", self.flow, event)
        if self.flow == "MaskedAffineFlow" and context is not None:
            raise ConfigError(
                "normflows: MaskedAffineFlow takes no context; choose flow: CoupledRationalQuadraticSpline, or the "
                "density type realnvp, whose couplings do"
            )
        features = None if context is None else context.dimensions
        flows: list[nn.Module] = []  # from noise to data
        for index in range(self.layers):
            flows += [_layer(self.flow, size, features, index, self.checked_arguments())]
            if self.mixing != "none" and size > 1:
                flows += [getattr(nf.flows, self.mixing)(size)]
        if features is None:
            flow = nf.NormalizingFlow(nf.distributions.DiagGaussian(size, trainable=False), flows)
        else:
            base = nf.distributions.base.ConditionalDiagGaussian(size, BaseEncoder(features, self.encoder, size))
            flow = nf.ConditionalNormalizingFlow(base, flows)
        return self.wrapped(flow, event, context)


def _layer(name: FlowName, size: int, features: int | None, index: int, given: dict[str, Any]) -> nn.Module:
    """One flow; couplings move the odd and the even coordinates in turn."""
    if name == "MaskedAffineFlow":
        widths, bound = given.get("hidden", (64, 64)), given.get("max_log_scale", 3.0)
        mask = (torch.arange(size) + index) % 2
        shift = nf.nets.MLP([size, *widths, size], init_zeros=True)
        scale = nf.nets.MLP([size, *widths, size], init_zeros=True, output_fn="tanh", output_scale=bound)
        return nf.flows.MaskedAffineFlow(mask.to(torch.get_default_dtype()), shift, scale)
    activation = given.get("activation", "relu")
    if name == "MaskedAffineAutoregressive":
        rest = {"hidden_features": 64, **given, "activation": FUNCTIONS[activation]}
        return nf.flows.MaskedAffineAutoregressive(size, context_features=features, **rest)
    rest = {**SPLINE_DEFAULTS, **given, "activation": ACTIVATIONS[activation]}
    turn = {"reverse_mask": index % 2 == 1} if name in COUPLINGS else {}
    return getattr(nf.flows, name)(size, num_context_channels=features, **turn, **rest)
