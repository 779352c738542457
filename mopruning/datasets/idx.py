"""The idx files of MNIST and the sets in its image: plain or gzip.

Format: http://yann.lecun.com/exdb/mnist/, "The IDX file format".
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from typing import IO

import numpy as np

from mopruning.datasets.files import File, check_inflation, gunzipped, read_exactly
from mopruning.datasets.images import Images, NumPyArray
from mopruning.errors import FormatError

_GZIP = b"\x1f\x8b"
_UNSIGNED_BYTES = 8  # code of the only type that image sets use
_STEMS = {"train": "train", "test": "t10k"}


def names(split: str) -> dict[str, str]:
    """Return the names that the files of a part go by, each with "images" or "labels".

    >>> list(names("test"))[:2]
    ['t10k-images-idx3-ubyte', 't10k-images-idx3-ubyte.gz']
    """
    return {
        f"{_STEMS[split]}-{kind}{dash}idx{axes}-ubyte{end}": kind
        for kind, axes in (("images", 3), ("labels", 1))
        for dash in ("-", ".")
        for end in ("", ".gz")
    }


def read(files: Mapping[str, File], split: str) -> Images:
    """Read one part of a set.

    Raises:
        FormatError: If a file is missing or damaged, or images and labels differ in number.
    """
    kinds = {kind: files[name] for name, kind in reversed(names(split).items()) if name in files}
    if len(kinds) < 2:
        (there,) = kinds.values()
        raise FormatError(f"{there.where}: its images or labels are missing beside it")
    images, labels = (read_array(kinds[kind], axes) for kind, axes in (("images", 3), ("labels", 1)))
    if len(images) != len(labels):
        raise FormatError(f"{kinds['labels'].where}: {len(labels)} labels for {len(images)} images")
    return Images(images[..., None], labels.astype(np.int64))


def read_array(file: File, axes: int) -> NumPyArray:
    """Read an array of unsigned bytes.

    Raises:
        FormatError: If the file is damaged, of another type or of another number of axes.
    """
    content = file.content()
    if not content.startswith(_GZIP):
        return _read(io.BytesIO(content), len(content), file.where, axes, packed=False)
    with gunzipped(content, file.where) as stream:
        return _read(stream, len(content), file.where, axes, packed=True)


def _read(stream: IO[bytes], size: int, where: str, axes: int, *, packed: bool) -> NumPyArray:
    start = 4 + 4 * axes
    header = read_exactly(stream, start, where)
    if header[:4] != bytes((0, 0, _UNSIGNED_BYTES, axes)):
        expected = bytes((0, 0, _UNSIGNED_BYTES, axes)).hex(" ")
        raise FormatError(f"{where}: no idx file of unsigned bytes: starts with {header[:4].hex(' ')}, not {expected}")
    shape = [int.from_bytes(header[i : i + 4], "big") for i in range(4, start, 4)]
    count = math.prod(shape)
    if packed:
        check_inflation(size, count, where)
    elif count != size - start:
        raise FormatError(f"{where}: expected {count} bytes for the shape {shape}, got {size - start}")
    content = read_exactly(stream, count, where)
    if stream.read(1):
        raise FormatError(f"{where}: bytes are left after the {count} of its shape {shape}")
    return np.frombuffer(content, np.uint8).reshape(shape).copy()  # what frombuffer gives cannot be written to
