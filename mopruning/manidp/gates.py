"""Gates: which channels of a layer an image keeps, by NumPy, as the reference for what frameworks compute."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np

from mopruning.errors import WeightError

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"

NOTHING_PRUNED = -10000.0
"""Threshold before the first one is computed: every saliency is above it."""


def saliency(
    pooled: NumPyArray, fc1: NumPyArray, fc2: NumPyArray, bias: NumPyArray, *, clamp_max: float = 1000.0
) -> NumPyArray:
    """Compute how much each channel matters to each image.

    ``min(relu(relu(pooled @ fc1.T) @ fc2.T + bias), clamp_max)``

    Args:
        pooled: Global averages of the gate's input [images, inputs].
        fc1: [hidden, inputs].
        fc2: [channels, hidden].
        bias: [channels].
        clamp_max: Largest saliency.

    Returns:
        [images, channels], from 0 to `clamp_max`.

    Source: Tang et al., "Manifold regularized dynamic network pruning", CVPR 2021, and its published program.
    """
    hidden = np.maximum(pooled @ fc1.T, 0)
    return np.minimum(np.maximum(hidden @ fc2.T + bias, 0), clamp_max)


def gate(saliencies: NumPyArray, threshold: float) -> NumPyArray:
    """Return what each channel is multiplied by: its saliency, or 0 where that is below the threshold.

    A saliency of the threshold itself is kept.

    >>> gate(np.array([[0.2, 0.5, 0.9]]), 0.5)
    array([[0. , 0.5, 0.9]])
    """
    return np.where(saliencies >= threshold, saliencies, 0)


def threshold(mean_saliency: NumPyArray, remain_rate: float) -> float:
    """Return the saliency that a channel needs to be kept: the k-th largest of the means, k = ceil(rate * channels).

    Args:
        mean_saliency: Mean over the training images [channels].
        remain_rate: Share of channels whose mean reaches the threshold; above 0, at most 1.

    Raises:
        WeightError: If a mean is not finite.
        ValueError: If the rate is out of range.

    >>> threshold(np.array([0.1, 0.4, 0.2, 0.3]), 0.5)
    0.3
    """
    if not 0 < remain_rate <= 1:
        raise ValueError(f"remain_rate must be above 0 and at most 1, got {remain_rate!r}")
    if not np.isfinite(mean_saliency).all():
        raise WeightError("mean saliency: expected finite numbers; a gate has diverged, try a lower learning rate")
    # the same rounding guard as in counts of zeros: 0.29 * 100 is 28.999...
    kept = max(1, math.ceil(remain_rate * mean_saliency.size - 1e-9))
    return float(np.sort(mean_saliency, axis=None)[::-1][kept - 1])
