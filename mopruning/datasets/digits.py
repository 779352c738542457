"""The handwritten digits that scikit-learn ships: 1,797 images of 8x8, in 17 shades of grey."""

from __future__ import annotations

import numpy as np

from mopruning.datasets.files import optional
from mopruning.datasets.images import Images
from mopruning.datasets.parts import part_of


def read(split: str) -> Images:
    """Load one part: every fifth image, from the first, is for testing.

    Raises:
        ImportError: If scikit-learn is not installed.

    Source: Alpaydin and Kaynak, "Optical recognition of handwritten digits", UCI, 1998.
    """
    pixels, labels = optional("sklearn.datasets", "scikit-learn", "the set of digits").load_digits(return_X_y=True)
    images = pixels.reshape(-1, 8, 8, 1).astype(np.uint8)
    return part_of(Images(images, labels.astype(np.int64), tuple("0123456789"), peak=16), split)
