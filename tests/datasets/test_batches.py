"""Images in memory, and batches of them."""

from __future__ import annotations

import numpy as np
import pytest

from mopruning.datasets import Images, batches
from mopruning.datasets.batches import Augmentation


def some(count: int = 23, channels: int = 3) -> Images:
    rng = np.random.default_rng(0)
    return Images(rng.integers(0, 256, (count, 6, 5, channels), np.uint8), np.arange(count))


def test_statistics_are_those_of_numpy():
    data = some(2500)
    mean, std = data.statistics()
    np.testing.assert_allclose(mean, (data.images / 255).mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(std, (data.images / 255).std((0, 1, 2)), rtol=1e-12)
    halved = Images(data.images // 2, data.labels, peak=127)
    np.testing.assert_allclose(halved.statistics()[0], (halved.images / 127).mean((0, 1, 2)), rtol=1e-12)


def test_scaling_and_picking():
    data = some()
    scaled = data.scaled()
    assert (scaled.dtype, scaled.shape) == (np.float32, (23, 3, 6, 5))
    np.testing.assert_array_equal(scaled[4, 2], data.images[4, :, :, 2].astype(np.float32) / np.float32(255))
    np.testing.assert_array_equal(data[data.labels > 20].labels, [21, 22])
    assert len(data[:5]) == 5


@pytest.mark.parametrize(
    ("images", "labels", "classes", "message"),
    [
        (np.zeros((2, 4, 4), np.uint8), np.zeros(2, np.int64), (), "expected uint8"),
        (np.zeros((2, 4, 4, 1), np.float32), np.zeros(2, np.int64), (), "got float32"),
        (np.zeros((2, 4, 4, 1), np.uint8), np.zeros(3, np.int64), (), r"expected int64 \[2\]"),
        (np.zeros((2, 4, 4, 1), np.uint8), np.zeros(2, np.uint8), (), "got uint8"),
        (np.zeros((2, 4, 4, 1), np.uint8), np.array([0, 2]), ("a", "b"), "expected 0 to 1, got 0 to 2"),
        (np.zeros((2, 4, 4, 1), np.uint8), np.array([-1, 0]), (), "got -1 to 0"),
    ],
)
def test_what_does_not_fit_is_refused(images, labels, classes, message):
    with pytest.raises(ValueError, match=message):
        Images(images, labels, classes)


def test_without_a_seed_the_order_stays():
    data = some()
    parts = list(batches(data, 10))
    assert [len(labels) for _, labels in parts] == [10, 10, 3]
    np.testing.assert_array_equal(np.concatenate([labels for _, labels in parts]), data.labels)
    np.testing.assert_array_equal(np.concatenate([images for images, _ in parts]), data.scaled())


def test_seed_and_epoch_decide():
    data = some()

    def order(**options: int) -> list[int]:
        return np.concatenate([labels for _, labels in batches(data, 7, **options)]).tolist()

    assert order(seed=1) == order(seed=1)
    assert sorted(order(seed=1)) == list(range(23))
    assert len({tuple(order(seed=seed, epoch=epoch)) for seed in range(3) for epoch in range(3)}) == 9


def test_channels_are_normalised():
    data = some()
    mean, std = data.statistics()
    images = np.concatenate([images for images, _ in batches(data, 10, mean=mean, std=std)])
    assert images.dtype == np.float32
    np.testing.assert_allclose(images.mean((0, 2, 3)), 0, atol=1e-6)
    np.testing.assert_allclose(images.std((0, 2, 3)), 1, atol=1e-6)


def test_an_image_becomes_the_same_whatever_the_batches_and_workers():
    data = some(24)
    options = {"seed": 3, "epoch": 2, "augmentation": Augmentation(2)}

    def images(size: int, rank: int = 0, workers: int = 1) -> dict[int, bytes]:
        found = {}
        for pixels, labels in batches(data, size, rank=rank, workers=workers, **options):
            found |= {int(label): one.tobytes() for one, label in zip(pixels, labels, strict=True)}
        return found

    whole = images(5)
    assert whole == images(24)
    shares = [images(4, rank, 3) for rank in range(3)]
    assert [len(share) for share in shares] == [8, 8, 8]
    assert shares[0] | shares[1] | shares[2] == whole
    assert [len(labels) for rank in range(5) for _, labels in batches(data, 9, rank=rank, workers=5)] == [4] * 5


def test_augmentation_crops_and_mirrors():
    data, augmentation = some(200), Augmentation(3)
    offsets, mirrored = augmentation.draw(np.random.Generator(np.random.Philox(0)), len(data))
    assert (offsets.min(), offsets.max()) == (0, 6)
    assert 60 < mirrored.sum() < 140
    got = augmentation.apply(data.images, offsets, mirrored)
    for image, (top, left), mirror, result in zip(data.images, offsets, mirrored, got, strict=True):
        padded = np.zeros((12, 11, 3), np.uint8)
        padded[3:9, 3:8] = image
        crop = padded[top : top + 6, left : left + 5]
        np.testing.assert_array_equal(result, crop[:, ::-1] if mirror else crop)
    assert not Augmentation(flip=False).draw(np.random.default_rng(0), 100)[1].any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "size of 1 or more"),
        ({"size": 1, "rank": 2, "workers": 2}, "2 of 2"),
        ({"size": 1, "augmentation": Augmentation()}, "give a seed"),
    ],
)
def test_impossible_batches_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        next(batches(some(), **options))
