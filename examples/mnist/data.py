"""Handwritten digits for the examples, as NumPy arrays: scikit-learn's, or a set that `mopruning.datasets` reads."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from mopruning import datasets

SIDE = 28


@dataclass(frozen=True)
class Digits:
    """Labelled images in two parts."""

    train: datasets.Images
    test: datasets.Images

    def updates(self, batch_size: int) -> int:
        """Return how many batches an epoch has."""
        return math.ceil(len(self.train) / batch_size)

    def batches(self, batch_size: int, seed: int, epoch: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Give images float32 [n, 1, 28, 28] and labels int64 [n] in an order that follows from seed and epoch."""
        for images, labels in datasets.batches(self.train, batch_size, seed=seed, epoch=epoch):
            yield enlarged(images), labels

    def test_batches(self, batch_size: int = 1000) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Give the images for testing in the same form, in order."""
        for images, labels in datasets.batches(self.test, batch_size):
            yield enlarged(images), labels


def load(source: str) -> Digits:
    """Load the digits of scikit-learn ("digits"), or a set of grey 28x28 images by name or path.

    A folder may be the one above: `mnist` and torchvision's `MNIST/raw` in it are looked into as well.
    """
    return Digits(*(datasets.load(source, split) for split in ("train", "test")))


def enlarged(images: np.ndarray) -> np.ndarray:
    """Return images [n, 1, side, side] as [n, 1, 28, 28], with linear interpolation between centres of pixels."""
    side = images.shape[-1]
    if side == SIDE:
        return images
    centres = np.clip((np.arange(SIDE) + 0.5) * side / SIDE - 0.5, 0, side - 1)
    shares = np.maximum(0, 1 - abs(centres[:, None] - np.arange(side))).astype(np.float32)
    return shares @ images @ shares.T
