"""Do errors compound? Conditionals after prefixes from data and after a model's own, plain against smoothed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Generator, Tensor, zeros

from smoothgen.device import derived_seed
from smoothgen.evaluation.chains import ModelChain, PlainChain, SmoothedChain
from smoothgen.evaluation.compounding import ExactChain, Prefixes, continuations, divergences
from smoothgen.reproduction.compounding_pictures import save_positions
from smoothgen.reproduction.pictures import Curve, save_curves
from smoothgen.reproduction.row_jobs import by_row, estimates, train_row
from smoothgen.reproduction.rows import load_rows
from smoothgen.reproduction.study import Job, Outcome, Study
from smoothgen.reproduction.tables import SURE, Column, Estimate, TableRow, doubt, in_digits, markdown_table
from smoothgen.reproduction.training import Trained, unseen

SETS = ("rings", "olympics", "curve")
"""Each has a file rows/compounding-SET.yaml."""
KINDS = {"data": "data's", "own": "own"}
TOTALS = (
    Column("data total", "after data's prefixes", "lower"),
    Column("own total", "after own prefixes", "lower"),
    Column("compounding", "difference", "lower"),
    Column("trimmed compounding", "difference, trimmed", "lower"),
    Column("median compounding", "difference of medians"),
    Column("off 0", "off support", "lower"),
    Column("parameters", "parameters", form="count"),
    Column("cpu_seconds", "CPU s", form="count"),
)
INTRODUCTION = (
    "An autoregressive model learns its conditionals after prefixes from data and samples after prefixes of its own. "
    "For every position i of the chain that is sampled (x₁ … x_D, or x̃₁ … x̃_D, x₁ … x_D), the tables show "
    "KL(true(zᵢ | z₁ … zᵢ₋₁) ‖ model(zᵢ | z₁ … zᵢ₋₁)), nats, averaged over prefixes from data and over prefixes that "
    "the model drew. The truth is exact: every set is a mixture of Gaussians along a curve. After data's prefixes the "
    "sum over positions is the gap of the negative log-likelihood (of −ELBO, for a smoothed model), by the chain rule; "
    "what it grows by after own prefixes is what compounds. The true conditional after a prefix far from all data is "
    "narrow, and the model has never been asked for it, so that a few prefixes weigh heavily in a mean: trimmed means "
    "leave out the lowest and the highest 5 %, position by position."
)


@dataclass(frozen=True)
class Effort:
    """prefixes: of each kind. draws: of the true conditional after each. completions: samples for each known length."""

    prefixes: int = 1500
    draws: int = 4
    completions: int = 3000


class Compounding(Study):
    """Rings, olympics, and a curve in eight dimensions, whose chain is longer."""

    name = "compounding"
    title = "Do errors compound?"
    source = "beyond the paper, whose section 3 argues from it (arXiv 2103.15089)"

    def jobs(self, seeds: Sequence[int], quick: bool) -> list[Job]:
        found = []
        for name in SETS:
            rows = load_rows(f"compounding-{name}")
            for row in rows.rows:
                settings = {"data": rows.data, "row": row.settings(quick), "quick": quick}
                found += [Job(self.name, f"{name}: {row.name}", seed, settings) for seed in seeds]
        return found

    def run(self, job: Job) -> Outcome:
        data = unseen(job.settings["data"], job.seed)
        trained = train_row(job.settings["row"], data, job.seed)
        return Outcome(measure(trained, job.seed, Effort(40, 4, 50) if job.settings["quick"] else Effort()))

    def present(self, outcomes: Mapping[Job, Outcome], directory: Path) -> str:
        findings, parts, by_position, by_known = [], [INTRODUCTION], {}, {}
        for name in SETS:
            found = {
                row.removeprefix(f"{name}: "): each
                for row, each in by_row(outcomes).items()
                if row.startswith(f"{name}: ")
            }
            if found:
                findings.append(
                    f"{name.capitalize()}: {_finding({row: estimates(each) for row, each in found.items()})}"
                )
                parts += _section(name, found)
                by_position[name] = _position_curves(found)
                by_known[name] = _known_curves(found)
        save_positions(directory / "compounding.png", by_position)
        picture = directory / "compounding-known.png"
        save_curves(picture, by_known, "share of the chain given", "off support", share_y=False)
        parts.append("![KL by position](compounding.png)")
        parts.append(
            "Samples that go on from the first positions of true chains: the share off the support, against how much "
            "of the chain was given.\n\n![Off support against what is given](compounding-known.png)"
        )
        return "\n\n".join([" ".join(findings), *parts])


def measure(trained: Trained, seed: int, effort: Effort) -> dict[str, Any]:
    """Plain values: KL by position of both kinds of prefix, their totals, and samples gone on with by known length."""
    generator = Generator().manual_seed(derived_seed(seed, "compounding"))
    chain: ModelChain = PlainChain(trained.model) if trained.smoothed is None else SmoothedChain(trained.smoothed)
    truth = ExactChain(trained.data.as_mixture(), chain.order, trained.sigma)
    x = trained.data.split("test").x
    of_data = truth.of_data(x[: effort.prefixes], generator)
    own = chain.complete(zeros(effort.prefixes, chain.length, dtype=of_data.dtype), 0, generator)
    numbers: dict[str, Any] = {
        "positions": _labels(chain, trained.smoothed is not None),
        "parameters": trained.parameters,
        "cpu_seconds": trained.cpu_seconds,
    }
    for kind, z in (("data", of_data), ("own", own)):
        numbers |= _by_position(kind, Prefixes.of(divergences(truth, chain, z, effort.draws, generator)))
    numbers["compounding"] = numbers["own total"] - numbers["data total"]
    for summary in ("trimmed", "median"):
        numbers[f"{summary} compounding"] = numbers[f"own {summary} total"] - numbers[f"data {summary} total"]
    return numbers | _gone_on(trained, truth, chain, x[-effort.completions :], generator)


def _labels(chain: ModelChain, smoothed: bool) -> list[str]:
    half = chain.length // 2 if smoothed else 0
    return [f"{'x̃' if place < half else 'x'}{index + 1}" for place, index in enumerate(chain.order)]


def _by_position(kind: str, found: Prefixes) -> dict[str, float]:
    numbers = {f"{kind} {place}": value for place, value in enumerate(found.mean.tolist())}
    totals = {"": found.mean, "trimmed ": found.trimmed, "median ": found.median}
    return numbers | {f"{kind} {name}total": value.sum().item() for name, value in totals.items()}


def _gone_on(trained: Trained, truth: ExactChain, chain: ModelChain, x: Tensor, generator: Generator) -> dict[str, Any]:
    """Off-support share ("off k") and mean distance in noises ("distance k") with the first k positions given."""
    numbers = {}
    for known, samples in enumerate(continuations(chain, truth.of_data(x, generator), generator)):
        numbers[f"off {known}"] = 1.0 - trained.data.on_support(samples).double().mean().item()
        numbers[f"distance {known}"] = (truth.mixture.distance(samples) / truth.mixture.std).mean().item()
    return numbers


def _section(name: str, found: Mapping[str, Sequence[Outcome]]) -> list[str]:
    """The heading, the totals and the table by position of one set."""
    numbers = {row: estimates(each) for row, each in found.items()}
    totals = markdown_table(TOTALS, [TableRow(row, numbers[row]) for row in found], "model")
    labels = max((each[0].numbers["positions"] for each in found.values()), key=len)
    columns = [Column(f"{row} {kind}", f"{row}, {of}") for row in found for kind, of in KINDS.items()]
    rows = []
    for label in labels:
        cells: dict[str, Estimate | None] = {}
        for row, each in found.items():
            own = each[0].numbers["positions"]
            if label in own:
                cells |= {f"{row} {kind}": numbers[row].get(f"{kind} {own.index(label)}") for kind in KINDS}
        rows.append(TableRow(label, cells))
    by_position = markdown_table(columns, rows, "position")
    return [f"### {name.capitalize()}", totals, by_position]


def _finding(numbers: Mapping[str, Mapping[str, Estimate | None]]) -> str:
    """For every model: what its own prefixes add, and whether that is more than chance."""
    sentences = []
    for row, found in numbers.items():
        of_data, added = found.get("data total"), found.get("compounding")
        if of_data is not None and added is not None:
            by = in_digits(Estimate(abs(added.mean), added.stderr, added.n))
            verb = "add" if added.mean > 0.0 else "take away"
            chance = doubt(abs(added.mean) > SURE * added.stderr, added)
            said = f"{row}: own prefixes {verb} {by} nats where data's have {of_data.mean:.3f}"
            sentences.append(f"{said}{', ' * bool(chance)}{chance}.")
    return " ".join(sentences)


def _position_curves(found: Mapping[str, Sequence[Outcome]]) -> dict[str, dict[str, Curve]]:
    curves: dict[str, dict[str, Curve]] = {}
    for row, each in found.items():
        numbers, length = estimates(each), len(each[0].numbers["positions"])
        curves[row] = {
            kind: _curve([numbers.get(f"{kind} {place}") for place in range(length)], 1.0, 1.0) for kind in KINDS
        }
    return curves


def _known_curves(found: Mapping[str, Sequence[Outcome]]) -> dict[str, Curve]:
    curves: dict[str, Curve] = {}
    for row, each in found.items():
        numbers, length = estimates(each), len(each[0].numbers["positions"])
        curves[row] = _curve([numbers.get(f"off {known}") for known in range(length)], 0.0, 1.0 / length)
    return curves


def _curve(values: Sequence[Estimate | None], first: float, step: float) -> Curve:
    return [(first + step * place, value.mean, value.stderr) for place, value in enumerate(values) if value is not None]
