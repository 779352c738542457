"""The .safetensors format: a checked header, then every tensor's bytes; nothing in it can run.

Format: https://huggingface.co/docs/safetensors
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from mopruning.errors import FormatError

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"

_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
    "C64": "complex64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
}
_EXTENDED = ("bfloat16", "float8_e4m3fn", "float8_e5m2")  # NumPy knows these through ml_dtypes only
_LARGEST_HEADER = 100_000_000  # bytes; the format's own limit


def read(path: Path) -> tuple[dict[str, NumPyArray], dict[str, str]]:
    """Read every tensor, as a read-only view of the mapped file, and the metadata.

    Raises:
        FormatError: If the file is damaged, or bfloat16 is met without ml_dtypes.
    """
    with path.open("rb") as stream:
        header, start = _header(path, stream)
    content = np.memmap(path, np.uint8, mode="r").view(np.ndarray)[start:]
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or any(not isinstance(value, str) for value in metadata.values()):
        raise FormatError(f"{path}: its metadata must map text to text")
    arrays = {}
    spans = []
    for name, entry in header.items():
        dtype, shape, (begin, end) = _entry(path, name, entry, content.size)
        arrays[name] = content[begin:end].view(dtype).reshape(shape) if end > begin else np.zeros(shape, dtype)
        spans.append((begin, end, name))
    reached = 0
    for begin, end, name in sorted(spans):
        if begin != reached:
            raise FormatError(
                f"{path}: tensor {name!r} starts at byte {begin}, but the tensors before it end at {reached}"
            )
        reached = end
    if reached != content.size:
        raise FormatError(f"{path}: holds {content.size} bytes of tensors, but its header accounts for {reached}")
    return arrays, metadata


def write(path: Path, arrays: Mapping[str, NumPyArray], metadata: Mapping[str, str]) -> None:
    """Write tensors and metadata.

    Raises:
        FormatError: If a dtype has no place in the format.
    """
    from safetensors.numpy import save_file

    for name, array in arrays.items():
        if array.dtype.name not in _DTYPES.values():
            raise FormatError(
                f"tensor {name!r}: .safetensors has no dtype {array.dtype.name}; write the format it came from"
            )
    # the library copies memory as it lies: C order and little-endian bytes are ours to provide
    plain = {name: np.require(array, array.dtype.newbyteorder("<"), "C") for name, array in arrays.items()}
    save_file(plain, path, metadata=dict(metadata) or None)


def _header(path: Path, stream: Any) -> tuple[dict[str, Any], int]:
    """Return the header, and where the bytes of the tensors start."""
    size = path.stat().st_size
    length = int.from_bytes(stream.read(8), "little")
    if size < 8 or length > _LARGEST_HEADER:
        raise FormatError(f"{path}: no .safetensors file: its first 8 bytes do not give the length of a header")
    if 8 + length > size:
        raise FormatError(f"{path}: truncated: its header should end at byte {8 + length}, the file at {size}")
    try:
        header = json.loads(stream.read(length).decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path}: its header is no JSON: {error}") from None
    if not isinstance(header, dict):
        raise FormatError(f"{path}: its header is a JSON {type(header).__name__}, expected an object")
    return header, 8 + length


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name is given twice")
    return result


def _entry(path: Path, name: str, entry: Any, available: int) -> tuple[np.dtype[Any], tuple[int, ...], tuple[int, int]]:
    """Check one tensor's entry and return its dtype, shape and range of bytes."""
    try:
        code, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        numbers = (*shape, begin, end)
    except (TypeError, KeyError, ValueError):
        raise FormatError(
            f"{path}: tensor {name!r}: expected a dtype, a shape and two data_offsets, got {entry!r}"
        ) from None
    if any(type(number) is not int or number < 0 for number in numbers):
        raise FormatError(f"{path}: tensor {name!r}: shape and offsets must be whole numbers, got {list(numbers)}")
    dtype = _dtype(path, name, code)
    if not begin <= end <= available:
        raise FormatError(
            f"{path}: truncated: tensor {name!r} should end at byte {end} of the data, which has {available}"
        )
    if end - begin != math.prod(shape) * dtype.itemsize:
        raise FormatError(f"{path}: tensor {name!r}: {end - begin} bytes do not hold the shape {shape} of {code}")
    return dtype, shape, (begin, end)


def _dtype(path: Path, name: str, code: Any) -> np.dtype[Any]:
    known = _DTYPES.get(code) if isinstance(code, str) else None
    if known is None:
        raise FormatError(f"{path}: tensor {name!r}: unknown dtype {code!r}; known: {', '.join(_DTYPES)}")
    if known not in _EXTENDED:
        return np.dtype(known).newbyteorder("<")
    try:
        import ml_dtypes
    except ImportError:
        raise FormatError(f"{path}: tensor {name!r}: dtype {code} needs ml_dtypes: pip install ml_dtypes") from None
    return np.dtype(getattr(ml_dtypes, known))
