"""Weighted particles: what corrects a completion whose known coordinates come after unknown ones."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from smoothgen.errors import NonFiniteError


class Lineage:
    """rows (n * P,): which row each particle now descends from, counted from when the lineage was begun."""

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows


class Particles:
    """`count` particles for each of n groups, their weights, and the evidence they estimate.

    A model completes n * count rows, laid out group by group: row = group * count + particle. It calls `weigh` with
    what each row's known coordinates say, and where it answers with ancestors, row r goes on as a copy of row
    ancestors[r]: its context, and the coordinates dealt with so far.

    Two conditions on the rows. Those of a group share their mask. And known values that differ within a group must be
    independent between coordinates, given the group: then the coordinates still to come may stay where they are, and
    so do uniforms not yet used, which keeps the particles apart.

    weights: `log_weights` (n, count), normalised in each group. `log_evidence` (n,): the log of an unbiased estimate
    of the normalising constant, nats. threshold: a group is resampled where its effective sample size falls below
    threshold * count. Source: Doucet & Johansen 2009, sections 3.2 and 3.5; systematic resampling: Kitagawa 1996.
    """

    def __init__(
        self, groups: int, count: int, like: Tensor, *, threshold: float = 0.5, generator: Generator | None = None
    ) -> None:
        self.count = count
        self.threshold = threshold
        self.generator = generator
        dtype = torch.float32 if like.is_mps else torch.float64
        self.log_weights = torch.full((groups, count), -math.log(count), dtype=dtype, device=like.device)
        self.log_evidence = torch.zeros(groups, dtype=dtype, device=like.device)
        self._lineages: list[Lineage] = []

    @property
    def groups(self) -> int:
        """n, the number of groups."""
        return len(self.log_weights)

    @property
    def rows(self) -> int:
        """n * count, the number of rows a model completes."""
        return self.log_weights.numel()

    @property
    def effective_sample_size(self) -> Tensor:
        """1 / sum of the squared weights: (n,), between 1 and count."""
        return torch.exp(-torch.logsumexp(2.0 * self.log_weights, 1))

    def lineage(self) -> Lineage:
        """Begins to keep track of which row descends from which."""
        lineage = Lineage(torch.arange(self.rows, device=self.log_weights.device))
        self._lineages.append(lineage)
        return lineage

    def weigh(self, log_increment: Tensor) -> Tensor | None:
        """Multiplies the weights by exp(log_increment), (n * count,) nats, and resamples where few particles count.

        Returns the ancestor of every row, (n * count,), its own index in groups left as they are; None where no group
        was resampled.
        """
        raised = self.log_weights + log_increment.to(self.log_weights.dtype).reshape(self.groups, self.count)
        total = torch.logsumexp(raised, 1)
        self.log_evidence = self.log_evidence + total
        # a group without any weight goes on evenly; its evidence keeps the fact, and `choose` refuses it
        even = torch.full_like(raised, -math.log(self.count))
        self.log_weights = torch.where(total.isfinite()[:, None], raised - total[:, None], even)
        poor = self.effective_sample_size < self.threshold * self.count
        if not bool(poor.any()):
            return None
        ancestors = torch.arange(self.rows, device=poor.device).reshape(self.groups, self.count)
        ancestors = torch.where(poor[:, None], ancestors[:, :1] + self._systematic(), ancestors).flatten()
        self.log_weights = torch.where(poor[:, None], even, self.log_weights)
        for lineage in self._lineages:
            lineage.rows = lineage.rows[ancestors]
        return ancestors

    def _systematic(self) -> Tensor:
        """Particles drawn by weight, (n, count): each floor or ceil of count * weight times, in the mean exactly that.

        One uniform for each group, so that the draws do not depend on which groups are resampled.
        """
        uniform = torch.rand(
            (self.groups, 1), dtype=self.log_weights.dtype, device=self.log_weights.device, generator=self.generator
        )
        positions = (torch.arange(self.count, device=uniform.device) + uniform) / self.count
        return _find(self.log_weights, positions)

    def choose(self, generator: Generator | None = None, *, together: int = 1) -> Tensor:
        """One row for every `together` consecutive groups, drawn by evidence and weight: (n / together,).

        Raises NonFiniteError where the evidence of all of them is zero or not a number.
        """
        evidence = self.log_evidence.reshape(-1, together)
        bad = ~evidence.amax(1).isfinite()  # amax passes nan on
        if bool(bad.any()):
            first = int(bad.nonzero()[0])
            raise NonFiniteError(
                f"inpainting: no particle of example {first} (the first is 0) has a weight above 0 (log evidence "
                f"{evidence[first].amax().item():g}): the model thinks the known values impossible; correct them, or "
                "take particles=1, which weighs nothing"
            )
        joint = (self.log_weights.reshape(len(evidence), together, self.count) + evidence[..., None]).flatten(1)
        uniform = torch.rand((len(joint), 1), dtype=joint.dtype, device=joint.device, generator=generator)
        first_rows = torch.arange(len(joint), device=joint.device) * joint.shape[1]
        return first_rows + _find(joint, uniform)[:, 0]


def _find(log_weights: Tensor, positions: Tensor) -> Tensor:
    """The inverse of the cumulative weights at positions in [0, 1): (n, P), (n, m) -> (n, m)."""
    cumulative = torch.softmax(log_weights, 1).cumsum(1)
    cumulative = cumulative / cumulative[:, -1:]
    return torch.searchsorted(cumulative, positions.contiguous(), right=True).clamp(max=log_weights.shape[1] - 1)
