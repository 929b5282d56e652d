"""Batches as a pure function of (seed, stage, step): nothing to save, nothing to lose at a resume."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from smoothgen.data_source import DataSource, Examples, Split
from smoothgen.device import DevicePolicy, derived_seed
from smoothgen.prefetch import Prefetch
from smoothgen.row_order import page, page_length


@dataclass(frozen=True)
class Request:
    """Micro-batch `micro` of `micro_batches`, `size` examples each, of a step."""

    stage: str
    step: int
    micro: int
    size: int
    micro_batches: int

    @property
    def first(self) -> int:
        """The place of its first example in the order of the epochs, one after the other."""
        return (self.step * self.micro_batches + self.micro) * self.size

    def after(self, processes: int) -> Request:
        """What the same process asks for next, as the trainer shares micro-batches out."""
        micro = self.micro + processes
        if micro < self.micro_batches:
            return replace(self, micro=micro)
        return replace(self, step=self.step + 1, micro=self.micro % processes)


class TrainingData:
    """The training examples on the device, or streamed, or fresh draws of a source that makes them.

    Every epoch is a permutation drawn from (seed, stage, epoch); batches run over the epochs' ends, so that no example
    is dropped. Fresh draws come from a generator seeded by (seed, stage, step, micro-batch). Streamed examples are read
    in the background while the steps before compute; which ones they are does not depend on that.
    """

    def __init__(self, source: DataSource, policy: DevicePolicy, seed: int) -> None:
        self.source, self.policy, self.seed = source, policy, seed
        examples = source.examples("train")
        self.examples: Examples = examples if examples.streamed else placed(examples.sketch(len(examples)), policy)
        self._pages: dict[tuple[str, int, int], Tensor] = {}
        self._ahead = Prefetch(self._read, lambda request: request.after(policy.world))

    def batch(self, stage: str, step: int, micro: int, size: int, micro_batches: int) -> Split:
        """Micro-batch `micro` of `micro_batches`, `size` examples each, of the given step, on the device."""
        if self.source.fresh:
            return self.source.draw(size, self.policy.generator(self.seed, stage, step, micro, "draw"))
        request = Request(stage, step, micro, size, micro_batches)
        return placed(self._ahead(request), self.policy) if self.examples.streamed else self._read(request)

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Ends with no thread left in the background."""
        try:
            yield
        finally:
            self._ahead.close()

    def _read(self, request: Request) -> Split:
        return self.examples.rows(self._rows(request))

    def which(self, stage: str, step: int, micro: int, size: int, micro_batches: int) -> Tensor | None:
        """The rows of the training split that a micro-batch holds, (size,); None for fresh draws."""
        if self.source.fresh:
            return None
        return self._rows(Request(stage, step, micro, size, micro_batches))

    def _rows(self, request: Request) -> Tensor:
        n = len(self.examples)
        parts, remaining, position = [], request.size, request.first
        while remaining:
            epoch, offset = divmod(position, n)
            index, inside = divmod(offset, page_length(n))
            part = self._page(request.stage, epoch, index)[inside : inside + remaining]
            parts.append(part)
            remaining -= len(part)
            position += len(part)
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _page(self, stage: str, epoch: int, index: int) -> Tensor:
        key = (stage, epoch, index)
        if key not in self._pages:
            while len(self._pages) > 2:
                self._pages.pop(next(iter(self._pages)))
            order = page(len(self.examples), index, derived_seed(self.seed, stage, epoch, "epoch"))
            self._pages[key] = order if self.examples.streamed else self.policy.place(order)
        return self._pages[key]

    def sample(self, most: int = 4096) -> Split:
        """Examples spread evenly over the training set, on the device: for data-dependent initialisation."""
        return placed(self.examples.spread(most), self.policy)


def placed(split: Split, policy: DevicePolicy) -> Split:
    """The examples and their context on the policy's device."""
    return Split(policy.place(split.x), None if split.context is None else policy.place(split.context))
