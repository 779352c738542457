"""Handwritten digits for the examples: scikit-learn's, or the idx files of MNIST and Fashion-MNIST."""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
import torch

from mopruning.backends.pytorch.demo import Digits, load_digits
from mopruning.errors import FormatError

PARTS = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
GZIP = b"\x1f\x8b"
UNSIGNED_BYTES = 8  # the idx code of the only type these sets use


def load(source: str) -> Digits:
    """Load the digits of scikit-learn ("digits"), or idx files, plain or .gz, from a folder.

    The folder may be the one above: `mnist` and torchvision's `MNIST/raw` in it are looked into as well.
    """
    if source == "digits":
        return load_digits()
    root = Path(source)
    for folder in (root, root / "mnist", root / "MNIST" / "raw"):
        files = [find(folder, part) for part in PARTS]
        if all(files):
            train_images, train_labels, test_images, test_labels = (read_idx(file) for file in files)
            return Digits(scaled(train_images), train_labels.long(), scaled(test_images), test_labels.long())
    raise FileNotFoundError(f"{source}: expected a folder with {', '.join(PARTS)} (plain or .gz), or 'digits'")


def find(folder: Path, part: str) -> Path | None:
    """Return the file of one part under either of its usual names."""
    names = (part, part.replace("-idx", ".idx"))
    return next((folder / (n + end) for n in names for end in ("", ".gz") if (folder / (n + end)).is_file()), None)


def read_idx(path: Path) -> torch.Tensor:
    """Read one idx file of unsigned bytes."""
    content = path.read_bytes()
    try:
        content = gzip.decompress(content) if content.startswith(GZIP) else content
    except (EOFError, OSError, zlib.error) as error:
        raise FormatError(f"{path}: damaged gzip file: {error}") from error
    if len(content) < 4 or content[:3] != bytes((0, 0, UNSIGNED_BYTES)):
        raise FormatError(f"{path}: no idx file of unsigned bytes: it starts with {content[:4].hex(' ') or 'nothing'}")
    start = 4 + 4 * content[3]
    shape = [int.from_bytes(content[i : i + 4], "big") for i in range(4, start, 4)]
    size = len(content) - start
    if size != math.prod(shape):
        raise FormatError(f"{path}: expected {math.prod(shape)} bytes for the shape {shape}, got {max(size, 0)}")
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=start).reshape(shape).copy())


def scaled(images: torch.Tensor) -> torch.Tensor:
    """Return images [n, 28, 28] of bytes as [n, 1, 28, 28] floats in 0 to 1."""
    return images.unsqueeze(1).float() / 255.0
