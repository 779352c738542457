"""Sums that come out alike on every device, whatever order the additions happen in."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np

from mopruning.arrays import Array, namespace
from mopruning.blocks import in_blocks

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"


def integral(scores: Array, terms: int) -> Array:
    """Scale finite scores to whole numbers in float64, small enough that a sum of `terms` of them is exact.

    Floating-point addition depends on its order, and every device has its own: two filters of almost equal
    magnitude could rank one way on a CPU and the other way on a GPU. Whole numbers below 2**53 add exactly in
    float64 in any order. The scale is the power of two that brings the largest score just below
    ``2**52 / terms``: relative to that score, 52 - log2(terms) bits are kept, more than float32 has for any
    unit of up to 2**28 weights.

    Args:
        scores: Finite scores, any real dtype and shape.
        terms: The largest number of scores that will be added together.

    Returns:
        float64 array of the same shape, holding whole numbers.
    """
    return scaled(scores, scale_of(scores, terms))


def sums_within(scores: Array, axes: tuple[int, ...], scale: float | None = None) -> Array:
    """Add the `integral` scores along some axes, of length 1 in the result.

    In memory the float64 scores never stand whole: blocks of them are added, which in whole numbers is as exact.

    Args:
        scores: Finite scores, any real dtype and shape.
        axes: Axes to add along.
        scale: What `scale_of` returned for as many terms, where the caller wants to know it.
    """
    xp = namespace(scores)
    if scale is None:
        scale = scale_of(scores, math.prod(scores.shape[axis] for axis in axes))
    if not isinstance(scores, np.ndarray) or scores.size == 0:
        return xp.sum(scaled(scores, scale), axis=axes, keepdims=True)
    along = int(np.argmax(scores.shape))
    before = (slice(None),) * along

    def sums(start: int, stop: int) -> NumPyArray:
        block = scaled(scores[(*before, slice(start, stop))], scale)
        return np.sum(block, axis=axes, keepdims=True)  # type: ignore[no-any-return]

    parts = in_blocks(sums, scores.shape[along], scores.size)
    return sum(parts[1:], parts[0]) if along in axes else np.concatenate(parts, axis=along)


def scale_of(scores: Array, terms: int) -> float:
    """Return the power of two by which `integral` scales."""
    xp = namespace(scores)
    if math.prod(scores.shape) == 0:
        return 1.0
    return scale_for(max(float(xp.max(scores)), -float(xp.min(scores))), terms)


def scale_for(largest: float, terms: int) -> float:
    """Return the power of two for scores of which the largest magnitude is known."""
    if largest == 0.0:
        return 1.0
    _, exponent = math.frexp(largest)
    shift = 52 - math.ceil(math.log2(max(terms, 1))) - exponent
    # a float64 power of two reaches 2**1023, and scores near 1e-308 would want more: they keep fewer bits instead
    return math.ldexp(1.0, min(shift, 1023))


def scaled(scores: Array, scale: float) -> Array:
    """Return scores times a scale, as whole numbers in float64."""
    if isinstance(scores, np.ndarray):
        values = np.multiply(scores, scale, dtype=np.float64)
        return np.rint(values, out=values)
    xp = namespace(scores)
    return xp.round(xp.astype(scores, xp.float64) * scale)
