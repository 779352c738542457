"""Pictures: read when a batch needs them, cropped at random the same for the same seed."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from mopruning.errors import FormatError
from mopruning.manidp import flags
from mopruning.training.data import NORMALIZATIONS
from mopruning.training.pictures import PictureData, Pictures, crop, find_pictures

Image = pytest.importorskip("PIL.Image")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six pictures to train with and two to test with, of two classes, of several sizes and modes."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 3), ("val", 1)):
        for name, colour in (("n01", 200), ("n02", 40)):
            place = tmp_path / part / name
            place.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(colour - 30, colour + 30, (40 + 9 * number, 64, 3)).astype(np.uint8)
                picture = Image.fromarray(pixels)
                (picture.convert("L") if number == 1 else picture).save(place / f"{number}.JPEG")
    return tmp_path


def data(folder: Path, side: int = 32) -> PictureData:
    return PictureData(*(find_pictures(folder, split, side=side) for split in ("train", "test")), "imagenet", seed=5)


def test_pictures_are_listed_and_not_read(folder):
    found = data(folder)
    assert found.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert found.test.classes == ("n01", "n02")
    assert found.train.images.shape == (6, 32, 32, 3)
    (folder / "train" / "n01" / "0.JPEG").write_bytes(b"damaged")
    assert len(find_pictures(folder, "train")) == 6
    with pytest.raises(FormatError, match=r"n01/0\.JPEG: damaged, or no image"):
        list(found.training(0, 6))


def test_the_middle_is_what_is_tested_with(folder):
    found = data(folder)
    ((images, labels),) = found.plain(found.test, 10)
    assert images.shape == (2, 3, 32, 32)
    assert labels.tolist() == [0, 1]
    mean, std = (np.reshape(one, (3, 1, 1)) for one in NORMALIZATIONS["imagenet"])
    picture = Image.open(folder / "val" / "n02" / "0.JPEG")
    shorter = round(32 * 256 / 224)
    width = round(64 * shorter / 40)
    scaled = np.asarray(picture.resize((width, shorter), Image.Resampling.BILINEAR))
    middle = scaled[(shorter - 32) // 2 :, (width - 32) // 2 :][:32, :32]
    np.testing.assert_allclose(images[1], (middle.transpose(2, 0, 1) / 255 - mean) / std, rtol=1e-4, atol=1e-5)


def test_crops_follow_from_seed_and_epoch(folder):
    def epoch(one: PictureData, number: int, size: int = 4, **share: int) -> tuple[np.ndarray, np.ndarray]:
        both = zip(*one.training(number, size, **share), strict=True)
        images, labels = (np.concatenate(parts) for parts in both)
        return images, labels

    found = data(folder)
    images, labels = epoch(found, 1)
    assert sorted(labels) == [0, 0, 0, 1, 1, 1]
    assert images.dtype == np.float32
    assert (images[labels == 0].mean((1, 2, 3)) > images[labels == 1].mean()).all()  # labels stay with pictures
    np.testing.assert_array_equal(epoch(found, 1, size=3)[0], images)
    assert not np.array_equal(epoch(found, 2)[0], images)
    assert not np.array_equal(epoch(dataclasses.replace(found, seed=6), 1)[0], images)
    for rank in range(2):
        np.testing.assert_array_equal(epoch(found, 1, rank=rank, workers=2)[0], images[rank::2])


def test_boxes_are_within_the_picture_and_of_the_published_sizes():
    rng = np.random.default_rng(0)
    areas, ratios = [], []
    for _ in range(2000):
        left, top, right, bottom = crop(48, 40, rng)
        assert 0 <= left < right <= 48
        assert 0 <= top < bottom <= 40
        areas.append((right - left) * (bottom - top) / (48 * 40))
        ratios.append((right - left) / (bottom - top))
    assert 0.06 < min(areas) < 0.12
    assert max(areas) > 0.9
    assert 0.6 < min(ratios) < 0.85
    assert 1.2 < max(ratios) < 1.6


@pytest.mark.parametrize(("size", "box"), [((1000, 10), (493, 0, 506, 10)), ((10, 1000), (0, 493, 10, 506))])
def test_what_fits_in_no_draw_is_the_middle(size, box):
    class Largest(np.random.Generator):
        def uniform(self, low=0.0, high=1.0, size=None):
            return high if high == 1.0 else 0.0

    assert crop(*size, Largest(np.random.PCG64(0))) == box


def test_some_of_them(folder):
    found = data(folder)
    few = dataclasses.replace(found, train=found.train[:2])
    assert isinstance(few.train.images, Pictures)
    assert sum(len(labels) for _, labels in few.training(0, 8)) == 2


def test_the_flags_find_them(folder):
    arguments = ["--dataset", "imagenet", "--arch", "resnet18", "--data_path", str(folder), "--test_images", "1"]
    found = flags.data(flags.parse(flags.parser("trains"), arguments))
    assert (len(found.train), len(found.test), found.normalize) == (6, 1, "imagenet")
    assert isinstance(found, PictureData)
    assert found.train.images.shape == (6, 224, 224, 3)


def test_folders_that_are_none(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="expected a folder with train/CLASS"):
        find_pictures(tmp_path / "train", "train")
    (folder / "val" / "n03").mkdir()
    Image.new("RGB", (4, 4)).save(folder / "val" / "n03" / "0.png")
    with pytest.raises(FormatError, match=r"n03: .* has no such class"):
        find_pictures(folder, "test")
