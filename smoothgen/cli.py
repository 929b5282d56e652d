"""The command line. torch is imported inside the commands, so that help comes at once."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from torch import Tensor

    from smoothgen.config import ExperimentConfig
    from smoothgen.data_source import DataSource
    from smoothgen.device import DevicePolicy
    from smoothgen.smoothed_model import SmoothedModel

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Generative models of data whose density is too sharp to model: smooth, model, invert.",
)

RunArgument = Annotated[Path, typer.Argument(help="Directory of a finished run.", metavar="RUN")]
SeedOption = Annotated[int, typer.Option(help="Seed of every draw.", min=0)]
OutOption = Annotated[Path | None, typer.Option(help="File to write: .npy, .npz, .csv, .safetensors or .png.")]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]


@app.command()
def train(
    config: Annotated[str, typer.Argument(help="A recipe's name or a YAML file.", metavar="CONFIG|RECIPE")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="trainer.max_steps=1000 and the like.", metavar="[KEY=VALUE]...")
    ] = None,
    run_dir: Annotated[
        Path | None, typer.Option(help="Where everything is kept; by default runs/NAME, numbered if taken.")
    ] = None,
    resume: Annotated[bool, typer.Option(help="Continue the run in --run-dir from its last checkpoint.")] = False,
) -> None:
    """Train a model: both stages, evaluation and pictures."""
    from smoothgen.config import load_config
    from smoothgen.errors import ConfigError
    from smoothgen.experiment import fit

    loaded = load_config(config, overrides or [])
    if resume and run_dir is None:
        raise ConfigError("--resume needs --run-dir, the directory of the run to continue")
    directory = run_dir or free_directory(Path("runs") / loaded.name)
    typer.echo(f"run directory: {directory}", err=True)
    result = fit(loaded, directory, resume=resume, progress=True)
    if not result.metrics:
        return  # another process of the same run reports
    show(result.metrics)
    typer.echo(f"everything is in {directory}; look at {directory / 'samples.png'}")


@app.command()
def sample(
    run: RunArgument,
    num: Annotated[int, typer.Option("--num", "-n", help="How many samples.", min=1)] = 64,
    out: OutOption = None,
    smoothed: Annotated[bool, typer.Option(help="Also write x_tilde (needs .npz or .safetensors).")] = False,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
) -> None:
    """Draw samples from a trained model."""
    from smoothgen.arrays import write_array
    from smoothgen.experiment import load
    from smoothgen.progress import Progress

    policy = _policy(device)
    model = load(run).to(policy.device)
    context = _test_context(run, num, policy) if model.context is not None else None
    generator = policy.generator(seed, "sample")
    with Progress().shares("sampling"):
        x, x_tilde = model.sample(num, context, generator=generator, return_smoothed=True)
    target = out or Path("samples.npz")
    arrays = {"samples": x, "smoothed": x_tilde} if smoothed else {"samples": x}
    write_array(target, arrays, model.event)
    typer.echo(f"{num} samples of shape {model.event.shape} in {target}")


@app.command()
def evaluate(
    run: RunArgument,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="evaluate.features=classifier and the like.", metavar="[KEY=VALUE]..."),
    ] = None,
    importance_samples: Annotated[list[int] | None, typer.Option("-k", help="Draws K of a bound; repeatable.")] = None,
    max_examples: Annotated[int | None, typer.Option(help="Test examples for the bound.", min=2)] = None,
    out: Annotated[Path | None, typer.Option(help="JSON file for the numbers.")] = None,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
) -> None:
    """Measure a trained model: bounds with units on the test split, and samples against data."""
    from smoothgen.checkpoint import write_json
    from smoothgen.errors import NoDensityError
    from smoothgen.evaluation.measure import measure
    from smoothgen.experiment import load, load_baseline
    from smoothgen.progress import Progress
    from smoothgen.run_directory import RunDirectory

    policy = _policy(device)
    config = _with_overrides(RunDirectory(run).stored_config(), overrides or [])
    model = load(run).to(policy.device)
    data = config.data.build()
    metrics = _measurable(config, model, data)
    if not metrics:
        raise NoDensityError(
            f'{run}: inverter "{config.inverter.type}" has no density, so there is no bound to measure; for sample '
            "quality give evaluate.features, or evaluate.metrics=[two-sample]"
        )
    changes: dict[str, object] = {"metrics": metrics}
    if importance_samples:
        changes["importance_samples"] = tuple(importance_samples)
    if max_examples:
        changes |= {"max_examples": max_examples, "importance_examples": max_examples}
    settings = config.evaluate.model_copy(update=changes)
    config = config.model_copy(update={"evaluate": settings, "seed": seed})
    baseline = load_baseline(run)
    if baseline is not None:
        baseline = baseline.to(policy.device)
    measured = measure(config, model, baseline, data, policy, Progress(enabled=False))
    if out is not None:
        write_json(out, measured)
    show(measured)


@app.command()
def compare(
    config: Annotated[str, typer.Argument(help="A recipe's name or a YAML file.", metavar="CONFIG|RECIPE")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="trainer.max_steps=1000 and the like.", metavar="[KEY=VALUE]...")
    ] = None,
    seeds: Annotated[str, typer.Option(help="Seeds, with commas between.")] = "0,1,2",
    out: Annotated[Path | None, typer.Option(help="Folder of the runs and the comparison.")] = None,
    again: Annotated[bool, typer.Option(help="Measure finished runs again.")] = False,
) -> None:
    """Train an experiment once for every seed, and compare its models: a table with errors, and a picture."""
    from smoothgen.comparison import compare as compare_seeds
    from smoothgen.comparison import markdown
    from smoothgen.config import load_config

    numbers = _seeds(seeds)
    loaded = load_config(config, overrides or [])
    directory = out or Path("runs") / f"{loaded.name}-comparison"
    result = compare_seeds(loaded, numbers, directory, measure_again=again, progress=True)
    typer.echo(markdown(result))
    typer.echo(f"everything is in {directory}; look at {directory / 'comparison.png'}")


@app.command()
def reproduce(
    name: Annotated[str | None, typer.Argument(help="A study's name, or all.", metavar="NAME|all")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="The same code paths with a fraction of the steps.")] = False,
    seeds: Annotated[
        str | None, typer.Option(help="Seeds, with commas between; by default 0,1,2, and 0,1 with --quick.")
    ] = None,
    jobs: Annotated[int | None, typer.Option(help="Processes; by default one for each core.", min=1)] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of outcomes, page and pictures.")] = None,
    page_only: Annotated[bool, typer.Option("--page-only", help="Make the page of what is there already.")] = False,
) -> None:
    """Run the paper's tables and figures in one and two dimensions again, beside exact entropies, and write a page.

    Without a name, lists the studies. A stopped command goes on where it was.
    """
    from smoothgen.reproduction.runner import reproduce as run_studies
    from smoothgen.reproduction.studies import chosen

    if name is None:
        from rich.table import Table

        table = Table("study", "what it is", "source")
        for study in chosen("all"):
            table.add_row(study.name, study.title, study.source)
        _console().print(table)
        return
    directory = out or Path("runs") / ("reproduction-quick" if quick else "reproduction")
    command = ["smoothgen", *(argument for argument in sys.argv[1:] if argument != "--page-only")]
    numbers = _seeds(seeds or ("0,1" if quick else "0,1,2"))
    page = run_studies(
        chosen(name),
        directory,
        seeds=numbers,
        quick=quick,
        workers=jobs,
        command=command,
        progress=True,
        compute=not page_only,
    )
    typer.echo(f"the page is {page}")


@app.command()
def denoise(
    run: RunArgument,
    data: Annotated[Path, typer.Argument(help="Noisy examples: .npy, .npz, .csv or .safetensors.", metavar="FILE")],
    out: OutOption = None,
    key: Annotated[str | None, typer.Option(help="Which array, in a file of several.")] = None,
    method: Annotated[
        str, typer.Option(help="inverter (what the model was trained with) or single-step (posterior mean).")
    ] = "inverter",
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
) -> None:
    """Remove the kernel's noise from examples."""
    from smoothgen.arrays import write_array
    from smoothgen.errors import ConfigError, DataError
    from smoothgen.experiment import load

    if method not in ("inverter", "single-step"):
        raise ConfigError(f'--method: unknown "{method}"; choose inverter or single-step')
    policy = _policy(device)
    model = load(run).to(policy.device)
    if model.context is not None:
        raise ConfigError(f"{run} was trained with a context; use model.denoise(x_tilde, context) from Python")
    noisy = _examples(data, key, model, policy)
    if not bool(noisy.isfinite().all()):
        raise DataError(f"{data}: {int((~noisy.isfinite()).sum())} values are not finite; remove or fill such rows")
    chosen: Literal["inverter", "single-step"] = "single-step" if method == "single-step" else "inverter"
    x = model.denoise(noisy, method=chosen, generator=policy.generator(seed, "denoise"))
    target = out or data.with_name(f"{data.stem}-denoised.npz")
    write_array(target, {"denoised": x}, model.event)
    typer.echo(f"{len(x)} examples denoised in {target}")


@app.command()
def inpaint(
    run: RunArgument,
    data: Annotated[Path, typer.Argument(help="Examples: .npy, .npz, .csv or .safetensors.", metavar="FILE")],
    unknown: Annotated[
        str | None,
        typer.Option(
            help="What is drawn anew; all else is kept: top, bottom, left, right or centre of an image, columns of a "
            "table by name (a,b), or nan (wherever FILE holds nan)."
        ),
    ] = None,
    mask: Annotated[
        Path | None, typer.Option(help="Instead of --unknown: a file of 1 where values are kept, 0 where drawn anew.")
    ] = None,
    particles: Annotated[
        int, typer.Option(help="Candidates for each example, so that what is known later in the order counts.", min=1)
    ] = 16,
    noise_draws: Annotated[
        int, typer.Option(help="Draws of the known values' noise, each with its own particles.", min=1)
    ] = 1,
    out: OutOption = None,
    key: Annotated[str | None, typer.Option(help="Which array, in a file of several.")] = None,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
) -> None:
    """Draw what is unknown of examples, given what is known."""
    from smoothgen.arrays import write_array
    from smoothgen.errors import ConfigError
    from smoothgen.experiment import load
    from smoothgen.masks import read_mask, unknown_mask

    policy = _policy(device)
    model = load(run).to(policy.device)
    if model.context is not None:
        raise ConfigError(f"{run} was trained with a context; use model.inpaint(x, mask, context) from Python")
    x = _examples(data, key, model, policy)
    if mask is not None and unknown is None:
        known = policy.place(read_mask(mask, model.event, len(x)))
    elif unknown is not None and mask is None:
        known = ~unknown_mask(unknown, model.event, x)
    else:
        raise ConfigError("give one of --unknown (what is drawn anew) and --mask (a file: 1 where values are kept)")
    completed = model.inpaint(
        x, known, particles=particles, noise_draws=noise_draws, generator=policy.generator(seed, "inpaint")
    )
    target = out or data.with_name(f"{data.stem}-inpainted.npz")
    write_array(target, {"inpainted": completed}, model.event)
    drawn = int((~known).expand(completed.shape).sum())
    typer.echo(f"{len(x)} examples, {drawn} of {completed.numel()} values drawn anew, in {target}")


@app.command()
def plugins() -> None:
    """List the plugins and their parts, and what is wrong with those that did not load."""
    from rich.table import Table

    from smoothgen.registry import installed

    console = _console()
    table = Table("interface", "type", "plugin", "version", "class")
    for plugin in installed().plugins:
        for cls in plugin.components:
            table.add_row(cls.interface, cls.tag(), plugin.name, plugin.version, f"{cls.__module__}.{cls.__name__}")
    console.print(table)
    for broken in installed().broken:
        console.print(f"[bold red]not loaded:[/] {broken.name} ({broken.module}): {broken.error}", highlight=False)
        console.print(broken.traceback, markup=False, highlight=False)


@app.command()
def recipes() -> None:
    """List the shipped configurations."""
    from rich.table import Table

    from smoothgen.config import read_yaml
    from smoothgen.config import recipes as shipped

    table = Table("recipe", "what it trains")
    for name, path in shipped().items():
        table.add_row(name, str(read_yaml(path).get("description", "")))
    _console().print(table)


@app.command()
def schema(
    out: Annotated[Path | None, typer.Option(help="File to write instead of printing.")] = None,
) -> None:
    """Print the JSON schema of configurations, with every installed plugin's keys."""
    import json

    from smoothgen.checkpoint import write_atomically
    from smoothgen.config import ExperimentConfig
    from smoothgen.registry import json_schema

    text = json.dumps(json_schema(ExperimentConfig), indent=2) + "\n"
    if out is None:
        typer.echo(text, nl=False)
    else:
        write_atomically(out, text.encode())
        typer.echo(f"schema in {out}; name it in the first line of a YAML file: # yaml-language-server: $schema={out}")


def _seeds(text: str) -> list[int]:
    from smoothgen.errors import ConfigError

    try:
        return [int(seed) for seed in text.split(",")]
    except ValueError:
        raise ConfigError(f'--seeds: expected whole numbers with commas between, got "{text}"') from None


def free_directory(wanted: Path) -> Path:
    """The directory itself, or the first of wanted-2, wanted-3, ... that does not exist."""
    path, number = wanted, 1
    while path.exists():
        number += 1
        path = wanted.with_name(f"{wanted.name}-{number}")
    return path


def show(metrics: dict[str, Any]) -> None:
    """Tables of what was measured."""
    if "sigma_search" in metrics:
        from smoothgen.sigma_search import summary

        _console().print(summary(metrics["sigma_search"]), highlight=False)
    if metrics.get("likelihoods"):
        _show_likelihoods(metrics, metrics["likelihoods"])
    if "quality" in metrics or "neighbours" in metrics or "two_sample" in metrics:
        from smoothgen.evaluation import tables

        console = _console()
        if "quality" in metrics:
            console.print(tables.quality_table(metrics["quality"]))
            for line in tables.notes(metrics["quality"]):
                console.print(line, highlight=False)
        if "neighbours" in metrics:
            console.print(tables.neighbour_table(metrics["neighbours"]))
        if "two_sample" in metrics:
            console.print(tables.two_sample_table(metrics["two_sample"]))


def _show_likelihoods(metrics: dict[str, Any], likelihoods: dict[str, Any]) -> None:
    from rich.table import Table

    discrete = any("bits_per_dim" in value for value in likelihoods.values())
    table = Table("test", "bits per dim" if discrete else "nats", "± s.e.", "n", "K", "kind", "terms (nats)")
    for name, value in likelihoods.items():
        unit = ("bits_per_dim", "bits_per_dim_stderr") if "bits_per_dim" in value else ("nats", "stderr")
        terms = ", ".join(f"{term} {number['nats']:.3f}" for term, number in value["terms"].items())
        row = [f"{value[unit[0]]:.4f}", f"{value[unit[1]]:.4f}", str(value["n"]), str(value["draws"] or "-")]
        table.add_row(name, *row, value["kind"], terms)
    console = _console()
    console.print(table)
    if metrics.get("entropy") is not None:
        gaps = ", ".join(f"{k} {v['gap']:.4f} ± {v['gap_stderr']:.4f}" for k, v in likelihoods.items() if "gap" in v)
        console.print(f"exact entropy {metrics['entropy']:.4f} nats; gap to the exact log density: {gaps}")
    if metrics.get("gain_over_baseline"):
        gains = metrics["gain_over_baseline"].items()
        text = ", ".join(f"{name} {value['nats']:+.3f} ± {value['stderr']:.3f}" for name, value in gains)
        console.print(f"gain over the plain baseline, same examples, nats: {text}", highlight=False)
    counts = metrics["parameters"]
    console.print("parameters: " + ", ".join(f"{name} {count:,}" for name, count in counts.items()), highlight=False)


def _measurable(config: ExperimentConfig, model: SmoothedModel, data: DataSource) -> tuple[str, ...]:
    """What `evaluate` measures, whatever evaluate.metrics says: likelihoods, and what compares samples with data."""
    from smoothgen.evaluation.measure import compares_points

    metrics: tuple[str, ...] = ("elbo",) if model.inverter.has_density or model.event.levels is not None else ()
    if config.evaluate.features is not None:
        metrics += ("quality", "neighbours")
    by_default = config.evaluate.model_copy(update={"metrics": None})
    named = "two-sample" in (config.evaluate.metrics or ())
    if named or compares_points(config.model_copy(update={"evaluate": by_default}), data):
        metrics += ("two-sample",)
    return metrics


def _with_overrides(config: ExperimentConfig, overrides: list[str]) -> ExperimentConfig:
    """What and how to measure can change after training; the model and its data cannot."""
    from smoothgen.config import load_config
    from smoothgen.errors import ConfigError

    for override in overrides:
        if not override.startswith("evaluate."):
            raise ConfigError(f'override "{override}": only keys below evaluate can change after training')
    return load_config(config, overrides)


def _console() -> Console:
    """Standard output, wide enough for the tables where it is no terminal."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 160)


def _policy(device: str):  # type: ignore[no-untyped-def]
    from smoothgen.component import describe
    from smoothgen.device import DeviceConfig, DevicePolicy
    from smoothgen.errors import ConfigError

    try:
        config = DeviceConfig.model_validate({"device": device})
    except ValueError as error:
        from pydantic import ValidationError

        message = describe(error) if isinstance(error, ValidationError) else str(error)
        raise ConfigError(f"--device: {message}") from error
    return DevicePolicy(config)


def _examples(path: Path, key: str | None, model: SmoothedModel, policy: DevicePolicy) -> Tensor:
    """What a file holds as examples of the model, in data units, on the device. Values may be nan."""
    import torch

    from smoothgen.errors import DataError
    from smoothgen.tables import read_table

    values = read_table(path, key).values
    if values.shape[1:] != model.event_shape:
        if values[0].size != model.event.dimensions:
            raise DataError(f"{path}: examples have shape {values.shape[1:]}, the model's {model.event_shape}")
        values = values.reshape(-1, *model.event_shape)
    # units of their own may need all digits, which Apple's GPUs do not have
    wide = bool(model.event.scale) and not policy.place(torch.zeros(())).is_mps
    return policy.place(torch.tensor(values, dtype=torch.float64 if wide else torch.float32))


def _test_context(run: Path, num: int, policy: DevicePolicy) -> Tensor | None:
    import torch

    from smoothgen.run_directory import RunDirectory
    from smoothgen.training_data import placed

    data = RunDirectory(run).stored_config().data.build()
    if not data.features:
        return None
    test = data.examples("test")
    return placed(test.rows(torch.arange(num) % len(test)), policy).context


def main() -> None:
    """Runs the command line; what a user can mend is one line on standard error and exit code 2."""
    from smoothgen.errors import Interrupted, SmoothgenError

    warnings.formatwarning = lambda message, category, *rest: f"warning: {message}\n"
    try:
        app()
    except Interrupted as error:
        print(f"{error}", file=sys.stderr)
        sys.exit(128 + error.signum)
    except SmoothgenError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
