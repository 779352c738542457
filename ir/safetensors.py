"""The .safetensors format: a checked header, then every tensor's bytes; nothing in it can run.

Format: https://huggingface.co/docs/safetensors
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from mopruning.errors import FormatError
from mopruning.ir.json_text import compact, parse
from mopruning.ir.lazy import LazyArray, MappedFile, lazy, plain, read_all

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
_CODES = {name: code for code, name in _DTYPES.items()}

_EXTENDED = ("bfloat16", "float8_e4m3fn", "float8_e5m2")  # NumPy knows these through ml_dtypes only
_PLAIN = {code: np.dtype(name).newbyteorder("<") for code, name in _DTYPES.items() if name not in _EXTENDED}
LARGEST_HEADER = 100_000_000  # bytes; the format's own limit


_METADATA = "__metadata__"
_AXES = 32  # as many as NumPy 1 allows an array


@dataclass(frozen=True)
class Entry:
    """Where a tensor lies in a file: from byte `begin` to before byte `end`."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    begin: int
    end: int


def read(path: Path) -> tuple[dict[str, NumPyArray], dict[str, str]]:
    """Read every tensor, as a read-only view of the mapped file, and the metadata.

    Raises:
        FormatError: If the file is damaged, or bfloat16 is met without ml_dtypes.
    """
    arrays, metadata = read_lazily(path)
    return read_all(arrays), metadata


def read_lazily(path: Path) -> tuple[dict[str, LazyArray], dict[str, str]]:
    """Read the header and the metadata; tensors are views of the mapped file, made when asked for.

    Raises:
        FormatError: If the file is damaged, or bfloat16 is met without ml_dtypes.
    """
    file = MappedFile(path)
    entries, metadata = read_header(path, file.content)
    return {name: _lazy(file, entry) for name, entry in entries.items()}, metadata


def _lazy(file: MappedFile, entry: Entry) -> LazyArray:
    return LazyArray(entry.dtype, entry.shape, lambda: view(file, entry), lambda: file.release(entry.begin, entry.end))


def view(file: MappedFile, entry: Entry) -> NumPyArray:
    """Return a tensor as a read-only view of the mapped file."""
    return file.content[entry.begin : entry.end].view(entry.dtype).reshape(entry.shape)


def read_header(path: Path, content: NumPyArray) -> tuple[dict[str, Entry], dict[str, str]]:
    """Read and check the header of a file.

    Args:
        path: Its name, for messages.
        content: All its bytes.

    Returns:
        Where each tensor lies, and the metadata.

    Raises:
        FormatError: If the header is damaged or does not account for every byte of the file.
    """
    header, start = _header(path, content)
    metadata = header.pop(_METADATA, {})
    if not isinstance(metadata, dict) or any(not isinstance(value, str) for value in metadata.values()):
        raise FormatError(f"{path}: its metadata must map text to text")
    entries = {name: _entry(path, name, entry, start, content.size) for name, entry in header.items()}
    reached = start
    for name, entry in sorted(entries.items(), key=lambda one: (one[1].begin, one[1].end)):
        if entry.begin != reached:
            raise FormatError(
                f"{path}: tensor {name!r} starts at byte {entry.begin - start}, but the tensors before it end at "
                f"{reached - start}"
            )
        reached = entry.end
    if reached != content.size:
        raise FormatError(
            f"{path}: holds {content.size - start} bytes of tensors, but its header accounts for {reached - start}"
        )
    return entries, metadata


def write(path: Path, arrays: Mapping[str, NumPyArray | LazyArray], metadata: Mapping[str, str]) -> None:
    """Write tensors, one after the other, and metadata.

    Raises:
        FormatError: If a dtype has no place in the format.
    """
    tensors = {name: lazy(array) for name, array in arrays.items()}
    order = sorted(tensors, key=lambda name: -tensors[name].dtype.itemsize)  # so that all are aligned
    header = make_header({name: (tensors[name].dtype, tensors[name].shape) for name in order}, metadata)
    with path.open("wb") as stream:
        stream.write(header)
        for name in order:
            stream.write(as_bytes(tensors[name].read()))
            tensors[name].release()


def make_header(tensors: Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]], metadata: Mapping[str, str]) -> bytes:
    """Lay out a file.

    Args:
        tensors: dtype and shape by name, in the order of their bytes; with wider dtypes first all are aligned.
        metadata: Text by key.

    Returns:
        All bytes before those of the tensors, a multiple of 8.

    Raises:
        FormatError: If a dtype or a name has no place in the format.
    """
    for name, (dtype, _) in tensors.items():
        if code_of(dtype) is None:
            raise FormatError(f"tensor {name!r}: .safetensors has no dtype {dtype.name}; write the format it came from")
        if name == _METADATA:
            raise FormatError(f"tensor {name!r}: .safetensors keeps this name for its metadata")
    header: dict[str, Any] = {_METADATA: dict(metadata)} if metadata else {}
    reached = 0
    for name, (dtype, shape) in tensors.items():
        begin, reached = reached, reached + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": code_of(dtype), "shape": list(shape), "data_offsets": [begin, reached]}
    text = compact(header).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > LARGEST_HEADER:
        raise FormatError(f"a header of {len(text)} bytes is more than .safetensors allows: {LARGEST_HEADER}")
    return len(text).to_bytes(8, "little") + text


@cache  # NumPy makes up a dtype's name each time it is asked for
def code_of(dtype: np.dtype[Any]) -> str | None:
    """Return the format's code for a dtype, None where it has none.

    >>> code_of(np.dtype("float16"))
    'F16'
    """
    return _CODES.get(dtype.name)


def as_bytes(array: NumPyArray) -> memoryview:
    """Return an array's little-endian bytes in C order; they are its own memory where that has this form."""
    return plain(array).reshape(-1).view(np.uint8).data


def _header(path: Path, content: NumPyArray) -> tuple[dict[str, Any], int]:
    """Return the header, and where the bytes of the tensors start."""
    length = int.from_bytes(content[:8].tobytes(), "little")
    if content.size < 8 or length > LARGEST_HEADER:
        raise FormatError(f"{path}: no .safetensors file: its first 8 bytes do not give the length of a header")
    if 8 + length > content.size:
        raise FormatError(f"{path}: truncated: its header should end at byte {8 + length}, the file at {content.size}")
    try:
        header = parse(content[8 : 8 + length].tobytes().decode())
    except UnicodeDecodeError as error:
        raise FormatError(f"{path}: its header is no JSON: {error}") from None
    except FormatError as error:
        raise FormatError(f"{path}: its header {error}") from None
    if not isinstance(header, dict):
        raise FormatError(f"{path}: its header is a JSON {type(header).__name__}, expected an object")
    return header, 8 + length


def _entry(path: Path, name: str, entry: Any, start: int, size: int) -> Entry:
    """Check one tensor's entry."""
    try:
        code, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
    except (TypeError, KeyError, ValueError):
        raise FormatError(
            f"{path}: tensor {name!r}: expected a dtype, a shape and two data_offsets, got {repr(entry)[:200]}"
        ) from None
    check_shape(path, name, shape)
    if any(type(number) is not int or number < 0 for number in (begin, end)):
        raise FormatError(f"{path}: tensor {name!r}: its offsets must be whole numbers, got {repr((begin, end))[:200]}")
    dtype = dtype_of(path, name, code)
    if not begin <= end <= size - start:
        raise FormatError(
            f"{path}: truncated: tensor {name!r} should end at byte {end} of the data, which has {size - start}"
        )
    if end - begin != math.prod(shape) * dtype.itemsize:
        raise FormatError(f"{path}: tensor {name!r}: {end - begin} bytes do not hold the shape {list(shape)} of {code}")
    return Entry(dtype, shape, start + begin, start + end)


def check_shape(path: Path, name: str, shape: tuple[Any, ...]) -> None:
    """Check that NumPy can have an array of this shape, even if it is empty.

    Raises:
        FormatError: If these are no whole numbers, too many, or too large.
    """
    # their count comes first: multiplying a million numbers out would take hours
    if len(shape) > _AXES or not all(type(side) is int and side >= 0 for side in shape):
        shown = f"{len(shape)} axes" if len(shape) > _AXES else repr(list(shape))[:200]
        raise FormatError(f"{path}: tensor {name!r}: its shape must be whole numbers, at most {_AXES}, got {shown}")
    if math.prod(side or 1 for side in shape) >= 2**59:
        raise FormatError(f"{path}: tensor {name!r}: its shape {repr(list(shape))[:200]} is larger than any array")


def dtype_of(path: Path, name: str, code: Any) -> np.dtype[Any]:
    """Return the dtype that a code of the format stands for.

    Raises:
        FormatError: If there is no such code, or its dtype needs ml_dtypes, which is not installed.
    """
    if not isinstance(code, str) or code not in _DTYPES:
        raise FormatError(f"{path}: tensor {name!r}: unknown dtype {repr(code)[:200]}; known: {', '.join(_DTYPES)}")
    if code in _PLAIN:
        return _PLAIN[code]
    try:
        import ml_dtypes
    except ImportError:
        raise FormatError(f"{path}: tensor {name!r}: dtype {code} needs ml_dtypes: pip install ml_dtypes") from None
    return np.dtype(getattr(ml_dtypes, _DTYPES[code]))
