"""Tiny data sets in every form in which the real ones are published."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mopruning.datasets import Images

COUNTS = {"train": 10, "test": 3}


def random_images(split: str, *shape: int, classes: int = 10) -> Images:
    images = np.random.default_rng(len(split)).integers(0, 256, (COUNTS[split], *shape), np.uint8)
    labels = np.random.default_rng(0).integers(0, classes, 10)  # the test part has no class that training has not
    return Images(images, labels[: COUNTS[split]])


class Python2(pickle._Pickler):
    """Writes text and bytes as Python 2 did, alike: that is how CIFAR's Python version was made."""

    def _save_string(self, thing: bytes | str) -> None:
        content = thing.encode("latin1") if isinstance(thing, str) else thing
        self.write(pickle.BINSTRING + len(content).to_bytes(4, "little") + content)

    dispatch = pickle._Pickler.dispatch | {bytes: _save_string, str: _save_string}


def pickled(thing: Any) -> bytes:
    stream = io.BytesIO()
    Python2(stream, protocol=2).dump(thing)
    return stream.getvalue()


def idx(array: np.ndarray) -> bytes:
    return bytes((0, 0, 8, array.ndim)) + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()


def planes(data: Images) -> np.ndarray:
    return data.images.transpose(0, 3, 1, 2).reshape(len(data), -1)


def png(array: np.ndarray) -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    return stream.getvalue()


def npz(**arrays: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    return stream.getvalue()


def tar_gz(files: Mapping[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


# ---- files of each form: name -> content

Sets = Mapping[str, Images]


def idx_files(sets: Sets, dash: str = "-", pack: Callable[[bytes], bytes] = bytes, end: str = "") -> dict[str, bytes]:
    files = {}
    for stem, split in (("train", "train"), ("t10k", "test")):
        files[f"{stem}-images{dash}idx3-ubyte{end}"] = pack(idx(sets[split].images[..., 0]))
        files[f"{stem}-labels{dash}idx1-ubyte{end}"] = pack(idx(sets[split].labels.astype(np.uint8)))
    return files


def batches_10(sets: Sets) -> dict[str, Images]:
    return {f"data_batch_{i + 1}": sets["train"][2 * i : 2 * i + 2] for i in range(5)} | {"test_batch": sets["test"]}


def cifar10_binary(sets: Sets) -> dict[str, bytes]:
    return {
        f"{name}.bin": np.concatenate([part.labels[:, None].astype(np.uint8), planes(part)], axis=1).tobytes()
        for name, part in batches_10(sets).items()
    }


def cifar10_pickled(sets: Sets) -> dict[str, bytes]:
    files = {
        name: pickled(
            {
                "batch_label": f"batch {name}",
                "labels": part.labels.tolist(),
                "data": planes(part),
                "filenames": [f"{i}.png" for i in range(len(part))],
            }
        )
        for name, part in batches_10(sets).items()
    }
    names = [f"kind {i}" for i in range(10)]
    return files | {"batches.meta": pickled({"num_cases_per_batch": 2, "label_names": names, "num_vis": 3072})}


def cifar10_png(sets: Sets) -> dict[str, bytes]:
    files = {f"{name}.png": png(part.images.reshape(len(part), 1024, 3)) for name, part in batches_10(sets).items()}
    labels = {"train_lables.json": "train", "test_lables.json": "test"}
    return files | {name: json.dumps(sets[split].labels.tolist()).encode() for name, split in labels.items()}


def cifar100_binary(sets: Sets) -> dict[str, bytes]:
    files = {}
    for split, part in sets.items():
        coarse, fine = (part.labels[:, None] // 5).astype(np.uint8), part.labels[:, None].astype(np.uint8)
        files[f"{split}.bin"] = np.concatenate([coarse, fine, planes(part)], axis=1).tobytes()
    return files | {"fine_label_names.txt": "".join(f"kind{i}\n" for i in range(100)).encode()}


def cifar100_pickled(sets: Sets) -> dict[str, bytes]:
    files = {
        split: pickled({b"data": planes(part), "fine_labels": part.labels.tolist(), "coarse_labels": [0] * len(part)})
        for split, part in sets.items()
    }
    return files | {"meta": pickled({"fine_label_names": [f"kind {i}" for i in range(100)], "coarse_label_names": []})}


def imagenet32(sets: Sets, npy: bool) -> dict[str, bytes]:
    parts = {f"train/train_data_batch_{i + 1}": sets["train"][i : i + 1] for i in range(10)}
    files = {}
    for name, part in (parts | {"val/val_data": sets["test"]}).items():
        held = {"data": planes(part), "labels": part.labels + 1, "mean": planes(part).mean(0)}
        folder, _, file = name.partition("/")
        if npy:
            files[f"Imagenet32_{folder}_npz/{file}.npz"] = npz(**held)
        else:
            listed = held | {"labels": held["labels"].tolist()}
            files[f"Imagenet32_{folder}/{file}"] = pickle.dumps(listed, protocol=4)
    return files


def svhn(sets: Sets) -> dict[str, bytes]:
    from scipy.io import savemat

    files = {}
    for split, part in sets.items():
        stream = io.BytesIO()
        labels = np.where(part.labels == 0, 10, part.labels)[:, None].astype(np.uint8)
        savemat(stream, {"X": part.images.transpose(1, 2, 3, 0), "y": labels}, do_compression=True)
        files[f"{split}_32x32.mat"] = stream.getvalue()
    return files


def one_npz(sets: Sets, names: str) -> dict[str, bytes]:
    x, y = names.split()
    arrays = {name.format(s): array for s, part in sets.items() for name, array in ((x, part.images), (y, part.labels))}
    return {"set.npz": npz(**arrays)}


def class_folders(sets: Sets, split_folders: Mapping[str, str]) -> dict[str, bytes]:
    return {
        f"{split_folders[split]}/class {label}/{index:03}.png": png(image.squeeze())
        for split, part in sets.items()
        for index, (image, label) in enumerate(zip(part.images, part.labels, strict=True))
    }


@dataclass(frozen=True)
class Form:
    """A way to publish a set.

    Args:
        name: What it is called here.
        shape: Shape of an image.
        write: Makes the files, by name.
        path: What to load, in the folder.
        classes: Number of classes.
        ordered: Whether images keep their order; class folders sort them.
    """

    name: str
    shape: tuple[int, int, int]
    write: Callable[[Sets], Mapping[str, bytes]]
    path: str = "."
    classes: int = 10
    ordered: bool = True

    def __str__(self) -> str:
        return self.name

    def sets(self) -> dict[str, Images]:
        return {split: random_images(split, *self.shape, classes=self.classes) for split in COUNTS}

    def make(self, folder: Path) -> Path:
        """Write the files and return what to load."""
        for name, content in self.write(self.sets()).items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        return folder / self.path


GREY, COLOUR = (28, 28, 1), (32, 32, 3)


def _within(folder: str, write: Callable[[Sets], Mapping[str, bytes]]) -> Callable[[Sets], dict[str, bytes]]:
    return lambda sets: {f"{folder}/{name}": content for name, content in write(sets).items()}


def _packed(name: str, folder: str, write: Callable[[Sets], Mapping[str, bytes]]) -> Callable[[Sets], dict[str, bytes]]:
    return lambda sets: {name: tar_gz(_within(folder, write)(sets))}


FORMS = (
    Form("idx", GREY, idx_files),
    Form("idx, gzip", GREY, lambda sets: idx_files(sets, pack=gzip.compress, end=".gz")),
    Form("idx, dotted, in a folder", GREY, _within("MNIST/raw", lambda sets: idx_files(sets, dash="."))),
    Form("CIFAR-10 binary", COLOUR, _within("cifar-10-batches-bin", cifar10_binary)),
    Form("CIFAR-10 binary archive", COLOUR, _packed("x.tar.gz", "cifar-10-batches-bin", cifar10_binary), "x.tar.gz"),
    Form("CIFAR-10 Python", COLOUR, cifar10_pickled),
    Form("CIFAR-10 Python archive", COLOUR, _packed("x.tar.gz", "cifar-10-batches-py", cifar10_pickled), "x.tar.gz"),
    Form("CIFAR-10 PNG", COLOUR, cifar10_png),
    Form("CIFAR-10 PNG archive", COLOUR, _packed("x.tgz", "package", cifar10_png), "x.tgz"),
    Form("CIFAR-100 binary", COLOUR, cifar100_binary, classes=100),
    Form("CIFAR-100 Python", COLOUR, cifar100_pickled, classes=100),
    Form("SVHN", COLOUR, svhn),
    Form("ImageNet32", COLOUR, lambda sets: imagenet32(sets, True), classes=1000),
    Form("ImageNet32 pickles", COLOUR, lambda sets: imagenet32(sets, False), classes=1000),
    Form("npz of Keras", COLOUR, lambda sets: one_npz(sets, "x_{} y_{}"), "set.npz"),
    Form("npz of MedMNIST", COLOUR, lambda sets: one_npz(sets, "{}_images {}_labels"), "set.npz"),
    Form("folders", COLOUR, lambda s: class_folders(s, {"train": "train", "test": "test"}), ordered=False),
    Form("folders, val", COLOUR, lambda s: class_folders(s, {"train": "train", "test": "val"}), ordered=False),
    Form("folders, val_", COLOUR, lambda s: class_folders(s, {"train": "train", "test": "val_"}), ordered=False),
    Form("grey folders", GREY, lambda s: class_folders(s, {"train": "train", "test": "test"}), ordered=False),
)
