"""Sets: the data sets that a network is trained on, made ready for the networks of the zoo."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from mopruning.datasets import Images
from mopruning.datasets.batches import Augmentation
from mopruning.datasets.loading import VARIABLE
from mopruning.training.data import Data, find
from mopruning.training.pictures import PictureData, find_pictures

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"

SIDE = 32
_AT_ONCE = 4096  # images; more would only take more memory


@dataclass(frozen=True)
class DataSet:
    """What is known of a data set.

    Args:
        classes: How many there are.
        augmentation: What is done at random to images for training.
    """

    classes: int
    augmentation: Augmentation | None = None


SETS: Mapping[str, DataSet] = {
    "cifar10": DataSet(10, Augmentation()),
    "cifar100": DataSet(100, Augmentation()),
    "svhn": DataSet(10, Augmentation(flip=False)),
    "mnist": DataSet(10, Augmentation(flip=False)),
    "fashion-mnist": DataSet(10, Augmentation()),
    "digits": DataSet(10),
    "imagenet": DataSet(1000),
    "imagenet_32x32": DataSet(1000, Augmentation()),
}
"""Every data set by name; images of ImageNet are cropped and mirrored as `PictureData` does."""


def load_data(
    dataset: str,
    root: str | os.PathLike[str],
    *,
    seed: int = 0,
    normalize: str | None = None,
    side: int = SIDE,
    workers: int = 16,
    most: tuple[int | None, int | None] = (None, None),
) -> Data:
    """Load a data set as the networks take it: colour images of 32 x 32, or pictures of ImageNet.

    Args:
        dataset: A key of `SETS`.
        root: The set's folder, or the folder of several; where there is no such folder, the one that the environment
            variable MOPRUNING_DATA names.
        seed: Draws order and augmentation.
        normalize: A key of `data.NORMALIZATIONS`; the set's own by default.
        side: Height and width; others than 32 are for ImageNet.
        workers: Threads that read pictures.
        most: How many images to train and to test with, at most.

    Raises:
        FileNotFoundError: If it is not there.
        FormatError: If a file is damaged.
    """
    place = root if Path(root).exists() else os.environ.get(VARIABLE, root)
    few = [slice(limit) for limit in most]
    parts = ("train", "test")
    if dataset == "imagenet":
        inner = next((Path(place, name) for name in ("ImageNet1K", "imagenet") if Path(place, name).is_dir()), place)
        train, test = (find_pictures(inner, part, side=side, workers=workers) for part in parts)
        return PictureData(train[few[0]], test[few[1]], normalize or "imagenet", seed=seed)
    train, test = (find(dataset, place, part) for part in parts)
    augmentation = SETS[dataset].augmentation
    return Data(in_colour(train[few[0]]), in_colour(test[few[1]]), normalize or dataset, augmentation, seed)


def in_colour(images: Images, side: int = SIDE) -> Images:
    """Return images with three channels and of one size, between the pixels bilinearly.

    >>> grey = Images(np.arange(4, dtype=np.uint8).reshape(1, 2, 2, 1), np.zeros(1, np.int64), peak=3)
    >>> in_colour(grey, 4).images[0, :, :, 0].tolist()
    [[0, 21, 64, 85], [42, 64, 106, 128], [128, 149, 191, 212], [170, 191, 234, 255]]
    """
    pixels = images.images
    if pixels.shape[1:] != (side, side, 3) or images.peak != 255:
        parts = [pixels[start : start + _AT_ONCE] for start in range(0, len(pixels), _AT_ONCE)]
        scaled = [_scaled(part, side, 255 / images.peak) for part in parts]
        pixels = np.concatenate(scaled) if scaled else np.empty((0, side, side, 3), np.uint8)
    return Images(pixels, images.labels, images.classes)


def _scaled(pixels: NumPyArray, side: int, gain: float) -> NumPyArray:
    rows, columns = (_weights(old, side) for old in pixels.shape[1:3])
    values = np.einsum("rh,nhwc,sw->nrsc", rows, pixels.astype(np.float32) * np.float32(gain), columns, optimize=True)
    whole = np.rint(values).astype(np.uint8)
    return np.broadcast_to(whole, (*whole.shape[:3], 3)) if whole.shape[3] == 1 else whole


def _weights(old: int, new: int) -> NumPyArray:
    """Return what each new pixel is made of, float32 [new, old]: pixels are areas, whose centres are between."""
    places = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    low = np.minimum(places.astype(np.int64), max(0, old - 2))
    share = places - low
    weights = np.zeros((new, old), np.float32)
    weights[np.arange(new), low] = 1 - share
    weights[np.arange(new), np.minimum(low + 1, old - 1)] += share
    return weights
