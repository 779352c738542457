"""Evaluation: what a network with gates answers for each image of a set, and what that costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from mopruning.manidp.cost import cost, macs
from mopruning.manidp.structure import Structure

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"


@dataclass(frozen=True)
class Evaluation:
    """Answers for a set of images, in its order.

    Args:
        structure: The network's.
        predictions: Class of each image, whole numbers [images].
        labels: The right ones [images].
        cross_entropy: Loss of each image [images].
        kept: How many channels each image keeps at each gate, whole numbers [images, gates].
    """

    structure: Structure
    predictions: NumPyArray
    labels: NumPyArray
    cross_entropy: NumPyArray
    kept: NumPyArray

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return float(np.mean(self.predictions == self.labels))

    @property
    def macs(self) -> NumPyArray:
        """Multiply-accumulates of each image, int64 [images]."""
        return macs(self.structure, self.kept)

    @property
    def mean_macs(self) -> float:
        """Mean multiply-accumulates of an image."""
        return float(self.macs.mean())

    @property
    def reduction(self) -> float:
        """Share of the multiply-accumulates that is saved, of the dense network with its gates."""
        return 1 - self.mean_macs / cost(self.structure).total
