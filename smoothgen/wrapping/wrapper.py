"""wrap: a density of another library as one of ours, once nothing is found wrong with it that nobody accepted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from smoothgen.density_model import DensityModel
from smoothgen.dequantization import UniformDequantization
from smoothgen.errors import WrapError
from smoothgen.event import ContextSpec, EventSpec
from smoothgen.wrapping.faults import FAULTS, check_names, not_allowed
from smoothgen.wrapping.foreign import recognise
from smoothgen.wrapping.probe import examine
from smoothgen.wrapping.wrapped_density import WrappedDensity


def wrap(
    flow: object,
    event: EventSpec | Sequence[int],
    context: ContextSpec | None = None,
    *,
    anchor: bool = True,
    standardize: bool = True,
    allow: Iterable[str] = (),
) -> DensityModel:
    """A flow of normflows, nflows or zuko, or a torch.distributions density, as a density of smoothgen.

    flow: also any module with `log_prob(x, context)` and `sample(n, context)`, or whose forward(context) gives a torch
    distribution. It takes vectors (batch, D), or the event's shape where it refuses those, and the context as
    (batch, context.dimensions). event: its space, or its shape alone; one with levels is dequantised uniformly.
    anchor: model (x - x_tilde) / noise_std, where the context holds a noisy copy of known noise. standardize: let
    `initialize`, which training calls first, measure the data, and model (x - mean) / std; False for a flow that came
    trained. allow: names of faults (`smoothgen.wrapping.FAULTS`) that are accepted.

    Raises WrapError naming every fault found that is not in `allow`; ConfigError for a name that is no fault's.
    """
    spec = event if isinstance(event, EventSpec) else EventSpec(shape=tuple(event))
    model = wrap_continuous(flow, spec, context, anchor=anchor, standardize=standardize, allow=allow)
    return model if spec.levels is None else UniformDequantization(model, spec, context)


def wrap_continuous(
    flow: object,
    event: EventSpec,
    context: ContextSpec | None,
    *,
    anchor: bool = True,
    standardize: bool = True,
    allow: Iterable[str] = (),
    thorough: bool = True,
) -> WrappedDensity:
    """`wrap` without the dequantisation. thorough: see `examine`."""
    accepted = check_names(allow)
    model = WrappedDensity(recognise(flow), event, context, anchor, standardize)
    wrong = not_allowed(examine(model, thorough, type(flow).__name__), accepted)
    if wrong:
        names = ", ".join(f'"{fault.name}"' for fault in wrong)
        raise WrapError(
            f"wrap: {type(flow).__name__} gets {len(wrong)} of {len(FAULTS)} things wrong: "
            f"{'; '.join(map(str, wrong))}. Mend it, or accept it by allow=({names},)"
        )
    return model
