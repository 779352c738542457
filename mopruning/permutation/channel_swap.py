"""Channel swap: the gain of every swap of two columns, and the best that do not share a stripe are made; repeat.

It takes the same time and memory for every m, where stripe groups have too many arrangements.

Source: Pool and Yu, "Channel permutations for N:M sparsity", NeurIPS 2021.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

from mopruning.blocks import PARALLEL, each
from mopruning.permutation.magnitudes import added, whole_numbers
from mopruning.permutation.stripe_groups import SMALLEST_GAIN

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"

_BLOCK = 1 << 16  # elements of a temporary, which should stay in a core's cache


def channel_swap(
    matrix: NumPyArray, n: int, m: int, order: NumPyArray, *, escapes: int, random: np.random.RandomState
) -> NumPyArray:
    """Improve an order of the columns by swaps.

    Args:
        matrix: [rows, channels], real and finite; the channels are a multiple of m, and at least twice as many.
        n: Weights kept of a group.
        m: Weights in a group.
        order: Where to start, int64 [channels].
        escapes: Random swaps to try when nothing gains any more; what follows stays if it is better.
        random: Where the escapes come from.

    Returns:
        A new order, which keeps no less.
    """
    state = _Swaps(whole_numbers(matrix, n), n, m, order)
    state.descend()
    for _ in range(escapes):
        before, kept_before = state.snapshot(), state.total
        one = random.randint(len(order))
        other = (one // m * m + m + random.randint(len(order) - m)) % len(order)  # of another stripe
        state.swap(one, other)
        state.value({one // m, other // m})
        state.descend()
        if state.total < kept_before:
            state.restore(before)
    return state.order


class _Swaps:
    """What each stripe keeps, and would keep with any other column in any of its places.

    Args:
        columns: Magnitudes as `whole_numbers` gives them.
        n: Weights kept of a group of weights.
        m: Weights in a group of weights.
        order: Columns as they stand, m to a stripe.
    """

    def __init__(self, columns: NumPyArray, n: int, m: int, order: NumPyArray) -> None:
        self.columns, self.n, self.m, self.order = columns, n, m, order.copy()
        stripes = len(order) // m
        self.alone = np.empty(stripes)
        self.instead = np.empty((len(order), len(order)))  # [place, column]: kept with that column in that place
        # of every two stripes, what the best swap gains, and which it is: place in the one * m + place in the other
        self.gains, self.best = np.zeros((stripes, stripes)), np.zeros((stripes, stripes), np.int64)
        self.value(set(range(stripes)))

    @property
    def total(self) -> float:
        """What all stripes keep as they are."""
        return float(self.alone.sum())

    def snapshot(self) -> list[NumPyArray]:
        return [part.copy() for part in (self.order, self.alone, self.instead, self.gains, self.best)]

    def restore(self, snapshot: list[NumPyArray]) -> None:
        """Go back in place."""
        self.order, self.alone, self.instead, self.gains, self.best = snapshot

    def descend(self) -> None:
        """Swap in place until nothing gains."""
        while touched := self.apply():
            self.value(touched)

    def apply(self) -> set[int]:
        """Make in place the best swaps that do not share a stripe; return the stripes that changed."""
        ones, others = np.nonzero(np.triu(self.gains > self.total * SMALLEST_GAIN, k=1))
        touched: set[int] = set()
        for pair in np.argsort(-self.gains[ones, others], kind="stable").tolist():
            one, other = int(ones[pair]), int(others[pair])
            if one not in touched and other not in touched:
                touched |= {one, other}
                left, right = divmod(int(self.best[one, other]), self.m)
                self.swap(one * self.m + left, other * self.m + right)
        return touched

    def swap(self, one: int, other: int) -> None:
        """Swap the columns of two places in place."""
        self.order[[one, other]] = self.order[[other, one]]

    def value(self, touched: set[int]) -> None:
        """Value in place the stripes that changed, and their swaps with all others."""
        work = len(touched) * self.m * self.columns.size
        changed = [(stripe,) for stripe in sorted(touched)]
        each(self._value, changed, parallel=work >= PARALLEL)
        for (stripe,) in changed:
            self._compare(stripe)

    def _compare(self, stripe: int) -> None:
        """Find in place the best swap of a stripe with every other."""
        m, stripes = self.m, len(self.alone)
        own = slice(stripe * m, stripe * m + m)
        gains = self.instead[own][:, self.order] + self.instead[:, self.order[own]].T  # [own place, place of the other]
        gains = gains.reshape(m, stripes, m).transpose(1, 0, 2).reshape(stripes, m * m)
        best = gains.argmax(axis=1)
        gain = gains[np.arange(stripes), best] - self.alone - self.alone[stripe]
        self.gains[stripe], self.gains[:, stripe] = gain, gain
        self.best[stripe], self.best[:, stripe] = best, best % m * m + best // m

    def _value(self, stripe: int) -> None:
        start, (count, rows) = stripe * self.m, self.columns.shape
        own = self.columns[self.order[start : start + self.m]]
        self.alone[stripe] = added(np.sort(own, axis=0)[self.m - self.n :].sum(axis=0))
        step = max(1, _BLOCK // rows)
        room = np.empty((min(step, count), rows), np.float32)
        for place in range(self.m):
            largest = np.cumsum(np.sort(np.delete(own, place, axis=0), axis=0)[::-1], axis=0)
            # the n largest with one column more: those of the others, or that column and one fewer of them
            without, fewer = largest[self.n - 1], largest[self.n - 2] if self.n > 1 else np.float32(0)
            for begin in range(0, count, step):
                out = np.add(self.columns[begin : begin + step], fewer, out=room[: min(step, count - begin)])
                np.maximum(out, without, out=out)
                self.instead[start + place, begin : begin + step] = added(out)
