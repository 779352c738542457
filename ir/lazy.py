"""Arrays that are read when asked for: what a file holds, without its bytes."""

from __future__ import annotations

import math
import mmap
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"


@dataclass(frozen=True, eq=False)
class LazyArray:
    """An array that is known by dtype and shape and read when asked for.

    Args:
        dtype: Its dtype.
        shape: Its shape.
        read: Reads it; every call reads it anew. What comes back may be read-only.
        release: Gives back the memory in which the file is mapped; what `read` returned stays valid.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    read: Callable[[], NumPyArray]
    release: Callable[[], None] = lambda: None

    @property
    def nbytes(self) -> int:
        """Bytes that the array takes when read."""
        return math.prod(self.shape) * self.dtype.itemsize


def lazy(array: NumPyArray | LazyArray) -> LazyArray:
    """Wrap an array that is in memory already.

    >>> one = lazy(np.eye(2))
    >>> one.shape, one.nbytes
    ((2, 2), 32)
    """
    return array if isinstance(array, LazyArray) else LazyArray(array.dtype, array.shape, lambda: array)


def read_all(arrays: Mapping[str, LazyArray]) -> dict[str, NumPyArray]:
    """Read every array by name."""
    return {name: array.read() for name, array in arrays.items()}


def plain(array: NumPyArray) -> NumPyArray:
    """Return an array as files hold it, little-endian and in C order: itself where it is so already."""
    if array.flags.c_contiguous and array.dtype.isnative and sys.byteorder == "little":
        return array  # np.require would find out the same twenty times slower
    return np.require(array, array.dtype.newbyteorder("<"), "C")


class MappedFile:
    """A file whose bytes are looked at where the system keeps them, for as long as anything refers to them.

    Replacing the file by another (as `mopruning.ir.atomic` does) leaves what is mapped as it is. A file that another
    program makes shorter in place must not be read further: no system protects against that.

    Args:
        path: The file.

    Raises:
        OSError: If it cannot be read.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        with open(path, "rb") as stream:
            empty = os.fstat(stream.fileno()).st_size == 0  # of which mmap makes an error
            self._map = None if empty else mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        self.content: NumPyArray = np.frombuffer(self._map or b"", np.uint8)
        """All bytes, read-only."""

    def release(self, start: int, stop: int) -> None:
        """Let the system take back the memory of some bytes; whoever looks at them again brings them back."""
        first, last = (-(-start // mmap.PAGESIZE), stop // mmap.PAGESIZE)
        if self._map is not None and last > first and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED, first * mmap.PAGESIZE, (last - first) * mmap.PAGESIZE)
