"""Every published form of a data set is read as it was written."""

from __future__ import annotations

import doctest
import importlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mopruning import pickled
from mopruning.datasets import Images, load
from mopruning.errors import FormatError
from tests.datasets.published import COUNTS, FORMS, GREY, Form, class_folders, idx_files, npz, random_images

pytest.importorskip("sklearn")
pytest.importorskip("PIL")


@pytest.mark.parametrize("name", ["images", "batches", "idx", "parts", "loading"])
def test_doctests(name):
    result = doctest.testmod(importlib.import_module(f"mopruning.datasets.{name}"))
    assert result.attempted > 0
    assert result.failed == 0


def test_doctests_of_pickles():
    assert doctest.testmod(pickled) == (0, 2)


@pytest.mark.parametrize("split", COUNTS)
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_images_and_labels_are_those_written(form: Form, split: str, tmp_path: Path):
    found, written = load(form.make(tmp_path), split), form.sets()[split]
    order = np.arange(len(written)) if form.ordered else np.lexsort((np.arange(len(written)), written.labels))
    np.testing.assert_array_equal(found.images, written.images[order])
    if form.ordered:
        np.testing.assert_array_equal(found.labels, written.labels)
    else:
        assert [found.classes[label] for label in found.labels] == [f"class {label}" for label in written.labels[order]]
    assert found.images.flags.writeable
    assert found.images.flags.c_contiguous


@pytest.mark.parametrize("form", [form for form in FORMS if form.name.startswith("CIFAR")], ids=str)
def test_classes_have_names(form: Form, tmp_path: Path):
    names = load(form.make(tmp_path), "test").classes
    assert len(names) == form.classes
    if "Python" in form.name or form.classes == 100:
        assert names[3] in ("kind 3", "kind3")
    else:
        assert names[3] == "cat"


def test_digits_are_scikit_learns():
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    train, test = load("digits", "train"), load("digits", "test")
    assert (len(train), len(test)) == (1437, 360)
    np.testing.assert_array_equal(test.scaled()[:, 0], pixels[::5].reshape(-1, 8, 8).astype(np.float32) / 16)
    np.testing.assert_array_equal(test.labels, labels[::5])
    np.testing.assert_array_equal(train.labels, np.delete(labels, np.s_[::5]))


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_named_sets_are_looked_for_in_the_folder(name, tmp_path, monkeypatch):
    written = {split: random_images(split, *GREY) for split in COUNTS}
    (tmp_path / name).mkdir()
    for file, content in idx_files(written).items():
        (tmp_path / name / file).write_bytes(content)
    for_argument = load(name, "test", folder=tmp_path)
    monkeypatch.setenv("MOPRUNING_DATA", str(tmp_path))
    for_variable = load(name, "test")
    for found in (for_argument, for_variable):
        np.testing.assert_array_equal(found.images, written["test"].images)
        assert len(found.classes) == 10
    with pytest.raises(FileNotFoundError, match=r"'cifar10': .* has none of cifar10, cifar-10-batches-bin"):
        load("cifar10", "test")
    monkeypatch.delenv("MOPRUNING_DATA")
    with pytest.raises(FileNotFoundError, match="say where it lies, in folder= or in the variable MOPRUNING_DATA"):
        load("cifar10", "test")


def test_labels_of_a_named_set_are_checked(tmp_path):
    written = {split: Images(np.zeros((2, 28, 28, 1), np.uint8), np.array([0, 11])) for split in COUNTS}
    (tmp_path / "mnist").mkdir()
    for file, content in idx_files(written).items():
        (tmp_path / "mnist" / file).write_bytes(content)
    with pytest.raises(FormatError, match="mnist: labels: expected 0 to 9, got 0 to 11"):
        load("mnist", "test", folder=tmp_path)


def test_a_set_without_parts_is_split(tmp_path):
    whole = random_images("train", 8, 8, 3)
    (tmp_path / "a.npz").write_bytes(npz(images=whole.images, labels=whole.labels[:, None]))
    np.testing.assert_array_equal(load(tmp_path / "a.npz", "test").images, whole.images[::5])
    np.testing.assert_array_equal(load(tmp_path / "a.npz", "train").images, np.delete(whole.images, np.s_[::5], axis=0))
    for name, content in class_folders({"train": whole}, {"train": "."}).items():
        (tmp_path / "b" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "b" / name).write_bytes(content)
    order = np.lexsort((np.arange(10), whole.labels))
    np.testing.assert_array_equal(load(tmp_path / "b", "test").images, whole.images[order][::5])


def test_images_of_other_sizes_are_scaled_on_request(tmp_path):
    for size in (8, 12):
        grey = Images(np.full((1, size, size, 1), 10 * size, np.uint8), np.array([size]))
        for name, content in class_folders({"train": grey}, {"train": "train"}).items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(content)
    with pytest.raises(FormatError, match=r"8/000\.png: 8x8 pixels, .*12/000\.png has 12x12; give a size"):
        load(tmp_path, "train")
    found = load(tmp_path, "train", size=(6, 4))
    assert found.images.shape == (2, 6, 4, 1)
    np.testing.assert_array_equal(found.images[:, 2, 2, 0], [120, 80])


def test_one_coloured_image_makes_all_of_them_rgb(tmp_path):
    for label, shape in enumerate([(4, 4, 1), (4, 4, 3)]):
        one = Images(np.full((1, *shape), 7, np.uint8), np.array([label]))
        for name, content in class_folders({"train": one}, {"train": "train"}).items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(content)
    np.testing.assert_array_equal(load(tmp_path, "train").images, np.full((2, 4, 4, 3), 7))


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    form = next(form for form in FORMS if form.name == "CIFAR-10 PNG")
    path = form.make(tmp_path)
    for module in ("PIL.Image", "sklearn.datasets"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=r"reading images needs Pillow: pip install 'mopruning\[data\]'"):
        load(path, "test")
    with pytest.raises(ImportError, match=r"digits needs scikit-learn: pip install 'mopruning\[data\]'"):
        load("digits", "test")


def test_import_brings_neither_package():
    code = "import sys, mopruning.datasets; print([m for m in ('PIL', 'sklearn', 'scipy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_bad_arguments_are_told(tmp_path):
    with pytest.raises(ValueError, match="split: expected one of train, test, got 'validation'"):
        load("digits", "validation")
    with pytest.raises(FileNotFoundError, match="no such data set: cifar; known by name: digits, mnist"):
        load("cifar", "test")
    with pytest.raises(FormatError, match="no test part is recognised in it"):
        load(tmp_path, "test")
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(FormatError, match=r"a\.txt: expected a folder, \.npz, \.mat or \.tar\.gz"):
        load(tmp_path / "a.txt", "test")


REAL = {
    "mnist": (60000, [0.13066], [0.30811]),
    "fashion-mnist": (60000, [0.28604], [0.35302]),
    "cifar10": (50000, [0.49140, 0.48216, 0.44653], [0.24703, 0.24349, 0.26159]),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_the_real_set_has_its_known_statistics(name):
    folder = os.environ.get("MOPRUNING_DATA")
    if not folder:
        pytest.skip("MOPRUNING_DATA names no folder with data sets")
    try:
        train, test = load(name, "train"), load(name, "test")
    except FileNotFoundError as error:
        pytest.skip(str(error))
    count, mean, std = REAL[name]
    assert (len(train), len(test)) == (count, 10000)
    np.testing.assert_allclose(train.statistics(), (mean, std), atol=6e-6)
    assert np.bincount(test.labels).min() >= 800
    assert len(test.classes) == 10
