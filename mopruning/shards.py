"""Shards: arrays that ranks share out between them, and what ranks have to tell each other about them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np

from mopruning.arrays import Array
from mopruning.granularity.base import Shape

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"


class Exchange(Protocol):
    """What ranks tell each other: small NumPy arrays, in calls that every rank makes in the same order.

    Values are int64 or float64, unless a method says otherwise. Sums of whole numbers below 2**53 are exact in both,
    so that the order in which ranks are added makes no difference.
    """

    @property
    def rank(self) -> int:
        """Number of this rank."""

    @property
    def size(self) -> int:
        """How many ranks there are."""

    def add(self, values: NumPyArray) -> NumPyArray:
        """Return the sum over all ranks of arrays of one shape."""

    def largest(self, values: NumPyArray) -> NumPyArray:
        """Return the largest of all ranks' arrays of one shape, elementwise."""

    def gather(self, values: NumPyArray) -> NumPyArray:
        """Return all ranks' arrays of one shape, uint8 or int64, along a new first axis."""


@dataclass(frozen=True)
class Shard:
    """The stretch of one axis that a rank holds of an array.

    Args:
        shape: Canonical shape of the whole array.
        axis: Canonical axis that the ranks share out.
        borders: Where the stretches begin and end, in the order of the ranks: rank r holds ``borders[r]`` to
            ``borders[r + 1]``. Stretches may differ in length, and be empty.
        rank: The rank whose stretch lies here.

    >>> shard = Shard((5, 2), 0, (0, 3, 5), rank=1)
    >>> shard.held
    (2, 2)
    >>> shard.part(np.arange(10).reshape(5, 2))
    array([[6, 7],
           [8, 9]])
    """

    shape: Shape
    axis: int
    borders: tuple[int, ...]
    rank: int

    @property
    def start(self) -> int:
        """Index along the axis of the first element that lies here."""
        return self.borders[self.rank]

    @property
    def stop(self) -> int:
        """Index along the axis after the last element that lies here."""
        return self.borders[self.rank + 1]

    @property
    def held(self) -> Shape:
        """Shape of what lies here."""
        return self.lengthened(self.stop - self.start)

    @property
    def size(self) -> int:
        """Elements of the whole array."""
        return math.prod(self.shape)

    @property
    def outer(self) -> int:
        """How many stretches of C order the ranks take turns in: 1 where the first axis is shared out."""
        return math.prod(self.shape[: self.axis])

    def lengthened(self, extent: int) -> Shape:
        """Return the shape with another extent of the shared axis."""
        return (*self.shape[: self.axis], extent, *self.shape[self.axis + 1 :])

    def index(self, start: int, stop: int) -> tuple[slice, ...]:
        """Return what cuts the stretch from `start` to `stop` of the shared axis out of an array."""
        return (*(slice(None) for _ in range(self.axis)), slice(start, stop))

    def part(self, whole: Array) -> Array:
        """Return what lies here of a whole array, as a view."""
        return whole[self.index(self.start, self.stop)]

    def cut(self, extent: int) -> tuple[int, ...]:
        """Return which groups of `extent` consecutive indices of the shared axis lie on several ranks.

        >>> Shard((12, 2), 0, (0, 5, 8, 12), rank=0).cut(4)
        (1,)
        """
        length = self.shape[self.axis]
        inner = {border for border in self.borders if 0 < border < length}
        return tuple(sorted({border // extent for border in inner if border % extent}))

    def join(self, here: NumPyArray, exchange: Exchange) -> NumPyArray:
        """Return a whole bool array of which each rank has its stretch; what travels is one bit an element."""
        lengths = [b - a for a, b in zip(self.borders, self.borders[1:], strict=False)]
        sizes = [math.prod(self.lengthened(length)) for length in lengths]
        bits = np.zeros((max(sizes, default=0) + 7) // 8, np.uint8)
        packed = np.packbits(np.ascontiguousarray(here).reshape(-1))
        bits[: packed.size] = packed
        parts = [
            np.unpackbits(theirs, count=size).astype(np.bool_).reshape(self.lengthened(length))
            for theirs, size, length in zip(exchange.gather(bits), sizes, lengths, strict=True)
        ]
        return np.concatenate(parts, axis=self.axis)
