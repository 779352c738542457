"""NumPy's .npz format: a zip archive of one .npy file a tensor; pickled ones are refused."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, TypeAlias, TypeVar

import numpy as np

from mopruning.errors import FormatError
from mopruning.ir.lazy import LazyArray, lazy

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"

Result = TypeVar("Result")

_SUFFIX = ".npy"
_NPY: Any = np.lib.format  # as NumPy before 2.0 has no types for it


def read(path: Path) -> tuple[dict[str, NumPyArray], bool]:
    """Read every tensor, and whether the archive is compressed.

    Raises:
        FormatError: If the archive is damaged, holds anything but arrays, or a pickled array.
    """
    with _open(path) as archive:
        entries = _entries(path, archive)
        arrays = {name: _read_entry(path, archive, entry, name) for name, entry in entries.items()}
    return arrays, any(entry.compress_type != zipfile.ZIP_STORED for entry in entries.values())


def read_lazily(path: Path) -> dict[str, LazyArray]:
    """Read which tensors there are; each is read when asked for.

    Raises:
        FormatError: As `read` does; from `LazyArray.read` too.
    """
    archive = _open(path)  # closes itself when no tensor is left that refers to it
    return {name: _lazy(path, archive, entry, name) for name, entry in _entries(path, archive).items()}


def _lazy(path: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo, name: str) -> LazyArray:
    def header(content: IO[bytes]) -> tuple[np.dtype[Any], tuple[int, ...]]:
        version = _NPY.read_magic(content)
        shape, _, dtype = (_NPY.read_array_header_1_0 if version == (1, 0) else _NPY.read_array_header_2_0)(content)
        return dtype, shape

    dtype, shape = _guarded(path, archive, entry, name, header)
    return LazyArray(dtype, shape, lambda: _read_entry(path, archive, entry, name))


def _open(path: Path) -> zipfile.ZipFile:
    path.open("rb").close()  # a file that cannot be opened is no damaged one
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError) as error:
        raise FormatError(f"{path}: truncated, or no .npz file: {error}") from None


def _entries(path: Path, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    entries: dict[str, zipfile.ZipInfo] = {}
    for entry in archive.infolist():
        name = entry.filename.removesuffix(_SUFFIX)
        if name == entry.filename or name in entries:
            problem = "is there twice" if name in entries else "is no array"
            raise FormatError(f"{path}: no .npz file: its entry {entry.filename!r} {problem}")
        entries[name] = entry
    return entries


def _read_entry(path: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo, name: str) -> NumPyArray:
    def array(content: IO[bytes]) -> tuple[NumPyArray, bytes]:
        # reading on to the end is what makes zipfile check the CRC
        return _NPY.read_array(content, allow_pickle=False), content.read(1)

    found, rest = _guarded(path, archive, entry, name, array)
    if rest:
        raise FormatError(f"{path}: tensor {name!r} is damaged: bytes are left after its {found.size} elements")
    return found


def _guarded(
    path: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo, name: str, read: Callable[[IO[bytes]], Result]
) -> Result:
    try:
        with archive.open(entry) as content:
            return read(content)
    except Exception as error:  # a damaged header makes NumPy and zipfile raise almost anything
        if "allow_pickle" in str(error):
            raise FormatError(
                f"{path}: refused: tensor {name!r} is a pickle, which could run code when opened"
            ) from None
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise FormatError(f"{path}: tensor {name!r} is damaged: {reason}") from error


def write(path: str | os.PathLike[str], arrays: Mapping[str, NumPyArray | LazyArray], compressed: bool) -> None:
    """Write tensors as named entries, one after the other.

    Raises:
        FormatError: If a dtype has no place in the format, such as bfloat16 or Python objects.
    """
    tensors = {name: lazy(array) for name, array in arrays.items()}
    for name, array in tensors.items():
        if array.dtype.hasobject or _NPY.descr_to_dtype(_NPY.dtype_to_descr(array.dtype)) != array.dtype:
            raise FormatError(f"tensor {name!r}: .npz has no dtype {array.dtype.name}; write .safetensors instead")
    # numpy.savez takes names as keyword arguments and so cannot write a tensor called "file"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED) as archive:
        for name, array in tensors.items():
            with archive.open(name + _SUFFIX, "w", force_zip64=True) as entry:
                _NPY.write_array(entry, array.read(), allow_pickle=False)
            array.release()
