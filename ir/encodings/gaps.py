"""Gap encoding: before each value, the number of zeros since the one before, in a byte; for densities below 1/8.

A byte of 0 to 254 says: so many zeros, then a value. 255 says: 255 zeros and no value. At the end, as many 255 as
zeros are left for, fewer than 255 being left unsaid; more of them fill the index up.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

from mopruning.errors import FormatError
from mopruning.ir.encodings.bitmask import BLOCK, WORD

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"

SKIP = 255
_STEPS = 1 << 14  # bytes of the index worked on at a time


def least(size: int, kept: int) -> int:
    """Return the fewest bytes that the index of `kept` values among `size` numbers can have."""
    count = max(kept, (size - kept) // SKIP)
    return -(-count // WORD) * WORD


def check(size: int, kept: int, index: int) -> None:
    """Check sizes: of the array, of its values and of its index.

    Raises:
        FormatError: If they do not belong together.
    """
    if kept > size or kept > index or index % WORD or size >= SKIP * (index + 1):
        raise FormatError(f"{index} bytes of gaps and {kept} values do not make {size} numbers")


def encode(bits: NumPyArray, kept: int) -> tuple[NumPyArray, NumPyArray]:
    """Return the values that are not 0 and the gaps before them, in C order."""
    values = np.empty(kept, bits.dtype)
    steps: list[NumPyArray] = []
    done = reached = 0  # values so far; the place after the last of them
    for start in range(0, bits.size, BLOCK):
        block = bits[start : start + BLOCK]
        where = np.flatnonzero(block != 0)
        if not where.size:
            continue
        values[done : done + where.size] = block[where]
        done += where.size
        zeros = np.diff(where, prepend=reached - start - 1) - 1
        steps.append(_steps(zeros))
        reached = start + int(where[-1]) + 1
    steps.append(np.full((bits.size - reached) // SKIP, SKIP, np.uint8))
    length = sum(step.size for step in steps)
    steps.append(np.full(-length % WORD, SKIP, np.uint8))
    return values, np.concatenate(steps)


def _steps(zeros: NumPyArray) -> NumPyArray:
    """Spell each number of zeros as bytes."""
    skips = zeros // SKIP
    if not skips.any():
        return zeros.astype(np.uint8)
    index = np.full(zeros.size + int(skips.sum()), SKIP, np.uint8)
    index[np.cumsum(skips) + np.arange(zeros.size)] = zeros % SKIP
    return index


def decode(out: NumPyArray, values: NumPyArray, index: NumPyArray) -> None:
    """Fill `out` in place.

    Raises:
        FormatError: If the gaps lead past the end, end too early, or are not as many as the values.
    """
    done = reached = 0
    for start in range(0, index.size, _STEPS):
        steps = index[start : start + _STEPS]
        valued = steps != SKIP
        count = int(np.count_nonzero(valued))
        places = np.cumsum(steps + valued, dtype=np.intp)  # the sum is a byte: 254 + 1 and 255 + 0 still fit
        stop = reached + int(places[-1])
        places -= 1
        if count != steps.size:
            places = places[valued]
        if done + count > values.size:
            raise FormatError(f"its gaps lead to more than its {values.size} values")
        block = out[reached:stop]
        if count and places[-1] >= block.size:
            raise FormatError(f"its gaps lead past the end of its {out.size} numbers")
        block.fill(0)
        block[places] = values[done : done + count]
        done, reached = done + count, stop
    if done != values.size:
        raise FormatError(f"its gaps lead to {done} values, but there are {values.size}")
    if reached + SKIP <= out.size:
        raise FormatError(f"its gaps end after {reached} of {out.size} numbers")
    out[reached:].fill(0)
