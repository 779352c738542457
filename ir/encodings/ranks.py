"""Position sets as numbers: the combinatorial number system, and numbers of a fixed count of bits in a row.

The set p_1 < p_2 < ... < p_n of positions below m has the rank C(p_1, 1) + C(p_2, 2) + ... + C(p_n, n), which counts
all C(m, n) sets from 0 (D. H. Lehmer, "The machine tools of combinatorics", 1964; Knuth, TAOCP 4A, 7.2.1.3, theorem L).
"""

from __future__ import annotations

import functools
import math
from typing import Any, TypeAlias

import numpy as np

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"

_TABLE = 1 << 20  # sets of a table, at most


def width(n: int, m: int) -> int:
    """Return the bits that hold any rank of n positions below m.

    >>> width(2, 4), width(4, 64)
    (3, 20)
    """
    return (math.comb(m, n) - 1).bit_length()


def rank(positions: NumPyArray, m: int) -> NumPyArray:
    """Return the rank of each set of positions.

    Args:
        positions: [sets, n] ascending in each row, below m.
        m: How many positions there are.

    Returns:
        uint64 [sets].

    >>> rank(np.array([[0, 1], [2, 3]]), 4).tolist()
    [0, 5]
    """
    ranks = np.zeros(len(positions), np.uint64)
    for k in range(positions.shape[1]):
        ranks += _column(m, k + 1)[positions[:, k]]
    return ranks


def unrank(ranks: NumPyArray, n: int, m: int) -> NumPyArray:
    """Return the positions of which `rank` made these ranks.

    Args:
        ranks: uint64 [sets], each below C(m, n).
        n: Positions in a set.
        m: How many positions there are.

    Returns:
        uint8 [sets, n], ascending in each row.

    >>> unrank(np.array([0, 5], np.uint64), 2, 4).tolist()
    [[0, 1], [2, 3]]
    """
    known = max(k for k in range(1, n + 1) if k == 1 or math.comb(m, k) <= _TABLE)
    found = []
    for k in range(n, known, -1):
        column = _column(m, k)
        position = np.searchsorted(column, ranks, "right") - 1
        ranks = ranks - column[position]
        found.append(position.astype(np.uint8)[:, None])
    lowest = _sets(m, known).take(ranks.astype(np.intp), axis=0)  # indexing by [] is ten times slower
    return np.concatenate([lowest, *found[::-1]], axis=1) if found else lowest


def pack(numbers: NumPyArray, bits: int) -> NumPyArray:
    """Write numbers of so many bits one after the other, lowest bit first, the last byte filled with zeros.

    >>> pack(np.array([1, 2, 3], np.uint64), 3).tolist()
    [209, 0]
    """
    rows = np.zeros((-(-numbers.size // 8), 8), np.uint64)  # eight numbers of b bits fill b bytes
    rows.reshape(-1)[: numbers.size] = numbers
    packed = np.zeros((len(rows), bits), np.uint8)
    for column in range(8):
        byte, shift = divmod(column * bits, 8)
        shifted = rows[:, column] << np.uint64(shift)
        for k in range(-(-(shift + bits) // 8)):
            packed[:, byte + k] |= (shifted >> np.uint64(8 * k)).astype(np.uint8)
    return packed.reshape(-1)[: -(-numbers.size * bits // 8)]


def unpack(packed: NumPyArray, bits: int, count: int) -> NumPyArray:
    """Read the first `count` numbers that `pack` wrote, as uint64.

    >>> unpack(np.array([209, 0], np.uint8), 3, 3).tolist()
    [1, 2, 3]
    """
    lines = -(-count // 8)
    padded = np.zeros((lines + 1) * bits + 8, np.uint8)  # a number is read as the eight bytes from its first on
    used = min(packed.size, lines * bits)
    padded[:used] = packed[:used]
    rows = np.empty((lines, 8), np.uint64)
    for column in range(8):
        byte, shift = divmod(column * bits, 8)
        words: NumPyArray = np.ndarray((lines,), "<u8", padded, byte, (bits,))
        rows[:, column] = (words >> np.uint64(shift)) & np.uint64((1 << bits) - 1)
    return rows.reshape(-1)[:count]


@functools.cache
def _column(m: int, k: int) -> NumPyArray:
    """Return C(p, k) for every position p below m, cut at the largest uint64, which no rank reaches."""
    return np.array([min(math.comb(p, k), 2**64 - 1) for p in range(m)], np.uint64)


@functools.lru_cache(maxsize=8)
def _sets(m: int, n: int) -> NumPyArray:
    """List all sets of n positions below m by rank, uint8 [C(m, n), n]."""
    sets = np.zeros((1, 0), np.uint8)
    for k in range(1, n + 1):
        # by largest position p: below it stand all sets of k - 1 positions below p, which are the first ones
        tops = range(k - 1, m - n + k)
        sets = np.concatenate(
            [np.column_stack([sets[: math.comb(p, k - 1)], np.full(math.comb(p, k - 1), p, np.uint8)]) for p in tops]
        )
    return sets
