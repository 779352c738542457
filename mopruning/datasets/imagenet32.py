"""ImageNet scaled to 32 x 32: ten batches to train with and one to test with, as .npz files or as pickles.

Format: https://patrykchrabaszcz.github.io/Imagenet32/.
"""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np

from mopruning.datasets.arrays import whole_numbers
from mopruning.datasets.cifar import entry, planes, rows_of
from mopruning.datasets.files import File, refusing
from mopruning.datasets.images import Images, NumPyArray
from mopruning.errors import FormatError
from mopruning.pickled import PickledArray, load_dict

CLASSES = 1000

_PARTS = {"train": [f"train_data_batch_{number}" for number in range(1, 11)], "test": ["val_data"]}
_SIDE = 32


def names(split: str) -> list[str]:
    """Return the names that the files of a split may have."""
    return [f"{part}{suffix}" for part in _PARTS[split] for suffix in ("", ".npz")]


def read(files: Mapping[str, File], split: str) -> Images:
    """Read one split; labels, which are 1 to 1000 in the files, become 0 to 999.

    Raises:
        FormatError: If a file is missing, damaged, or asks to run code.
    """
    found = [files.get(f"{part}.npz") or files.get(part) for part in _PARTS[split]]
    if None in found:
        first = next(one for one in found if one is not None)
        missing = [part for part, one in zip(_PARTS[split], found, strict=True) if one is None]
        raise FormatError(f"{first.where}: files are missing beside it: {', '.join(missing)}")
    parts = [_part(file) for file in found if file is not None]
    labels = np.concatenate([part[1] for part in parts])
    images = np.empty((len(labels), _SIDE, _SIDE, 3), np.uint8)
    end = len(images)
    while parts:  # each given back as soon as it is copied: all of them take 4 GB
        rows = parts.pop()[0]
        images[end - len(rows) : end] = planes(rows)
        end -= len(rows)
    return Images(images, labels)


def _part(file: File) -> tuple[NumPyArray, NumPyArray]:
    if file.where.endswith(".npz"):
        source = io.BytesIO(file.held) if file.path is None else file.path
        held = whole_numbers(source, file.where, ("data", "labels"))
    else:
        held = load_dict(file.content(), file.where)
    rows = rows_of(held, file.where)
    labels = entry(held, "labels")
    where = f"{file.where}: 'labels'"
    if isinstance(labels, PickledArray):
        with refusing(where, "array", Exception):
            labels = labels.array()
    if isinstance(labels, list) and all(type(label) is int for label in labels):
        labels = np.array(labels, object)  # of any size, until they are checked
    elif not isinstance(labels, np.ndarray) or labels.dtype.kind not in "iu":
        raise FormatError(f"{where}: expected whole numbers, got a {type(labels).__name__}")
    if labels.shape != (len(rows),):
        raise FormatError(f"{where}: shape {list(labels.shape)} for {len(rows)} images")
    if len(labels) and not 1 <= labels.min() <= labels.max() <= CLASSES:
        raise FormatError(f"{where}: labels from {labels.min()} to {labels.max()}, expected 1 to {CLASSES}")
    return rows, labels.astype(np.int64) - 1
