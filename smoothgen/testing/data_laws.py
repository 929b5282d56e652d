"""The laws of a data source: splits that stay, draws by the generator, and an exact density that is the data's."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator

from smoothgen.data_source import DataSource, DataSourceConfig, SplitName
from smoothgen.errors import DataError, NoDensityError
from smoothgen.testing.law import DoesNotApply, Law, require
from smoothgen.testing.material import generator_alone_decides

MANY = 2000
"""Examples that a density is asked about: some cost much."""
SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")


@dataclass
class DataSubject:
    """A source, built anew at every call."""

    config: DataSourceConfig

    @property
    def name(self) -> str:
        return self.config.tag()

    def source(self) -> DataSource:
        return self.config.build()


def splits(subject: DataSubject) -> None:
    source, again = subject.source(), subject.source()
    found = 0
    for name in SPLITS:
        try:
            split = source.split(name)
        except DataError:
            require(name == "validation", f"there is no split {name}")
            continue
        found += 1
        require(len(split) > 0, f"split {name} is empty")
        require(
            split.x.dtype == torch.float32 and split.x.device.type == "cpu", f"split {name} is not float32 on the CPU"
        )
        source.event.standard().check(split.x, name)
        require(torch.equal(split.x, source.split(name).x), f"split {name} changes from call to call")
        require(torch.equal(split.x, again.split(name).x), f"split {name} changes when the source is built again")
        given = 0 if split.context is None else split.context.shape[1]
        require(
            given == source.features, f"split {name} has {given} features of context, the source says {source.features}"
        )


def examples(subject: DataSubject) -> None:
    source = subject.source()
    for name in SPLITS:
        try:
            split = source.split(name)
        except DataError:
            continue
        found = source.examples(name)
        require(len(found) == len(split), f"split {name} has {len(split)} examples, but {len(found)} to ask for")
        places = torch.randint(len(split), (20,), generator=Generator().manual_seed(4))
        for which in (places, places.flip(0), places[:1], torch.tensor([0, len(split) - 1, 0])):
            rows = found.rows(which)
            require(torch.equal(rows.x, split.x[which]), f"examples {which.tolist()} of split {name} are other ones")
            if split.context is not None:
                same = rows.context is not None and torch.equal(rows.context, split.context[which])
                require(same, f"the context of examples {which.tolist()} of split {name} is another one")


def apart(subject: DataSubject) -> None:
    source = subject.source()
    if source.event.levels is not None:
        raise DoesNotApply("examples of levels may repeat")
    seen = {row.tobytes() for row in source.split("train").x.numpy()}
    test = source.split("test").x.numpy()
    repeated = sum(row.tobytes() in seen for row in test)
    # numbers of one coordinate in float32 meet by chance
    require(repeated <= 0.01 * len(test), f"{repeated} of {len(test)} test examples are training examples")


def draws(subject: DataSubject) -> None:
    source = subject.source()
    if not source.fresh:
        raise DoesNotApply("the examples are fixed")
    first = source.draw(50, Generator().manual_seed(0)).x
    require(first.shape == (50, *source.event.shape), f"50 draws have shape {tuple(first.shape)}")
    generator_alone_decides(lambda seed: source.draw(50, Generator().manual_seed(seed)).x, "examples")
    source.event.standard().check(first, "draw")


def entropy(subject: DataSubject) -> None:
    source = subject.source()
    if source.entropy is None:
        raise DoesNotApply("the entropy is unknown")
    x = source.draw(MANY, Generator().manual_seed(3)).x if source.fresh else source.split("test").x[:MANY]
    surprisal = -source.log_prob(x.double())
    error = (surprisal.std() / math.sqrt(len(x))).item()
    off = (surprisal.mean().item() - source.entropy) / max(error, 1e-9)
    require(abs(off) < 5.0, f"-log_prob of the data is {off:.1f} errors from the entropy, {source.entropy:.4f} nats")


def density(subject: DataSubject) -> None:
    source = subject.source()
    try:
        x = source.split("test").x[:MANY].double()
        here = source.log_prob(x)
    except NoDensityError:
        raise DoesNotApply("the density is unknown") from None
    require(
        here.shape == (len(x),) and bool(here.isfinite().all()), "log_prob of test examples is not a finite (batch,)"
    )
    far = x + 1e6
    require(bool((source.log_prob(far) < here.min()).all()), "log_prob far away is no less than on the data")


def support(subject: DataSubject) -> None:
    source = subject.source()
    x = source.split("test").x[:MANY]
    try:
        inside = source.on_support(x)
    except NoDensityError:
        raise DoesNotApply("no support is defined") from None
    share = inside.double().mean().item()
    require(share > 0.9, f"only {share:.2f} of the test examples lie on the support")
    require(not bool(source.on_support(torch.full_like(x[:1], float("nan")))), "nan lies on the support")
    require(not bool(source.on_support(x[:1] + 1e6)), "a point far away lies on the support")


def survives_json(subject: DataSubject) -> None:
    again = type(subject.config).model_validate_json(subject.config.model_dump_json())
    require(again == subject.config, "the configuration does not survive JSON")


DATA_LAWS = (
    Law(
        "splits", "splits are float32 on the CPU, within the event, with the claimed context, and stay the same", splits
    ),
    Law("examples", "examples asked for by their numbers are those of the split, in any order and number", examples),
    Law("apart", "continuous test examples are no training examples", apart),
    Law("draws", "the generator alone decides fresh draws", draws),
    Law("entropy", "the entropy is that of the density on the data", entropy),
    Law("density", "the exact density is finite on the data and less far away", density),
    Law("support", "the data lie on the support, nan and points far away do not", support),
    Law("json", "the configuration survives JSON", survives_json),
)
