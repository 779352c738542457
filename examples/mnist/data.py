"""Labelled images for the examples, as NumPy arrays: scikit-learn's digits, or what `mopruning.datasets` reads."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mopruning import datasets
from mopruning.datasets.batches import Augmentation

SIDE = 28


@dataclass(frozen=True)
class Data:
    """Labelled images in two parts.

    Args:
        train: Those to train with.
        test: Those to measure on.
        size: Height and width that they are scaled to.
        mean: Of each channel or of all, subtracted from images in 0 to 1.
        std: The same, by which they are then divided.
        augmentation: What is done at random to images for training.
    """

    train: datasets.Images
    test: datasets.Images
    size: tuple[int, int] = (SIDE, SIDE)
    mean: Sequence[float] = (0.0,)
    std: Sequence[float] = (1.0,)
    augmentation: Augmentation | None = None

    def updates(self, batch_size: int) -> int:
        """Return how many batches an epoch has."""
        return math.ceil(len(self.train) / batch_size)

    def batches(self, batch_size: int, seed: int, epoch: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Give images float32 [n, channels, *size] and labels int64 [n]; their order follows from seed and epoch."""
        drawn = {"seed": seed, "epoch": epoch, "augmentation": self.augmentation}
        for images, labels in datasets.batches(self.train, batch_size, **drawn, mean=self.mean, std=self.std):
            yield resized(images, self.size), labels

    def test_batches(self, batch_size: int = 1000) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Give the images for testing in the same form, in order."""
        for images, labels in datasets.batches(self.test, batch_size, mean=self.mean, std=self.std):
            yield resized(images, self.size), labels


def load(source: str) -> Data:
    """Load the digits of scikit-learn ("digits"), or a set of grey 28x28 images by name or path.

    A folder may be the one above: `mnist` and torchvision's `MNIST/raw` in it are looked into as well.
    """
    return Data(*parts(source))


def parts(source: str) -> tuple[datasets.Images, datasets.Images]:
    """Load the images of any set, for training and for testing."""
    return datasets.load(source, "train"), datasets.load(source, "test")


def resized(images: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return images [n, channels, height, width] in another size, interpolated between the centres of pixels."""
    if images.shape[2:] == size:
        return images
    rows, columns = (shares(*sides) for sides in zip(images.shape[2:], size, strict=True))
    return rows @ images @ columns.T


def shares(side: int, wanted: int) -> np.ndarray:
    """Return what each of `side` pixels adds to each of `wanted`, float32 [wanted, side]."""
    centres = np.clip((np.arange(wanted) + 0.5) * side / wanted - 0.5, 0, side - 1)
    return np.maximum(0, 1 - abs(centres[:, None] - np.arange(side))).astype(np.float32)
