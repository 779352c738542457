"""Exact selection of the largest where every rank holds a part: ranks tell each other counts, never elements.

Values are mapped to whole numbers that rank alike, and the k-th largest of them is found digit by digit, 16 bits each:
a histogram of a digit is added up over all ranks (radix select; Knuth, "The art of computer programming", volume 3,
section 5.2.5, for the digits). Of equal values the earlier index in C order of the whole array is kept, as everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import array_api_compat
import numpy as np

from mopruning.arrays import Array, count_true, like, namespace, on_host
from mopruning.blocks import spans
from mopruning.shards import Exchange, NumPyArray, Shard

_DIGIT = 16
_BINS = 1 << _DIGIT
_BLOCK = 1 << 20  # elements that are counted at once


def keep_largest(values: Array, keep: int, shard: Shard, exchange: Exchange) -> Array:
    """Mark the `keep` largest elements of one array that ranks share out.

    Args:
        values: What lies here, of the shape that `shard` says; no NaN. Any array library, of one dtype on all ranks.
        keep: How many elements are marked on all ranks together, 0 to the size of the whole array.
        shard: How the array is shared out.
        exchange: What connects the ranks.

    Returns:
        Bool array of the shape of `values`. Of equal values the earlier index of the whole array is marked.
    """
    xp = namespace(values)
    if keep in (0, shard.size):
        return xp.full_like(values, keep > 0, dtype=xp.bool)
    threshold, spare, equal = kth_largest([xp.reshape(values, (-1,))], keep, exchange)
    if spare == equal:
        return values >= threshold
    ties = np.flatnonzero(on_host(xp.reshape(values == threshold, (-1,))))
    stretch = ties // max(1, math.prod(values.shape) // max(1, shard.outer))
    here = np.bincount(stretch, minlength=shard.outer)
    theirs = exchange.gather(here.astype(np.int64))  # [ranks, outer]
    in_order = theirs.T.reshape(-1)  # C order of the whole array: in each stretch one rank after the other
    before = (np.cumsum(in_order) - in_order).reshape(theirs.shape[::-1])[:, exchange.rank]
    place = np.arange(ties.size) - (np.cumsum(here) - here)[stretch]  # among the ties of its stretch that lie here
    marks = np.require(on_host(xp.reshape(values > threshold, (-1,))), requirements=["W"])
    marks[ties[place < (spare - before)[stretch]]] = True
    return like(marks.reshape(values.shape), values)


def kept_counts(parts: Sequence[Array], keep: int, exchange: Exchange) -> list[int]:
    """Count how many of each part are among the `keep` largest elements of all parts on all ranks.

    Args:
        parts: What lies here of each part, 1-D, without NaN, all of one dtype; on every rank the same parts in the same
            order. They are looked up several times in order. What several ranks have alike is a part of one of them,
            and empty on the others.
        keep: How many elements are kept on all ranks together.
        exchange: What connects the ranks.

    Returns:
        The number for each part; of equal values the earlier part's are kept.
    """
    sizes = exchange.add(np.array([math.prod(part.shape) for part in parts], np.int64))
    if keep in (0, int(sizes.sum())):
        return [int(size) if keep else 0 for size in sizes]
    threshold, spare, _ = kth_largest(parts, keep, exchange)
    here = [(count_true(part > threshold), count_true(part == threshold)) for part in parts]
    above, equal = exchange.add(np.array(here, np.int64)).T
    before = np.cumsum(equal) - equal
    return [int(count) for count in above + np.clip(spare - before, 0, equal)]


def kth_largest(parts: Sequence[Array], k: int, exchange: Exchange) -> tuple[Any, int, int]:
    """Return the k-th largest value on all ranks, how many of its equals are among the k largest, and how many it has.

    Args:
        parts: As for `kept_counts`, at least one.
        k: 1 to the number of elements on all ranks.
        exchange: What connects the ranks.
    """
    dtype = dtype_of(parts[0])
    width = 8 * _unsigned(dtype).itemsize
    prefix = equal = 0
    for shift in range(width - _DIGIT, -1, -_DIGIT):
        here = np.zeros(_BINS, np.int64)
        for part in parts:
            here += _histogram(part, prefix, shift)
        counts = exchange.add(here)
        reached = np.cumsum(counts[::-1])[::-1]  # how many have this digit or a larger one
        digit = int(np.flatnonzero(reached >= k)[-1])
        equal = int(counts[digit])
        k -= int(reached[digit]) - equal
        prefix = prefix << _DIGIT | digit
    (threshold,) = _values(np.array([prefix], _unsigned(dtype)), dtype)
    return threshold if isinstance(parts[0], np.ndarray) else threshold.item(), k, equal


def _histogram(part: Array, prefix: int, shift: int) -> NumPyArray:
    """Count the digits at bit `shift` of the elements whose bits above it are `prefix`."""
    if not isinstance(part, np.ndarray):
        return _histogram_portable(part, prefix, shift)
    counts = np.zeros(_BINS, np.int64)
    for start, stop in spans(part.size, _BLOCK):
        keys = _keys(part[start:stop])
        kind = keys.dtype.type
        if shift + _DIGIT < 8 * keys.itemsize:
            keys = keys[keys >> kind(shift + _DIGIT) == kind(prefix)]
        digits = (keys >> kind(shift)).astype(np.uint16)  # which drops the bits above
        counts += np.bincount(digits, minlength=_BINS)
    return counts


def _histogram_portable(part: Array, prefix: int, shift: int) -> NumPyArray:
    """Count as `_histogram` does on another device: by where the digits' borders fall among the sorted elements."""
    xp, dtype = namespace(part), dtype_of(part)
    if dtype.kind != "f":
        return _histogram(on_host(part), prefix, shift)
    unsigned = _unsigned(dtype)
    borders = (np.arange(_BINS, dtype=unsigned) << unsigned.type(shift)) + unsigned.type(prefix << (shift + _DIGIT))
    infinities = _keys(np.array([-np.inf, np.inf], dtype))
    edges = _values(np.clip(borders, *infinities), dtype)  # what lies beyond would be NaN
    ordered = xp.sort(part)
    device = array_api_compat.device(part)
    below = on_host(xp.searchsorted(ordered, xp.asarray(edges, device=device))).astype(np.int64)
    end = (prefix + 1) << (shift + _DIGIT)
    last = part.shape[0]
    if end < int(infinities[1]):
        edge = _values(np.maximum(np.array([end], unsigned), infinities[0]), dtype)
        last = int(on_host(xp.searchsorted(ordered, xp.asarray(edge, device=device)))[0])
    return np.diff(np.append(below, last))


def _keys(values: NumPyArray) -> NumPyArray:
    """Map values to whole numbers without sign that rank as they do; -0.0 is 0.0."""
    if values.dtype.kind == "f":
        bits = values.view(_unsigned(values.dtype))
        sign = bits.dtype.type(1 << (8 * bits.itemsize - 1))
        if bits.size == 0 or bits.max() < sign:  # as magnitudes are
            return np.asarray(bits | sign)
        bits = (values + values.dtype.type(0)).view(bits.dtype)
        return np.where(bits & sign, ~bits, bits | sign)
    if values.dtype.kind == "i":
        return values.astype(np.int64).view(np.uint64) ^ np.uint64(1 << 63)
    return values.astype(np.uint64)


def _values(keys: NumPyArray, dtype: np.dtype[Any]) -> NumPyArray:
    """Map back what `_keys` returned for values of `dtype`."""
    sign = keys.dtype.type(1 << (8 * keys.itemsize - 1))
    if dtype.kind == "f":
        return np.where(keys & sign, keys ^ sign, ~keys).view(dtype)
    return ((keys ^ sign).view(np.int64) if dtype.kind == "i" else keys).astype(dtype)


def _unsigned(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return np.dtype(f"u{dtype.itemsize}" if dtype.kind == "f" else np.uint64)


def dtype_of(array: Array) -> np.dtype[Any]:
    """Return the dtype of an array of any library, as NumPy calls it."""
    return np.dtype(array.dtype if isinstance(array, np.ndarray) else str(array.dtype).rpartition(".")[2])
