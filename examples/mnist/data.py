"""Handwritten digits for the examples: scikit-learn's, or a set that `mopruning.datasets` reads."""

import torch

from mopruning import datasets
from mopruning.backends.pytorch.demo import Digits, load_digits


def load(source: str) -> Digits:
    """Load the digits of scikit-learn ("digits"), or a set of grey 28x28 images by name or path.

    A folder may be the one above: `mnist` and torchvision's `MNIST/raw` in it are looked into as well.
    """
    if source == "digits":
        return load_digits()
    train, test = (datasets.load(source, split) for split in ("train", "test"))
    parts = [torch.from_numpy(array) for part in (train, test) for array in (part.scaled(), part.labels)]
    return Digits(*parts)
