"""NumPy's .npz format: a zip archive of one .npy file a tensor; pickled ones are refused."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from mopruning.errors import FormatError

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"

_SUFFIX = ".npy"
_NPY: Any = np.lib.format  # as NumPy before 2.0 has no types for it


def read(path: Path) -> tuple[dict[str, NumPyArray], bool]:
    """Read every tensor, and whether the archive is compressed.

    Raises:
        FormatError: If the archive is damaged, holds anything but arrays, or a pickled array.
    """
    with path.open("rb") as stream:
        try:
            archive = zipfile.ZipFile(stream)
        except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError) as error:
            raise FormatError(f"{path}: truncated, or no .npz file: {error}") from None
        with archive:
            entries = archive.infolist()
            arrays = {}
            for entry in entries:
                name = entry.filename.removesuffix(_SUFFIX)
                if name == entry.filename or name in arrays:
                    problem = "is there twice" if name in arrays else "is no array"
                    raise FormatError(f"{path}: no .npz file: its entry {entry.filename!r} {problem}")
                arrays[name] = _read_entry(path, archive, entry, name)
    return arrays, any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)


def _read_entry(path: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo, name: str) -> NumPyArray:
    try:
        with archive.open(entry) as content:
            array: NumPyArray = _NPY.read_array(content, allow_pickle=False)
            rest = content.read(1)  # reading on to the end is what makes zipfile check the CRC
    except Exception as error:  # a damaged header makes NumPy and zipfile raise almost anything
        if "allow_pickle" in str(error):
            raise FormatError(
                f"{path}: refused: tensor {name!r} is a pickle, which could run code when opened"
            ) from None
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise FormatError(f"{path}: tensor {name!r} is damaged: {reason}") from error
    if rest:
        raise FormatError(f"{path}: tensor {name!r} is damaged: bytes are left after its {array.size} elements")
    return array


def write(path: str | os.PathLike[str], arrays: Mapping[str, NumPyArray], compressed: bool) -> None:
    """Write tensors as named entries.

    Raises:
        FormatError: If a dtype has no place in the format, such as bfloat16 or Python objects.
    """
    for name, array in arrays.items():
        if array.dtype.hasobject or _NPY.descr_to_dtype(_NPY.dtype_to_descr(array.dtype)) != array.dtype:
            raise FormatError(f"tensor {name!r}: .npz has no dtype {array.dtype.name}; write .safetensors instead")
    # numpy.savez takes names as keyword arguments and so cannot write a tensor called "file"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            with archive.open(name + _SUFFIX, "w", force_zip64=True) as entry:
                _NPY.write_array(entry, array, allow_pickle=False)
