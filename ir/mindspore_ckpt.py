"""MindSpore's .ckpt format: named tensors as protobuf, read and written without MindSpore.

One message `Checkpoint` (mindspore/train/checkpoint.proto of MindSpore 2.10): field 1 again and again, a value with tag
(1) and tensor (2); a tensor has dims (1), tensor_type (2), such as "Float32", and tensor_content (3). A tensor over
512 MB stands in slices, one after the other under one tag. A checkpoint may end with "crc_num" and 10 bytes: the CRC32
of what stands before.
"""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from mopruning.errors import FormatError
from mopruning.files import TensorFile
from mopruning.ir.atomic import atomic
from mopruning.ir.lazy import LazyArray, lazy, plain, read_all

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"

_TYPES = {
    **{f"Int{bits}": f"int{bits}" for bits in (8, 16, 32, 64)},
    **{f"UInt{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)},
    "Float16": "float16",
    "Float32": "float32",
    "Float64": "float64",
    "BFloat16": "bfloat16",
    "Bool": "bool",
}
_SLICE = 1 << 29
_CRC = b"crc_num"
_MOST_AXES = 32
_VARINT, _LENGTH, _FIXED64, _FIXED32 = 0, 2, 1, 5


@dataclass
class Checkpoint(TensorFile):
    """An opened .ckpt file.

    A checkpoint does not say which Cell a weight belongs to, so each is taken as canonical; the weight of a transposed
    convolution is really [in, out, *kernel].

    Args:
        path: Where it was read from.
        tensors: Every tensor by name, in the file's order.
        texts: What was saved beside them as text (`append_dict`), as it stands in the file.
        checked: Whether the file ends with a CRC32.
    """

    path: Path
    tensors: dict[str, NumPyArray]
    texts: dict[str, bytes] = field(default_factory=dict)
    checked: bool = False

    @property
    def beside(self) -> tuple[str, ...]:
        """Names of the texts beside the tensors."""
        return tuple(sorted(self.texts))

    def arrays(self) -> dict[str, NumPyArray]:
        """Return every tensor, for a file of another format.

        Raises:
            FormatError: If another format would lose the texts beside them.
        """
        if self.texts:
            raise FormatError(f"{self.path}: only .ckpt can hold what it has besides ({', '.join(self.texts)})")
        return self.weights()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a .ckpt file with the same texts, and a CRC32 if it had one, whole or not at all."""
        _write(path, self.tensors, self.texts, self.checked)


def read_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a checkpoint with all that belongs to it.

    Every length is checked against the file before anything is made of it.

    Raises:
        FormatError: If the file is damaged, encrypted or of another format, or holds a MapParameter.
        OSError: If it cannot be read.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "net.ckpt"
    >>> write_weights(path, {"fc.weight": np.eye(2, dtype=np.float32)})
    >>> read_checkpoint(path).tensors["fc.weight"].tolist(), path.stat().st_size
    ([[1.0, 0.0], [0.0, 1.0]], 46)
    """
    file = Path(path)
    content = file.read_bytes()
    if not content:
        raise FormatError(f"{file}: is empty, expected a MindSpore checkpoint")
    checked = content[-17:-10] == _CRC
    body = memoryview(content)[: -17 if checked else None]
    if checked and zlib.crc32(body) != int.from_bytes(content[-10:], "big"):
        raise FormatError(f"{file}: damaged: the CRC32 of its bytes does not match")
    slices: dict[str, tuple[str, tuple[int, ...], list[memoryview]]] = {}
    try:
        for number, kind, value in _fields(body):
            if (number, kind) != (1, _LENGTH):
                raise FormatError(f"field {number} is none of a checkpoint")
            name, dtype, shape, part = _value(value)
            if name in slices and slices[name][:2] != (dtype, shape):
                raise FormatError(f"two tensors are called {name!r}")
            slices.setdefault(name, (dtype, shape, []))[2].append(part)
        arrays, texts = {}, {}
        for name, (dtype, shape, parts) in slices.items():
            if dtype == "str":
                texts[name] = b"".join(parts)
            else:
                arrays[name] = _array(name, dtype, shape, parts)
    except FormatError as error:
        raise FormatError(f"{file}: damaged or encrypted, or no MindSpore checkpoint: {error}") from None
    return Checkpoint(file, arrays, texts, checked)


def write_weights(path: str | os.PathLike[str], weights: Mapping[str, NumPyArray]) -> None:
    """Write arrays as a .ckpt file that `mindspore.load_checkpoint` reads, whole or not at all.

    Raises:
        FormatError: If MindSpore has no such dtype.
        OSError: If the file cannot be written.
    """
    _write(path, weights, {}, checked=False)


def read_lazily(path: str | os.PathLike[str]) -> tuple[dict[str, LazyArray], dict[str, str]]:
    """Read the tensors of a checkpoint that holds nothing else; the file is read whole, as its slices may be mixed.

    Raises:
        FormatError: If the file is damaged, or another format would lose the texts in it.
        OSError: If it cannot be read.
    """
    return {name: lazy(array) for name, array in read_checkpoint(path).arrays().items()}, {}


def write_lazily(
    path: str | os.PathLike[str], tensors: Mapping[str, LazyArray], metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors to a .ckpt file, whole or not at all; `metadata` must be empty.

    Raises:
        FormatError: If MindSpore has no such dtype, or there is metadata.
        OSError: If the file cannot be written.
    """
    if metadata:
        raise FormatError(f"{os.fspath(path)}: .ckpt has no place for {', '.join(sorted(metadata))}")
    write_weights(path, read_all(tensors))


def copy(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Copy a checkpoint with all that it holds, whole or not at all, after a look that it is one.

    Raises:
        FormatError: If the source is damaged or of another format.
        OSError: If a file cannot be read or written.
    """
    read_checkpoint(source).save(target)


def _write(
    path: str | os.PathLike[str], weights: Mapping[str, NumPyArray], texts: Mapping[str, bytes], checked: bool
) -> None:
    types = {numpy: own for own, numpy in _TYPES.items()}
    for name, array in weights.items():
        if array.dtype.name not in types:
            raise FormatError(f"tensor {name!r}: .ckpt has no dtype {array.dtype.name}; write .safetensors instead")
    crc = 0
    with atomic(path) as temporary, temporary.open("wb") as stream:
        for name, array in weights.items():
            own = types[array.dtype.name]
            content = plain(array).reshape(-1).view(np.uint8)
            for start in range(0, max(content.size, 1), _SLICE):
                record = _record(name, own, array.shape, content[start : start + _SLICE].data)
                for piece in record:
                    stream.write(piece)
                    crc = zlib.crc32(piece, crc)
        for name, text in texts.items():
            for piece in _record(name, "str", (0,), memoryview(text)):
                stream.write(piece)
                crc = zlib.crc32(piece, crc)
        if checked:
            stream.write(_CRC + crc.to_bytes(10, "big"))


def _record(name: str, dtype: str, shape: tuple[int, ...], content: memoryview) -> list[bytes | memoryview]:
    """Return the pieces of one value."""
    dims = b"".join(b"\x08" + _varint(size) for size in shape)
    head = dims + b"\x12" + _varint(len(dtype)) + dtype.encode() + b"\x1a" + _varint(len(content))
    tag = name.encode()
    value = b"\x0a" + _varint(len(tag)) + tag + b"\x12" + _varint(len(head) + len(content)) + head
    return [b"\x0a" + _varint(len(value) + len(content)) + value, content]


def _varint(number: int) -> bytes:
    result = bytearray()
    while number > 0x7F:
        result.append(number & 0x7F | 0x80)
        number >>= 7
    result.append(number)
    return bytes(result)


def _value(content: memoryview) -> tuple[str, str, tuple[int, ...], memoryview]:
    """Return name, type, shape and content of one value."""
    fields = {number: value for number, kind, value in _fields(content) if kind == _LENGTH}
    if 1 not in fields:
        raise FormatError("a tensor has no name")
    name = _text(fields[1], "the name of a tensor")
    if 3 in fields:
        raise FormatError(f"tensor {name!r} is a MapParameter, which no other program can hold")
    if 2 not in fields:
        raise FormatError(f"tensor {name!r} has no content")
    dims: list[int] = []
    dtype, data = "", None
    for number, kind, value in _fields(fields[2]):
        if number == 1 and kind == _VARINT:
            dims.append(value)
        elif number == 1 and kind == _LENGTH:  # packed
            dims += _numbers(value)
        elif number == 2 and kind == _LENGTH:
            dtype = _text(value, f"the type of tensor {name!r}")
        elif number == 3 and kind == _LENGTH:
            data = value
    if data is None or (dtype not in _TYPES and dtype != "str"):
        raise FormatError(f"tensor {name!r} is of type {dtype!r}; known: {', '.join(_TYPES)}")
    return name, dtype, tuple(dims), data


def _array(name: str, dtype: str, shape: tuple[int, ...], parts: list[memoryview]) -> NumPyArray:
    own = _dtype(_TYPES[dtype])
    held = sum(len(part) for part in parts)
    if shape == (0,) and held == own.itemsize:
        shape = ()  # MindSpore reads [0] as no axes at all
    if len(shape) > _MOST_AXES or math.prod(shape) * own.itemsize != held:
        raise FormatError(f"tensor {name!r}: {dtype} {list(shape)} does not take {held} bytes")
    whole = parts[0] if len(parts) == 1 else b"".join(parts)
    return np.frombuffer(whole, own).reshape(shape)


def _dtype(name: str) -> np.dtype[Any]:
    if name != "bfloat16":
        return np.dtype(name).newbyteorder("<")
    try:
        import ml_dtypes
    except ImportError:
        raise FormatError("bfloat16 needs ml_dtypes: pip install ml_dtypes") from None
    return np.dtype(ml_dtypes.bfloat16)


def _text(content: memoryview, what: str) -> str:
    try:
        return bytes(content).decode()
    except UnicodeDecodeError:
        raise FormatError(f"{what} is no text") from None


def _fields(content: memoryview) -> Iterator[tuple[int, int, Any]]:
    """Yield number, wire type and value of each field (https://protobuf.dev/programming-guides/encoding)."""
    place = 0
    while place < len(content):
        key, place = _read_varint(content, place)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, place = _read_varint(content, place)
            yield number, kind, value
            continue
        if kind == _LENGTH:
            size, place = _read_varint(content, place)
        elif kind in (_FIXED64, _FIXED32):
            size = 8 if kind == _FIXED64 else 4
        else:
            raise FormatError(f"byte {place} begins no field")
        if size > len(content) - place:
            raise FormatError(f"truncated: a field of {size} bytes at byte {place} does not fit")
        yield number, kind, content[place : place + size]
        place += size


def _numbers(content: memoryview) -> Iterator[int]:
    place = 0
    while place < len(content):
        number, place = _read_varint(content, place)
        yield number


def _read_varint(content: memoryview, place: int) -> tuple[int, int]:
    result = 0
    for shift in range(0, 70, 7):
        if place >= len(content):
            raise FormatError("truncated in the middle of a number")
        byte = content[place]
        place += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result, place
    raise FormatError(f"a number at byte {place} does not end")
