"""Four concentric circles in the plane."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat

from smoothgen.data_source import DataSource
from smoothgen_datasets.circles import CircleMixture
from smoothgen_datasets.toy import ToyConfig


class RingsConfig(ToyConfig):
    """Concentric circles around the origin, equally likely, with isotropic Gaussian noise.

    The defaults have an entropy of 2.6232 nats.
    Source: the "rings" in the code of FFJORD (arXiv 1810.01367) and CIF (arXiv 1909.13833). The paper (arXiv
    2103.15089, section 4.2) does not define its own "Rings", but the likelihoods it reports agree with these.

    radii: of the circles. noise: standard deviation of each coordinate's noise.
    """

    type: Literal["rings"] = "rings"
    radii: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = (0.75, 1.5, 2.25, 3.0)
    noise: PositiveFloat = 0.08

    def build(self) -> DataSource:
        return CircleMixture(self, ((0.0, 0.0),) * len(self.radii), self.radii, self.noise)
