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
from tests.backends.presence import require

EXAMPLES = Path(__file__).parent.parent / "examples" / "mnist"
FRAMEWORKS = ("pytorch", "mxnet", "tensorflow1", "mindspore")
MODULES = ("data", "options", "progress", *(f"{name}_network" for name in FRAMEWORKS))
SIZES = {"conv1": 576, "conv2": 73728, "conv3": 294912, "last": 10240}
ROUNDS = ("--data", ".", "--batch-size", "10")
"""Arguments for a set of 20 random images: two updates an epoch."""

pytestmark = pytest.mark.filterwarnings(
    # Those of the frameworks themselves: MindSpore 2.10's save_checkpoint.
    "ignore:getName.. is deprecated:DeprecationWarning",
)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to run in, with the examples' own modules importable as Python would make them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MOPRUNING_DATA", raising=False)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")  # as mindspore_network would, for good
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


def saved(framework: str, name: str) -> dict[str, np.ndarray]:
    """Return the kernels that an example saved, read by the framework alone, by the names of `SIZES`."""
    if framework == "pytorch":
        import torch

        arrays = {key: value.numpy() for key, value in torch.load(f"{name}.pth", weights_only=True).items()}
    elif framework == "mxnet":
        import mxnet as mx

        arrays = {key: value.asnumpy() for key, value in mx.nd.load(f"{name}.params").items()}
    elif framework == "tensorflow1":
        import tensorflow.compat.v1 as tf

        reader = tf.train.load_checkpoint(name)
        arrays = {key: reader.get_tensor(key) for key in sorted(reader.get_variable_to_shape_map(), key=layer_order)}
    else:
        import mindspore as ms

        arrays = {key: value.asnumpy() for key, value in ms.load_checkpoint(f"{name}.ckpt").items()}
    kernels = [array for array in arrays.values() if array.ndim > 1]
    return dict(zip(SIZES, kernels, strict=True))


def layer_order(name: str) -> tuple[bool, str]:
    return name.startswith("dense"), name


def zeros(framework: str, name: str) -> dict[str, int]:
    return {layer: int((kernel == 0).sum()) for layer, kernel in saved(framework, name).items()}


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


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_simple_then_resume(framework, run, here, capsys):
    require(framework)
    write_digits(here, 20)
    run(f"{framework}_pruning_simple.py", *ROUNDS, "--epochs", "3")
    dense, sparse = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]
    assert dense.startswith("epoch 1/3")  # the last dense epoch
    assert dense.endswith("sparsity of the pruned weights 0.0000")
    assert sparse.startswith("epoch 3/3")
    assert sparse.endswith("sparsity of the pruned weights 0.8000")
    first = saved(framework, "mnist-sparse80")
    wanted = {layer: math.floor(0.8 * size) for layer, size in SIZES.items()} | {"conv1": 0}
    assert zeros(framework, "mnist-sparse80") == wanted

    run(f"{framework}_pruning_simple_resume.py", *ROUNDS, "--epochs", "5")
    lines = capsys.readouterr().out.splitlines()
    loaded = next(line for line in lines if line.startswith("loaded"))
    # What it loads is what was saved: it recognises as many images.
    assert loaded == sparse.replace("epoch 3/3", "loaded")
    assert any(line.startswith("epoch 5/5") and line.endswith("weights 0.9500") for line in lines)
    second = saved(framework, "mnist-sparse95")
    wanted = {layer: math.floor(0.95 * size) for layer, size in SIZES.items()} | {"conv1": 0}
    assert zeros(framework, "mnist-sparse95") == wanted
    for layer, kernel in second.items():
        assert not kernel[first[layer] == 0].any()  # what was pruned stays pruned
        assert (kernel != first[layer]).any()


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_dense(framework, run, here):
    """With --sparsity 0 the same script trains the dense network that accuracy is compared with."""
    require(framework)
    write_digits(here, 20)
    out = {"pytorch": "d.pth", "mxnet": "d.params", "tensorflow1": "d", "mindspore": "d.ckpt"}[framework]
    run(f"{framework}_pruning_simple.py", *ROUNDS, "--epochs", "1", "--sparsity", "0", "--out", out)
    assert zeros(framework, "d") == dict.fromkeys(SIZES, 0)


@pytest.mark.parametrize("framework", ["pytorch", "mxnet"])
def test_prune_reports_what_cannot_be_balanced(framework, run, here, capsys):
    require(framework)
    write_digits(here, 20)
    with pytest.warns(GranularityWarning) as caught:
        run(f"{framework}_pruning_mnist.py", *ROUNDS, "--epochs", "10")
    separator = {"pytorch": ".", "mxnet": "_"}[framework]
    told = [str(w.message).split()[0] for w in caught if w.category is GranularityWarning]  # MXNet has its own
    assert told == [f"conv{i}{separator}weight" for i in (1, 3)]
    found = saved(framework, "mnist-bank90")
    assert ((found["conv2"] == 0).sum(axis=1) == math.floor(0.9 * 64)).all()  # one bank of 64 input channels
    assert all(found[layer].all() for layer in ("conv1", "conv3", "last"))
    assert "epoch 10/10" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_the_digits_are_learnt(framework, run, capsys):
    """A dense epoch of small batches on the default set and three in which sparsity rises."""
    require(framework)
    pytest.importorskip("sklearn")
    run(f"{framework}_pruning_simple.py", "--batch-size", "64", "--epochs", "4")
    last = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch 4/4"))
    assert float(last.split()[3]) > 0.9


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_files(here, suffix):
    folder = here / "sets" / "mnist"
    folder.mkdir(parents=True)
    images, labels = write_digits(folder, 30, suffix)
    digits = importlib.import_module("data").load(str(here / "sets"))
    assert digits.updates(8) == 4
    batches = list(digits.batches(8, seed=1, epoch=2))
    assert [len(part) for _, part in batches] == [8, 8, 8, 6]
    shown = np.concatenate([part for part, _ in batches])
    assert shown.dtype == np.float32
    assert shown.shape == (30, 1, 28, 28)
    order = [next(i for i in range(30) if (images[i] == one).all()) for one in (shown[:, 0] * 255).round()]
    assert sorted(order) == list(range(30))
    np.testing.assert_array_equal(np.concatenate([part for _, part in batches]), labels[order])
    (tested, truth) = next(digits.test_batches())
    np.testing.assert_array_equal((tested[:, 0] * 255).round(), images[:7])
    np.testing.assert_array_equal(truth, labels[:7])


def test_every_framework_sees_the_digits_as_the_demonstration_does(here):
    """Enlarged in NumPy, they are what PyTorch's bilinear interpolation makes of them."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("sklearn")
    digits = importlib.import_module("data").load("digits")
    images, labels = next(digits.test_batches())
    small = torch.from_numpy(digits.test.scaled())
    expected = torch.nn.functional.interpolate(small, size=(28, 28), mode="bilinear", align_corners=False)
    np.testing.assert_allclose(images, expected.numpy(), atol=1e-6)
    assert len(labels) == 360
    assert digits.updates(1000) == 2
