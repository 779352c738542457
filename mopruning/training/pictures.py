"""Pictures: images that stay in their files until a batch needs them, as ImageNet's have to."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np

from mopruning.datasets import Images
from mopruning.datasets.files import optional, refusing
from mopruning.datasets.folders import SUFFIXES, class_folders, split_folder
from mopruning.datasets.images import as_floats
from mopruning.errors import FormatError
from mopruning.training.data import NORMALIZATIONS, Data, ahead

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"
Box: TypeAlias = "tuple[int, int, int, int]"

_FORMATS = ("PNG", "JPEG", "BMP", "PPM")
_AREAS, _RATIOS, _TRIES = (0.08, 1.0), (3 / 4, 4 / 3), 10


class Pictures:
    """Stands where an array of images [n, side, side, 3] would, and reads them when they are asked for.

    A picture is scaled so that its shorter side is `shorter`, and the square in its middle is taken.

    Args:
        paths: The files.
        side: Height and width.
        shorter: See above.
        workers: Threads that read.
    """

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __init__(self, paths: Sequence[Path], *, side: int = 224, shorter: int = 256, workers: int = 2) -> None:
        self._module = optional("PIL.Image", "Pillow", "reading images")
        self._paths, self._workers = tuple(paths), workers
        self._side, self._shorter = side, shorter

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Shape of the array that this stands for."""
        return len(self._paths), self._side, self._side, 3

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: slice | NumPyArray) -> Pictures | NumPyArray:
        """Return some of the pictures, still in their files, for a slice; read for an array of numbers."""
        if isinstance(index, slice):
            return Pictures(self._paths[index], side=self._side, shorter=self._shorter, workers=self._workers)
        return self._read([(int(number), None) for number in index])

    def drawn(self, numbers: NumPyArray, seed: int, epoch: int) -> NumPyArray:
        """Return pictures, uint8 [n, side, side, 3], each cropped, scaled and mirrored at random.

        What becomes of one follows from seed, epoch and its number alone.

        Args:
            numbers: Which.
            seed: Draws, with the epoch.
            epoch: Number of the epoch.
        """
        return self._read([(int(number), np.random.default_rng([seed, epoch, int(number)])) for number in numbers])

    def _read(self, wanted: Sequence[tuple[int, np.random.Generator | None]]) -> NumPyArray:
        with ThreadPoolExecutor(self._workers) as threads:
            found = list(threads.map(lambda one: self._picture(*one), wanted))
        return np.stack(found) if found else np.empty((0, *self.shape[1:]), np.uint8)

    def _picture(self, number: int, random: np.random.Generator | None) -> NumPyArray:
        path, sides = self._paths[number], (self._side, self._side)
        bilinear = self._module.Resampling.BILINEAR
        with refusing(os.fspath(path), "image", Exception), self._module.open(path, formats=_FORMATS) as opened:
            picture = opened.convert("RGB")
            if random is not None:
                box = crop(picture.width, picture.height, random)
                pixels = np.asarray(picture.resize(sides, bilinear, box=box))
                return pixels[:, ::-1] if random.random() < 0.5 else pixels
            scale = self._shorter / min(picture.size)
            width, height = (max(self._side, round(scale * length)) for length in picture.size)
            left, top = (width - self._side) // 2, (height - self._side) // 2
            scaled = picture.resize((width, height), bilinear)
            return np.asarray(scaled.crop((left, top, left + self._side, top + self._side)))


def crop(width: int, height: int, random: np.random.Generator) -> Box:
    """Draw the part of a picture to train with: left, top, right, bottom.

    It has 8% to 100% of the area and sides of 3:4 to 4:3; where that fits in none of ten draws, it is the largest in
    the middle with such sides.

    Source: Szegedy et al., "Going deeper with convolutions", 2015, section 6.
    """
    for _ in range(_TRIES):
        area = width * height * random.uniform(*_AREAS)
        ratio = math.exp(random.uniform(math.log(_RATIOS[0]), math.log(_RATIOS[1])))
        across, down = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < across <= width and 0 < down <= height:
            left, top = int(random.integers(width - across + 1)), int(random.integers(height - down + 1))
            return left, top, left + across, top + down
    across = min(width, max(1, round(height * _RATIOS[1])))
    down = min(height, max(1, round(width / _RATIOS[0])))
    left, top = (width - across) // 2, (height - down) // 2
    return left, top, left + across, top + down


@dataclass(frozen=True)
class PictureData(Data):
    """Labelled pictures in their files; arguments are those of `Data`, `find_pictures` gives the images."""

    def training(
        self, epoch: int, size: int, *, rank: int = 0, workers: int = 1
    ) -> Iterator[tuple[NumPyArray, NumPyArray]]:
        """Give the training pictures of an epoch, shuffled, cropped and mirrored at random; else as `Data` does."""
        return ahead(self._drawn(epoch, size, rank, workers))

    def _drawn(self, epoch: int, size: int, rank: int, workers: int) -> Iterator[tuple[NumPyArray, NumPyArray]]:
        pictures = cast(Pictures, self.train.images)
        mean, std = (np.asarray(one, np.float32).reshape(-1, 1, 1) for one in NORMALIZATIONS[self.normalize])
        count = len(self.train)
        order = np.random.Generator(np.random.Philox(key=[self.seed, epoch])).permutation(count)
        order = order[: count // workers * workers][rank::workers]
        for start in range(0, len(order), size):
            chosen = order[start : start + size]
            images = as_floats(pictures.drawn(chosen, self.seed, epoch), 255)
            yield (images - mean) / std, self.train.labels[chosen]


def find_pictures(path: str | os.PathLike[str], split: str, *, side: int = 224, workers: int = 2) -> Images:
    """List the pictures of a set in folders: train/CLASS/*.jpeg and val/CLASS/*.jpeg.

    Args:
        path: The folder above.
        split: "train" or "test".
        side: Height and width of what is read.
        workers: Threads that read.

    Returns:
        Images whose array is a `Pictures`: nothing is read yet.

    Raises:
        FileNotFoundError: If there is no such folder.
        FormatError: If there are no pictures, or some for testing are of a class that there are none of for training.
        ImportError: If Pillow is not installed.
    """
    place = Path(path)
    parts = {name: split_folder(place, name) for name in ("train", "test")}
    if not place.is_dir() or parts["train"] is None or parts["test"] is None:
        raise FileNotFoundError(f"{place}: expected a folder with train/CLASS/*.jpeg and val/CLASS/*.jpeg")
    classes = tuple(folder.name for folder in class_folders(parts["train"]))
    chosen = parts[split]
    assert chosen is not None
    paths, labels = [], []
    for folder in class_folders(chosen):
        if folder.name not in classes:
            raise FormatError(f"{folder}: {parts['train']} has no such class")
        files = sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES)
        paths += files
        labels += [classes.index(folder.name)] * len(files)
    if not paths:
        raise FormatError(f"{chosen}: there are no pictures in folders of classes")
    shorter = round(side * 256 / 224)
    pictures = Pictures(paths, side=side, shorter=shorter, workers=workers)
    return Images(cast(NumPyArray, pictures), np.array(labels, np.int64), classes)
