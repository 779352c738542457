"""What every granularity answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TypeAlias

from mopruning.arrays import Array

Shape: TypeAlias = tuple[int, ...]


class Granularity(ABC):
    """Which shapes may be zeroed. Subclasses are frozen dataclasses: compared by value, printable, hashable.

    Shapes are canonical: [out, in, *kernel] for convolutions, [out, in] for dense layers.
    """

    @abstractmethod
    def __str__(self) -> str:
        """Return the text that `parse_granularity` reads back, such as "bank:64"."""

    @abstractmethod
    def misfit(self, shape: Shape) -> str | None:
        """Say why a weight of this shape cannot be pruned so, or None where it can."""

    @abstractmethod
    def zeros(self, shape: Shape, sparsity: float) -> int:
        """Count the zeros of `keep` for a weight that fits: never more than asked, as near as the shapes allow."""

    @abstractmethod
    def keep(self, scores: Array, sparsity: float) -> Array:
        """Return the bool mask (True = keep) of finite scores that fit; of equal scores the earlier is kept."""

    def ceiling(self) -> float:
        """Return the largest sparsity this granularity can reach."""
        return 1.0


def inputs_axis(shape: Shape) -> int:
    """Return the axis of input channels: 1, or 0 for a vector, which counts as one row."""
    return 1 if len(shape) > 1 else 0
