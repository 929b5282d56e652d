"""scikit-learn's handwritten digits: 1797 images of 8 x 8 pixels in 17 levels."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F

from smoothgen.data_source import DataSource, DataSourceConfig, Split, SplitName
from smoothgen.event import EventSpec

RANGES = {"train": (0, 1297), "validation": (1297, 1497), "test": (1497, 1797)}


class Digits(DataSource):
    """Images (1, 8, 8) in [-1, 1], split 1297 / 200 / 300 by one fixed shuffle. Source: UCI optdigits."""

    def __init__(self, labels: bool) -> None:
        from sklearn.datasets import load_digits

        super().__init__(EventSpec(shape=(1, 8, 8), low=-1.0, high=1.0, levels=17))
        bunch = load_digits()
        order = torch.randperm(len(bunch.images), generator=torch.Generator().manual_seed(0))
        self.images = torch.from_numpy(bunch.images).float().unsqueeze(1)[order] / 8.0 - 1.0
        self.labels = F.one_hot(torch.from_numpy(bunch.target)[order].long(), 10).float() if labels else None
        self.features = 10 if labels else 0

    def split(self, name: SplitName) -> Split:
        first, last = RANGES[name]
        return Split(self.images[first:last], None if self.labels is None else self.labels[first:last])


class DigitsConfig(DataSourceConfig):
    """Handwritten digits bundled with scikit-learn; labels: condition the model on the class, one-hot."""

    type: Literal["digits"] = "digits"
    labels: bool = False

    def build(self) -> DataSource:
        return Digits(self.labels)
