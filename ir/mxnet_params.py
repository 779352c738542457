"""MXNet's .params format: named arrays one after the other, read and written without MXNet.

Little-endian (src/ndarray/ndarray.cc of MXNet 1.9.1, NDArray::Load and NDArray::Save): the list magic 0x112 and a
reserved number, 8 bytes each; how many arrays; the arrays; how many names; the names, each after its length. An array
begins with one of three magic numbers, or, before MXNet 0.11, with its number of axes. Names may begin with "arg:" or
"aux:".
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from mopruning.errors import FormatError
from mopruning.files import TensorFile
from mopruning.ir.atomic import atomic
from mopruning.ir.lazy import LazyArray, MappedFile, lazy, plain, read_all

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"

_LIST = 0x112
_V1, _V2, _V3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA  # 64-bit shapes; storage types; arrays without axes
_TYPES = ("float32", "float64", "float16", "uint8", "int32", "int8", "int64", "bool", "int16", "uint16", "uint32")
_CODES = {**dict(enumerate(_TYPES)), 11: "uint64", 12: "bfloat16"}
_STORED = {-1: "unknown", 0: "dense", 1: "row_sparse", 2: "csr"}
_CPU = 1
_MOST_AXES = 32


def arrays_of(path: str | os.PathLike[str]) -> dict[str, LazyArray]:
    """Read which arrays a file holds; each is read when asked for, as a read-only view of the mapped file.

    Every length is checked against the file before anything is looked at. A file of arrays without names, as
    `mx.nd.save` writes a list, gives "0", "1", ...; arrays without content are left out.

    Args:
        path: The file.

    Returns:
        Arrays by the name they have in the file, "arg:" and "aux:" included.

    Raises:
        FormatError: If the file is damaged or of another format, or holds sparse arrays.
        OSError: If it cannot be read.
    """
    file = Path(path)
    return _Cursor(file, MappedFile(file)).arrays()


def read(path: str | os.PathLike[str]) -> dict[str, NumPyArray]:
    """Read every array; see `arrays_of`."""
    return read_all(arrays_of(path))


def write(path: str | os.PathLike[str], arrays: Mapping[str, NumPyArray | LazyArray]) -> None:
    """Write named arrays, one after the other, in the form that MXNet 1.0 and all later ones read.

    Args:
        path: Where to.
        arrays: What to write, by name. One without axes makes a file that only MXNet 1.6 and later read, under
            `mx.npx.set_np`.

    Raises:
        FormatError: If the format has no such dtype.
        OSError: If the file cannot be written.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "net.params"
    >>> write(path, {"arg:fc.weight": np.eye(2, dtype=np.float32)})
    >>> read(path)["arg:fc.weight"].tolist(), path.stat().st_size
    ([[1.0, 0.0], [0.0, 1.0]], 109)
    """
    codes = {name: code for code, name in _CODES.items()}
    tensors = {name: lazy(array) for name, array in arrays.items()}
    for name, array in tensors.items():
        if array.dtype.name not in codes:
            raise FormatError(f"tensor {name!r}: .params has no dtype {array.dtype.name}; write .safetensors instead")
    magic = _V3 if any(not array.shape or 0 in array.shape for array in tensors.values()) else _V2
    with open(path, "wb") as stream:
        stream.write(struct.pack("<QQQ", _LIST, 0, len(tensors)))
        for array in tensors.values():
            stream.write(struct.pack(f"<Iii{len(array.shape)}q", magic, 0, len(array.shape), *array.shape))
            stream.write(struct.pack("<iii", _CPU, 0, codes[array.dtype.name]))
            stream.write(plain(array.read()).reshape(-1).view(np.uint8).data)
            array.release()
        stream.write(struct.pack("<Q", len(tensors)))
        for name in tensors:
            letters = name.encode()
            stream.write(struct.pack("<Q", len(letters)) + letters)


@dataclass
class ParamsFile(TensorFile):
    """An opened .params file; its arrays stand in the order of their network, but for the running statistics.

    Args:
        path: Where it was read from.
        tensors: Every array by its name without prefix, in the file's order.
        prefixes: Name -> "arg:", "aux:" or "".
    """

    path: Path
    tensors: dict[str, NumPyArray]
    prefixes: dict[str, str] = field(default_factory=dict)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a .params file with the same prefixes, whole or not at all."""
        with atomic(path) as temporary:
            write(temporary, {f"{self.prefixes.get(name, '')}{name}": array for name, array in self.tensors.items()})


def open_weights(path: str | os.PathLike[str]) -> ParamsFile:
    """Read a .params file with all that belongs to it.

    Raises:
        FormatError: If the file is damaged or of another format, or two names differ in their prefix alone.
        OSError: If it cannot be read.
    """
    found, prefixes = _named(path)
    return ParamsFile(Path(path), read_all(found), prefixes)


def write_weights(path: str | os.PathLike[str], weights: Mapping[str, NumPyArray | LazyArray]) -> None:
    """Write arrays to a .params file, whole or not at all, under the names they have."""
    with atomic(path) as temporary:
        write(temporary, weights)


def read_lazily(path: str | os.PathLike[str]) -> tuple[dict[str, LazyArray], dict[str, str]]:
    """Read which weights a file holds, without prefixes; each is read when asked for. There is no metadata.

    Raises:
        FormatError: If the file is damaged or of another format, or two names differ in their prefix alone.
        OSError: If it cannot be read.
    """
    return _named(path)[0], {}


def write_lazily(
    path: str | os.PathLike[str], tensors: Mapping[str, LazyArray], metadata: Mapping[str, str] | None = None
) -> None:
    """Write weights one at a time, whole or not at all; `metadata` must be empty.

    Raises:
        FormatError: If the format has no such dtype, or there is metadata.
        OSError: If the file cannot be written.
    """
    if metadata:
        raise FormatError(f"{os.fspath(path)}: .params has no place for {', '.join(sorted(metadata))}")
    write_weights(path, tensors)


def copy(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Copy a file with its prefixes, whole or not at all, after a look that it is one.

    Raises:
        FormatError: If the source is damaged or of another format.
        OSError: If a file cannot be read or written.
    """
    write_weights(target, arrays_of(source))


def _named(path: str | os.PathLike[str]) -> tuple[dict[str, LazyArray], dict[str, str]]:
    """Return arrays by name without prefix, and the prefix of each."""
    tensors, prefixes = {}, {}
    for full, array in arrays_of(path).items():
        prefix, name = split_prefix(full)
        if name in tensors:
            raise FormatError(f"{os.fspath(path)}: two arrays are called {name!r}")
        tensors[name], prefixes[name] = array, prefix
    return tensors, prefixes


def split_prefix(name: str) -> tuple[str, str]:
    """Part a name in a file from its prefix.

    >>> split_prefix("aux:bn1.running_mean"), split_prefix("bn1.running_mean")
    (('aux:', 'bn1.running_mean'), ('', 'bn1.running_mean'))
    """
    return (name[:4], name[4:]) if name.startswith(("arg:", "aux:")) else ("", name)


class _Cursor:
    """Reads a file front to back, no byte beyond its end."""

    def __init__(self, path: Path, mapped: MappedFile) -> None:
        self.path = path
        self.mapped = mapped
        self.place = 0

    def arrays(self) -> dict[str, LazyArray]:
        magic, _ = self.numbers("QQ", "the header")
        if magic != _LIST:
            raise FormatError(f"{self.path}: no .params file: it begins with {magic:#x}, expected {_LIST:#x}")
        (count,) = self.numbers("Q", "the number of arrays")
        if count > len(self.mapped.content):
            raise FormatError(f"{self.path}: damaged: {count} arrays do not fit into the file")
        found = [self.array(index) for index in range(count)]
        (named,) = self.numbers("Q", "the number of names")
        if named not in (0, count):
            raise FormatError(f"{self.path}: damaged: {count} arrays have {named} names")
        names = [self.name(index) for index in range(named)] or [str(index) for index in range(count)]
        if self.place != len(self.mapped.content):
            raise FormatError(f"{self.path}: damaged: {len(self.mapped.content) - self.place} bytes follow the names")
        if len(set(names)) < len(names):
            twice = next(name for index, name in enumerate(names) if name in names[:index])
            raise FormatError(f"{self.path}: damaged: two arrays are called {twice!r}")
        return {name: array for name, array in zip(names, found, strict=True) if array is not None}

    def array(self, index: int) -> LazyArray | None:
        where = f"array {index}"
        (magic,) = self.numbers("I", where)
        if magic in (_V2, _V3):
            (stored,) = self.numbers("i", where)
            if stored not in (-1, 0):
                kind = _STORED.get(stored, f"type {stored}")
                raise FormatError(f"{self.path}: {where} is stored as {kind}; make it dense (tostype('default')) first")
            (axes,) = self.numbers("i", where)
            shape = self.shape(axes, "q", where)
        elif magic == _V1:
            (axes,) = self.numbers("I", where)
            shape = self.shape(axes, "q", where)
        else:
            shape = self.shape(magic, "I", where)  # of the first format, which begins with the number of axes
        if shape is None or (not shape and magic != _V3):
            return None
        _, _, code = self.numbers("iii", where)
        if code not in _CODES:
            raise FormatError(f"{self.path}: damaged: {where} is of type {code}; known are 0 to {max(_CODES)}")
        dtype = self._dtype(_CODES[code])
        size = math.prod(shape) * dtype.itemsize
        if size > len(self.mapped.content) - self.place:
            raise FormatError(f"{self.path}: truncated or damaged: {where}, {dtype.name} {list(shape)}, does not fit")
        start = self.place
        self.place += size
        content = self.mapped.content[start : self.place]

        def numbers() -> NumPyArray:
            if content.ctypes.data % dtype.itemsize:  # not aligned: NumPy reads it, others do not
                return np.frombuffer(content.tobytes(), dtype).reshape(shape)
            return content.view(dtype).reshape(shape)

        return LazyArray(dtype, shape, numbers, lambda: self.mapped.release(start, start + size))

    def shape(self, axes: int, kind: str, where: str) -> tuple[int, ...] | None:
        """Read a shape; None for one that is unknown."""
        if axes == -1:
            return None
        if not 0 <= axes <= _MOST_AXES:
            raise FormatError(f"{self.path}: damaged: {where} has {axes} axes")
        shape = self.numbers(f"{axes}{kind}", where) if axes else ()
        if any(size < 0 for size in shape):
            raise FormatError(f"{self.path}: damaged: {where} has shape {list(shape)}")
        return shape

    def name(self, index: int) -> str:
        (length,) = self.numbers("Q", f"name {index}")
        if length > len(self.mapped.content) - self.place:
            raise FormatError(f"{self.path}: truncated or damaged: name {index} does not fit")
        letters = self.mapped.content[self.place : self.place + length].tobytes()
        self.place += length
        try:
            return letters.decode()
        except UnicodeDecodeError:
            raise FormatError(f"{self.path}: damaged: name {index} is no text") from None

    def numbers(self, kinds: str, what: str) -> tuple[int, ...]:
        size = struct.calcsize(f"<{kinds}")
        if size > len(self.mapped.content) - self.place:
            raise FormatError(f"{self.path}: truncated: {what} is missing")
        found = struct.unpack(f"<{kinds}", self.mapped.content[self.place : self.place + size].tobytes())
        self.place += size
        return found

    def _dtype(self, name: str) -> np.dtype[Any]:
        if name != "bfloat16":
            return np.dtype(name).newbyteorder("<")
        try:
            import ml_dtypes
        except ImportError:
            raise FormatError(f"{self.path}: bfloat16 needs ml_dtypes: pip install ml_dtypes") from None
        return np.dtype(ml_dtypes.bfloat16)
