"""Damaged and hostile files give an error that names the file and the check; they run nothing and take no memory."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import random
import struct
import tarfile
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mopruning.datasets import Images, load
from mopruning.errors import FormatError
from tests.datasets.published import FORMS, idx, npz, pickled, png, tar_gz

pytest.importorskip("sklearn")
pytest.importorskip("PIL")

LABELS = "t10k-labels-idx1-ubyte"
IMAGES = "t10k-images-idx3-ubyte"


class Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("executed",)


def batch(**entries: Any) -> bytes:
    return pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": [1, 2]} | entries, protocol=2)


def huge_png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def lying_tar() -> bytes:
    entry = tarfile.TarInfo("cifar-10-batches-bin/test_batch.bin")
    entry.size = 1 << 40
    return gzip.compress(entry.tobuf() + bytes(4096))


def twice() -> bytes:
    return tar_gz({"a/test_batch.bin": b"a" * 3073, "b/test_batch.bin": b"b" * 3073})


def object_npy() -> bytes:
    return npz(x_test=np.array([Hostile()], object), y_test=np.zeros(1, np.int64))


def lying_npz() -> bytes:
    import zipfile

    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in ("x_test.npy", "y_test.npy"):
            header = io.BytesIO()
            description = {"descr": "|u1", "fortran_order": False, "shape": (1 << 40, 4, 4)}
            np.lib.format.write_array_header_1_0(header, description)
            archive.writestr(name, header.getvalue())
    return stream.getvalue()


SQUARES = np.zeros((2, 4, 4, 3), np.uint8)

CASES: list[tuple[str, dict[str, bytes], str]] = [
    ("no labels", {IMAGES: idx(SQUARES[..., 0])}, f"{IMAGES}: its images or labels are missing beside it"),
    (
        "fewer labels",
        {IMAGES: idx(SQUARES[..., 0]), LABELS: idx(np.zeros(1, np.uint8))},
        f"{LABELS}: 1 labels for 2 images",
    ),
    ("short idx", {IMAGES: idx(SQUARES[..., 0])[:-1], LABELS: b""}, f"{IMAGES}: expected 32 bytes .*, got 31"),
    ("long idx", {IMAGES: idx(SQUARES[..., 0]) + b"x", LABELS: b""}, f"{IMAGES}: expected 32 bytes .*, got 33"),
    ("no header", {IMAGES: b"\0\0\10", LABELS: b""}, f"{IMAGES}: truncated: expected 16 bytes, got 3"),
    ("four axes", {IMAGES: idx(SQUARES), LABELS: b""}, "starts with 00 00 08 04, not 00 00 08 03"),
    ("floats", {IMAGES: b"\0\0\15\3" + bytes(12), LABELS: b""}, "no idx file of unsigned bytes: starts with 00 00 0d"),
    (
        "a bomb",
        {f"{IMAGES}.gz": gzip.compress(b"\0\0\10\3" + b"\xff" * 12 + bytes(1000)), LABELS: b""},
        "damaged: it claims 79228162458924105385300197375 bytes",
    ),
    (
        "long gzip",
        {f"{IMAGES}.gz": gzip.compress(idx(SQUARES[..., 0]) + b"x"), LABELS: b""},
        "bytes are left after the 32 of its shape",
    ),
    ("short gzip", {f"{IMAGES}.gz": gzip.compress(idx(SQUARES[..., 0]))[:-9], LABELS: b""}, "damaged, or no gzip file"),
    ("odd size", {"test_batch.bin": bytes(3072)}, r"test_batch\.bin: 3072 bytes are no whole number of 3073"),
    ("empty", {"test_batch.bin": b""}, "0 bytes are no whole number of 3073"),
    ("label", {"test_batch.bin": b"\12" + bytes(3072)}, "labels from 10 to 10, expected 0 to 9"),
    ("fine label", {"test.bin": b"\0\x64" + bytes(3072)}, "labels from 100 to 100, expected 0 to 99"),
    ("names", {"test.bin": bytes(3074), "fine_label_names.txt": b"one two"}, "the names of 100 classes, got 2"),
    ("names", {"test.bin": bytes(3074), "fine_label_names.txt": b"\xff"}, "damaged, or no text"),
    ("hostile", {"test_batch": batch(labels=Hostile())}, r"test_batch: refused: the pickle asks for \w+\.mkdir"),
    ("hostile", {"test": pickle.dumps(Hostile())}, r"test: refused: the pickle asks for \w+\.mkdir"),
    ("hostile names", {"test_batch": batch(), "batches.meta": pickle.dumps({"x": Hostile()})}, "meta: refused"),
    ("no dict", {"test_batch": pickle.dumps([1])}, "the pickle holds a list, expected a dict"),
    ("no data", {"test_batch": pickle.dumps({})}, "'data' is a NoneType, expected a NumPy array"),
    ("objects", {"test_batch": batch(data=np.array([None]))}, "'data': damaged, or no array: it holds Python objects"),
    ("floats", {"test_batch": batch(data=np.zeros((2, 3072)))}, r"'data' is float64 \[2, 3072\], expected uint8"),
    ("shape", {"test_batch": batch(data=np.zeros((2, 3071), np.uint8))}, r"'data' is uint8 \[2, 3071\]"),
    ("no labels", {"test_batch": batch(labels=None)}, "'labels': expected a list of whole numbers, got a NoneType"),
    ("labels", {"test_batch": batch(labels=[1.5, 2])}, "'labels': expected a list of whole numbers"),
    ("labels", {"test_batch": batch(labels=[1])}, "'labels': 1 labels for 2 images"),
    ("labels", {"test_batch": batch(labels=[1, 10])}, "'labels': labels from 1 to 10, expected 0 to 9"),
    ("labels", {"test_batch": batch(labels=[1, -(10**30)])}, "'labels': labels from -10{30} to 1, expected 0 to 9"),
    ("meta", {"test_batch": batch(), "batches.meta": pickled({"label_names": [1] * 10})}, "expected the names of 10"),
    ("no JSON", {"test_batch.png": png(SQUARES[0])}, "the labels are missing beside it"),
    ("narrow", {"test_batch.png": png(SQUARES[0]), "test_lables.json": b"[1]"}, "4 pixels wide, RGB; expected 1024"),
    (
        "JSON",
        {"test_batch.png": png(np.zeros((1, 1024, 3), np.uint8)), "test_lables.json": b"["},
        "damaged, or no JSON text",
    ),
    (
        "JSON",
        {"test_batch.png": png(np.zeros((1, 1024, 3), np.uint8)), "test_lables.json": b"[" * 100000},
        "damaged, or no JSON text",
    ),
    (
        "labels",
        {"test_batch.png": png(np.zeros((1, 1024, 3), np.uint8)), "test_lables.json": b"[1, 2]"},
        "2 labels for 1 images",
    ),
    (
        "a tall PNG",
        {"test_batch.png": huge_png(1024, 1 << 15), "test_lables.json": b"[1]"},
        "damaged: it claims 100663296 bytes",
    ),
    ("a large PNG", {"test/a/1.png": huge_png(8192, 8200)}, "8200x8192 pixels, expected 67108864 at most"),
    ("an empty PNG", {"test/a/1.png": huge_png(64, 64)}, r"1\.png: damaged, or no image"),
    ("no PNG", {"test/a/1.png": b"<html>"}, r"1\.png: damaged, or no image"),
    ("a new class", {"test/b/1.png": png(SQUARES[0]), "train/a/1.png": png(SQUARES[0])}, "train does not have: b"),
    ("ImageNet32 floats", {"val_data": batch(data=np.zeros((2, 3072)))}, r"'data' is float64 \[2, 3072\]"),
    ("ImageNet32 text", {"val_data": batch(labels="ab")}, "'labels': expected whole numbers, got a str"),
    ("ImageNet32 0", {"val_data": batch(labels=[0, 1])}, "'labels': labels from 0 to 1, expected 1 to 1000"),
    ("ImageNet32 1001", {"val_data": batch(labels=np.array([5, 1001]))}, "labels from 5 to 1001"),
    ("ImageNet32 huge", {"val_data": batch(labels=[1, 10**30])}, "labels from 1 to 10{30}, expected"),
    ("ImageNet32 two", {"val_data": batch(labels=[1])}, r"'labels': shape \[1\] for 2 images"),
    ("ImageNet32 code", {"val_data": batch(labels=Hostile())}, r"val_data: refused: the pickle asks for \w+\.mkdir"),
    ("ImageNet32 npz", {"val_data.npz": npz(data=np.zeros((2, 3072), np.uint8))}, "expected arrays data, labels, got"),
    ("mat", {"test_32x32.mat": b"nothing"}, "damaged, or no .mat file"),
    ("npz", {"": b"PK\3\4"}, r"damaged, or no \.npz file"),
    ("npz", {"": npz(a=SQUARES)}, "expected arrays x_test or test_images or images, got a"),
    ("npz", {"": object_npy()}, "'x_test': object numbers, expected whole ones"),
    ("npz", {"": lying_npz()}, r"bytes do not hold the shape \[1099511627776, 4, 4\] of uint8"),
    ("npz", {"": npz(images=SQUARES.astype(np.int32), labels=np.zeros(2, int))}, r"'images': int32 \[2, 4, 4, 3\]"),
    ("npz", {"": npz(images=SQUARES.reshape(2, 3, 4, 4)[..., None], labels=np.zeros(2, int))}, r"\[2, 3, 4, 4, 1\]"),
    ("npz", {"": npz(images=SQUARES, labels=np.zeros(3, int))}, r"'labels': shape \[3\], expected one label for 2"),
    ("npz", {"": npz(images=SQUARES, labels=np.array([0, -1]))}, "'labels': labels from -1 to 0"),
    ("npz", {"": npz(images=SQUARES, labels=np.array([0, 2**63], np.uint64))}, "'labels': labels from 0 to 9223"),
]


@pytest.mark.parametrize(("files", "message"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_what_is_wrong_is_told(files: dict[str, bytes], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for name, content in files.items():
        path = tmp_path / "set" / name if name else tmp_path / "set.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match=message) as caught:
            load(tmp_path / ("set.npz" if "" in files else "set"), "test")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert str(tmp_path) in str(caught.value)
    assert peak < 20_000_000
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lying_tar(), "test_batch.bin: damaged: it claims 1099511627776 bytes"),
        (twice(), "b/test_batch.bin: there is another file of this name in the archive"),
        (tar_gz({"x/test_batch": pickle.dumps(Hostile())}), r"x/test_batch: refused: the pickle asks for \w+\.mkdir"),
        (tar_gz({"x/test_batch.bin": random.Random(0).randbytes(3073)})[:-500], "damaged, or no archive"),
        (tar_gz({"x/readme": b"nothing"}), "no test part is recognised in it"),
        (b"nothing", "damaged, or no archive"),
    ],
)
def test_archives_are_checked(content: bytes, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "set.tar.gz").write_bytes(content)
    with pytest.raises(FormatError, match=message):
        load("set.tar.gz", "test")
    assert [path.name for path in tmp_path.iterdir()] == ["set.tar.gz"]


def test_missing_batches_are_named(tmp_path):
    (tmp_path / "data_batch_1.bin").write_bytes(bytes(3073))
    (tmp_path / "data_batch_4.bin").write_bytes(bytes(3073))
    with pytest.raises(FormatError, match=r"beside it: data_batch_2\.bin, data_batch_3\.bin, data_batch_5\.bin"):
        load(tmp_path, "train")


def test_missing_batches_of_imagenet32_are_named(tmp_path):
    for number in range(1, 10):
        (tmp_path / f"train_data_batch_{number}").write_bytes(b"")
    with pytest.raises(FormatError, match=r"train_data_batch_1: files are missing beside it: train_data_batch_10$"):
        load(tmp_path, "train")


def damage(content: bytes, chance: random.Random) -> bytes:
    damaged = bytearray(content)
    for _ in range(chance.randint(1, 3)):
        damaged[chance.randrange(len(damaged))] = chance.randrange(256)
    return bytes(damaged[: chance.choice([len(damaged), chance.randrange(len(damaged))])])


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_random_damage_loads_or_is_refused(form, tmp_path):
    chance, refused = random.Random(0), 0
    path = form.make(tmp_path)
    files = [file for file in sorted(tmp_path.rglob("*")) if file.is_file() and "train" not in file.name]
    tracemalloc.start()
    try:
        for _ in range(40):
            file = chance.choice(files)
            whole = file.read_bytes()
            file.write_bytes(damage(whole, chance))
            try:
                assert isinstance(load(path, "test"), Images)
            except FormatError:
                refused += 1
            finally:
                file.write_bytes(whole)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert refused > 1
    assert peak < 50_000_000
