"""Batches as a pure function of (seed, stage, step): nothing to save, nothing to lose at a resume."""

from __future__ import annotations

import torch
from torch import Tensor

from smoothgen.data_source import DataSource, Split
from smoothgen.device import DevicePolicy, derived_seed


class TrainingData:
    """The training examples on the device, or fresh draws of a source that makes them.

    Every epoch is a permutation drawn from (seed, stage, epoch); batches run over the epochs' ends, so that no example
    is dropped. Fresh draws come from a generator seeded by (seed, stage, step, micro-batch).
    """

    def __init__(self, source: DataSource, policy: DevicePolicy, seed: int) -> None:
        self.source, self.policy, self.seed = source, policy, seed
        split = source.split("train")
        self.examples = Split(policy.place(split.x), None if split.context is None else policy.place(split.context))
        self._permutations: dict[tuple[str, int], Tensor] = {}

    def batch(self, stage: str, step: int, micro: int, size: int, micro_batches: int) -> Split:
        """Micro-batch `micro` of `micro_batches`, `size` examples each, of the given step."""
        if self.source.fresh:
            return self.source.draw(size, self.policy.generator(self.seed, stage, step, micro, "draw"))
        first = (step * micro_batches + micro) * size
        rows = self._rows(stage, first, size)
        context = self.examples.context
        return Split(self.examples.x[rows], None if context is None else context[rows])

    def which(self, stage: str, step: int, micro: int, size: int, micro_batches: int) -> Tensor | None:
        """The rows of the training split that a micro-batch holds, (size,); None for fresh draws."""
        if self.source.fresh:
            return None
        return self._rows(stage, (step * micro_batches + micro) * size, size)

    def _rows(self, stage: str, first: int, size: int) -> Tensor:
        n = len(self.examples)
        parts, remaining, position = [], size, first
        while remaining:
            epoch, offset = divmod(position, n)
            part = self._permutation(stage, epoch)[offset : offset + remaining]
            parts.append(part)
            remaining -= len(part)
            position += len(part)
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _permutation(self, stage: str, epoch: int) -> Tensor:
        key = (stage, epoch)
        if key not in self._permutations:
            while len(self._permutations) > 2:
                self._permutations.pop(next(iter(self._permutations)))
            generator = torch.Generator().manual_seed(derived_seed(self.seed, stage, epoch, "epoch"))
            self._permutations[key] = self.policy.place(torch.randperm(len(self.examples), generator=generator))
        return self._permutations[key]

    def sample(self, most: int = 4096) -> Split:
        """Examples spread evenly over the training set: for data-dependent initialisation."""
        rows = torch.linspace(0, len(self.examples) - 1, min(most, len(self.examples))).long()
        rows = self.policy.place(rows)
        context = self.examples.context
        return Split(self.examples.x[rows], None if context is None else context[rows])
