"""Stripe groups: every arrangement of every group of stripes is valued, and the best that do not overlap are applied.

That repeats until no group gains. Then an escape swaps one column between the halves of a group at random and goes
on from there; what it found stays if it is better.

Source: Pool and Yu, "Channel permutations for N:M sparsity", NeurIPS 2021.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations
from typing import Any, TypeAlias

import numpy as np

from mopruning.blocks import PARALLEL, each
from mopruning.permutation.arrangements import arrangements, sets_of
from mopruning.permutation.magnitudes import whole_numbers
from mopruning.permutation.stripe_tables import StripeTables, reordered

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"

SMALLEST_GAIN = 2.0**-25  # of what is kept; the rest is noise
_VALUES = 1 << 22  # values of arrangements at once


def stripe_groups(
    matrix: NumPyArray, n: int, m: int, order: NumPyArray, *, stripes: int, escapes: int, random: np.random.RandomState
) -> NumPyArray:
    """Improve an order of the columns by arranging anew the columns of groups of stripes.

    Args:
        matrix: [rows, channels], real and finite; the channels are a multiple of m.
        n: Weights kept of a group.
        m: Weights in a group.
        order: Where to start, int64 [channels].
        stripes: Stripes in a group, 2 or more; of fewer if the matrix has no more.
        escapes: Random swaps to try when nothing gains any more.
        random: Where the swaps come from.

    Returns:
        A new order, which keeps no less.
    """
    state = _Groups(whole_numbers(matrix, n), n, m, order.reshape(-1, m).copy(), min(stripes, len(order) // m))
    state.descend()
    for _ in range(escapes):
        before = state.snapshot()
        state.perturb(random)
        state.descend()
        if state.total < before.total:
            state.restore(before)
    return state.stripes.reshape(-1)


@dataclass(frozen=True)
class _Snapshot:
    stripes: NumPyArray
    gains: NumPyArray
    best: NumPyArray
    levels: list[NumPyArray]
    total: float


class _Groups:
    """The groups of some stripes, what the best arrangement of each gains, and which one that is.

    Args:
        columns: Magnitudes as `whole_numbers` gives them.
        n: Weights kept of a group of weights.
        m: Weights in a group of weights.
        stripes: Columns that stand in each stripe, [stripes, m]; changed in place.
        size: Stripes in a group.
    """

    def __init__(self, columns: NumPyArray, n: int, m: int, stripes: NumPyArray, size: int) -> None:
        self.stripes, self.size, self.m = stripes, size, m
        self.tables = StripeTables(columns, n, m, stripes)
        self.rows = columns.shape[1]
        self.places, self.sets = arrangements(size, m), sets_of(size, m)
        # what the sets of every choice of 1, 2, ... size - 1 stripes keep, by `_rank`
        self.levels = [np.empty((math.comb(len(stripes), more), 0)) for more in range(1, size)]
        groups = math.comb(len(stripes), size)
        self.members = np.empty((groups, size), np.int64)
        self.gains, self.best = np.zeros(groups), np.zeros(groups, np.int64)
        self.value(set(range(len(stripes))))

    @property
    def total(self) -> float:
        """What all stripes keep as they are."""
        return float(self.levels[0].sum())

    def descend(self) -> None:
        """Apply the best arrangements that do not overlap, and value again what that touched, until nothing gains."""
        while touched := self.apply():
            self.value(touched)

    def apply(self) -> set[int]:
        """Apply in place the best arrangements that do not overlap; return the stripes that changed."""
        worth = np.flatnonzero(self.gains > self.total * SMALLEST_GAIN)
        touched: set[int] = set()
        for group in worth[np.argsort(-self.gains[worth], kind="stable")].tolist():
            members = self.members[group].tolist()
            if touched.isdisjoint(members):
                touched.update(members)
                self._arrange(members, self.places[self.best[group]])
        return touched

    def perturb(self, random: np.random.RandomState) -> None:
        """Swap in place a column of the first half of some group with one of its second half."""
        group, half = random.randint(len(self.members)), self.size * self.m // 2
        places = np.arange(self.size * self.m)
        one, other = random.randint(half), half + random.randint(self.size * self.m - half)
        places[[one, other]] = other, one
        members = self.members[group].tolist()
        self._arrange(members, places)
        self.value(set(members))

    def snapshot(self) -> _Snapshot:
        levels = [level.copy() for level in self.levels]
        return _Snapshot(self.stripes.copy(), self.gains.copy(), self.best.copy(), levels, self.total)

    def restore(self, snapshot: _Snapshot) -> None:
        """Go back in place."""
        for index in np.flatnonzero((snapshot.stripes != self.stripes).any(axis=1)).tolist():
            self.tables.put(index, snapshot.stripes[index])
        self.stripes, self.gains, self.best = snapshot.stripes, snapshot.gains, snapshot.best
        self.levels = snapshot.levels

    def value(self, touched: set[int]) -> None:
        """Value in place all groups that have one of the stripes."""
        changed = sorted(touched)
        self.levels[0] = self.tables.alone(np.arange(len(self.stripes)))[:, None]
        for more in range(2, self.size + 1):
            jobs = self._jobs(changed, more)
            work = sum(len(lasts) for _, lasts in jobs) * self.rows * self.m**2
            numbered = [(index,) for index in range(len(jobs))]

            def run(index: int, more: int = more, jobs: list[tuple[tuple[int, ...], NumPyArray]] = jobs) -> None:
                self._value(*jobs[index], last=more == self.size)

            if more < self.size and not self.levels[more - 1].size:
                sets = self.tables.together(jobs[0][0], jobs[0][1][:1]).shape[1]
                self.levels[more - 1] = np.empty((len(self.levels[more - 1]), sets))
            each(run, numbered, parallel=work >= PARALLEL)

    def _jobs(self, changed: list[int], more: int) -> list[tuple[tuple[int, ...], NumPyArray]]:
        """List all choices of stripes that hold a changed one: heads, and the last stripes that go with each."""
        jobs = []
        others = set(range(len(self.stripes)))
        for one in changed:
            others.discard(one)
            rest = np.array(sorted(others))
            for places in combinations(range(len(rest)), more - 2):
                after = places[-1] + 1 if places else 0
                if after < len(rest):
                    jobs.append(((one, *rest[list(places)].tolist()), rest[after:]))
        return jobs

    def _value(self, head: tuple[int, ...], lasts: NumPyArray, last: bool) -> None:
        """Value in place the choices of one head: the groups, or what groups are made of."""
        found = self.tables.together(head, lasts)
        chosen = np.concatenate([np.tile(head, (len(lasts), 1)), lasts[:, None]], axis=1)
        order = np.argsort(chosen, axis=1)
        chosen = np.take_along_axis(chosen, order, axis=1)
        for one in np.unique(order, axis=0):
            these = np.flatnonzero((order == one).all(axis=1))
            found[these] = found[these][:, reordered(self.m, tuple(one.tolist()))]
        ranks = _rank(chosen)
        if not last:
            self.levels[chosen.shape[1] - 1][ranks] = found
            return
        parts = [
            self.levels[size - 1][_rank(chosen[:, list(places)])]
            for size in range(1, self.size)
            for places in combinations(range(self.size), size)
        ]
        kept = np.concatenate([*parts, found], axis=1)
        step = max(1, _VALUES // len(self.sets))
        self.members[ranks] = chosen
        for start in range(0, len(kept), step):
            block = kept[start : start + step]
            values = sum((block[:, self.sets[:, stripe]] for stripe in range(1, self.size)), block[:, self.sets[:, 0]])
            best = values.argmax(axis=1)
            self.best[ranks[start : start + step]] = best
            self.gains[ranks[start : start + step]] = values[np.arange(len(best)), best] - values[:, 0]

    def _arrange(self, members: list[int], places: NumPyArray) -> None:
        window = self.stripes[members].reshape(-1)
        self.stripes[members] = window[places].reshape(-1, self.m)
        for index in members:
            self.tables.put(index, self.stripes[index])


def _rank(chosen: NumPyArray) -> NumPyArray:
    """Number choices of ascending stripes, [choices, size], among all choices of that size."""
    numbers = chosen.astype(np.int64)
    result = numbers[:, 0].copy()
    for place in range(1, chosen.shape[1]):
        term = np.ones(len(numbers), np.int64)
        for factor in range(place + 1):
            term = term * (numbers[:, place] - factor) // (factor + 1)
        result += term
    return result
