"""Labelled images in memory, as bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"

_AT_ONCE = 1 << 10  # images; more would only take more memory


@dataclass(frozen=True)
class Images:
    """Labelled images.

    Args:
        images: uint8 [n, height, width, channels], from 0 to `peak`.
        labels: int64 [n], from 0.
        classes: Names of the classes; empty if they are not known.
        peak: The number that stands for full brightness.

    Raises:
        ValueError: If shapes, dtypes or numbers are others.

    >>> one = Images(np.full((1, 2, 2, 3), 51, np.uint8), np.zeros(1, np.int64), ("grey",))
    >>> len(one), one.scaled().shape, one.statistics()[0].round(3)
    (1, (1, 3, 2, 2), array([0.2, 0.2, 0.2]))
    """

    images: NumPyArray
    labels: NumPyArray
    classes: tuple[str, ...] = ()
    peak: int = 255

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.images.dtype != np.uint8:
            raise ValueError(
                f"images: expected uint8 [n, height, width, channels], got {self.images.dtype} {self.images.shape}"
            )
        if self.labels.shape != self.images.shape[:1] or self.labels.dtype != np.int64:
            found = f"{self.labels.dtype} {self.labels.shape}"
            raise ValueError(f"labels: expected int64 [{len(self.images)}], one an image, got {found}")
        if len(self.labels):
            low, high = int(self.labels.min()), int(self.labels.max())
            if low < 0 or (self.classes and high >= len(self.classes)):
                raise ValueError(
                    f"labels: expected 0 to {len(self.classes) - 1 if self.classes else 'n'}, got {low} to {high}"
                )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: slice | NumPyArray) -> Images:
        """Return some of the images, picked by a slice, by their numbers or by a bool array."""
        return Images(self.images[index], self.labels[index], self.classes, self.peak)

    def scaled(self) -> NumPyArray:
        """Return the images as float32 [n, channels, height, width] from 0 to 1."""
        return as_floats(self.images, self.peak)

    def statistics(self) -> tuple[NumPyArray, NumPyArray]:
        """Return mean and standard deviation of each channel, float64 [channels], of images scaled from 0 to 1.

        They are exact: every brightness is counted, in whole numbers.
        """
        channels = self.images.shape[-1]
        counts = np.zeros((channels, 256), np.int64)
        for start in range(0, len(self), _AT_ONCE):
            part = self.images[start : start + _AT_ONCE]
            for channel in range(channels):
                counts[channel] += np.bincount(part[..., channel].reshape(-1), minlength=256)
        values = np.arange(256) / self.peak
        pixels = max(1, self.images[..., 0].size)
        mean = counts @ values / pixels
        return mean, np.sqrt(np.maximum(counts @ values**2 / pixels - mean**2, 0.0))


def as_floats(images: NumPyArray, peak: int) -> NumPyArray:
    """Return bytes [n, height, width, channels] as float32 [n, channels, height, width], `peak` as 1."""
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2)).astype(np.float32) / np.float32(peak)
