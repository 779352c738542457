"""Exact selection of the largest: the kernels under every mask.

The kernels keep an exact number of elements and, among equal values, the earlier index. Each exists twice:
for NumPy, where it is fast, and in plain array-API calls, for arrays on other devices. The two agree bit
for bit, which the tests assert.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from mopruning.arrays import Array, namespace
from mopruning.blocks import BLOCK, each, spans

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"

_STRIDE = 31  # one element in so many is sampled; odd, so that it rarely falls in step with what the array holds
_SAMPLE = 1 << 18  # a sample larger than this is thinned again: sorting it would cost more than it saves
_DEVIATIONS = 2.5  # half the width of the bracket: a wider one costs more time than the rare miss of this one
_PARALLEL_SCAN = 1 << 22  # elements from which brief steps gain by threads: Python's lock changes hands between steps
_PARALLEL_SORT = 1 << 18  # elements from which sorting gains by threads
_SHORT = 16  # groups up to this size are ranked by comparing every pair


def keep_largest(parts: Sequence[Array], keep: int, key: Callable[[Array], Array] | None = None) -> list[Array]:
    """Mark the `keep` largest elements of several 1-D arrays ranked as one.

    Args:
        parts: 1-D arrays without NaN, all of one library. They are read several times in blocks, in order, and
            never held: a sequence may compute its items when they are asked for and remember the latest.
        keep: How many elements are marked, 0 to the total size.
        key: Elementwise function of what elements are ranked by. It sees a block at a time: `numpy.abs` ranks by
            magnitude without an array of magnitudes in memory.

    Returns:
        One bool array for each part. Of equal values the earlier part, then the earlier index, is marked.
    """
    if not len(parts):
        return []
    if not isinstance(parts[0], np.ndarray):
        return _keep_largest_portable(parts, keep, key)
    ranked = _Ranked(parts, key)
    joint = np.empty(ranked.total, np.bool_)  # one large allocation has a fraction of the page faults of many
    marks = np.split(joint, np.cumsum(ranked.sizes)[:-1])
    if keep in (0, ranked.total):
        joint[:] = keep > 0
        return marks
    threshold, above, equal = ranked.kth_largest(keep)
    spare = keep - above  # how many of the elements equal to the threshold are kept
    passes = np.greater_equal if spare == equal else np.greater

    def mark(part: int, start: int, stop: int) -> None:
        passes(ranked.block(part, start, stop), threshold, out=marks[part][start:stop])

    ranked.each(mark)
    if spare == equal:
        return marks
    for part, start, stop in ranked.blocks:
        ties = np.flatnonzero(ranked.block(part, start, stop) == threshold)[:spare]
        marks[part][start + ties] = True
        spare -= ties.size
        if not spare:
            break
    return marks


class _Ranked:
    """Several 1-D arrays, read in blocks and ranked as one."""

    def __init__(self, parts: Sequence[NumPyArray], key: Callable[[NumPyArray], NumPyArray] | None) -> None:
        self._parts, self._key = parts, key
        self.sizes, samples = [], []
        for part in parts:
            self.sizes.append(part.size)
            samples.append(part[::_STRIDE].copy() if key is None else key(part[::_STRIDE]))
        self.total = sum(self.sizes)
        self._sample = np.concatenate(samples)
        self.blocks = [
            (index, start, stop) for index, size in enumerate(self.sizes) for start, stop in spans(size, BLOCK)
        ]

    def block(self, part: int, start: int, stop: int) -> NumPyArray:
        """Return some elements of a part as they are ranked, in the dtype that is common to all parts."""
        block = self._parts[part][start:stop]
        if self._key is not None:
            block = self._key(block)
        return block.astype(self._sample.dtype, copy=False)

    def kth_largest(self, k: int) -> tuple[Any, int, int]:
        """Return the k-th largest value, how many elements exceed it, and how many equal it.

        A sorted sample brackets the value, one pass keeps what lies within the bracket, and only that is
        partitioned (Floyd and Rivest, "Expected time bounds for selection", 1975, in whole-array steps). A sample
        that misleads costs another pass with a wider bracket, never exactness.
        """
        sample = np.sort(self._sample[:: self._sample.size // _SAMPLE | 1])
        middle = (1.0 - k / self.total) * sample.size
        spread = _DEVIATIONS * (middle * (1.0 - middle / sample.size)) ** 0.5 + 2.0
        while True:
            first, last = int(middle - spread), int(middle + spread)
            low = sample[first] if first >= 0 else -np.inf
            high = sample[last] if last < sample.size else np.inf
            beyond, band = self._within(low, high)
            if beyond < k <= beyond + band.size:
                place = band.size - (k - beyond)
                band.partition(place)
                threshold = band[place]
                above = beyond + int(np.count_nonzero(band > threshold))
                return threshold, above, int(np.count_nonzero(band == threshold))
            if beyond < k:  # a value that many share, such as 0, lies on the border
                above = beyond + band.size
                equal = sum(self.each(lambda *place, low=low: int(np.count_nonzero(self.block(*place) == low))))
                if k <= above + equal:
                    return low, above, equal
            spread *= 4.0

    def _within(self, low: Any, high: Any) -> tuple[int, NumPyArray]:
        """Return how many elements exceed `high`, and those above `low` that do not."""

        def scan(part: int, start: int, stop: int) -> tuple[int, NumPyArray]:
            block = self.block(part, start, stop)
            over = block > high
            beyond = int(np.count_nonzero(over))
            over ^= block > low
            return beyond, block[over]

        beyond, bands = zip(*self.each(scan), strict=True)
        return sum(beyond), np.concatenate(bands)

    def each(self, work: Callable[[int, int, int], Any]) -> list[Any]:
        """Call ``work(part, start, stop)`` for each block."""
        return each(work, self.blocks, parallel=self.total >= _PARALLEL_SCAN)


def keep_largest_in_groups(values: Array, keep: int) -> Array:
    """Mark the `keep` largest elements of every group; of equal values the earlier one.

    Args:
        values: 3-D array (blocks of groups, size of a group, groups side by side) without NaN: the groups lie
            along axis 1.
        keep: How many elements of each group are marked, 0 to the size of a group.
    """
    if not isinstance(values, np.ndarray):
        return _keep_in_groups_portable(values, keep)
    rows, size, across = values.shape
    if keep in (0, size):
        return np.full(values.shape, keep > 0)
    marks = np.empty(values.shape, np.bool_)
    if size <= _SHORT:  # many brief steps, which larger blocks spread over more elements
        kernel, block, parallel = _keep_by_pairs, 2 * BLOCK, values.size >= _PARALLEL_SCAN
    else:
        kernel, block, parallel = _keep_by_sort, BLOCK, values.size >= _PARALLEL_SORT

    def mark(start: int, stop: int) -> None:
        kernel(values[start:stop], keep, marks[start:stop])

    each(mark, spans(rows, max(1, block // (size * across))), parallel=parallel)
    return marks


def _keep_by_pairs(values: NumPyArray, keep: int, marks: NumPyArray) -> None:
    """Rank short groups by comparing every pair of their elements, ties by position; fill `marks` in place.

    Elements of a group that are `distance` apart lie ``distance * across`` apart in memory: one comparison of the
    whole array with itself, shifted, serves all groups. Pairs across the end of a group are masked out.
    """
    rows, size, across = values.shape
    flat = values.reshape(-1)
    losses = np.zeros(flat.size, np.uint8)  # how many elements of its group go before each element
    for distance in range(1, size):
        shift = distance * across
        valid = _pairs(size, across, distance, rows)[: flat.size - shift]
        earlier = (flat[:-shift] >= flat[shift:]).view(np.uint8)
        earlier &= valid
        losses[shift:] += earlier
        earlier ^= valid
        losses[:-shift] += earlier
    np.less(losses.reshape(values.shape), keep, out=marks)


@functools.lru_cache(maxsize=128)
def _pairs(size: int, across: int, distance: int, rows: int) -> NumPyArray:
    """Mark, 1 or 0, the elements of groups that have another `distance` further on in their group."""
    group = np.repeat(np.arange(size) + distance < size, across).view(np.uint8)
    return np.tile(group, rows)


def _keep_by_sort(values: NumPyArray, keep: int, marks: NumPyArray) -> None:
    """Threshold each group at its own keep-th largest value, settle those where it is not unique; fill `marks`."""
    rows, size, across = values.shape
    ordered = np.array(values.transpose(0, 2, 1), order="C")
    sortable = ordered
    if ordered.dtype in (np.float32, np.float64):
        bits = ordered.view(f"i{ordered.itemsize}")
        if bits.min() >= 0:  # floats without a sign rank as their bits do, and integers sort faster
            sortable = bits
    sortable.sort(axis=2)
    threshold = ordered[:, np.newaxis, :, size - keep]
    np.greater_equal(values, np.repeat(threshold, size, axis=1) if across > 1 else threshold, out=marks)
    if int(np.count_nonzero(marks)) == rows * keep * across:
        return
    row, column = np.nonzero(marks.sum(axis=1) > keep)
    group = values[row, :, column]
    threshold = threshold[row, :, column]
    above = group > threshold
    equal = group == threshold
    spare = keep - above.sum(axis=1, keepdims=True)
    marks[row, :, column] = above | (equal & (np.cumsum(equal, axis=1, dtype=np.int32) <= spare))


def _keep_in_groups_portable(values: Array, keep: int) -> Array:
    xp = namespace(values)
    order = xp.argsort(values, axis=1, descending=True, stable=True)
    return xp.argsort(order, axis=1) < keep


def _keep_largest_portable(parts: Sequence[Array], keep: int, key: Callable[[Array], Array] | None) -> list[Array]:
    xp = namespace(parts[0])
    joined = xp.concat([part if key is None else key(part) for part in parts])
    mark = _keep_in_groups_portable(xp.reshape(joined, (1, -1, 1)), keep)[0, :, 0]
    marks, start = [], 0
    for part in parts:
        stop = start + part.shape[0]
        marks.append(mark[start:stop])
        start = stop
    return marks
