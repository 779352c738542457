"""Which sparsity patterns a weight satisfies right now, read off its exact zeros."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mopruning.arrays import Array, host_view, namespace, plain

NM_GROUPS = (4, 8, 16)
BANKS = (16, 32, 64)
_CHAIN = (4, 8, 16, 32, 64)  # each twice the one before: counts of a group are sums of two counts of the last
_BLOCK = 1 << 20  # elements looked at together, so that memory stays small beside the weight


@dataclass(frozen=True)
class Conformity:
    """What a weight's zeros amount to.

    Args:
        nm: For each m, the tightest n for which the weight is n:m (the most non-zeros in any group of m
            consecutive input channels); None where the input channels are no multiple of m.
        banks: For each bank size, the fewest and the most non-zeros of a bank; None where it does not divide.
        zero_filters: Output channels that are zero throughout, and how many there are.
        zero_channels: Input channels that are zero throughout, and how many there are.
        zero_stripes: Kernel positions of an output channel that are zero over all input channels, and how many
            there are; (0, 0) for a weight without a kernel.
    """

    nm: Mapping[int, int | None]
    banks: Mapping[int, tuple[int, int] | None]
    zero_filters: tuple[int, int]
    zero_channels: tuple[int, int]
    zero_stripes: tuple[int, int]

    def patterns(self) -> tuple[str, ...]:
        """Name every n:m pattern with n < m that holds, and the largest bank of which all hold equally many.

        >>> w = np.zeros((8, 64)); w[:, ::4] = 1.0
        >>> conformity(w).patterns()
        ('1:4', '2:8', '4:16', '16 of 64')
        """
        held = [f"{n}:{m}" for m, n in self.nm.items() if n is not None and n < m]
        for bank, counts in reversed(list(self.banks.items())):
            if counts is not None and counts[0] == counts[1] < bank:
                return (*held, f"{counts[0]} of {bank}")
        return tuple(held)

    def to_dict(self) -> dict[str, Any]:
        """Return the same as plain numbers, lists and dictionaries; group sizes become text, as JSON wants."""
        return {
            "nm": {str(m): n for m, n in self.nm.items()},
            "banks": {str(bank): None if counts is None else list(counts) for bank, counts in self.banks.items()},
            "zero_filters": list(self.zero_filters),
            "zero_channels": list(self.zero_channels),
            "zero_stripes": list(self.zero_stripes),
        }


def conformity(weight: Array) -> Conformity:
    """Read off which N:M, bank-balanced and structured patterns a weight satisfies exactly.

    Args:
        weight: Array in host memory, in canonical layout [out, in, *kernel]; a vector counts as one row. NaN
            counts as a non-zero.

    Raises:
        TypeError: If `weight` is no array, or lies on another device.

    >>> w = np.ones((2, 64, 3, 3)); w[:, 4:] = 0.0; w[1] = 0.0
    >>> found = conformity(w)
    >>> found.banks[64], found.nm[8], found.zero_filters, found.zero_channels
    ((0, 4), 4, (1, 2), (60, 64))
    """
    namespace(weight)  # refuses what is no array
    host = host_view(plain(weight))
    if host is None:
        raise TypeError("conformity: expected an array in host memory; copy it there first, such as with .cpu()")
    shape = host.shape
    outputs, inputs = (shape[0], shape[1]) if len(shape) > 1 else (1, math.prod(shape))
    kernel = math.prod(shape[2:])
    rows = host if len(shape) > 1 else host.reshape(1, inputs)
    fewest: dict[int, int] = {}
    most: dict[int, int] = {}
    filters = stripes = 0
    channels_alive = np.zeros(inputs, np.bool_)
    step = max(1, _BLOCK // max(inputs * kernel, 1))
    for start in range(0, outputs, step):
        nonzero = rows[start : start + step] != 0
        nonzero = nonzero.reshape(len(nonzero), inputs, kernel)
        for size, counts in _group_counts(nonzero):
            fewest[size] = min(fewest.get(size, size), int(counts.min()))
            most[size] = max(most.get(size, 0), int(counts.max()))
        alive = nonzero.any(axis=1)
        stripes += alive.size - int(np.count_nonzero(alive))
        filters += alive.shape[0] - int(np.count_nonzero(alive.any(axis=1)))
        channels_alive |= nonzero.any(axis=(0, 2))
    if len(shape) < 2:  # a vector's elements are its output channels; it has no input channels
        zeros = inputs - int(np.count_nonzero(channels_alive))
        units = ((zeros, inputs), (0, 0), (0, 0))
    else:
        channels = (inputs - int(np.count_nonzero(channels_alive)), inputs)
        units = ((filters, outputs), channels, (stripes, outputs * kernel) if len(shape) > 2 else (0, 0))
    return Conformity(
        {m: most.get(m) for m in NM_GROUPS},
        {bank: (fewest[bank], most[bank]) if bank in most else None for bank in BANKS},
        *units,
    )


def _group_counts(nonzero: np.ndarray[Any, Any]) -> list[tuple[int, np.ndarray[Any, Any]]]:
    """Count the True of every group along the middle axis, for each group size of the chain that divides it."""
    found: list[tuple[int, np.ndarray[Any, Any]]] = []
    outputs, inputs, kernel = nonzero.shape
    counts, last = nonzero.view(np.uint8), 1
    for size in _CHAIN:
        if nonzero.size == 0 or inputs % size:
            break
        counts = counts.reshape(outputs, inputs // size, size // last, kernel).sum(axis=2, dtype=np.uint8)
        last = size
        found.append((size, counts))
    return found
