"""Exact selection of the largest: the kernels under every mask.

The kernels keep an exact number of elements and, among equal values, the earlier index. Each exists twice:
for NumPy, where it is fast, and in plain array-API calls, for arrays on other devices. The two agree bit
for bit, which the tests assert.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from mopruning.arrays import Array, namespace
from mopruning.blocks import BLOCK, each
from mopruning.blocks import in_blocks as in_blocks

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"

_SMALL = 8192  # below this a plain partition beats sampling
_SHORT = 16  # groups up to this size are ranked by comparing every pair


def keep_largest(parts: Sequence[Array], keep: int) -> list[Array]:
    """Mark the `keep` largest elements of several 1-D arrays ranked as one.

    Args:
        parts: 1-D arrays without NaN, all of one library; indexed more than once, so an element may be computed
            when it is asked for.
        keep: How many elements are marked, 0 to the total size.

    Returns:
        One bool array for each part. Of equal values the earlier part, then the earlier index, is marked.
    """
    if len(parts) and not isinstance(parts[0], np.ndarray):
        return _keep_largest_portable(parts, keep)
    sizes = [part.size for part in parts]
    total = sum(sizes)
    if keep in (0, total):
        return [np.full(size, keep > 0) for size in sizes]
    threshold, above, equal = _kth_largest(parts, sizes, keep)
    whole = keep == above + equal  # all elements equal to the threshold are kept
    marks = [np.empty(size, np.bool_) for size in sizes]

    def mark(part: int, start: int, stop: int) -> None:
        (np.greater_equal if whole else np.greater)(parts[part][start:stop], threshold, out=marks[part][start:stop])

    each(mark, _blocks(sizes), total)
    spare = 0 if whole else keep - above
    for part, start, stop in _blocks(sizes):
        if not spare:
            break
        ties = np.flatnonzero(parts[part][start:stop] == threshold)[:spare]
        marks[part][start:stop][ties] = True
        spare -= ties.size
    return marks


def _kth_largest(parts: Sequence[NumPyArray], sizes: Sequence[int], k: int) -> tuple[Any, int, int]:
    """Return the k-th largest value, how many elements exceed it, and how many equal it.

    A sample brackets the value, one pass keeps what lies within the bracket, and only that is partitioned
    (Floyd and Rivest, "Expected time bounds for selection", 1975, in whole-array steps). A sample that
    misleads costs time, never exactness.
    """
    total = sum(sizes)
    beyond = 0
    if total <= _SMALL:
        band = np.concatenate(list(parts))
    else:
        low, high = _bracket(parts, total, k)

        def within(part: int, start: int, stop: int) -> tuple[int, NumPyArray]:
            block = parts[part][start:stop]
            over = block > high
            count = int(np.count_nonzero(over))
            over ^= block >= low
            return count, block[over]

        counts, pieces = zip(*each(within, _blocks(sizes), total), strict=True)
        beyond = sum(counts)
        band = np.concatenate(pieces)
        if not beyond < k <= beyond + band.size:
            beyond, band = 0, np.concatenate(list(parts))
    band.partition(band.size - (k - beyond))
    threshold = band[band.size - (k - beyond)]
    above = beyond + int(np.count_nonzero(band > threshold))
    return threshold, above, int(np.count_nonzero(band == threshold))


def _bracket(parts: Sequence[NumPyArray], total: int, k: int) -> tuple[Any, Any]:
    """Return two values that most likely enclose the k-th largest, read off a regular sample."""
    stride = round(total ** (1 / 3)) | 1  # odd, so that it never falls in step with channel counts
    sample = np.sort(np.concatenate([part[::stride] for part in parts]))
    share = 1.0 - k / total
    middle = share * sample.size
    spread = 4.0 * (sample.size * share * (1.0 - share)) ** 0.5 + 2.0  # four standard deviations
    low, high = int(middle - spread), int(middle + spread)
    return sample[low] if low >= 0 else -np.inf, sample[high] if high < sample.size else np.inf


def _blocks(sizes: Sequence[int]) -> list[tuple[int, int, int]]:
    """List the blocks of several arrays in their order: which array, start, stop."""
    return [
        (part, start, min(start + BLOCK, size)) for part, size in enumerate(sizes) for start in range(0, size, BLOCK)
    ]


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
    short = size <= _SHORT
    step = max(1, BLOCK // (2 * size * across) if short else BLOCK // (size * across))

    def mark(start: int, stop: int) -> None:
        block = values[start:stop]
        marks[start:stop] = _keep_by_pairs(block, keep) if short else _keep_by_sort(block, keep)

    each(mark, [(start, min(start + step, rows)) for start in range(0, rows, step)], values.size)
    return marks


def _keep_by_pairs(values: NumPyArray, keep: int) -> NumPyArray:
    """Rank short groups by comparing every pair of their elements, ties by position.

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
    return (losses < keep).reshape(values.shape)


@functools.lru_cache(maxsize=128)
def _pairs(size: int, across: int, distance: int, rows: int) -> NumPyArray:
    """Mark, 1 or 0, the elements of groups that have another `distance` further on in their group."""
    group = np.repeat(np.arange(size) + distance < size, across).view(np.uint8)
    return np.tile(group, rows)


def _keep_by_sort(values: NumPyArray, keep: int) -> NumPyArray:
    """Threshold each group at its own keep-th largest value, then settle the groups where that value is not unique."""
    rows, size, across = values.shape
    ordered = np.array(values.transpose(0, 2, 1), order="C")
    ordered.sort(axis=2)
    threshold = ordered[:, np.newaxis, :, size - keep]
    mark = values >= np.repeat(threshold, size, axis=1)
    if int(np.count_nonzero(mark)) == rows * keep * across:
        return mark
    row, column = np.nonzero(mark.sum(axis=1) > keep)
    group = values[row, :, column]
    threshold = threshold[row, :, column]
    above = group > threshold
    equal = group == threshold
    spare = keep - above.sum(axis=1, keepdims=True)
    mark[row, :, column] = above | (equal & (np.cumsum(equal, axis=1, dtype=np.int32) <= spare))
    return mark


def _keep_in_groups_portable(values: Array, keep: int) -> Array:
    xp = namespace(values)
    order = xp.argsort(values, axis=1, descending=True, stable=True)
    return xp.argsort(order, axis=1) < keep


def _keep_largest_portable(parts: Sequence[Array], keep: int) -> list[Array]:
    xp = namespace(parts[0])
    joined = xp.concat(list(parts))
    mark = _keep_in_groups_portable(xp.reshape(joined, (1, -1, 1)), keep)[0, :, 0]
    marks, start = [], 0
    for part in parts:
        stop = start + part.shape[0]
        marks.append(mark[start:stop])
        start = stop
    return marks
