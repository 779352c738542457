"""Batches to train with: shuffled, augmented, the same for the same seed on every machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from mopruning.datasets.images import Images, as_floats

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"


@dataclass(frozen=True)
class Augmentation:
    """Random crop and horizontal flip, as training on CIFAR has them.

    Args:
        padding: Black pixels added on every side before a crop of the old size is taken.
        flip: Whether half of the images are mirrored.

    Source: He et al., "Deep residual learning for image recognition", 2015, section 4.2.
    """

    padding: int = 4
    flip: bool = True

    def draw(self, random: np.random.Generator, count: int) -> tuple[NumPyArray, NumPyArray]:
        """Return offsets [count, 2] of the crops and which images are mirrored, bool [count]."""
        offsets = random.integers(0, 2 * self.padding + 1, (count, 2))
        return offsets, random.random(count) < (0.5 if self.flip else 0.0)

    def apply(self, images: NumPyArray, offsets: NumPyArray, mirrored: NumPyArray) -> NumPyArray:
        """Return images uint8 [n, height, width, channels] cropped and mirrored as drawn."""
        count, height, width, _ = images.shape
        sides = (self.padding, self.padding)
        padded = np.pad(images, ((0, 0), sides, sides, (0, 0)))
        rows = offsets[:, :1] + np.arange(height)
        columns = offsets[:, 1:] + np.arange(width)
        columns = np.where(mirrored[:, None], columns[:, ::-1], columns)
        chosen: NumPyArray = padded[np.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]
        return chosen


def batches(
    data: Images,
    size: int,
    *,
    seed: int | None = None,
    epoch: int = 0,
    augmentation: Augmentation | None = None,
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
    rank: int = 0,
    workers: int = 1,
) -> Iterator[tuple[NumPyArray, NumPyArray]]:
    """Give the images of one epoch in batches.

    Order and augmentation follow from seed and epoch alone: what becomes of an image in an epoch does not depend on
    the size of the batches nor on how many workers share them.

    Args:
        data: The images.
        size: Images a batch; the last may hold fewer.
        seed: Shuffles; None keeps the order and allows no augmentation.
        epoch: Number of the epoch.
        augmentation: What is done to each image at random.
        mean: Of each channel or of all, subtracted from images in 0 to 1.
        std: The same, by which they are then divided.
        rank: Number of this worker, which gets every `workers`-th image; all get equally many, so up to
            `workers - 1` images of an epoch may be left out.
        workers: How many share the epoch.

    Yields:
        Images float32 [batch, channels, height, width] and labels int64 [batch].

    Raises:
        ValueError: If a number is out of range, or an augmentation comes without a seed.

    >>> digits = Images(np.zeros((5, 8, 8, 1), np.uint8), np.arange(5))
    >>> [labels.tolist() for _, labels in batches(digits, 2, seed=0)]
    [[4, 1], [2, 0], [3]]
    """
    if size < 1 or not 0 <= rank < workers:
        raise ValueError(f"expected size of 1 or more and rank from 0 to workers - 1, got {size}, {rank} of {workers}")
    if seed is None and augmentation is not None:
        raise ValueError("augmentation is drawn at random: give a seed")
    order = np.arange(len(data))
    if seed is not None:
        random = np.random.Generator(np.random.Philox(key=[seed, epoch]))
        order = random.permutation(len(data))
        if augmentation is not None:
            offsets, mirrored = augmentation.draw(random, len(data))
    order = order[: len(order) // workers * workers][rank::workers]
    for start in range(0, len(order), size):
        chosen = order[start : start + size]
        pixels = data.images[chosen]
        if augmentation is not None:
            pixels = augmentation.apply(pixels, offsets[chosen], mirrored[chosen])
        images = as_floats(pixels, data.peak)
        middle, spread = (np.asarray(values, np.float32).reshape(-1, 1, 1) for values in (mean, std))
        yield (images - middle) / spread, data.labels[chosen]
