"""Training steps in two dimensions: MADE against the textbook loop, RealNVP against three public packages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from timing import Rows, Settings, Work, compared, interleaved, repeated
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from smoothgen.config import load_config
from smoothgen.device import DevicePolicy
from smoothgen.event import EventSpec
from smoothgen.experiment import assemble
from smoothgen.trainer import trainer_of
from smoothgen_realnvp.realnvp import RealNVPConfig

STEPS = 40
MADE = {
    "name": "benchmark",
    "data": {"type": "rings", "train_size": 50000},
    "kernel": {"type": "gaussian", "sigma": 0.3},
    "density": {"type": "made", "hidden": [100, 100, 100], "components": 3, "activation": "relu"},
    "inverter": "gradient",
}
WIDTH, COUPLINGS = 64, 8


def trainer_steps(settings: Settings, batch_size: int, clip_norm: float, ema_decay: float, compiled: bool) -> Work:
    """The trainer's own step, STEPS at a time. Without clipping and averaging it does what the loop below does."""
    stage = {"batch_size": batch_size, "clip_norm": clip_norm, "ema_decay": ema_decay, "max_steps": 10**6}
    device = {"device": settings.device.type, "threads": 1, "compile": compiled}
    config = load_config(MADE | {"trainer": stage, "device": device})
    source = config.data.build()
    config, model, _ = assemble(config, source)
    trainer = trainer_of(config, model, None, source, DevicePolicy(config.device))
    stage_to_train = trainer.stages[0]
    training = trainer._start(stage_to_train, None)

    def step() -> None:
        trainer._step(stage_to_train, training)
        training.position.step += 1

    return repeated(step, STEPS)


class PlainMADE(nn.Module):
    """The same function with the same weights, as one writes it: masks on layers, the mixture's formula, autograd."""

    def __init__(self, ours: Any) -> None:
        super().__init__()
        layers = [*ours.conditioner.layers, ours.conditioner.last]
        self.layers = nn.ModuleList(nn.Linear(layer.in_features, layer.out_features) for layer in layers)
        for plain, layer in zip(self.layers, layers, strict=True):
            plain.load_state_dict({"weight": layer.weight, "bias": layer.bias})
        self.masks = nn.ParameterList(nn.Parameter(layer.mask, requires_grad=False) for layer in layers)
        self.loc, self.scale, self.unit = ours.features.loc, ours.features.scale, ours.unit
        self.components = ours.components

    def masked(self, index: int, h: Tensor) -> Tensor:
        return F.linear(h, self.layers[index].weight * self.masks[index], self.layers[index].bias)

    def log_prob(self, x: Tensor) -> Tensor:
        h = self.masked(0, (x - self.loc) / self.scale)
        for index in range(1, len(self.layers) - 1):
            h = h + self.masked(index, torch.relu(h))
        parameters = self.masked(len(self.layers) - 1, torch.relu(h))
        logits, loc, log_scale = parameters.unflatten(1, (x.shape[1], 3, self.components)).unbind(2)
        log_scale = 7.0 * torch.tanh(log_scale / 7.0)
        z = (((x - self.loc) / self.unit).unsqueeze(-1) - loc) * torch.exp(-log_scale)
        components = torch.log_softmax(logits, -1) + z - 2.0 * F.softplus(z) - log_scale
        return torch.logsumexp(components, -1).sum(1) - self.unit.log().sum()


def loader_steps(settings: Settings, batch_size: int, plain: bool) -> Work:
    """The textbook loop: DataLoader without workers, torch.optim.Adam with its defaults."""
    config = load_config(MADE)
    source = config.data.build()
    _, model, _ = assemble(config, source)
    model.to(settings.device)
    density = PlainMADE(model.density).to(settings.device) if plain else model.density
    some = source.split("test").x[:100].to(settings.device)
    assert (density.log_prob(some) - model.density.log_prob(some)).abs().max() < 1e-4
    loader = DataLoader(TensorDataset(source.split("train").x), batch_size=batch_size, shuffle=True, drop_last=True)
    trained = [parameter for parameter in density.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=2e-3)

    def forever() -> Iterator[Tensor]:
        while True:
            for (x,) in loader:
                yield x.to(settings.device)

    batches = forever()

    def step() -> None:
        loss = -density.log_prob(model.kernel.sample(next(batches))).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return repeated(step, STEPS)


def made(batch_size: int, settings: Settings, compiled: bool) -> Rows:
    contenders = {
        "baseline": loader_steps(settings, batch_size, plain=True),
        "our model": loader_steps(settings, batch_size, plain=False),
        "bare": trainer_steps(settings, batch_size, 0.0, 0.0, False),
        "ours": trainer_steps(settings, batch_size, 5.0, 0.999, False),
    }
    if compiled:
        contenders["compiled"] = trainer_steps(settings, batch_size, 5.0, 0.999, True)
    times = interleaved(contenders, settings, 4 * settings.rounds)
    labels = {"bare": "without clipping and averaging", "ours": "as shipped", "compiled": "as shipped, compiled"}
    for contender, label in labels.items():
        if contender in times:
            name = f"MADE B{batch_size}, step, {label}"
            own = compared("", "", times, ours=contender, baseline="our model").ratio
            yield compared(
                "plane", name, times, ours=contender, least=1.5, aim=1.8, scale=1.0 / STEPS, own_model_in_that_loop=own
            )


def peers() -> dict[str, Callable[[], tuple[nn.Module, Callable[[Tensor], Tensor]]]]:
    """RealNVPs of COUPLINGS couplings, each a network of two hidden layers of WIDTH, and their log_prob."""

    def of_normflows() -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
        import normflows as nf

        flows: list[Any] = []
        for _ in range(COUPLINGS):
            flows += [nf.flows.AffineCouplingBlock(nf.nets.MLP([1, WIDTH, WIDTH, 2], init_zeros=True))]
            flows += [nf.flows.Permute(2, mode="swap")]
        model = nf.NormalizingFlow(nf.distributions.DiagGaussian(2, trainable=False), flows)
        return model, model.log_prob

    def of_nflows() -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
        from nflows import distributions, flows, transforms

        class Network(nn.Module):
            """Their couplings hand their network a context."""

            def __init__(self, inputs: int, outputs: int) -> None:
                super().__init__()
                hidden = [nn.Linear(inputs, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU()]
                self.layers = nn.Sequential(*hidden, nn.Linear(WIDTH, outputs))

            def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
                return self.layers(x)

        def coupling(index: int) -> Any:
            return transforms.AffineCouplingTransform([index % 2, 1 - index % 2], Network)

        composed = transforms.CompositeTransform([coupling(index) for index in range(COUPLINGS)])
        flow = flows.Flow(composed, distributions.StandardNormal([2]))
        return flow, flow.log_prob

    def of_zuko() -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
        import zuko

        flow = zuko.flows.RealNVP(2, transforms=COUPLINGS, randmask=False, hidden_features=[WIDTH, WIDTH])
        return flow, lambda x: flow().log_prob(x)

    return {"normflows": of_normflows, "nflows": of_nflows, "zuko": of_zuko}


def flow_step(model: nn.Module, log_prob: Callable[[Tensor], Tensor], x: Tensor, compiled: bool) -> Work:
    """STEPS training steps, all contenders alike: negative log-likelihood, gradients, fused Adam."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)
    loss = torch.compile(lambda batch: -log_prob(batch).mean()) if compiled else lambda batch: -log_prob(batch).mean()

    def step() -> None:
        optimizer.zero_grad()
        loss(x).backward()
        optimizer.step()

    return repeated(step, STEPS)


def realnvp(batch_size: int, goals: tuple[float, float], settings: Settings, compiled: bool) -> Rows:
    torch.manual_seed(0)
    x = torch.randn(batch_size, 2, device=settings.device)
    own = RealNVPConfig(layers=COUPLINGS, hidden=(WIDTH, WIDTH), activation="relu").build(EventSpec(shape=(2,)))
    own.initialize(x)
    made = {"ours": (own, own.log_prob)} | {name: make() for name, make in peers().items()}
    contenders = {
        name: flow_step(model.to(settings.device), log_prob, x, False) for name, (model, log_prob) in made.items()
    }
    if compiled:
        for name in ("ours", "nflows", "zuko"):
            model, log_prob = made[name]
            contenders[f"{name} compiled"] = flow_step(model, log_prob, x, True)
    times = interleaved(contenders, settings, 2 * settings.rounds)
    sizes = {name: sum(p.numel() for p in model.parameters() if p.requires_grad) for name, (model, _) in made.items()}
    medians = {name: sorted(values)[len(values) // 2] / STEPS for name, values in times.items()}
    for ours, of_peers in (("ours", ""), ("ours", " compiled"), ("ours compiled", " compiled")):
        others = [name for name in times if "ours" not in name and name.endswith("compiled") == bool(of_peers)]
        if not others or ours not in times:
            continue
        fastest, manner = min(others, key=medians.__getitem__), "eager" if ours == "ours" else "compiled"
        yield compared(
            "plane",
            f"RealNVP B{batch_size}, step, {manner}, against {fastest}",
            times,
            ours=ours,
            baseline=fastest,
            least=goals[0] if ours == "ours" else None,
            aim=goals[1] if ours == "ours" else None,
            scale=1.0 / STEPS,
            seconds=medians,
            parameters=sizes,
        )


def rows(settings: Settings) -> Rows:
    compiled = not settings.quick
    for batch_size in (32,) if settings.quick else (200, 512, 1000):
        yield from made(batch_size, settings, compiled)
    for batch_size, goals in (
        {32: (1.6, 2.5)}.items() if settings.quick else {200: (1.6, 2.5), 1000: (1.2, 1.6)}.items()
    ):
        yield from realnvp(batch_size, goals, settings, compiled)
