"""Images in files of arrays: .npz, and the .mat files of SVHN."""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from mopruning.datasets.files import check_inflation, optional, refusing
from mopruning.datasets.images import Images, NumPyArray
from mopruning.datasets.parts import part_of
from mopruning.errors import FormatError

_NPY: Any = np.lib.format  # as NumPy before 2.0 has no types for it
_NAMES = (("x_{}", "y_{}"), ("{}_images", "{}_labels"))
_WHOLE = (("images", "labels"), ("x", "y"))
_MOST_CLASSES = 1 << 31


def read_npz(path: Path, split: str) -> Images:
    """Read x_train and y_train, or train_images and train_labels, or images and labels, which are then split.

    Images are uint8 [n, height, width] or [n, height, width, channels]; labels whole numbers [n] or [n, 1].

    Raises:
        FormatError: If none of them is there, or the file is damaged or holds something else under these names.
    """
    where = os.fspath(path)
    with refusing(where, ".npz file", Exception), zipfile.ZipFile(path) as archive:  # NumPy and zipfile raise anything
        entries = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
        for pair in (*(tuple(name.format(split) for name in names) for names in _NAMES), *_WHOLE):
            if all(name in entries for name in pair):
                images, labels = (_npy(archive, entries[name], f"{where}: {name!r}") for name in pair)
                found = _checked(images, labels, f"{where}: {pair[0]!r}", f"{where}: {pair[1]!r}")
                return part_of(found, split) if pair in _WHOLE else found
    expected = " or ".join(name.format(split) for name, _ in _NAMES)
    raise FormatError(f"{where}: expected arrays {expected} or images, got {', '.join(entries) or 'none'}")


def whole_numbers(source: Path | IO[bytes], where: str, names: Sequence[str]) -> dict[str, NumPyArray]:
    """Read some of the arrays of a .npz file, which must be there and hold whole numbers.

    Args:
        source: The file.
        where: What errors call it.
        names: Of the arrays.

    Raises:
        FormatError: If one is missing, damaged, or holds something else.
    """
    with refusing(where, ".npz file", Exception), zipfile.ZipFile(source) as archive:
        entries = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
        missing = [name for name in names if name not in entries]
        if missing:
            raise FormatError(f"{where}: expected arrays {', '.join(names)}, got {', '.join(entries) or 'none'}")
        return {name: _npy(archive, entries[name], f"{where}: {name!r}") for name in names}


def _npy(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, where: str) -> NumPyArray:
    check_inflation(entry.compress_size, entry.file_size, where)
    with refusing(where, "array", Exception), archive.open(entry) as stream:
        shape, dtype, start = _header(stream)
        if dtype.kind not in "iub":
            raise FormatError(f"{where}: {dtype} numbers, expected whole ones")
        if start + math.prod(shape) * dtype.itemsize != entry.file_size:
            raise FormatError(f"{where}: {entry.file_size} bytes do not hold the shape {list(shape)} of {dtype}")
    with refusing(where, "array", Exception), archive.open(entry) as stream:
        read: NumPyArray = _NPY.read_array(stream, allow_pickle=False)
        stream.read(1)  # reading on to the end is what makes zipfile check the CRC
    return read


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any], int]:
    version = _NPY.read_magic(stream)
    shape, _, dtype = (_NPY.read_array_header_1_0 if version == (1, 0) else _NPY.read_array_header_2_0)(stream)
    return shape, dtype, stream.tell()


def _checked(images: NumPyArray, labels: NumPyArray, of_images: str, of_labels: str) -> Images:
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] > 4):
        expected = "uint8 [n, height, width] or [n, height, width, channels]"
        raise FormatError(f"{of_images}: {images.dtype} {list(images.shape)}, expected {expected}")
    if labels.shape not in (images.shape[:1], (*images.shape[:1], 1)):
        raise FormatError(f"{of_labels}: shape {list(labels.shape)}, expected one label for {len(images)} images")
    if not np.all((labels >= 0) & (labels < _MOST_CLASSES)):  # NaN is neither
        raise FormatError(f"{of_labels}: labels from {labels.min()} to {labels.max()}, expected 0 or more")
    pixels = images[..., None] if images.ndim == 3 else images
    return Images(np.ascontiguousarray(pixels), labels.reshape(-1).astype(np.int64))


def read_svhn(path: Path) -> Images:
    """Read a file of SVHN's cropped digits: X uint8 [32, 32, 3, n], and y, in which 10 stands for the digit 0.

    Raises:
        FormatError: If the file is damaged or holds something else.
        ImportError: If SciPy is not installed.

    Format: http://ufldl.stanford.edu/housenumbers/, "Format 2".
    """
    module = optional("scipy.io", "SciPy, which scikit-learn brings", "reading .mat files")
    where = os.fspath(path)
    with refusing(where, ".mat file", Exception):  # SciPy raises almost anything
        size = path.stat().st_size
        shapes = {name: tuple(shape) for name, shape, _ in module.whosmat(where)}
        for name, bytes_each in (("X", 1), ("y", 8)):
            if name not in shapes:
                raise FormatError(f"{where}: holds {', '.join(shapes) or 'nothing'}, expected X and y")
            check_inflation(size, math.prod(shapes[name]) * bytes_each, f"{where}: {name!r}")
        held = module.loadmat(where, variable_names=["X", "y"])
    images, labels = held["X"], held["y"]
    if images.ndim != 4 or images.dtype != np.uint8 or labels.dtype.kind not in "iuf":
        raise FormatError(f"{where}: 'X' is {images.dtype} {list(images.shape)}, expected uint8 [h, w, channels, n]")
    found = _checked(images.transpose(3, 0, 1, 2), labels, f"{where}: 'X'", f"{where}: 'y'")
    return Images(found.images, found.labels % 10, tuple("0123456789"))
