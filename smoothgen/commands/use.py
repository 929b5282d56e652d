"""sample, denoise, inpaint: what a trained model is for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from smoothgen.commands.arguments import DeviceOption, OutOption, RunArgument, SeedOption, examples_of, policy_of

if TYPE_CHECKING:
    from torch import Tensor

    from smoothgen.device import DevicePolicy


def sample(
    run: RunArgument,
    num: Annotated[int, typer.Option("--num", "-n", help="How many samples.", min=1)] = 64,
    out: OutOption = None,
    smoothed: Annotated[bool, typer.Option(help="Also write x_tilde (needs .npz or .safetensors).")] = False,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
) -> None:
    """Draw samples from a trained model."""
    from smoothgen.arrays import check_target, write_array
    from smoothgen.experiment import load
    from smoothgen.progress import Progress
    from smoothgen.shares import shared

    policy = policy_of(device)
    target = out or Path("samples.npz")
    check_target(target, 1 + smoothed)
    model = load(run).to(policy.device)
    context = _test_context(run, num, policy) if model.context is not None else None

    def draw(chunk: int, rows: slice) -> dict[str, Tensor]:
        generator, given = policy.generator(seed, "sample", chunk), None if context is None else context[rows]
        size = rows.stop - rows.start
        x, x_tilde = model.sample(size, given, generator=generator, return_smoothed=True)
        return {"samples": x, "smoothed": x_tilde} if smoothed else {"samples": x}

    with policy.processes(), Progress(enabled=policy.is_main).shares("sampling"):
        drawn = shared(draw, num, policy)
    if drawn is None:
        return
    write_array(target, drawn, model.event)
    typer.echo(f"{num} samples of shape {model.event.shape} in {target}")


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
    from smoothgen.arrays import check_target, write_array
    from smoothgen.errors import ConfigError, DataError
    from smoothgen.experiment import load
    from smoothgen.shares import shared

    if method not in ("inverter", "single-step"):
        raise ConfigError(f'--method: unknown "{method}"; choose inverter or single-step')
    policy = policy_of(device)
    target = out or data.with_name(f"{data.stem}-denoised.npz")
    check_target(target, 1)
    model = load(run).to(policy.device)
    if model.context is not None:
        raise ConfigError(f"{run} was trained with a context; use model.denoise(x_tilde, context) from Python")
    noisy = examples_of(data, key, model, policy)
    if not bool(noisy.isfinite().all()):
        raise DataError(f"{data}: {int((~noisy.isfinite()).sum())} values are not finite; remove or fill such rows")
    chosen: Literal["inverter", "single-step"] = "single-step" if method == "single-step" else "inverter"

    def work(chunk: int, rows: slice) -> dict[str, Tensor]:
        generator = policy.generator(seed, "denoise", chunk)
        return {"denoised": model.denoise(noisy[rows], method=chosen, generator=generator)}

    with policy.processes():
        denoised = shared(work, len(noisy), policy)
    if denoised is None:
        return
    write_array(target, denoised, model.event)
    typer.echo(f"{len(noisy)} examples denoised in {target}")


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
    from smoothgen.arrays import check_target, write_array
    from smoothgen.errors import ConfigError
    from smoothgen.experiment import load
    from smoothgen.masks import read_mask, unknown_mask
    from smoothgen.shares import shared

    policy = policy_of(device)
    target = out or data.with_name(f"{data.stem}-inpainted.npz")
    check_target(target, 1)
    model = load(run).to(policy.device)
    if model.context is not None:
        raise ConfigError(f"{run} was trained with a context; use model.inpaint(x, mask, context) from Python")
    x = examples_of(data, key, model, policy)
    if mask is not None and unknown is None:
        known = policy.place(read_mask(mask, model.event, len(x)))
    elif unknown is not None and mask is None:
        known = ~unknown_mask(unknown, model.event, x)
    else:
        raise ConfigError("give one of --unknown (what is drawn anew) and --mask (a file: 1 where values are kept)")
    known = model.check_inpaintable(x, known)

    def work(chunk: int, rows: slice) -> dict[str, Tensor]:
        generator = policy.generator(seed, "inpaint", chunk)
        found = model.inpaint(x[rows], known[rows], particles=particles, noise_draws=noise_draws, generator=generator)
        return {"inpainted": found}

    with policy.processes():
        completed = shared(work, len(x), policy)
    if completed is None:
        return
    write_array(target, completed, model.event)
    typer.echo(f"{len(x)} examples, {int((~known).sum())} of {known.numel()} values drawn anew, in {target}")


def _test_context(run: Path, num: int, policy: DevicePolicy) -> Tensor | None:
    import torch

    from smoothgen.run_directory import RunDirectory
    from smoothgen.training_data import placed

    data = RunDirectory(run).stored_config().data.build()
    if not data.features:
        return None
    test = data.examples("test")
    return placed(test.rows(torch.arange(num) % len(test)), policy).context
