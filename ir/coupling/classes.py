"""Classes of channels: numbers that are joined until those that belong together have one class (union-find)."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

Numbers: TypeAlias = "np.ndarray[Any, np.dtype[np.int64]]"
"""int64 [channels]: one class a channel; `NONE` for a channel that is no one's to move or remove."""

NONE = -1


class Classes:
    """A partition of channels; every operation takes and gives whole arrays of them.

    >>> classes = Classes()
    >>> left, right = classes.fresh(3), classes.fresh(3)
    >>> classes.join(left, right[::-1], "they are added")
    >>> classes.find(right).tolist()
    [2, 1, 0]
    """

    def __init__(self) -> None:
        self._parents: Numbers = np.arange(1024, dtype=np.int64)
        self._count = 0
        self._fixed: dict[str, list[Numbers]] = {}

    @property
    def count(self) -> int:
        """How many classes were ever handed out."""
        return self._count

    def fresh(self, size: int) -> Numbers:
        """Return new classes, int64 [size]."""
        start, self._count = self._count, self._count + size
        if self._count > len(self._parents):
            old = self._parents
            self._parents = np.arange(max(self._count, 2 * len(old)), dtype=np.int64)
            self._parents[: len(old)] = old
        return np.arange(start, self._count, dtype=np.int64)

    def find(self, numbers: Numbers) -> Numbers:
        """Return the class that each number now belongs to; `NONE` stays."""
        found: Numbers = np.where(numbers < 0, 0, numbers)
        while True:
            above = self._parents[found]
            if np.array_equal(above, found):
                return np.where(numbers < 0, NONE, found)
            found = above

    def join(self, left: Numbers, right: Numbers, why: str) -> None:
        """Make one class of each pair of numbers, in place; whoever is paired with `NONE` is fixed, for the reason."""
        self.fix(np.concatenate([left[right < 0], right[left < 0]]), why)
        both = (left >= 0) & (right >= 0)
        left, right = left[both], right[both]
        while left.size:
            left, right = self.find(left), self.find(right)
            apart = left != right
            left, right = np.minimum(left, right)[apart], np.maximum(left, right)[apart]
            # of several that want one number, the smallest gets it; the others find each other the next time
            np.minimum.at(self._parents, right, left)

    def fix(self, numbers: Numbers, why: str) -> None:
        """Note in place that channels have to stay, and why."""
        if (numbers >= 0).any():
            self._fixed.setdefault(why, []).append(numbers[numbers >= 0])

    def fixed(self) -> dict[str, Numbers]:
        """Return reason -> the classes that have to stay for it."""
        return {why: np.unique(self.find(np.concatenate(parts))) for why, parts in self._fixed.items()}
