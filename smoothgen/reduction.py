"""How the gradients of a step's micro-batches are added up: as is fastest, or in an order that processes do not change.

Micro-batch number k * processes + rank is the k-th of a process. In order means g_0 + g_1 + g_2 + ..., the sum of one
process that takes all micro-batches itself, whose bits it has.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class Reduction:
    """What autograd, DDP and FSDP do by themselves: add up within a process, then average over processes."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self.parameters = parameters

    def parts(self, accumulate: int) -> int:
        """By what each loss is divided, so that the sum of the gradients is the mean's."""
        return accumulate

    def fold(self) -> None:
        """Called after each backward pass."""

    def finish(self, losses: list[Tensor]) -> Tensor:
        """Called after the last backward pass: the gradients are whole now. Returns the loss of the step, ()."""
        return added(losses)


class OrderedReduction(Reduction):
    """Gradients added up in the order of micro-batches: each process adds its share of the coordinates for all.

    A micro-batch costs one exchange of the gradient, a step one more; none overlaps with the backward pass.
    """

    def __init__(self, parameters: list[nn.Parameter], group: dist.ProcessGroup | None) -> None:
        super().__init__(parameters)
        self.group, self.world = group, dist.get_world_size(group)
        self.sum: Tensor | None = None

    def parts(self, accumulate: int) -> int:
        return accumulate * self.world

    def fold(self) -> None:
        flat = torch.cat([gradient.flatten() for gradient in self._gradients()])
        padding = -len(flat) % self.world
        self.sum = folded(self.sum, exchanged(nn.functional.pad(flat, (0, padding)), self.world, self.group))
        for parameter in self.parameters:
            if parameter.grad is not None:
                parameter.grad.zero_()

    def finish(self, losses: list[Tensor]) -> Tensor:
        assert self.sum is not None
        whole = gathered(self.sum, self.group).flatten()
        self.sum = None
        gradients = self._gradients()
        pieces = whole[: sum(gradient.numel() for gradient in gradients)].split([g.numel() for g in gradients])
        for gradient, piece in zip(gradients, pieces, strict=True):
            gradient.copy_(piece.view_as(gradient))
        return self._loss(losses)

    def _gradients(self) -> list[Tensor]:
        return [parameter.grad for parameter in self.parameters if parameter.grad is not None]

    def _loss(self, losses: list[Tensor]) -> Tensor:
        """All micro-batches' losses, added in their order."""
        return added(gathered(torch.stack(losses), self.group).T.flatten())


class ShardedReduction(OrderedReduction):
    """The same for FSDP: its reduce-scatter is replaced by one that adds in order and remembers the sum so far."""

    def __init__(self, sharded: nn.Module, parameters: list[nn.Parameter], group: dist.ProcessGroup | None) -> None:
        super().__init__(parameters, group)
        module: Any = sharded
        module.set_custom_reduce_scatter(_InOrder(self))
        module.set_force_sum_reduction_for_comms(True)
        module.set_gradient_divide_factor(1.0)

    def fold(self) -> None:
        """The gradients hold the sum so far. The next backward pass makes them anew rather than adding to them."""
        self.held = [parameter.grad for parameter in self.parameters]
        for parameter in self.parameters:
            parameter.grad = None

    def finish(self, losses: list[Tensor]) -> Tensor:
        for parameter, gradient in zip(self.parameters, self.held, strict=True):
            parameter.grad = gradient
        self.sum = None
        return self._loss(losses)


class _InOrder:
    """FSDP's reduce-scatter, as torch.distributed.fsdp asks for it."""

    def __init__(self, reduction: ShardedReduction) -> None:
        self.reduction = reduction

    def allocate(self, size: Any, *, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Room for its arguments."""
        return torch.empty(*size, dtype=dtype, device=device)

    def __call__(
        self, output_tensor: Tensor, input_tensor: Tensor, group: dist.ProcessGroup, op: Any, async_op: bool = False
    ) -> None:
        """input_tensor (processes * n,) of each process -> the sum of all so far, this process's part of it, (n,)."""
        own = self.reduction
        own.sum = folded(own.sum, exchanged(input_tensor, own.world, group))
        output_tensor.copy_(own.sum)


def added(losses: Iterable[Tensor]) -> Tensor:
    """Losses added up from the left."""
    total, *others = losses
    for loss in others:
        total = total + loss
    return total


def gathered(own: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """(n,) of each process -> (processes, n)."""
    rows = [torch.empty_like(own) for _ in range(dist.get_world_size(group))]
    dist.all_gather(rows, own, group=group)
    return torch.stack(rows)


def exchanged(flat: Tensor, world: int, group: dist.ProcessGroup | None) -> Tensor:
    """(processes * n,) of each process -> (processes, n): every process's values of this process's coordinates."""
    received = torch.empty_like(flat)
    dist.all_to_all_single(received, flat, group=group)
    return received.view(world, -1)


def folded(total: Tensor | None, rows: Tensor) -> Tensor:
    """total + rows[0] + rows[1] + ..., from the left; none at the start."""
    first = 0
    if total is None:
        total, first = rows[0].clone(), 1
    for row in rows[first:]:
        total += row
    return total
