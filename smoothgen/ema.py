"""The exponential moving average of the weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from smoothgen.sharding import local_shard


class ExponentialMovingAverage:
    """Averages tensors in place: average += (1 - d) (tensor - average), d = min(decay, (1 + n) / (10 + n)).

    The ramp lets the average follow the first updates. Sharded parameters are averaged shard by shard.
    """

    def __init__(self, parameters: Iterable[Tensor], decay: float) -> None:
        self.decay = decay
        self.live = [local_shard(parameter) for parameter in parameters]
        self.average = [tensor.detach().clone() for tensor in self.live]

    @torch.no_grad()
    def update(self, updates: int, left_out: Tensor | None = None) -> None:
        """Folds in the current weights, after the update numbered `updates` (from 0).

        left_out: bool (), on the device, where an update may have been none; the average then stays bit for bit.
        """
        decay = min(self.decay, (1.0 + updates) / (10.0 + updates))
        live = [tensor.detach() for tensor in self.live]
        if left_out is None:
            torch._foreach_lerp_(self.average, live, 1.0 - decay)
            return
        moved = list(torch._foreach_lerp(self.average, live, 1.0 - decay))
        torch._foreach_mul_(self.average, left_out.to(moved[0].dtype))
        torch._foreach_mul_(moved, (~left_out).to(moved[0].dtype))
        torch._foreach_add_(self.average, moved)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """The parameters hold the average for the duration."""
        backup = [tensor.detach().clone() for tensor in self.live]
        self._set(self.average)
        try:
            yield
        finally:
            self._set(backup)

    @torch.no_grad()
    def _set(self, values: list[Tensor]) -> None:
        for tensor, value in zip(self.live, values, strict=True):
            tensor.detach().copy_(value)
