"""Images as files, in one folder a class."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from mopruning.datasets.files import optional, refusing
from mopruning.datasets.images import Images, NumPyArray
from mopruning.datasets.parts import part_of
from mopruning.errors import FormatError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".pgm")
_FORMATS = ("PNG", "JPEG", "BMP", "PPM")
_NAMES = {"train": ("train", "training"), "test": ("test", "testing", "val", "val_", "valid", "validation")}
_LARGEST = 1 << 26  # pixels; a damaged header may claim any number


def split_folder(path: Path, split: str) -> Path | None:
    """Return the folder of one part, if the set has parts."""
    return next((path / name for name in _NAMES[split] if (path / name).is_dir()), None)


def class_folders(path: Path) -> list[Path]:
    """Return the folders that hold images, by name; their order gives the labels."""
    if not path.is_dir():
        return []
    return [folder for folder in sorted(path.iterdir()) if folder.is_dir() and _pictures(folder)]


def _pictures(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())


def read(path: Path, split: str, size: tuple[int, int] | None) -> Images:
    """Read train/CLASS/*.png and test/CLASS/*.png, or CLASS/*.png, which are then split.

    Images are grey where all of them are, RGB otherwise.

    Args:
        path: The folder above.
        split: "train" or "test".
        size: Height and width to which all images are scaled, bilinearly; None where they are all of one size.

    Raises:
        FormatError: If an image is damaged or too large, or has another size than the first and `size` is None; or if
            the parts have different classes.
        ImportError: If Pillow is not installed.
    """
    module = optional("PIL.Image", "Pillow", "reading images")
    part = split_folder(path, split)
    folders = class_folders(part or path)
    classes = tuple(folder.name for folder in folders)
    if part is not None:
        train = split_folder(path, "train")
        known = tuple(folder.name for folder in class_folders(train)) if train is not None else classes
        if not set(classes) <= set(known):
            raise FormatError(f"{part}: classes that {train} does not have: {', '.join(sorted({*classes} - {*known}))}")
        classes = known
    paths = [(picture, classes.index(folder.name)) for folder in folders for picture in _pictures(folder)]
    headers = [_header(module, picture) for picture, _ in paths]
    if size is None and len({shape for shape, _ in headers}) > 1:
        other = next(i for i, (shape, _) in enumerate(headers) if shape != headers[0][0])
        (height, width), (there, here) = headers[0][0], headers[other][0]
        raise FormatError(
            f"{paths[other][0]}: {there}x{here} pixels, {paths[0][0]} has {height}x{width}; "
            "give a size, to which all of them are scaled"
        )
    mode = "L" if all(grey for _, grey in headers) else "RGB"
    height, width = size or headers[0][0]
    images = np.empty((len(paths), height, width, len(mode)), np.uint8)
    for index, (picture, _) in enumerate(paths):
        images[index] = _pixels(module, picture, mode, (height, width))
    found = Images(images, np.array([label for _, label in paths], np.int64), classes)
    return found if part is not None else part_of(found, split)


def _header(module: ModuleType, path: Path) -> tuple[tuple[int, int], bool]:
    """Return height and width, and whether the image is grey; no pixel is read."""
    with _opened(module, path) as picture:
        width, height = picture.size
        if width * height > _LARGEST:
            raise FormatError(f"{path}: {height}x{width} pixels, expected {_LARGEST} at most")
        return (height, width), picture.mode in ("L", "1")


def _pixels(module: ModuleType, path: Path, mode: str, size: tuple[int, int]) -> NumPyArray:
    with _opened(module, path) as picture, refusing(os.fspath(path), "image", Exception):
        converted = picture.convert(mode)
        if converted.size != (size[1], size[0]):
            converted = converted.resize((size[1], size[0]), module.Resampling.BILINEAR)
        return np.asarray(converted).reshape(*size, len(mode))


def _opened(module: ModuleType, path: Path) -> Any:
    with refusing(os.fspath(path), "image", Exception), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of sizes, which are checked here
        return module.open(path, formats=_FORMATS)
