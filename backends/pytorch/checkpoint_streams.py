"""PyTorch checkpoints one tensor at a time: read where the file holds them, written into a file that torch laid out."""

from __future__ import annotations

import os
import shutil
import sys
import zipfile
import zlib
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from mopruning.backends.pytorch import checkpoint
from mopruning.errors import FormatError
from mopruning.ir.atomic import atomic
from mopruning.ir.lazy import LazyArray, MappedFile, lazy

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"

_LOCAL, _CENTRAL, _DESCRIPTOR = b"PK\x03\x04", b"PK\x01\x02", b"PK\x07\x08"  # what parts of a zip archive begin with


def read_lazily(path: str | os.PathLike[str]) -> tuple[dict[str, LazyArray], dict[str, str]]:
    """Read which tensors a flat state dict holds; each is a read-only view of the mapped file, made when asked for.

    Files that torch wrote before version 1.6, compressed ones and those of machines with another byte order are read
    as a whole.

    Args:
        path: A .pth or .pt file.

    Returns:
        The tensors by name, and no metadata, as the format has none.

    Raises:
        FormatError: If the file is damaged or contains code, or holds more than one flat state dict of dense tensors.
        OSError: If it cannot be read.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "net.pth"
    >>> torch.save({"fc.weight": torch.eye(2).T}, path)
    >>> read_lazily(path)[0]["fc.weight"].read()
    array([[1., 0.],
           [0., 1.]], dtype=float32)
    """
    file = Path(path)
    state = _state(file)
    if state is None:
        return {name: lazy(array) for name, array in checkpoint.read_checkpoint(file).arrays().items()}, {}
    mapped, ends = MappedFile(file), _ends(file)
    return {name: _lazy(file, name, tensor, mapped, ends) for name, tensor in state.items()}, {}


def write_lazily(
    path: str | os.PathLike[str], tensors: Mapping[str, LazyArray], metadata: Mapping[str, str] | None = None
) -> None:
    """Write a flat state dict, whole or not at all, holding one tensor at a time.

    Torch lays the file out with room for the tensors (`torch.serialization.skip_data`), and their bytes and checksums
    are filled in afterwards: it is a checkpoint like any other.

    Args:
        path: Where to. A file that is there is replaced.
        tensors: What to write, by name; each is read once.
        metadata: Must be empty.

    Raises:
        FormatError: If torch has no such dtype, or there is metadata.
        OSError: If the file cannot be written.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode  # takes a second to import

    file = Path(path)
    if metadata:
        raise FormatError(f"{file}: {file.suffix} has no place for {', '.join(sorted(metadata))}")
    dtypes = {name: checkpoint.to_tensor(name, np.empty(0, one.dtype)).dtype for name, one in tensors.items()}
    with FakeTensorMode():
        state = {name: torch.empty(one.shape, dtype=dtypes[name]) for name, one in tensors.items()}
    with atomic(file) as temporary:
        # a stream, because torch writes the name of a file into it, and the temporary one's is random
        with temporary.open("wb") as stream, torch.serialization.skip_data(materialize_fake_tensors=True):
            torch.save(state, stream)
        _fill(temporary, tensors)


def copy(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Copy a checkpoint with all that it holds, whole or not at all, after a look that it is one.

    Raises:
        FormatError: If the source is damaged, contains code or holds no state dict.
        OSError: If a file cannot be read or written.
    """
    file = Path(source)
    if not _streamable(file):
        checkpoint.read_checkpoint(file).save(target)
        return
    checkpoint.locate(file, checkpoint.load(file, "meta"))
    with atomic(target) as temporary:
        shutil.copyfile(file, temporary)


# ---- read


def _state(path: Path) -> dict[str, Tensor] | None:
    """Return the state dict without its bytes; None where the file has to be read as a whole."""
    if not _streamable(path):
        return None
    try:
        content = checkpoint.load(path, "meta")
    except FormatError:  # damaged, or a tensor that torch cannot do without its bytes: reading it all tells
        return None
    state = checkpoint.flat_state(path, content, checkpoint.locate(path, content))
    computed = any(value.is_conj() or value.is_neg() for value in state.values())  # not as the bytes say
    return None if computed else dict(state)


def _streamable(path: Path) -> bool:
    """Whether a file holds its tensors byte for byte, as `torch.save` has written them since version 1.6."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                return False
            orders = [entry for entry in entries if entry.filename.endswith("/byteorder")]
            return all(archive.open(entry).read(16) == sys.byteorder.encode() for entry in orders)
    except Exception:  # a damaged archive makes zipfile raise almost anything; reading it as a whole says what is wrong
        return False


def _ends(path: Path) -> list[int]:
    """Return where the parts of an archive end, in order."""
    with zipfile.ZipFile(path) as archive:
        return sorted([*(entry.header_offset for entry in archive.infolist()), archive.start_dir])


def _offset(tensor: Tensor) -> int:
    """Return where the storage of a tensor lies in its file, which torch notes for loads without bytes."""
    return int(getattr(tensor.untyped_storage(), checkpoint.OFFSET))


def _lazy(path: Path, name: str, tensor: Tensor, file: MappedFile, ends: list[int]) -> LazyArray:
    dtype = checkpoint.to_numpy(path, name, torch.empty(0, dtype=tensor.dtype)).dtype
    shape, strides = tuple(tensor.shape), tuple(step * dtype.itemsize for step in tensor.stride())
    if 0 in shape:
        return LazyArray(dtype, shape, lambda: np.empty(shape, dtype))
    offset, size = _offset(tensor), tensor.untyped_storage().nbytes()
    part = bisect_right(ends, offset)
    if part == len(ends) or offset + size > ends[part]:
        raise FormatError(f"{path}: truncated: tensor {name!r} should end at byte {offset + size}, after its part does")
    begin = offset + tensor.storage_offset() * dtype.itemsize
    last = begin + sum((side - 1) * step for side, step in zip(shape, strides, strict=True))

    def read() -> NumPyArray:
        return np.ndarray(shape, dtype, file.content, begin, strides)

    return LazyArray(dtype, shape, read, lambda: file.release(begin, last + dtype.itemsize))


# ---- write


@dataclass(frozen=True)
class _Part:
    """A part of an archive: where its bytes lie, and where its checksum in the archive's directory."""

    begin: int
    size: int
    checksum: int


def _fill(path: Path, tensors: Mapping[str, LazyArray]) -> None:
    """Write the bytes of tensors into a checkpoint that has room for them, in place."""
    state = checkpoint.load(path, "meta")
    with path.open("r+b") as stream:
        parts = {part.begin: part for part in _parts(path)}
        for name, one in tensors.items():
            if not one.nbytes:
                continue
            part = parts[_offset(state[name])]
            content = np.require(one.read(), one.dtype.newbyteorder("="), "C").reshape(-1).view(np.uint8).data
            if part.size != content.nbytes:
                raise FormatError(f"tensor {name!r}: has {content.nbytes} bytes, expected {part.size}")
            stream.seek(part.begin)
            stream.write(content)
            checksum = zlib.crc32(content).to_bytes(4, "little")
            del content  # before the next tensor is read
            one.release()
            if stream.read(4) == _DESCRIPTOR:  # sizes and the checksum once more, behind the bytes
                stream.seek(part.begin + part.size + 4)
                stream.write(checksum)
            stream.seek(part.checksum)
            stream.write(checksum)


def _parts(path: Path) -> list[_Part]:
    """List the parts of an archive, which torch left without checksums. Layout: PKWARE's APPNOTE.TXT 4.3."""
    parts = []
    with zipfile.ZipFile(path) as archive, path.open("rb") as stream:
        entry_at = archive.start_dir
        for entry in archive.infolist():
            stream.seek(entry.header_offset)
            local = stream.read(30)
            stream.seek(entry_at)
            central = stream.read(46)
            if local[:4] != _LOCAL or central[:4] != _CENTRAL:
                raise FormatError(f"{path}: torch {torch.__version__} laid this archive out in an unknown way")
            lengths = [int.from_bytes(local[at : at + 2], "little") for at in (26, 28)]
            parts.append(_Part(entry.header_offset + 30 + sum(lengths), entry.file_size, entry_at + 16))
            entry_at += 46 + sum(int.from_bytes(central[at : at + 2], "little") for at in (28, 30, 32))
    return parts
