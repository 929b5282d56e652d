"""A likelihood that says what it is: its unit, its measure, its kind, its terms and its error."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from smoothgen.errors import MeasureError

Measure = Literal["discrete", "density"]
Kind = Literal["exact", "lower bound"]


@dataclass(frozen=True)
class Likelihood:
    """log p of n examples.

    per_example: (n,), nats, float64.
    measure: "discrete" for probabilities of quantised values, "density" for densities per unit of data.
    kind: "exact", or "lower bound" (in expectation over the draws).
    terms: what per_example is the sum of, each (n,), nats.
    draws: noise draws per example; 0 where nothing was drawn.
    effective_sample_size: (n,), between 1 and draws, for importance-weighted bounds.
    """

    per_example: Tensor
    dimensions: int
    measure: Measure
    kind: Kind
    terms: dict[str, Tensor] = field(default_factory=dict)
    draws: int = 0
    effective_sample_size: Tensor | None = None

    @property
    def n(self) -> int:
        """How many examples were averaged."""
        return len(self.per_example)

    @property
    def nats(self) -> float:
        """Mean log-likelihood of an example, nats."""
        return self.per_example.mean().item()

    @property
    def stderr(self) -> float:
        """Standard error of `nats` over the examples (their draws included); nan for one example."""
        return standard_error(self.per_example)

    @property
    def bits_per_dim(self) -> float:
        """-nats / (D ln 2). Raises MeasureError for a density, whose value depends on the data's units."""
        return -self.nats / self._nats_per_bit_per_dim()

    @property
    def bits_per_dim_stderr(self) -> float:
        """Standard error of `bits_per_dim`."""
        return self.stderr / self._nats_per_bit_per_dim()

    def _nats_per_bit_per_dim(self) -> float:
        if self.measure != "discrete":
            raise MeasureError(
                "bits per dim are defined for discrete data only: this likelihood is a density per unit of the data, "
                "which any change of units shifts; use .nats, or give the event its levels"
            )
        return self.dimensions * math.log(2.0)

    def summary(self) -> dict[str, Any]:
        """Plain numbers for JSON: value, units, terms with standard errors, n and draws."""
        result: dict[str, Any] = {
            "kind": self.kind,
            "measure": self.measure,
            "nats": self.nats,
            "stderr": self.stderr,
            "n": self.n,
            "draws": self.draws,
            "dimensions": self.dimensions,
            "terms": {
                name: {"nats": value.mean().item(), "stderr": standard_error(value)}
                for name, value in self.terms.items()
            },
        }
        if self.measure == "discrete":
            result |= {"bits_per_dim": self.bits_per_dim, "bits_per_dim_stderr": self.bits_per_dim_stderr}
        if self.effective_sample_size is not None:
            result["effective_sample_size"] = self.effective_sample_size.mean().item()
        return result

    def __str__(self) -> str:
        head = f"{self.nats:.4f} ± {self.stderr:.4f} nats"
        if self.measure == "discrete":
            head = f"{self.bits_per_dim:.4f} ± {self.bits_per_dim_stderr:.4f} bits/dim ({head})"
        drawn = f", {self.draws} draw{'s' if self.draws > 1 else ''} each" if self.draws else ""
        lines = [f"{head}, {self.kind}, {self.measure}, n = {self.n}{drawn}"]
        lines += [
            f"  {name}: {value.mean().item():.4f} ± {standard_error(value):.4f}" for name, value in self.terms.items()
        ]
        if self.effective_sample_size is not None:
            lines.append(f"  effective sample size: {self.effective_sample_size.mean().item():.1f} of {self.draws}")
        return "\n".join(lines)

    def tensors(self) -> dict[str, Tensor]:
        """All numbers by name, (n,) each: what `with_tensors` takes."""
        named = {"per_example": self.per_example} | {f"term {name}": value for name, value in self.terms.items()}
        return named if self.effective_sample_size is None else named | {"draws": self.effective_sample_size}

    def with_tensors(self, tensors: dict[str, Tensor]) -> Likelihood:
        """A likelihood of the same kind with the `tensors` of other examples."""
        return replace(
            self,
            per_example=tensors["per_example"],
            terms={name: tensors[f"term {name}"] for name in self.terms},
            effective_sample_size=tensors.get("draws"),
        )

    @staticmethod
    def join(parts: list[Likelihood]) -> Likelihood:
        """One likelihood of several batches of the same kind."""
        first = parts[0]
        sizes = [part.effective_sample_size for part in parts]
        return Likelihood(
            per_example=torch.cat([part.per_example for part in parts]),
            dimensions=first.dimensions,
            measure=first.measure,
            kind=first.kind,
            terms={name: torch.cat([part.terms[name] for part in parts]) for name in first.terms},
            draws=first.draws,
            effective_sample_size=torch.cat([s for s in sizes if s is not None]) if sizes[0] is not None else None,
        )


def standard_error(values: Tensor) -> float:
    """Standard error of the mean of (n,) values; nan for one."""
    return (values.std() / math.sqrt(len(values))).item() if len(values) > 1 else math.nan
