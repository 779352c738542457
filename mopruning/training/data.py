"""Data: labelled images to train and to test with, the way the published programs normalise and augment them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypeVar, cast

import numpy as np

from mopruning.datasets import Images, batches, load
from mopruning.datasets.batches import Augmentation

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"
Statistics: TypeAlias = "tuple[tuple[float, ...], tuple[float, ...]]"
T = TypeVar("T")

_AUGMENTATION = Augmentation()
_VERIFY = "cifar-10-verify-bin"


def _of_bytes(*values: float) -> tuple[float, ...]:
    return tuple(value / 255 for value in values)


_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

NORMALIZATIONS: Mapping[str, Statistics] = {
    "cifar": (_of_bytes(125.3, 123.0, 113.9), _of_bytes(63.0, 62.1, 66.7)),
    "imagenet": _IMAGENET,
    "imagenet_32x32": _IMAGENET,
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "cifar100": ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
    "svhn": ((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)),
    "mnist": ((0.1307,), (0.3081,)),
    "fashion-mnist": ((0.2860,), (0.3530,)),
    "digits": ((0.3052,), (0.3763,)),
    "none": ((0.0,), (1.0,)),
}
"""Name -> mean and standard deviation of each channel, of images in 0 to 1.

"cifar" is that of the published ManiDP program, "cifar10" that of the published data-parallel one; with "imagenet" the
public ResNets of CIFAR were trained as well."""


@dataclass(frozen=True)
class Data:
    """Labelled images to train and to test with, and what is done to them.

    Args:
        train: Those to train with.
        test: Those to test with.
        normalize: A key of `NORMALIZATIONS`.
        augmentation: What is done at random to images for training.
        seed: Draws order and augmentation.

    >>> few = Images(np.zeros((5, 8, 8, 3), np.uint8), np.arange(5))
    >>> data = Data(few, few[:2], "none")
    >>> [len(labels) for _, labels in data.training(0, 2)], [labels.tolist() for _, labels in data.plain(data.test, 9)]
    ([2, 2, 1], [[0, 1]])
    """

    train: Images
    test: Images
    normalize: str = "cifar"
    augmentation: Augmentation | None = _AUGMENTATION
    seed: int = 0

    def training(
        self, epoch: int, size: int, *, rank: int = 0, workers: int = 1
    ) -> Iterator[tuple[NumPyArray, NumPyArray]]:
        """Give the training images of an epoch, shuffled and augmented, the next batch prepared in a thread.

        Arguments and batches are those of `mopruning.datasets.batches`.
        """
        mean, std = NORMALIZATIONS[self.normalize]
        drawn = batches(
            *(self.train, size),
            seed=self.seed,
            epoch=epoch,
            augmentation=self.augmentation,
            mean=mean,
            std=std,
            rank=rank,
            workers=workers,
        )
        return ahead(drawn)

    def plain(self, images: Images, size: int) -> Iterator[tuple[NumPyArray, NumPyArray]]:
        """Give images in order, normalised only."""
        mean, std = NORMALIZATIONS[self.normalize]
        return batches(images, size, mean=mean, std=std)


def ahead(items: Iterator[T]) -> Iterator[T]:
    """Give what an iterator gives, while a thread fetches the next one.

    >>> list(ahead(iter("abc")))
    ['a', 'b', 'c']
    """
    end = object()
    with ThreadPoolExecutor(1, thread_name_prefix="batches") as thread:
        coming = thread.submit(next, items, end)
        while (item := coming.result()) is not end:
            coming = thread.submit(next, items, end)
            yield cast(T, item)


def find(dataset: str, path: str | os.PathLike[str] | None, split: str) -> Images:
    """Load a part of a data set.

    Args:
        dataset: A name that `datasets.load` knows.
        path: Where it lies: its own folder, archive or file, or the folder of several sets; None for the folder that
            the environment variable MOPRUNING_DATA names. Test images may lie in cifar-10-verify-bin in it, as the
            published program has them.
        split: "train" or "test".

    Raises:
        FileNotFoundError: If it is not there.
        FormatError: If a file is damaged.
    """
    if path is None:
        return load(dataset, split)
    if split == "test" and Path(path, _VERIFY).is_dir():
        return load(Path(path, _VERIFY), split)
    try:
        return load(dataset, split, folder=path)
    except FileNotFoundError:
        return load(path, split)
