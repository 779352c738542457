"""Masks as bits: one bit for each weight, as saved in checkpoints."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from mopruning.errors import StateError


def pack(mask: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Pack a bool mask into uint8, eight weights a byte in C order, first weight in the lowest bit.

    >>> pack(np.array([True, False, True])).tolist()
    [5]
    """
    return np.packbits(np.ascontiguousarray(mask).reshape(-1), bitorder="little")


def unpack(bits: np.ndarray[Any, Any], shape: tuple[int, ...], name: str) -> np.ndarray[Any, Any]:
    """Unpack what `pack` made into a bool mask of `shape`.

    Raises:
        StateError: If the number of bytes is not that of the shape; `name` tells which mask.
    """
    size = math.prod(shape)
    bits = np.asarray(bits, np.uint8).reshape(-1)
    if bits.size != (size + 7) // 8:
        raise StateError(f"mask of {name}: {bits.size} bytes, expected {(size + 7) // 8} for shape {shape}")
    return np.unpackbits(bits, count=size, bitorder="little").astype(np.bool_).reshape(shape)
