"""The importance-weighted bound with K draws at once, against a loop over them."""

from __future__ import annotations

import torch
from plane import MADE
from timing import Rows, Settings, compared, interleaved
from torch import Generator

from smoothgen.config import load_config
from smoothgen.experiment import assemble
from smoothgen.objectives import bound_terms, importance_weighted

DRAWS = 100


def measured(examples: int, settings: Settings) -> Rows:
    """2-d MADEs, p(x_tilde) and p(x | x_tilde)."""
    inverter = {"type": "conditional", "density": MADE["density"]}
    config = load_config(MADE | {"inverter": inverter})
    source = config.data.build()
    _, model, _ = assemble(config, source)
    model.to(settings.device).eval()
    x = source.split("test").x[:examples].to(settings.device)

    def ours() -> torch.Tensor:
        generator = Generator(settings.device).manual_seed(0)
        return model.likelihood_at(x, importance_samples=DRAWS, generator=generator).per_example

    def loop() -> torch.Tensor:
        generator = Generator(settings.device).manual_seed(0)
        with torch.no_grad():
            drawn = [
                sum(bound_terms(model.kernel, model.density, model.inverter, x, None, generator)) for _ in range(DRAWS)
            ]
            return importance_weighted(torch.stack(drawn))[0]

    off = float((ours() - loop()).mean())
    times = interleaved({"ours": ours, "baseline": loop}, settings)
    name = f"importance-weighted bound, K = {DRAWS}, {examples} examples"
    # a thousand examples fill the machine in a single draw: there is nothing left to gain by taking draws together
    least, aim = (3.0, 10.0) if examples <= 100 else (None, None)
    yield compared("bounds", name, times, least=least, aim=aim, difference_of_means=off)


def rows(settings: Settings) -> Rows:
    for examples in (4,) if settings.quick else (1, 10, 100, 1000):
        yield from measured(examples, settings)
