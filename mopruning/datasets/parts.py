"""The parts of a set: for training and for testing."""

from __future__ import annotations

import numpy as np

from mopruning.datasets.images import Images

SPLITS = ("train", "test")

_EVERY = 5


def part_of(whole: Images, split: str) -> Images:
    """Return a part of a set that has none of its own: every fifth image, from the first, is for testing.

    >>> whole = Images(np.zeros((7, 1, 1, 1), np.uint8), np.arange(7))
    >>> part_of(whole, "test").labels, part_of(whole, "train").labels
    (array([0, 5]), array([1, 2, 3, 4, 6]))
    """
    test = np.arange(len(whole)) % _EVERY == 0
    return whole[test if split == "test" else ~test]
