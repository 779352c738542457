"""Arrangements: the distinct ways to deal the columns of a window into stripes of m, and the sets they are made of.

A stripe is m consecutive columns; the order within one does not matter to N:M pruning, nor does the order of the
stripes. So a window of 8 columns in stripes of 4 has 35 arrangements and one of 12 has 5,775, made of 70 and 495 sets.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from itertools import combinations, product
from typing import Any, TypeAlias

import numpy as np

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"


def count(stripes: int, m: int) -> int:
    """Count the distinct arrangements of a window of ``stripes * m`` columns.

    >>> count(2, 4), count(3, 4), count(4, 4), count(2, 8)
    (35, 5775, 2627625, 6435)
    """
    return math.prod(math.comb(left * m, m) for left in range(1, stripes + 1)) // math.factorial(stripes)


@lru_cache(maxsize=4)
def arrangements(stripes: int, m: int) -> NumPyArray:
    """List the distinct arrangements of a window; the first leaves every column where it is.

    Args:
        stripes: Stripes in the window, 1 or more.
        m: Columns in a stripe.

    Returns:
        int64 [count, stripes * m], read-only: which column of the window stands in each place.

    >>> arrangements(2, 2)
    array([[0, 1, 2, 3],
           [0, 2, 1, 3],
           [0, 3, 1, 2]])
    """
    window = np.arange(stripes * m)
    if stripes == 1:
        result = window[None]
    else:
        rest = arrangements(stripes - 1, m)
        # The first stripe is the one with column 0; what it leaves is dealt out in every way.
        firsts = np.array([(0, *others) for others in combinations(range(1, stripes * m), m - 1)])
        left = np.array([np.setdiff1d(window, first, assume_unique=True) for first in firsts])
        head = np.repeat(firsts, len(rest), axis=0)
        result = np.concatenate([head, left[:, rest].reshape(len(head), -1)], axis=1)
    result.flags.writeable = False
    return result


def shares(stripes: int, m: int) -> list[tuple[int, ...]]:
    """List how m columns can come from some stripes, at least one from each.

    >>> shares(2, 4)
    [(1, 3), (2, 2), (3, 1)]
    """
    if stripes == 1:
        return [(m,)]
    return [(first, *rest) for first in range(1, m - stripes + 2) for rest in shares(stripes - 1, m - first)]


def subsets(m: int, size: int) -> list[tuple[int, ...]]:
    """List the sets of `size` columns of a stripe, in lexicographic order."""
    return list(combinations(range(m), size))


def touching(stripes: int, m: int) -> Iterator[tuple[int, ...]]:
    """Yield the sets of m columns that take some from every stripe of a window, as columns of that window.

    They come in the order in which `mopruning.permutation.stripe_tables` lays out their kept magnitudes: by `shares`,
    then by the set within the first stripe, the second and so on.

    >>> len(list(touching(1, 4))), len(list(touching(2, 4))), len(list(touching(3, 4)))
    (1, 68, 288)
    """
    for share in shares(stripes, m):
        for parts in product(*(subsets(m, size) for size in share)):
            yield tuple(stripe * m + column for stripe, part in enumerate(parts) for column in part)


@lru_cache(maxsize=4)
def sets_of(stripes: int, m: int) -> NumPyArray:
    """Say which set each stripe of each arrangement is.

    Args:
        stripes: Stripes in the window.
        m: Columns in a stripe.

    Returns:
        int64 [count, stripes], read-only: numbers of sets, counted through `touching` of every choice of stripes of
        the window, smaller choices first.

    >>> sets_of(2, 2).tolist()
    [[0, 1], [2, 5], [3, 4]]
    """
    places = [
        tuple(chosen[column // m] * m + column % m for column in one)
        for size in range(1, stripes + 1)
        for chosen in combinations(range(stripes), size)
        for one in touching(size, m)
    ]
    marks = np.array([sum(1 << column for column in one) for one in places])
    order = np.argsort(marks)
    wanted = np.left_shift(1, arrangements(stripes, m)).reshape(-1, stripes, m).sum(axis=2)
    result: NumPyArray = order[np.searchsorted(marks, wanted, sorter=order)]
    result.flags.writeable = False
    return result
