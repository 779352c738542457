"""Bitmask encoding: one bit for each number, set where it is kept; the least size at densities above 1/8."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

from mopruning.errors import FormatError

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"

BLOCK = 1 << 17  # numbers worked on at a time: they and their marks stay in a core's second-level cache
WORD = 8  # bytes: every index is filled up to a multiple of it, so that what follows in a file stays aligned


def least(size: int) -> int:
    """Return the bytes of the index of `size` numbers."""
    return -(-size // (8 * WORD)) * WORD


def check(size: int, kept: int, index: int) -> None:
    """Check sizes: of the array, of its values and of its index.

    Raises:
        FormatError: If they do not belong together.
    """
    if index != least(size) or kept > size:
        raise FormatError(f"a bitmask of {index} bytes and {kept} values do not make {size} numbers")


def encode(bits: NumPyArray, kept: int) -> tuple[NumPyArray, NumPyArray]:
    """Return the values that are not 0 and the bitmask: C order, first number in the lowest bit."""
    values = np.empty(kept, bits.dtype)
    index = np.zeros(least(bits.size), np.uint8)
    done = 0
    for start in range(0, bits.size, BLOCK):
        block = bits[start : start + BLOCK]
        marks = block != 0
        packed = np.packbits(marks, bitorder="little")
        index[start // 8 : start // 8 + packed.size] = packed
        where = np.flatnonzero(marks)
        values[done : done + where.size] = block[where]
        done += where.size
    return values, index


def decode(out: NumPyArray, values: NumPyArray, index: NumPyArray) -> None:
    """Fill `out` in place.

    Raises:
        FormatError: If the bits that are set are not as many as the values.
    """
    done = 0
    for start in range(0, out.size, BLOCK):
        block = out[start : start + BLOCK]
        marks = np.unpackbits(index[start // 8 : (start + BLOCK) // 8], count=block.size, bitorder="little")
        where = np.flatnonzero(marks.view(np.bool_))
        if done + where.size > values.size:
            raise FormatError(f"its bitmask marks more than its {values.size} values")
        block.fill(0)
        block[where] = values[done : done + where.size]
        done += where.size
    if done != values.size:
        raise FormatError(f"its bitmask marks {done} numbers, but there are {values.size} values")
