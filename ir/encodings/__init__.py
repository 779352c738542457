"""Encodings: how the bytes of one weight are stored when many of its numbers are zero, exact to the bit."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from mopruning.errors import FormatError
from mopruning.ir.encodings import bitmask, gaps
from mopruning.ir.encodings.bank import Bank, fitting
from mopruning.ir.lazy import plain

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"

INDEX: Mapping[str, str | None] = {"dense": None, "bitmask": "bitmask", "gaps": "gaps", "bank": "banks"}
"""Encoding -> name of the part that says where its values stand."""

OVERHEAD = 128  # bytes: what the entry of a second part takes in the header of a file
_UNSIGNED = {size: np.dtype(f"u{size}") for size in (1, 2, 4, 8)}
_COUNTED = 1 << 17  # numbers counted at a time


@dataclass(frozen=True, eq=False)
class Encoded:
    """One array as it is stored.

    Args:
        encoding: "dense", "bitmask", "gaps" or "bank".
        dtype: Of the array.
        shape: Of the array.
        parts: The array itself under "" if dense; else "values", which are all its numbers whose bits are not all
            zero, and an index, uint8, under the name that `INDEX` gives.
        parameters: For "bank": n values in each group of m along `axis`.
    """

    encoding: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    parts: Mapping[str, NumPyArray]
    parameters: Mapping[str, int] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes of all parts."""
        return sum(part.nbytes for part in self.parts.values())


def encode(array: NumPyArray, *, only: str | None = None) -> Encoded:
    """Encode an array in the way that takes the fewest bytes.

    A number is left out only if all its bits are zero: -0.0 is kept, and so is every payload of NaN. A sparse encoding
    has two parts, so it must save `OVERHEAD` bytes.

    Args:
        array: Any dtype and shape.
        only: Use this encoding if the array allows it, however large it comes out, else "dense".

    Returns:
        Its parts, in C order; those of a dense array share its memory.

    >>> weight = np.zeros((64, 64), np.float32)
    >>> weight[:, ::16] = 1.0
    >>> encoded = encode(weight)
    >>> encoded.encoding, dict(encoded.parameters), {name: part.nbytes for name, part in encoded.parts.items()}
    ('bank', {'n': 1, 'm': 16}, {'values': 1024, 'banks': 128})
    >>> bool((decode(encoded) == weight).all())
    True
    """
    array = plain(array)
    dense = Encoded("dense", array.dtype, array.shape, {"": array})
    bits = _bits(array)
    if bits is None or only == "dense" or (only is None and bits.nbytes <= OVERHEAD):
        return dense
    kept = sum(int(np.count_nonzero(bits[at : at + _COUNTED])) for at in range(0, bits.size, _COUNTED))
    best, smallest = dense, math.inf if only else dense.nbytes - OVERHEAD
    for least, encoding, parameters, attempt in _candidates(bits, array.shape, kept):
        if only in (None, encoding) and least + kept * bits.itemsize < smallest:
            made = attempt()
            if made is not None and made[0].nbytes + made[1].nbytes < smallest:
                parts = {"values": made[0].view(array.dtype), str(INDEX[encoding]): made[1]}
                best = Encoded(encoding, array.dtype, array.shape, parts, parameters)
                smallest = best.nbytes
    return best


def decode(encoded: Encoded) -> NumPyArray:
    """Decode what `encode` made; a dense array is handed back as it is.

    Raises:
        FormatError: If parts do not belong together; the message says which check failed, not of which tensor.
    """
    check(
        encoded.encoding,
        encoded.dtype,
        encoded.shape,
        encoded.parameters,
        {k: v.size for k, v in encoded.parts.items()},
    )
    if encoded.encoding == "dense":
        return encoded.parts[""].reshape(encoded.shape)
    array = np.empty(encoded.shape, encoded.dtype)
    bits, values = _bits(array), _bits(encoded.parts["values"])
    assert bits is not None  # as `check` knows
    assert values is not None
    index = encoded.parts[str(INDEX[encoded.encoding])]
    if encoded.encoding == "bank":
        Bank(**encoded.parameters).decode(bits, encoded.shape, values, index)
    else:
        (bitmask if encoded.encoding == "bitmask" else gaps).decode(bits, values, index)
    return array


def check(
    encoding: str,
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    parameters: Mapping[str, int],
    sizes: Mapping[str, int],
) -> None:
    """Check, before anything is decoded, that an array is as large as its parts allow.

    So what a decoder allocates is bounded by what is stored: at most 255 numbers for a byte.

    Args:
        encoding: As in `Encoded`, and so are the next three.
        dtype: Of the array.
        shape: Of the array.
        parameters: Of the encoding.
        sizes: Elements of each part.

    Raises:
        FormatError: If encoding or parameters are unknown, parts are missing, or sizes do not fit.
    """
    if encoding not in INDEX:
        raise FormatError(f"unknown encoding {encoding!r}; known: {', '.join(INDEX)}")
    index = INDEX[encoding]
    wanted = {""} if index is None else {"values", index}
    named = {"n", "m"} <= parameters.keys() <= {"n", "m", "axis"} if encoding == "bank" else not parameters
    if sizes.keys() != wanted or not named:
        raise FormatError(f"encoding {encoding!r} has parts {sorted(sizes)} and parameters {sorted(parameters)}")
    size = math.prod(shape)
    if index is None:
        if sizes[""] != size:
            raise FormatError(f"its {sizes['']} numbers do not fill the shape {list(shape)}")
        return
    if dtype.itemsize not in _UNSIGNED:
        raise FormatError(f"encoding {encoding!r} does not hold {dtype.name}")
    values, bytes_ = sizes["values"], sizes[index]
    if encoding == "bank":
        Bank(**parameters).check(shape, values, bytes_)
    else:
        (bitmask if encoding == "bitmask" else gaps).check(size, values, bytes_)


_Made: TypeAlias = "tuple[NumPyArray, NumPyArray] | None"


def _candidates(
    bits: NumPyArray, shape: tuple[int, ...], kept: int
) -> list[tuple[int, str, dict[str, int], Callable[[], _Made]]]:
    """List for each encoding the least bytes of its index, its name, its parameters and what makes it."""
    found: list[tuple[int, str, dict[str, int], Callable[[], _Made]]] = [
        (bitmask.least(bits.size), "bitmask", {}, lambda: bitmask.encode(bits, kept)),
        (gaps.least(bits.size, kept), "gaps", {}, lambda: gaps.encode(bits, kept)),
    ]
    for bank in fitting(shape, kept):
        found.append(
            (bank.index_bytes(bits.size), "bank", bank.to_dict(), lambda bank=bank: bank.encode(bits, shape))  # type: ignore[misc]
        )
    return sorted(found, key=lambda one: one[0])


def _bits(array: NumPyArray) -> NumPyArray | None:
    """View a C-ordered array as one row of unsigned integers, None where there are none so wide."""
    unsigned = _UNSIGNED.get(array.dtype.itemsize)
    return None if unsigned is None else array.reshape(-1).view(unsigned)
