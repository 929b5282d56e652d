"""What log_prob may get wrong: its shape, what it depends on, its gradient, its dtype, its device."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Generator, Tensor, nn

from smoothgen.wrapping.faults import Fault
from smoothgen.wrapping.specimen import Specimen, one_line
from smoothgen.wrapping.wrapped_density import seeded

STEP = 1e-3
"""Of finite differences; wide, as densities by an ODE solver are exact to 1e-6 only."""


def shape(specimen: Specimen) -> Iterator[Fault]:
    """Also sets how the rest evaluates the density: with the rows added up, or one at a time."""
    model, x, context = specimen.model, specimen.x[:7], _first(specimen.context, 7)
    with torch.no_grad(), seeded(Generator().manual_seed(0), x):
        value = model.raw_log_prob(x, context)
        single = [model.raw_log_prob(x[i : i + 1], _row(context, i)).sum() for i in range(len(x))]
    if value.dim() == 0 or (value.shape == (7,) and _is_sum(value, torch.stack(single))):
        model.evaluation = "rows"
        yield Fault("summed", f"log_prob of 7 rows has shape {tuple(value.shape)} and is their sum")
    elif value.shape != (7,):
        hint = "; torch.distributions.Independent adds coordinates up" if value.shape == x.flatten(1).shape else ""
        yield Fault("shape", f"log_prob of 7 rows has shape {tuple(value.shape)}, not (7,){hint}")


def finite(specimen: Specimen) -> Iterator[Fault]:
    value = specimen.values(specimen.x, specimen.context)
    bad = int((~value.isfinite()).sum())
    if bad:
        yield Fault(
            "not-finite",
            f"log_prob of {bad} of {len(value)} ordinary rows is not finite; a density has to be positive on all "
            "numbers: map a bounded one there",
        )


def random(specimen: Specimen) -> Iterator[Fault]:
    first = specimen.values(specimen.x, specimen.context, seed=0)
    again = specimen.values(specimen.x, specimen.context, seed=1)
    off = (first - again).abs().max().item()
    if off > 1e-9 * specimen.loose:
        yield Fault("random", f"two calls differ by {off:.2g} nats in evaluation mode")


def batch(specimen: Specimen) -> Iterator[Fault]:
    """In training mode too: what is trained there would be no likelihood."""
    x, context, i = specimen.x, specimen.context, 5
    others = x.flip(0) * 1.5 + 0.3
    others[i] = x[i]
    given = None if context is None else context.flip(0).clone()
    if given is not None and context is not None:
        given[i] = context[i]
    for training in (False, True):
        model = copy.deepcopy(specimen.model).train(training)
        looked_at = Specimen(model, x, context)
        off = (looked_at.values(x, context)[i] - looked_at.values(others, given)[i]).abs().item()
        if not training:
            alone = looked_at.values(x[i : i + 1], _row(context, i))[0]
            off = max(off, (looked_at.values(x, context)[i] - alone).abs().item() if not _random(specimen) else 0.0)
        if off > 1e-4 * specimen.loose:
            mode = "training" if training else "evaluation"
            yield Fault("batch", f"in {mode} mode log_prob of a row changes by {off:.2g} nats with the other rows")
            return


def gradient(specimen: Specimen) -> Iterator[Fault]:
    model, context = specimen.model, specimen.context
    x = specimen.x.clone().requires_grad_(True)
    with seeded(Generator().manual_seed(0), x):
        value = model.log_prob(x, context)
        slope = torch.autograd.grad(value.sum(), x, allow_unused=True)[0] if value.requires_grad else None
    if slope is None:
        yield Fault("gradient", "log_prob has no gradient by x")
        return
    direction = torch.randn(x.shape, dtype=torch.float64, generator=Generator().manual_seed(2)).to(x)
    along = (slope * direction).flatten(1).sum(1)
    step = STEP * specimen.loose**0.5
    ahead = specimen.values(specimen.x + step * direction, context)
    numeric = (ahead - specimen.values(specimen.x - step * direction, context)) / (2.0 * step)
    off = ((along - numeric).abs() / (1.0 + numeric.abs())).median().item()
    if not off < 0.05:
        yield Fault("gradient", f"the gradient by x is {off:.2g} from that of finite differences, relative to it")


def idle(specimen: Specimen) -> Iterator[Fault]:
    model = copy.deepcopy(specimen.model)
    with seeded(Generator().manual_seed(0), specimen.x):
        value = model.log_prob(specimen.x, specimen.context)
    trained = [(name, p) for name, p in model.foreign.named_parameters() if p.requires_grad]
    if not value.requires_grad:
        without = [name for name, _ in trained]
    else:
        slopes = torch.autograd.grad(value.sum(), [p for _, p in trained], allow_unused=True) if trained else ()
        without = [name for (name, _), slope in zip(trained, slopes, strict=True) if slope is None]
    if without:
        more = f" and {len(without) - 1} more" if len(without) > 1 else ""
        yield Fault("idle-parameters", f"{without[0]}{more} of {len(trained)} parameters get no gradient")


def dtype(specimen: Specimen) -> Iterator[Fault]:
    """float64 has to come out, and to have been used: a step far below float32's resolution must be felt."""
    if specimen.x.dtype != torch.float64:
        return  # said already
    x, context = specimen.x.clone().requires_grad_(True), specimen.context
    with seeded(Generator().manual_seed(0), x):
        value = specimen.model.log_prob(x, context)
        slope = torch.autograd.grad(value.sum(), x, allow_unused=True)[0] if value.requires_grad else None
    if value.dtype != torch.float64:
        yield Fault("dtype", f"log_prob of a float64 model is {value.dtype}")
        return
    if slope is None:
        return
    step = 1e-10 * slope.sign()
    expected = (slope * step).flatten(1).sum(1)
    felt = specimen.values(specimen.x + step, context) - specimen.values(specimen.x, context)
    telling = expected > 1e-11
    if bool(telling.any()) and not 0.5 < (felt[telling] / expected[telling]).median().item() < 1.5:
        yield Fault("dtype", "inside, a float64 model computes in less than float64")


def device(specimen: Specimen) -> Iterator[Fault]:
    """By the meta device, on which a CPU tensor in the middle raises. Code that branches on values cannot run there;
    for it, tensors that the module keeps outside its buffers tell."""
    twin = copy.deepcopy(specimen.model).to("meta")
    x, context = specimen.x.to("meta"), None if specimen.context is None else specimen.context.to("meta")
    try:
        value = twin.raw_log_prob(x, context)
    except Exception as error:
        if any(words in str(error) for words in ("expected device meta", "same device", "expected all tensors")):
            yield Fault("device", f"on another device: {one_line(error)}")
            return
    else:
        if not value.is_meta:
            yield Fault("device", "log_prob leaves the device of its input")
        return
    loose = [f"{where}.{name}" for where, module in twin.foreign.named_modules() for name in _strays(module)]
    if loose:
        yield Fault("device", f"{loose[0].lstrip('.')} is a tensor outside the buffers: it does not move with .to()")


def parameters(specimen: Specimen) -> Iterator[Fault]:
    """Whatever the graph of log_prob ends in, at every call, has to be the module's."""
    names = list(specimen.model.foreign.unregistered)
    own = {id(p) for p in specimen.model.parameters()}
    graphs = []
    for _ in range(2):
        with seeded(Generator().manual_seed(0), specimen.x):
            value = specimen.model.log_prob(specimen.x, specimen.context)
        graphs.append({id(leaf): leaf for leaf in _leaves(value.grad_fn) if id(leaf) not in own})
    shapes = [tuple(leaf.shape) for key, leaf in graphs[0].items() if key in graphs[1]]
    if names or shapes:
        what = names[0] if names else f"a tensor of shape {shapes[0]}"
        yield Fault("parameters", f"{what} wants a gradient, but is no parameter; make it one of an nn.Module")


def _leaves(root: Any) -> Iterator[Tensor]:
    waiting, seen = [root] if root is not None else [], set()
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            yield node.variable
        waiting += [child for child, _ in node.next_functions if child is not None]


def _strays(module: nn.Module) -> list[str]:
    """Real tensors with an axis among the attributes, neither parameters nor buffers. Indices work from the CPU too."""
    registered = {*module._parameters, *module._buffers}
    kept = [(name, value) for name, value in vars(module).items() if isinstance(value, Tensor)]
    shadows = {f"{name}_cpu" for name in registered}  # normflows keeps what it registers, under this name too
    return [name for name, value in kept if value.dim() > 0 and value.is_floating_point() and name not in shadows]


def _random(specimen: Specimen) -> bool:
    return any(True for _ in random(specimen))


def _is_sum(value: Tensor, single: Tensor) -> bool:
    same, rows_differ = bool((value == value[0]).all()), bool(single.std() > 1e-6)
    return same and rows_differ and bool(torch.isclose(value[0], single.sum(), rtol=1e-4))


def _first(context: Tensor | None, n: int) -> Tensor | None:
    return None if context is None else context[:n]


def _row(context: Tensor | None, i: int) -> Tensor | None:
    return None if context is None else context[i : i + 1]
