"""The .mopir container: one .safetensors file of encoded tensors, with what describes them in its metadata.

A tensor `w` is stored as `w` if dense, else as `w.values` and an index (`w.bitmask`, `w.gaps` or `w.banks`, uint8). The
metadata is "format": "mopir", "format_version": "1", "tensors": JSON {name: {"encoding", "dtype", "shape", "crc32" of
each part, parameters of the encoding}} in the network's order, "crc32" of all other metadata, and what the caller adds.
"""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from mopruning.errors import FormatError
from mopruning.ir import json_text, safetensors
from mopruning.ir.atomic import atomic
from mopruning.ir.encodings import INDEX, Encoded, check, decode, encode
from mopruning.ir.lazy import LazyArray, MappedFile

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"

FORMAT, VERSION = "mopir", "1"
TEXTS = ("graph", "recipe", "provenance")
"""Keys of what a caller may add to the metadata."""

KEPT = 32 << 20  # bytes of encoded tensors kept until the header is written; beyond them they are encoded again
_KEYS = {"encoding", "dtype", "shape", "crc32"}
_PARAMETERS = {"n", "m", "axis"}


@dataclass(frozen=True, eq=False)
class StoredArray(LazyArray):
    """A tensor in a .mopir file, decoded when asked for.

    Args:
        encoding: How it is stored.
        parameters: Of the encoding.
        stored: Bytes that it takes in the file, its entry in the header not counted.
    """

    encoding: str = "dense"
    parameters: Mapping[str, int] = field(default_factory=dict)
    stored: int = 0


# ---- write


@dataclass(eq=False)
class _Plan:
    """How a tensor will be stored, known before the first of them is written."""

    encoding: str
    parameters: Mapping[str, int]
    parts: dict[str, tuple[np.dtype[Any], tuple[int, ...]]]
    checksums: list[int]
    encoded: Encoded | None  # None: encode it again when its turn comes


def write(path: str | os.PathLike[str], tensors: Mapping[str, LazyArray], texts: Mapping[str, str]) -> None:
    """Write a file, whole or not at all, holding one decoded tensor at a time.

    Args:
        path: Where to; a file that is there is replaced.
        tensors: What to store, by name. Each is read once or twice.
        texts: Further metadata, by keys from `TEXTS`.

    Raises:
        FormatError: If the format cannot hold a dtype or a name.
        OSError: If the file cannot be written.
    """
    for name, one in tensors.items():
        if safetensors.code_of(one.dtype) is None:
            raise FormatError(f"tensor {name!r}: .mopir has no dtype {one.dtype.name}")
    room = KEPT
    plans = {}
    for name, one in tensors.items():
        plans[name] = _plan(name, one, tensors.keys(), room)
        encoded = plans[name].encoded
        room -= 0 if encoded is None else encoded.nbytes
        one.release()
    # wider dtypes first, and each index, which fills whole words, behind its values: so all that follows is aligned
    order = sorted(tensors, key=lambda name: -tensors[name].dtype.itemsize)
    specs = {_part(name, part): spec for name in order for part, spec in plans[name].parts.items()}
    header = safetensors.make_header(specs, _metadata(tensors, plans, texts))
    with atomic(path) as temporary, temporary.open("wb") as stream:
        stream.write(header)
        for name in order:
            encoded = plans[name].encoded or _again(name, tensors[name], plans[name])
            plans[name].encoded = None
            for part in encoded.parts.values():
                stream.write(safetensors.as_bytes(part))
            del encoded  # before the next tensor is read
            tensors[name].release()


def _plan(name: str, one: LazyArray, taken: Collection[str], room: int) -> _Plan:
    # a network may have another tensor under the name that a part would get
    free = not any(_part(name, part) in taken for part in ("values", *filter(None, INDEX.values())))
    encoded = encode(one.read(), only=None if free else "dense")
    keep = encoded.encoding != "dense" and encoded.nbytes <= room
    parts = {part: (array.dtype, array.shape) for part, array in encoded.parts.items()}
    return _Plan(encoded.encoding, encoded.parameters, parts, _checksums(encoded), encoded if keep else None)


def _again(name: str, one: LazyArray, plan: _Plan) -> Encoded:
    encoded = encode(one.read(), only=plan.encoding)
    if _checksums(encoded) != plan.checksums:
        raise FormatError(f"tensor {name!r} changed while it was being written")
    return encoded


def _checksums(encoded: Encoded) -> list[int]:
    return [zlib.crc32(safetensors.as_bytes(part)) for part in encoded.parts.values()]


def _part(name: str, part: str) -> str:
    return f"{name}.{part}" if part else name


def _metadata(tensors: Mapping[str, LazyArray], plans: Mapping[str, _Plan], texts: Mapping[str, str]) -> dict[str, str]:
    rows = {
        name: {
            "encoding": plan.encoding,
            "dtype": safetensors.code_of(tensors[name].dtype),
            "shape": list(tensors[name].shape),
            "crc32": plan.checksums,
            **plan.parameters,
        }
        for name, plan in plans.items()
    }
    metadata = {"format": FORMAT, "format_version": VERSION, **texts, "tensors": json_text.compact(rows)}
    return metadata | {"crc32": _checksum(metadata)}


def _checksum(metadata: Mapping[str, str]) -> str:
    """Return the CRC32 of all keys and values in sorted order, each ended by a zero byte, as eight digits."""
    value = 0
    for key in sorted(metadata.keys() - {"crc32"}):
        value = zlib.crc32(f"{key}\0{metadata[key]}\0".encode("utf-8", "surrogatepass"), value)
    return f"{value:08x}"


# ---- read


def read(path: str | os.PathLike[str]) -> tuple[dict[str, StoredArray], dict[str, str]]:
    """Check a file's header and metadata; its tensors are checked and decoded when asked for.

    Args:
        path: The file, which is mapped into memory.

    Returns:
        Its tensors by name, and the texts that `write` was given.

    Raises:
        FormatError: If anything is damaged, unknown or does not fit; the message names the tensor and the check. Also
            from `StoredArray.read`.
        OSError: If the file cannot be read.
    """
    file, name = MappedFile(path), Path(path)
    if _is_code(file.content):
        raise FormatError(f"{name}: refused: a pickle or an archive, not a .mopir file; nothing in it was run")
    entries, metadata = safetensors.read_header(name, file.content)
    _check_metadata(name, metadata)
    try:
        rows = json_text.parse(metadata["tensors"])
    except FormatError as error:
        raise FormatError(f"{name}: metadata 'tensors' {error}") from None
    if not isinstance(rows, dict):
        raise FormatError(f"{name}: metadata 'tensors' must be an object, got {type(rows).__name__}")
    stored = {tensor: _stored(name, file, tensor, row, entries) for tensor, row in rows.items()}
    if entries:
        raise FormatError(f"{name}: tensor {next(iter(entries))!r} belongs to none that the metadata describes")
    return stored, {key: text for key, text in metadata.items() if key in TEXTS}


def _is_code(content: NumPyArray) -> bool:
    """Whether a file begins as pickles and archives do, and not with the length of a header."""
    begin = content[:8].tobytes()
    return begin.startswith((b"\x80", b"PK")) and int.from_bytes(begin, "little") > safetensors.LARGEST_HEADER


def _check_metadata(path: Path, metadata: Mapping[str, str]) -> None:
    if metadata.get("format") != FORMAT:
        given = repr(metadata.get("format"))[:40]
        raise FormatError(f"{path}: no .mopir file: metadata 'format' is {given}, not {FORMAT!r}")
    if metadata.get("format_version") != VERSION:
        version = repr(metadata.get("format_version"))[:40]
        raise FormatError(f"{path}: format_version is {version}, this program reads {VERSION!r}: update mopruning")
    if metadata.get("crc32") != _checksum(metadata):
        raise FormatError(f"{path}: damaged: the CRC32 of the metadata does not match")
    unknown = metadata.keys() - {"format", "format_version", "tensors", "crc32", *TEXTS}
    if unknown or "tensors" not in metadata:
        what = f"unknown key {min(unknown)!r}" if unknown else "no 'tensors'"
        raise FormatError(f"{path}: {what} in the metadata")


def _stored(path: Path, file: MappedFile, name: str, row: Any, entries: dict[str, safetensors.Entry]) -> StoredArray:
    """Check all that can be checked without the bytes, and take the tensor's parts out of `entries`."""
    try:
        return _checked(path, file, name, row, entries)
    except FormatError as error:
        text = str(error)
        where = f"{path}: tensor {name!r}"
        raise FormatError(text if text.startswith(where) else f"{where}: {text}") from None


def _checked(path: Path, file: MappedFile, name: str, row: Any, entries: dict[str, safetensors.Entry]) -> StoredArray:
    if not isinstance(row, dict) or not _KEYS <= row.keys() <= _KEYS | _PARAMETERS:
        raise FormatError(f"expected {', '.join(sorted(_KEYS))}, got {repr(row)[:200]}")
    encoding, sides, checksums = row["encoding"], row["shape"], row["crc32"]
    if not isinstance(encoding, str) or encoding not in INDEX:
        raise FormatError(f"unknown encoding {repr(encoding)[:200]}; known: {', '.join(INDEX)}")
    if not isinstance(sides, list):
        raise FormatError(f"its shape must be a list, got {repr(sides)[:200]}")
    shape, dtype = tuple(sides), safetensors.dtype_of(path, name, row["dtype"])
    safetensors.check_shape(path, name, shape)
    parts = ("",) if encoding == "dense" else ("values", str(INDEX[encoding]))
    if not (isinstance(checksums, list) and len(checksums) == len(parts) and _whole(checksums)):
        raise FormatError(f"expected {len(parts)} crc32, got {repr(checksums)[:200]}")
    parameters = {key: value for key, value in row.items() if key in _PARAMETERS}
    if not _whole(parameters.values()):
        raise FormatError(f"parameters must be whole numbers, got {repr(parameters)[:200]}")
    found = {}
    for part in parts:
        full = _part(name, part)
        entry = entries.pop(full, None)
        if entry is None:
            raise FormatError(f"its part {full!r} is missing")
        fits = entry.shape == shape if part == "" else len(entry.shape) == 1
        if not fits or entry.dtype != (dtype if part in ("", "values") else np.uint8):
            raise FormatError(f"its part {full!r} is {entry.dtype.name} {list(entry.shape)}")
        found[part] = entry
    check(encoding, dtype, shape, parameters, {part: math.prod(entry.shape) for part, entry in found.items()})
    content = _Content(f"{path}: tensor {name!r}", file, encoding, dtype, shape, parameters, found, checksums)
    size = sum(entry.end - entry.begin for entry in found.values())
    return StoredArray(dtype, shape, content.read, content.release, encoding, parameters, size)


def _whole(numbers: Iterable[Any]) -> bool:
    return all(type(number) is int and 0 <= number < 2**32 for number in numbers)


@dataclass(frozen=True, eq=False)
class _Content:
    """The bytes of one tensor in the file."""

    where: str
    file: MappedFile
    encoding: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    parameters: Mapping[str, int]
    entries: Mapping[str, safetensors.Entry]
    checksums: list[int]

    def read(self) -> NumPyArray:
        for (part, entry), checksum in zip(self.entries.items(), self.checksums, strict=True):
            if zlib.crc32(self.file.content[entry.begin : entry.end].data) != checksum:
                raise FormatError(f"{self.where}: damaged: the CRC32 of its {part or 'bytes'} does not match")
        array = safetensors.view(self.file, self.entries[""]) if self.encoding == "dense" else self._decode()
        if self.dtype == np.bool_ and array.size and array.view(np.uint8).max() > 1:
            raise FormatError(f"{self.where}: a bool must be 0 or 1")
        return array

    def _decode(self) -> NumPyArray:
        parts = {part: safetensors.view(self.file, entry) for part, entry in self.entries.items()}
        try:
            array = decode(Encoded(self.encoding, self.dtype, self.shape, parts, self.parameters))
        except FormatError as error:
            raise FormatError(f"{self.where}: {error}") from None
        array.flags.writeable = False  # as a mapped dense one is: tensors are shared
        self.release()
        return array

    def release(self) -> None:
        for entry in self.entries.values():
            self.file.release(entry.begin, entry.end)
