"""Which rows come next: epochs in random order, a random choice, an even choice."""

from __future__ import annotations

import numpy as np
import torch
from torch import Generator, Tensor

from smoothgen.device import CPU
from smoothgen.permutation import Bijection

DRAWN = 2**20
"""Up to so many examples a permutation is drawn whole and kept, 8 bytes each; beyond, a `Bijection` gives it."""
SKETCH = 2000
"""Examples, spread evenly over all, from which values of a configuration come (`sigma: median`)."""
PAGE = 2**16
"""Places of a long order that are computed at a time."""


def page_length(n: int) -> int:
    """How many places of an order of n `page` gives at a time: all of a short one."""
    return n if n <= DRAWN else PAGE


def page(n: int, index: int, seed: int) -> Tensor:
    """Places index * page_length(n) and on of a random order of 0 .. n - 1, int64, on the CPU."""
    if n <= DRAWN:
        return torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    places = np.arange(index * PAGE, min(n, (index + 1) * PAGE))
    return torch.from_numpy(Bijection(n, seed)(places))


def chosen(n: int, count: int, generator: Generator) -> Tensor:
    """Up to `count` of 0 .. n - 1, none twice, in random order, int64, on the CPU."""
    if n <= DRAWN:
        return torch.randperm(n, generator=generator, device=generator.device).cpu()[:count]
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    return torch.from_numpy(Bijection(n, seed)(np.arange(min(count, n))))


def spread(n: int, most: int) -> Tensor:
    """Up to `most` of 0 .. n - 1, spread evenly, int64, on the CPU."""
    # float32, on which published results rest, counts up to 2^24
    dtype = torch.float32 if n <= 2**24 else torch.float64
    return torch.linspace(0, n - 1, min(most, n), dtype=dtype, device=CPU).long()
