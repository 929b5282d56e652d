"""zuko's flows by name."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import nn

from smoothgen.density_model import DensityModel
from smoothgen.event import ContextSpec, EventSpec
from smoothgen.extras import required
from smoothgen_adapters.adapter import AdapterConfig, refuse_one_coordinate
from smoothgen_adapters.arguments import (
    ACTIVATION,
    BINS,
    COUNT,
    POSITIVE,
    SWITCH,
    WIDTHS,
    Kind,
    checked,
    with_activation,
)

FlowName = Literal["NSF", "MAF", "NICE", "RealNVP", "SOSPF", "BPF", "NAF", "UNAF", "GF", "CNF", "GMM"]
NETWORK = {"hidden_features": WIDTHS, "activation": ACTIVATION}
LAYERED = {"transforms": COUNT, **NETWORK, "normalize": SWITCH}
MASKED = {"transforms": COUNT, "randperm": SWITCH, "passes": BINS, **NETWORK, "residual": SWITCH}
COUPLED = {**LAYERED, "randmask": SWITCH}
ARGUMENTS: dict[str, dict[str, Kind]] = {
    "NSF": {**MASKED, "bins": BINS, "slope": POSITIVE},
    "MAF": MASKED,
    "NICE": COUPLED,
    "RealNVP": COUPLED,
    "SOSPF": {**MASKED, "degree": COUNT, "polynomials": COUNT, "slope": POSITIVE},
    "BPF": {**MASKED, "degree": COUNT},
    "NAF": {**MASKED, "signal": COUNT},
    "UNAF": {**MASKED, "signal": COUNT},
    "GF": {**LAYERED, "components": COUNT},
    "CNF": {**NETWORK, "freqs": COUNT, "atol": POSITIVE, "rtol": POSITIVE},
    "GMM": {**NETWORK, "components": COUNT},
}
OURS = {
    "features": "it is the size of the event",
    "context": "it is the size of the context",
    "univariate": "it is code",
    "shapes": "it follows from the transform",
    "order": "use randperm, or keep zuko's",
    "adjacency": "it would take a tensor",
    "mask": "it would take a tensor",
    "exact": "an estimated log-determinant is no likelihood",
}
UNCONDITIONED_GAIN = 0.1


class ZukoConfig(AdapterConfig):
    """One of zuko's flows, or its mixture of Gaussians; needs the extra `peers`.

    flow: its name there. arguments: of its class there: transforms, hidden_features, bins and the like; `activation` by
    name. anchor, allow: as for every adapter.
    """

    type: Literal["zuko"] = "zuko"
    flow: FlowName = "NSF"

    def checked_arguments(self) -> dict[str, Any]:
        return checked(f"zuko's {self.flow}", self.arguments, ARGUMENTS[self.flow], OURS)

    def build(self, event: EventSpec, context: ContextSpec | None = None) -> DensityModel:
        if self.flow in ("NICE", "RealNVP"):
            refuse_one_coordinate("zuko", self.flow, event)
        flows = required("zuko.flows", "density zuko", "peers")
        flow = getattr(flows, self.flow)(
            event.dimensions, 0 if context is None else context.dimensions, **with_activation(self.checked_arguments())
        )
        if event.dimensions == 1 and context is None and self.flow != "GMM":
            _calm(flow)
        return self.wrapped(flow, event, context)


@torch.no_grad()
def _calm(flow: nn.Module) -> None:
    """Starts transforms that no network conditions near the identity: zuko draws their parameters from N(0, 1)."""
    for parameter in flow.parameters():
        parameter.mul_(UNCONDITIONED_GAIN)
