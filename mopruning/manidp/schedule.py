"""Rates over time: of channels that remain, and of learning."""

from __future__ import annotations

import math


def remain_rate(epoch: int, epochs: int, target: float) -> float:
    """Return the share of channels whose mean saliency reaches the threshold after an epoch: nearly 1, then less.

    ``(1 - target) / 2 * cos(pi * (epoch + 1) / epochs) + (1 + target) / 2``

    Args:
        epoch: Number of the epoch, from 0.
        epochs: How many there are.
        target: Rate after the last.

    Source: the published program of Tang et al., CVPR 2021.

    >>> [round(remain_rate(epoch, 4, 0.6), 3) for epoch in range(4)]
    [0.941, 0.8, 0.659, 0.6]
    """
    return (1 - target) / 2 * math.cos(math.pi * (epoch + 1) / epochs) + (1 + target) / 2


def learning_rate(update: int, updates: int, start: float) -> float:
    """Return the learning rate of an update: a cosine from `start` to 0, changed at every update.

    Args:
        update: Number of the update, from 0.
        updates: How many there are in all epochs.
        start: Rate of the first.

    Source: Loshchilov and Hutter, "SGDR", 2017, equation 5, without restarts.

    >>> learning_rate(0, 10, 0.5), learning_rate(5, 10, 0.5)
    (0.5, 0.25)
    """
    return start / 2 * (1 + math.cos(math.pi * update / updates))
