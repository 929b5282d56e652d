"""One experiment over several seeds: what each model reaches, with errors over the seeds, as a table and a picture."""

from __future__ import annotations

import contextlib
import math
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from smoothgen.checkpoint import write_atomically, write_json
from smoothgen.config import ExperimentConfig, load_config
from smoothgen.device import DevicePolicy
from smoothgen.errors import ConfigError, NoClosedFormError
from smoothgen.evaluation.pictures import all_panels, save_panels
from smoothgen.experiment import Source, check_same, fit, load, load_baseline, resolved
from smoothgen.run_directory import EVALUATION, RunDirectory
from smoothgen.training_data import placed

LIKELIHOODS = {"two-step": "elbo", "single-step": "stage-one", "baseline": "baseline"}
"""Which likelihood of `evaluation.json` belongs to which way of sampling."""
SAMPLES = ("quality", "two_sample")
"""The parts of `evaluation.json` that measure samples."""


def compare(
    source: Source,
    seeds: Sequence[int],
    directory: str | Path,
    *,
    overrides: Sequence[str] = (),
    measure_again: bool = False,
    progress: bool = False,
) -> dict[str, Any]:
    """Trains and measures an experiment once for every seed, in `directory`/seed-N, and compares its models.

    Finished runs are read (or only measured again), interrupted ones resumed. Leaves comparison.json, comparison.md and
    comparison.png; errors are standard errors over the seeds, nan for one.
    Raises what `fit` raises, and ConfigError, before anything is trained, for repeated seeds, seeds that a
    configuration cannot hold, and runs of another configuration or measured otherwise.
    """
    if not seeds or len(set(seeds)) != len(seeds):
        raise ConfigError(f"seeds must be different numbers, at least one, got {', '.join(map(str, seeds)) or 'none'}")
    config, directory = load_config(source, overrides), Path(directory)
    paths = {directory / f"seed-{seed}": load_config(config, [f"seed={seed}"]) for seed in seeds}
    kept = [] if measure_again else [path for path in paths if (path / EVALUATION).exists()]
    for path in kept:
        _check_kept(paths[path], RunDirectory(path))
    for path, of_seed in paths.items():
        if path not in kept:
            fit(of_seed, path, resume=RunDirectory(path).exists, progress=progress)
    runs = [RunDirectory(path) for path in paths]
    result = {
        "name": config.name,
        "seeds": list(seeds),
        "models": _models([run.evaluation() for run in runs]),
        "training_seconds": _over_seeds_of_each([_training_seconds(run) for run in runs]),
        "parameters": runs[0].evaluation()["parameters"],
    }
    write_json(directory / "comparison.json", result)
    write_atomically(directory / "comparison.md", markdown(result).encode())
    _draw(runs[0], directory / "comparison.png")
    return result


def _check_kept(config: ExperimentConfig, run: RunDirectory) -> None:
    """Raises ConfigError where a finished run is of another configuration, or has not the bounds that this one asks."""
    check_same(resolved(config, config.data.build()), run)
    known = run.evaluation()["likelihoods"]
    wanted = {f"iw-{draws}" for draws in config.evaluate.importance_samples if draws > 1}
    found = {name for name in known if name.startswith("iw-")}
    if "elbo" in known and found != wanted:
        raise ConfigError(
            f"{run.path} was measured with evaluate.importance_samples = {_draws(found)}, not {_draws(wanted)}; "
            "measure it again (compare --again, measure_again=True), or compare in a new directory"
        )


def _draws(names: set[str]) -> list[int]:
    return sorted(int(name.removeprefix("iw-")) for name in names)


def _training_seconds(run: RunDirectory) -> dict[str, float]:
    """Seconds that the steps of every stage took, validation and saving left out."""
    seconds: dict[str, float] = {}
    last: dict[str, int] = {}
    for record in run.metrics():
        if "steps_per_second" in record:
            stage, step = record["stage"], record["step"]
            seconds[stage] = seconds.get(stage, 0.0) + (step - last.get(stage, 0)) / record["steps_per_second"]
            last[stage] = step
    return seconds


def _models(evaluations: list[dict[str, Any]]) -> dict[str, Any]:
    """For every kind of sample, its likelihood, sample quality and two-sample measures over the seeds."""
    names = list(dict.fromkeys(name for part in SAMPLES for each in evaluations for name in _sets(each, part)))
    names += [name for name in LIKELIHOODS if name not in names]
    models: dict[str, Any] = {}
    for name in names:
        found: dict[str, Any] = {}
        for label, key in _likelihoods_of(name, evaluations):
            values = [each["likelihoods"][key] for each in evaluations]
            unit = "bits_per_dim" if all("bits_per_dim" in value for value in values) else "nats"
            found[label] = _over_seeds(value[unit] for value in values) | {"unit": unit}
        for part in SAMPLES:
            sets = [_sets(each, part)[name] for each in evaluations if name in _sets(each, part)]
            if len(sets) == len(evaluations):
                found |= {metric: _over_seeds(each[metric]["value"] for each in sets) for metric in sets[0]}
        if found:
            models[name] = found
    return models


def _sets(evaluation: dict[str, Any], part: str) -> dict[str, Any]:
    """What a part of an evaluation holds of every kind of sample; nothing where it was not measured."""
    return evaluation.get(part, {}).get("sets", {})


def _likelihoods_of(name: str, evaluations: list[dict[str, Any]]) -> Iterable[tuple[str, str]]:
    """(column, key) of the likelihoods that belong to a kind of sample, and that all have."""
    first, *others = (each["likelihoods"] for each in evaluations)
    known = [key for key in first if all(key in other for other in others)]
    if LIKELIHOODS.get(name) in known:
        yield "likelihood", LIKELIHOODS[name]
    if name == "two-step":
        yield from ((key, key) for key in known if key.startswith("iw-"))


def _over_seeds(values: Iterable[float | None]) -> dict[str, Any]:
    """The mean and its standard error; nan where one of them is not finite, which a file writes as null."""
    each = [math.nan if value is None else value for value in values]
    if not all(map(math.isfinite, each)):
        return {"value": math.nan, "stderr": math.nan, "seeds": each}
    error = statistics.stdev(each) / math.sqrt(len(each)) if len(each) > 1 else math.nan
    return {"value": statistics.fmean(each), "stderr": error, "seeds": each}


def _over_seeds_of_each(parts: list[dict[str, float]]) -> dict[str, Any]:
    return {name: _over_seeds(part[name] for part in parts) for name in parts[0]}


def markdown(result: dict[str, Any]) -> str:
    """The comparison as a table in Markdown: a row for each kind of sample, value ± standard error over the seeds."""
    metrics = list(dict.fromkeys(metric for found in result["models"].values() for metric in found))
    units = {found["likelihood"]["unit"] for found in result["models"].values() if "likelihood" in found}
    title = "bits/dim" if units == {"bits_per_dim"} else "log p, nats"
    heads = [title if metric == "likelihood" else metric for metric in metrics]
    lines = ["| samples | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for name, found in result["models"].items():
        bound = "≤ " if name in ("two-step", "single-step") and title == "bits/dim" else ""
        cells = [
            _cell(found.get(metric), bound if metric == "likelihood" or "iw-" in metric else "") for metric in metrics
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    seconds = ", ".join(f"{stage} {value['value']:.0f} s" for stage, value in result["training_seconds"].items())
    counts = ", ".join(f"{part} {count:,}" for part, count in result["parameters"].items() if count)
    seeds = ", ".join(map(str, result["seeds"]))
    return "\n".join([*lines, "", f"Seeds {seeds}; parameters: {counts}; training steps: {seconds}.", ""])


def _cell(value: dict[str, Any] | None, before: str) -> str:
    if value is None:
        return ""
    error = "" if value["stderr"] is None or math.isnan(value["stderr"]) else f" ± {value['stderr']:.2g}"
    return f"{before}{value['value']:.4g}{error}"


def _draw(run: RunDirectory, path: Path) -> None:
    """Samples of every kind, from the first seed."""
    config = run.stored_config()
    policy = DevicePolicy(config.device)
    model, baseline = load(run.path).to(policy.device), load_baseline(run.path)
    if baseline is not None:
        baseline = baseline.to(policy.device)
    data = config.data.build()
    panels = all_panels(config, model, baseline, data, policy)
    noisy, test = panels["smoothed x̃"], data.examples("test")
    context = None
    if data.features:
        context = placed(test.rows(torch.arange(len(noisy)) % len(test)), policy).context
    with contextlib.suppress(NoClosedFormError):
        panels["truncated single step"] = model.denoise(noisy, context, method="single-step", score="causal")
    if "plain model" in panels:
        panels["plain model"] = panels.pop("plain model")  # shown last
    save_panels(path, panels, model.event, config.name)
