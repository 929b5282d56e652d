"""Training steps and evaluation of PixelCNN++ against a plain implementation with the same weights.

The plain network (tests/plain_pixelcnnpp.py) is of the public PyTorch kind; it gets the plain mixture density below,
written as the formula is, and torch's Adam with its defaults. Ours is the network of the library, its density and the
fused Adam that its trainer uses. Before they are timed, outputs and gradients are compared.
"""

from __future__ import annotations

import contextlib
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from ceilings import CONVOLUTIONS, convolution_rate, convolution_train_rate
from timing import Rows, Settings, compared, interleaved
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[2]))
from plain_pixelcnnpp import PlainPixelCNNPP

from smoothgen.event import ContextSpec, EventSpec
from smoothgen_pixelcnnpp.convolutions import NormedConv
from smoothgen_pixelcnnpp.pixelcnnpp import PixelCNNPP, PixelCNNPPConfig

Shape = tuple[int, int, int]


def plain_loss(raw: Tensor, x: Tensor, components: int) -> Tensor:
    """-log density of (B, C, H, W) under mixtures whose components the channels share, as the formula is written."""
    y, channels = x.movedim(1, -1), x.shape[1]
    rows = raw.reshape(*raw.shape[:-1], -1, components)
    logits, loc, log_scale = (
        rows[..., 0, :],
        rows[..., 1 : 1 + channels, :],
        rows[..., 1 + channels : 1 + 2 * channels, :],
    )
    log_scale, coupling = 7.0 * torch.tanh(log_scale / 7.0), torch.tanh(rows[..., 1 + 2 * channels :, :])
    total = torch.log_softmax(logits, -1)
    for channel in range(channels):
        centre, first = loc[..., channel, :], channel * (channel - 1) // 2
        for earlier in range(channel):
            centre = centre + coupling[..., first + earlier, :] * y[..., earlier, None]
        z = (y[..., channel, None] - centre) * torch.exp(-log_scale[..., channel, :])
        total = total + z - 2.0 * F.softplus(z) - log_scale[..., channel, :]
    return -torch.logsumexp(total, -1).sum((1, 2)).mean()


def models(
    shape: Shape, filters: int, settings: Settings, conditioning: str | None = None
) -> tuple[PixelCNNPP, PlainPixelCNNPP]:
    """Ours and the plain one with its weights, in training mode, with outputs that differ from pixel to pixel."""
    torch.manual_seed(0)
    context = None if conditioning is None else ContextSpec(noisy_copy=shape)
    config = PixelCNNPPConfig(filters=filters, conditioning=conditioning or "aligned")
    model = config.build(EventSpec(shape=shape), context)
    assert isinstance(model, PixelCNNPP)
    model.to(settings.device)
    return model, PlainPixelCNNPP(model.network).to(settings.device)


def as_plain(model: PixelCNNPP, plain: PlainPixelCNNPP, x: Tensor, above: Tensor | None) -> dict[str, float]:
    """Largest differences of outputs, and of gradients relative to their norm (of the plain one's convolutions)."""
    raw = model.parameters_of(x, model.given(above))
    plain_raw = plain(x if above is None else torch.cat([above, x], 2))[:, -x.shape[2] :]
    weights = torch.linspace(-1.0, 1.0, raw.numel(), device=raw.device).reshape(raw.shape)
    ours = [m for m in model.network.modules() if isinstance(m, NormedConv)]
    wanted = {id(m.direction): m.direction for m in ours}
    theirs = {tuple(p.flatten()[:3].tolist()) + tuple(p.shape): p for p in plain.parameters() if p.dim() == 4}
    pairs = []
    for direction in wanted.values():
        found = theirs.get(tuple(direction.flatten()[:3].tolist()) + tuple(direction.shape))
        if found is not None:
            pairs.append((direction, found))
    own = torch.autograd.grad((raw * weights).sum(), [a for a, _ in pairs])
    other = torch.autograd.grad((plain_raw * weights).sum(), [b for _, b in pairs])
    worst = max(float((a - b).norm() / b.norm()) for a, b in zip(own, other, strict=True))
    return {"outputs": (raw - plain_raw).abs().max().item(), "gradients": worst, "compared": len(pairs)}


def trained(module: nn.Module, loss: Callable[[], Tensor], fused: bool) -> Callable[[], None]:
    """One step: loss, gradients, Adam."""
    optimizer = torch.optim.Adam(module.parameters(), 1e-4, fused=True if fused else None)

    def step() -> None:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    return step


def operations(model: PixelCNNPP, height: int, width: int) -> float:
    """Of one forward pass of one image, a product and a sum counted as two: all convolutions, hand-counted."""
    total, network = 0.0, model.network
    for level in range(network.resolutions):
        pixels = (-(-height >> level)) * (-(-width >> level))
        for stream in (network.u, network.h):
            for block in network.streams(stream)[level].blocks:
                total += pixels * sum(m.direction.numel() for m in block.modules() if isinstance(m, NormedConv))
        if level:
            between = (network.u_halve, network.h_halve, network.u_double, network.h_double)
            total += pixels * sum(network.convolutions(kind)[level - 1].direction.numel() for kind in between)
    ends = (network.u_first, network.h_above, network.h_left, network.out)
    return 2.0 * (total + height * width * sum(m.direction.numel() for m in ends))


def measured(
    name: str,
    shape: Shape,
    filters: int,
    batch: int,
    settings: Settings,
    *,
    train: tuple[float, float],
    evaluate: tuple[float, float] | None = None,
) -> Rows:
    """A training step and an evaluation of p(x)."""
    model, plain = models(shape, filters, settings)
    x = torch.randn(batch, *shape, device=settings.device)
    equal = as_plain(model, plain, x[:2], None)
    components = model.pixel.components
    times = interleaved(
        {
            "ours": trained(model, lambda: -model.log_prob(x).mean(), fused=True),
            "baseline": trained(plain, lambda: plain_loss(plain(x), x, components), fused=False),
        },
        settings,
        settings.fewer(5 if filters > 100 else 7),
    )
    work = batch * operations(model, *shape[1:])
    channels = CONVOLUTIONS["160 filters, gates" if filters > 100 else "40 filters, gates"]
    ceiling = convolution_train_rate(channels, settings)
    row = compared("PixelCNN++", f"{name}, training step", times, least=train[0], aim=train[1], equal=equal)
    row.notes |= {"gflops": 3.0 * work / row.ours / 1e9, "share of ceiling": 3.0 * work / row.ours / 1e9 / ceiling}
    row.notes["peak memory MB"] = peak_memory(settings)
    yield row
    if evaluate is None:
        return
    model.eval()

    def without_gradients(function: Callable[[], Any]) -> Callable[[], Any]:
        def work() -> Any:
            with torch.no_grad():
                return function()

        return work

    times = interleaved(
        {
            "ours": without_gradients(lambda: model.log_prob(x)),
            "baseline": without_gradients(lambda: plain_loss(plain(x), x, components)),
        },
        settings,
    )
    row = compared("PixelCNN++", f"{name}, evaluation", times, least=evaluate[0], aim=evaluate[1], equal=equal)
    rate = work / row.ours / 1e9
    row.notes |= {"gflops": rate, "share of ceiling": rate / convolution_rate(channels, settings)}
    yield row


def conditional(shape: Shape, batch: int, settings: Settings, filters: int = 40) -> Rows:
    """A training step of p(x | x_tilde): `stack`, and the default, against the plain network on x_tilde above x.

    The default with as many filters, and with as few as give it the parameters of `stack`; that it reaches the same
    likelihood with those is measured by tests/benchmarks/conditioning.py.
    """
    stack, plain = models(shape, filters, settings, "stack")
    x, above = (torch.randn(batch, *shape, device=settings.device) for _ in range(2))
    equal = as_plain(stack, plain, x[:2], above[:2])
    wanted = sum(p.numel() for p in stack.parameters())
    fewer = next(f for f in range(filters, 0, -1) if parameters_of(shape, f, settings) <= wanted)
    aligned = {f: models(shape, f, settings, "aligned")[0] for f in (filters, fewer)}
    both = torch.cat([above, x], 2)
    contenders = {
        "stack": trained(stack, lambda: -stack.log_prob(x, above).mean(), fused=True),
        "baseline": trained(
            plain, lambda: plain_loss(plain(both)[:, -shape[1] :], x, stack.pixel.components), fused=False
        ),
    }
    for count, model in aligned.items():
        contenders[f"aligned {count}"] = trained(
            model, lambda model=model: -model.log_prob(x, above).mean(), fused=True
        )
    times = interleaved(contenders, settings, settings.fewer(7))
    name = f"p(x given x_tilde) {shape[1]}x{shape[2]} B{batch}"
    yield compared("PixelCNN++", f"{name}, stack, training step", times, ours="stack", least=1.3, aim=1.6, equal=equal)
    for count in aligned:
        label = f"{name}, aligned with {count} filters, training step"
        yield compared("PixelCNN++", label, times, ours=f"aligned {count}", least=2.0, aim=3.0)


def parameters_of(shape: Shape, filters: int, settings: Settings) -> int:
    """How many parameters `aligned` has with so many filters."""
    with torch.device("meta"):
        context = ContextSpec(noisy_copy=shape)
        model = PixelCNNPPConfig(filters=filters).build(EventSpec(shape=shape), context)
    return sum(p.numel() for p in model.parameters())


def mixed(shape: Shape, filters: int, batch: int, settings: Settings) -> Rows:
    """A training step in bf16: the network autocast, the likelihood in float32, against the plain one in float32."""
    model, plain = models(shape, filters, settings)
    x = torch.randn(batch, *shape, device=settings.device)

    def loss() -> Tensor:
        with torch.autocast(settings.device.type, dtype=torch.bfloat16):
            return -model.log_prob(x).mean()

    contenders = {
        "ours": trained(model, loss, fused=True),
        "baseline": trained(plain, lambda: plain_loss(plain(x), x, model.pixel.components), fused=False),
    }
    times = interleaved(contenders, settings, settings.fewer(3))
    with torch.no_grad():
        exact = -model.log_prob(x).mean()
        off = float((loss() - exact).abs() / exact.abs())
    yield compared(
        "PixelCNN++", f"{filters} filters B{batch}, training step in bf16", times, least=2.0, aim=2.2, loss_off=off
    )


def peak_memory(settings: Settings) -> float:
    """Megabytes: of this process so far, or of the accelerator."""
    if settings.device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def rows(settings: Settings) -> Rows:
    with contextlib.suppress(AttributeError):
        torch.backends.cudnn.benchmark = True
    if settings.quick:
        yield from measured("8 filters 1x8x8 B2", (1, 8, 8), 8, 2, settings, train=(1.3, 1.6), evaluate=(1.2, 1.5))
        yield from conditional((1, 8, 8), 2, settings, filters=8)
        yield from mixed((3, 8, 8), 8, 2, settings)
        return
    yield from measured("40 filters 1x28x28 B16", (1, 28, 28), 40, 16, settings, train=(1.3, 1.6), evaluate=(1.2, 1.5))
    yield from conditional((1, 28, 28), 8, settings)
    yield from measured("160 filters 3x32x32 B4", (3, 32, 32), 160, 4, settings, train=(1.25, 1.4))
    yield from mixed((3, 32, 32), 160, 4, settings)
