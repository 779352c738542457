"""Kept magnitude: how much of a matrix survives N:M pruning, and how much could at best."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

from mopruning.blocks import spans

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"

_BLOCK = 1 << 20  # elements sorted at once


def kept(matrix: NumPyArray, n: int = 2, m: int = 4) -> float:
    """Add up what N:M pruning leaves of a matrix: the n largest magnitudes of every m consecutive columns of a row.

    Args:
        matrix: [rows, channels], real, of any dtype; the channels are a multiple of m.
        n: Weights kept of a group.
        m: Weights in a group.

    Returns:
        The sum, in float64.

    >>> kept(np.array([[4, -3, 2, 1, 9, 8, 7, 6]]))
    24.0
    """
    rows, channels = matrix.shape
    total = 0.0
    for start, stop in spans(rows, max(1, _BLOCK // max(channels, 1))):
        groups = np.abs(matrix[start:stop].astype(np.float64)).reshape(-1, m)
        total += float(np.partition(groups, m - n, axis=1)[:, m - n :].sum() if 0 < n < m else groups.sum() * (n > 0))
    return total


def kept_at_best(matrix: NumPyArray, n: int = 2, m: int = 4) -> float:
    """Add up the largest ``channels * n / m`` magnitudes of every row: what no order of the channels can surpass.

    Args:
        matrix: [rows, channels], as for `kept`.
        n: Weights kept of a group.
        m: Weights in a group.

    >>> kept_at_best(np.array([[4, -3, 2, 1, 9, 8, 7, 6]]))
    30.0
    """
    channels = matrix.shape[1]
    return kept(matrix, channels * n // m, channels) if channels else 0.0
