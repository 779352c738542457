"""The examples run as published, only shorter, reach their sparsity and leave the weights they promise."""

from __future__ import annotations

import gzip
import importlib
import math
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mopruning.errors import GranularityWarning

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")

EXAMPLES = Path(__file__).parent.parent / "examples" / "mnist"
MODULES = ("data", "network", "options")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to run in, with the examples' own modules importable as Python would make them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MOPRUNING_DATA", raising=False)
    monkeypatch.syspath_prepend(str(EXAMPLES))
    for name in MODULES:
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield tmp_path
    for name in MODULES:
        sys.modules.pop(name, None)


@pytest.fixture
def run(here: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def call(script: str, *arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", [script, *arguments])
        runpy.run_path(str(EXAMPLES / script), run_name="__main__")

    return call


def zeros(path: str) -> dict[str, np.ndarray]:
    return {name: (weight == 0).numpy() for name, weight in torch.load(path, weights_only=True).items()}


def write_idx(path: Path, array: np.ndarray) -> None:
    head = bytes((0, 0, 8, array.ndim)) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    content = head + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def write_digits(folder: Path, count: int, suffix: str = "") -> tuple[np.ndarray, np.ndarray]:
    """Write random images as the four idx files, a few of them as the test set, under both usual names."""
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (count, 28, 28)), rng.integers(0, 10, count)
    write_idx(folder / f"train-images-idx3-ubyte{suffix}", images)
    write_idx(folder / f"train-labels-idx1-ubyte{suffix}", labels)
    write_idx(folder / f"t10k-images.idx3-ubyte{suffix}", images[:7])
    write_idx(folder / f"t10k-labels.idx1-ubyte{suffix}", labels[:7])
    return images, labels


@pytest.mark.slow
def test_simple_then_resume(run, capsys):
    run("pytorch_pruning_simple.py", "--epochs", "3")
    first = zeros("mnist-sparse80.pth")
    for name, size in (("conv2.weight", 73728), ("conv3.weight", 294912), ("linear1.weight", 10240)):
        assert first[name].sum() == math.floor(0.8 * size)
    assert not first["conv1.weight"].any()
    assert "epoch 1/3" in capsys.readouterr().out  # the last dense epoch

    run("pytorch_pruning_simple_resume.py", "--epochs", "2")
    assert "sparsity of the pruned weights 0.8000" in capsys.readouterr().out.splitlines()[0]
    second = zeros("mnist-sparse95.pth")
    for name, size in (("conv2.weight", 73728), ("conv3.weight", 294912), ("linear1.weight", 10240)):
        assert second[name].sum() == math.floor(0.95 * size)
        assert second[name][first[name]].all()  # what was pruned stays pruned
    assert not second["conv1.weight"].any()


def test_prune_reports_what_cannot_be_balanced(run, here, capsys):
    write_digits(here, 30)
    with pytest.warns(GranularityWarning) as caught:
        run("pytorch_pruning_mnist.py", "--data", ".", "--epochs", "10", "--batch-size", "10", "--out", "bank.pth")
    assert [str(w.message).split()[0] for w in caught] == ["conv1.weight", "conv3.weight"]
    found = zeros("bank.pth")
    assert (found["conv2.weight"].sum(axis=1) == math.floor(0.9 * 64)).all()  # one bank of 64 input channels
    assert not found["conv1.weight"].any()
    assert not found["conv3.weight"].any()
    assert not found["linear1.weight"].any()
    assert "epoch 10/10" in capsys.readouterr().out


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_files(run, here, suffix):
    folder = here / "sets" / "mnist"
    folder.mkdir(parents=True)
    images, labels = write_digits(folder, 30, suffix)
    digits = importlib.import_module("data").load(str(here / "sets"))
    np.testing.assert_array_equal((digits.train_images * 255).round().numpy()[:, 0], images)
    np.testing.assert_array_equal(digits.train_labels.numpy(), labels)
    np.testing.assert_array_equal(digits.test_labels.numpy(), labels[:7])
    assert digits.train_images.dtype == torch.float32
    run("pytorch_pruning_simple.py", "--data", str(here / "sets"), "--epochs", "3", "--batch-size", "10")
    assert zeros("mnist-sparse80.pth")["conv2.weight"].sum() == math.floor(0.8 * 73728)
    run("pytorch_pruning_simple.py", "--data", str(here / "sets"), "--epochs", "3", "--sparsity", "0", "--out", "d.pth")
    assert not any(mark.any() for name, mark in zeros("d.pth").items() if name.endswith("weight"))
