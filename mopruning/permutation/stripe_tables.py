"""Tables of kept magnitudes: what every set of m columns of some stripes would keep, were it a stripe.

A window has few such sets (70 for two stripes of 4) and many arrangements, so an arrangement is valued by adding up
entries of a table. And a set is made of parts of several stripes: the n largest of a union are i of the one part and
n - i of the other, whichever i gives most. So with the sums of the 1, 2, ... n largest of every part of every stripe
at hand, a set costs a few additions and maxima a row, and nothing is sorted again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np

from mopruning.permutation.arrangements import shares, subsets, touching
from mopruning.permutation.magnitudes import added

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"

_BLOCK = 1 << 16  # elements of a temporary, which should stay in a core's cache


class StripeTables:
    """What the sets of columns of some stripes keep; the stripes may change.

    Args:
        columns: Magnitudes as `whole_numbers` gives them.
        n: Weights kept of a group.
        m: Columns in a stripe.
        stripes: Columns that stand in each stripe, int64 [stripes, m].
    """

    def __init__(self, columns: NumPyArray, n: int, m: int, stripes: NumPyArray) -> None:
        self.columns, self.n, self.m = columns, n, m
        rows = columns.shape[1]
        # [size of the part] -> [stripe, part, how many of its largest are added up - 1, row]
        self._sums = {
            size: np.empty((len(stripes), math.comb(m, size), min(n, size), rows), np.float32)
            for size in range(1, m + 1)
        }
        for index, stripe in enumerate(stripes):
            self.put(index, stripe)

    @staticmethod
    def bytes_needed(channels: int, rows: int, n: int, m: int) -> int:
        """Return the memory that the tables of a matrix take."""
        parts = sum(math.comb(m, size) * min(n, size) for size in range(1, m + 1))
        return 4 * parts * (channels // m) * rows

    def put(self, index: int, stripe: NumPyArray) -> None:
        """Let other columns stand in a stripe, in place."""
        numbers = self.columns[stripe]
        for size, sums in self._sums.items():
            parts = numbers[np.array(subsets(self.m, size))]
            parts.sort(axis=1)
            np.cumsum(parts[:, ::-1][:, : sums.shape[2]], axis=1, out=sums[index])

    def alone(self, stripes: NumPyArray) -> NumPyArray:
        """Return what each of some stripes keeps as it is, float64."""
        return added(self._sums[self.m][stripes, 0, -1])

    def together(self, head: Sequence[int], lasts: NumPyArray) -> NumPyArray:
        """Return what every set keeps that takes columns of all the stripes of a choice.

        Args:
            head: All stripes of the choice but the last.
            lasts: The last stripe, for each of the choices.

        Returns:
            float64 [choices, sets], the sets in the order of `touching`.
        """
        found = []
        for share in shares(len(head) + 1, self.m):
            part, size = self._sums[share[0]][head[0]], share[0]
            for stripe, more in zip(head[1:], share[1:-1], strict=True):
                part, size = self._joined(part, size, self._sums[more][stripe], more), size + more
            found.append(self._kept(part, size, self._sums[share[-1]], lasts))
        return np.concatenate(found, axis=1)

    def _joined(self, left: NumPyArray, size: int, right: NumPyArray, more: int) -> NumPyArray:
        """Return the sums of the 1, 2, ... n largest of every union of a part with another."""
        rows = left.shape[-1]
        sums = np.zeros((len(left), len(right), min(self.n, size + more), rows), np.float32)
        for wanted in range(1, sums.shape[2] + 1):
            out = sums[:, :, wanted - 1]
            for own in range(max(0, wanted - more), min(wanted, size) + 1):
                np.maximum(out, _term(left[:, None], own, right[None], wanted - own), out=out)
        return sums.reshape(-1, *sums.shape[2:])

    def _kept(self, heads: NumPyArray, size: int, parts: NumPyArray, lasts: NumPyArray) -> NumPyArray:
        """Return what every union of a head with a part of a last stripe keeps, [lasts, heads * parts]."""
        more, each, rows = self.m - size, parts.shape[1], parts.shape[-1]
        result = np.empty((len(lasts), len(heads), each))
        # additions first, which write where the maxima then stay
        splits = sorted(range(max(0, self.n - more), min(self.n, size) + 1), key=lambda own: own in (0, self.n))
        stripes_at_once = min(len(lasts), max(1, _BLOCK // (each * rows)))
        heads_at_once = min(len(heads), max(1, _BLOCK // (each * rows * stripes_at_once)))
        first, other = np.empty((2, heads_at_once, stripes_at_once * each, rows), np.float32)
        for start in range(0, len(lasts), stripes_at_once):
            chosen = lasts[start : start + stripes_at_once]
            # neighbours are taken as they lie
            near = len(chosen) == chosen[-1] - chosen[0] + 1 and (np.diff(chosen) == 1).all()
            right = parts[chosen[0] : chosen[-1] + 1] if near else parts[chosen]
            right = right.reshape(1, len(chosen) * each, *parts.shape[2:])
            for begin in range(0, len(heads), heads_at_once):
                left = heads[begin : begin + heads_at_once, None]
                out, spare = first[: len(left), : right.shape[1]], other[: len(left), : right.shape[1]]
                _term(left, splits[0], right, self.n - splits[0], out=out)
                for own in splits[1:]:
                    term = _term(left, own, right, self.n - own, out=spare if own not in (0, self.n) else None)
                    np.maximum(out, term, out=out)
                sums = added(out).reshape(len(left), len(chosen), each)
                result[start : start + len(chosen), begin : begin + len(left)] = sums.transpose(1, 0, 2)
        return result.reshape(len(lasts), -1)


def _term(left: NumPyArray, own: int, right: NumPyArray, others: int, out: NumPyArray | None = None) -> NumPyArray:
    """Return the sum of the `own` largest of the one part and the `others` largest of the other."""
    if own and others:
        return np.add(left[..., own - 1, :], right[..., others - 1, :], out=out)
    alone = left[..., own - 1, :] if own else right[..., others - 1, :]
    if out is None:
        return alone
    np.copyto(out, alone)
    return out


@lru_cache(maxsize=64)
def reordered(m: int, order: tuple[int, ...]) -> NumPyArray:
    """Return where the sets of some stripes stand if these come in another order.

    Args:
        m: Columns in a stripe.
        order: Which of the stripes, as the table has them, comes first, second and so on in the other order.

    Returns:
        int64 [sets]: column of the table for each set of the other order.

    >>> reordered(2, (1, 0)).tolist()
    [0, 2, 1, 3]
    """
    where = {one: index for index, one in enumerate(touching(len(order), m))}
    return np.array(
        [where[tuple(sorted(order[column // m] * m + column % m for column in one))] for one in touching(len(order), m)]
    )
