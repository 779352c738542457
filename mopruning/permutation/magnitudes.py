"""Magnitudes as whole numbers that float32 adds exactly, in whatever order a machine adds.

So a search takes the same decisions on every machine. Rounding costs less than 1e-5 of the largest weight.
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"

_ROWS = 64  # rows added up in float32; the sums of such blocks are added in float64
_EXACT = 24  # bits that float32 holds
_ONES = np.ones(_ROWS, np.float32)


def whole_numbers(matrix: NumPyArray, n: int) -> NumPyArray:
    """Return magnitudes as whole numbers, column by column.

    Args:
        matrix: [rows, channels], real and finite, with something other than zeros in it.
        n: How many of a row are added up, such as the weights kept of a group.

    Returns:
        float32 [channels, rows], padded with rows of zeros to what is added up at once.

    >>> whole_numbers(np.array([[0.5, -1.0], [0.25, 0.0]]), 1)
    array([[131072.,  65536.],
           [262143.,      0.]], dtype=float32)
    """
    rows, channels = matrix.shape
    largest = max(float(matrix.max()), -float(matrix.min()))
    top = 2 ** (_EXACT - math.ceil(math.log2(_ROWS * n))) - 1
    result = np.zeros((channels, rows + -rows % min(_ROWS, rows)), np.float32)
    for channel in range(channels):
        result[channel, :rows] = np.rint(np.abs(matrix[:, channel].astype(np.float64)) * (top / largest))
    return result


def added(numbers: NumPyArray) -> NumPyArray:
    """Add up along the last axis, the rows, in float64."""
    rows = numbers.shape[-1]
    block = min(_ROWS, rows)
    blocks = numbers.reshape(-1, block) @ _ONES[:block]
    sums: NumPyArray = blocks.reshape(*numbers.shape[:-1], rows // block).sum(axis=-1, dtype=np.float64)
    return sums
