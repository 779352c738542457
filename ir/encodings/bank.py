"""Bank encoding: for weights with exactly n values in every group of m along an axis, N:M and bank-balanced ones.

Each group stores which set of positions is taken, as its rank in as many bits as C(m, n) sets need: 20 bits for 4 of
64. The values follow in the order of the groups.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from mopruning.blocks import spans
from mopruning.errors import FormatError
from mopruning.ir.encodings import ranks
from mopruning.ir.encodings.bitmask import BLOCK, WORD

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"

SIZES = (4, 8, 16, 32, 64)  # what m may be
_SETS = 1 << 16  # ranks packed at a time: fewer, and calling NumPy would take longer than its work
_SAMPLE = 8  # groups that are looked at first, because most arrays fail there


@dataclass(frozen=True)
class Bank:
    """n values in every group of m consecutive positions along an axis.

    Args:
        n: Values in a group, 1 to m - 1.
        m: Positions in a group, one of `SIZES`.
        axis: 1 for input channels in [out, in, ...], 0 for them in [in, out, ...].

    Raises:
        FormatError: If there is no such encoding.
    """

    n: int
    m: int
    axis: int = 1

    def __post_init__(self) -> None:
        if self.m not in SIZES or self.axis not in (0, 1) or not _codable(self.n, self.m):
            raise FormatError(f"there is no bank encoding of {self.n} of {self.m} along axis {self.axis}")

    def to_dict(self) -> dict[str, int]:
        """Return the parameters that differ from their defaults."""
        return {"n": self.n, "m": self.m} | ({} if self.axis == 1 else {"axis": self.axis})

    def index_bytes(self, size: int) -> int:
        """Return the bytes of the index of `size` numbers."""
        return -(-size // self.m * ranks.width(self.n, self.m) // (8 * WORD)) * WORD

    def check(self, shape: tuple[int, ...], values: int, index: int) -> None:
        """Check sizes: of the array, of its values and of its index.

        Raises:
            FormatError: If they do not belong together.
        """
        size = math.prod(shape)
        if len(shape) <= self.axis or shape[self.axis] % self.m:
            raise FormatError(f"axis {self.axis} of the shape {list(shape)} has no groups of {self.m}")
        if values != size // self.m * self.n or index != self.index_bytes(size):
            raise FormatError(
                f"{index} bytes of ranks and {values} values do not make {size} numbers, {self.n} of {self.m}"
            )

    def encode(self, bits: NumPyArray, shape: tuple[int, ...]) -> tuple[NumPyArray, NumPyArray] | None:
        """Return the values that are not 0 and the ranks, or None where a group has more or fewer than n."""
        groups, inner = self._groups(bits, shape)
        if not (np.count_nonzero(groups[:_SAMPLE], axis=1) == self.n).all():
            return None
        values = np.empty((len(groups) * inner, self.n), bits.dtype)
        index = np.zeros(self.index_bytes(bits.size), np.uint8)
        width = ranks.width(self.n, self.m)
        step = max(1, BLOCK // (self.m * max(inner, 1)))
        for first, last in self._blocks(len(groups), inner):
            found = []
            for start, stop in spans(last - first, step):
                block = np.ascontiguousarray(groups[first + start : first + stop].swapaxes(1, 2)).reshape(-1)
                where = np.flatnonzero(block != 0)
                if where.size != block.size // self.m * self.n:
                    return None
                values[(first + start) * inner : (first + stop) * inner] = block[where].reshape(-1, self.n)
                places = where.reshape(-1, self.n) - np.arange(0, block.size, self.m)[:, None]
                if places.min() < 0 or places.max() >= self.m:  # as many as there should be, but elsewhere
                    return None
                found.append(ranks.rank(places, self.m))
            packed = ranks.pack(np.concatenate(found), width)
            index[first * inner * width // 8 :][: packed.size] = packed
        return values.reshape(-1), index

    def decode(self, out: NumPyArray, shape: tuple[int, ...], values: NumPyArray, index: NumPyArray) -> None:
        """Fill `out`, the flat array of this shape, in place.

        Raises:
            FormatError: If a rank stands for no set of positions.
        """
        groups, inner = self._groups(out, shape)
        width = ranks.width(self.n, self.m)
        sets = values.reshape(-1, self.n)
        step = max(1, BLOCK // (self.m * max(inner, 1)))
        origins = (np.arange(step)[:, None] * (self.m * inner) + np.arange(inner)).reshape(-1, 1)
        for first, last in self._blocks(len(groups), inner):
            codes = ranks.unpack(index[first * inner * width // 8 :], width, (last - first) * inner)
            if codes.max() >= math.comb(self.m, self.n):
                raise FormatError(f"a rank stands for no {self.n} of {self.m} positions")
            positions = ranks.unrank(codes, self.n, self.m)
            for start, stop in spans(last - first, step):
                places = np.multiply(positions[start * inner : stop * inner], inner, dtype=np.intp)
                places += origins[: len(places)]
                block = groups[first + start : first + stop].reshape(-1)
                block.fill(0)
                block[places] = sets[(first + start) * inner : (first + stop) * inner]

    def _groups(self, bits: NumPyArray, shape: tuple[int, ...]) -> tuple[NumPyArray, int]:
        """View the numbers as [groups, m, inner], and return `inner`."""
        inner = math.prod(shape[self.axis + 1 :])
        return bits.reshape(bits.size // (self.m * max(inner, 1)), self.m, inner), inner

    def _blocks(self, groups: int, inner: int) -> list[tuple[int, int]]:
        """Cut the groups into blocks of about `_SETS` ranks and of a multiple of 8, which fill whole bytes."""
        return spans(groups if inner else 0, max(8, _SETS // max(inner, 1) // 8 * 8))


def fitting(shape: tuple[int, ...], kept: int) -> list[Bank]:
    """List the banks that `kept` values in an array of this shape may have."""
    size = math.prod(shape)
    found = []
    for axis in (1, 0):
        for m in SIZES if len(shape) > 1 and size else ():
            n, ragged = divmod(kept * m, size)
            if not shape[axis] % m and not ragged and _codable(n, m):
                found.append(Bank(n, m, axis))
    return found


def _codable(n: int, m: int) -> bool:
    """Whether n of m is worth ranks: up to 33 bits of them."""
    return 1 <= n < m and (n <= 8 or math.comb(m, n) < 2**32)
