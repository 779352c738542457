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
import onnx_ir
import pytest

from mopruning import ir
from mopruning.cli.running import difference, run_onnx
from mopruning.errors import FormatError, GranularityWarning
from mopruning.ir.builder import Builder
from mopruning.model_files import graph_format_of, read_model, write_model
from tests.backends.presence import require
from tests.cli.networks import arrays, pruned

EXAMPLES = Path(__file__).parent.parent / "examples"
FRAMEWORKS = ("pytorch", "mxnet", "tensorflow1", "mindspore")
MODULES = ("data", "finetuning", "head", "options", "progress", *(f"{name}_network" for name in FRAMEWORKS))
SIZES = {"conv1": 576, "conv2": 73728, "conv3": 294912, "last": 10240}
ROUNDS = ("--data", ".", "--batch-size", "10")
"""Arguments for a set of 20 random images: two updates an epoch."""
OUTS = dict(zip(FRAMEWORKS, ("t", "t-symbol.json", "t.meta", "t"), strict=True))
"""Framework -> name of a file of its own, beside which t.mopir lies."""

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
    monkeypatch.syspath_prepend(str(EXAMPLES / "mnist"))
    for name in MODULES:
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield tmp_path
    for name in MODULES:
        sys.modules.pop(name, None)


@pytest.fixture
def run(here: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def call(script: str, *arguments: str, folder: str = "mnist") -> None:
        monkeypatch.setattr(sys, "argv", [script, *arguments])
        monkeypatch.syspath_prepend(str(EXAMPLES / folder))  # as Python does for a script
        runpy.run_path(str(EXAMPLES / folder / script), run_name="__main__")

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
    if framework == "pytorch":  # the whole network as well, for other frameworks
        network = [array for array in arrays(read_model("mnist-sparse80.mopir")).values() if array.ndim > 1]
        for kernel, array in zip(first.values(), network, strict=True):
            np.testing.assert_array_equal(array, kernel)

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
    assert importlib.import_module("data").resized(small.numpy(), (5, 13)).shape[2:] == (5, 13)


# ---- fine-tuning


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_fine_tuning_keeps_the_zeros_of_the_file(framework, run, here, capsys):
    require(framework)
    images, labels = (part[:7] for part in write_digits(here, 20))  # the test set
    before = pruned("mnist_cnn")
    write_model(before, "sparse.mopir")
    options = ("--model", "sparse.mopir", "--lr", "0.01", "--out", OUTS[framework])
    run(f"{framework}_finetune.py", *ROUNDS, "--epochs", "3", *options, folder="finetune")
    lines = capsys.readouterr().out.splitlines()
    reported = [line.split() for line in lines if line.startswith("epoch")]
    assert [words[1] for words in reported] == ["1/3", "2/3", "3/3"]
    assert float(reported[-1][3]) < 0.9 * float(reported[0][3])  # the loss
    gone = sum(int((array == 0).sum()) for array in arrays(before).values() if array.ndim > 1)
    assert f"zeros: {gone:,} arrived, {gone:,} of them left" in lines

    trained = read_model("t.mopir")
    old, new = arrays(before), arrays(trained)
    kernels = [name for name, array in old.items() if array.ndim > 1]
    assert len(kernels) == 4
    for name in kernels:
        zero = old[name] == 0
        np.testing.assert_array_equal(zero, new[name] == 0)
        assert not np.signbit(new[name][zero]).any()  # bit for bit
        assert (old[name] != new[name]).any()

    inputs = [images[:, None].astype(np.float32) / 255]
    (native,) = graph_format_of(OUTS[framework]).run(OUTS[framework], inputs)
    (expected,) = run_onnx(onnx_ir.to_proto(trained).SerializeToString(), inputs)
    assert difference([expected], [native]).share < 1e-4
    assert f"accuracy {(native.argmax(1) == labels).mean():.4f}" in " ".join(reported[-1])


def test_fine_tuning_in_colour_with_a_new_head(run, here, capsys):
    """Colour images of another size and other classes, another format in and out."""
    require("pytorch")
    rng = np.random.default_rng(0)
    labels = np.arange(24) % 12
    pictures = rng.integers(0, 256, (24, 24, 24, 3), dtype=np.uint8)
    np.savez("set.npz", x_train=pictures, y_train=labels, x_test=pictures[:6], y_test=labels[:6])
    before = pruned("resnet8_cifar")
    write_model(before, "sparse.onnx")
    common = ("--model", "sparse.onnx", "--data", "set.npz", "--epochs", "2", "--batch-size", "8", "--lr", "0.05")
    more = ("--augment", "--mean", "0.5", "--std", "0.2", "0.25", "0.3", "--out", "t.onnx")
    with pytest.raises(FormatError, match="tells 10 classes apart, the images have 12: use --new-head"):
        run("pytorch_finetune.py", *common, folder="finetune")
    run("pytorch_finetune.py", *common, *more, "--new-head", folder="finetune")
    assert "epoch 2/2  loss" in capsys.readouterr().out
    old, new = arrays(before), arrays(read_model("t.onnx"))
    head = [name for name in new if new[name].shape != old[name].shape]
    assert [new[name].shape for name in head] == [(12, 64), (12,)]
    assert new[head[0]].all()  # nothing of the old head is left
    body = [name for name, array in old.items() if array.ndim > 1 and name not in head]
    assert len(body) > 5
    for name in body:
        np.testing.assert_array_equal(old[name] == 0, new[name] == 0)
    assert arrays(ir.load("t.mopir")).keys() == new.keys()


def test_fine_tuning_refuses_other_images(run, here):
    require("pytorch")
    write_digits(here, 20)
    write_model(pruned("resnet8_cifar"), "sparse.mopir")
    with pytest.raises(FormatError, match=r"sparse.mopir: takes 3 channels, the images have 1"):
        run("pytorch_finetune.py", "--model", "sparse.mopir", "--data", ".", folder="finetune")
    net = Builder("flat")
    write_model(net.model({"output": net.gemm(net.input("input", (4,)), "fc", 10)}), "flat.mopir")
    with pytest.raises(
        FormatError, match=r"expected \[N, channels, height, width\] -> \[N, classes\], got \[\['N', 4\]\]"
    ):
        run("pytorch_finetune.py", "--model", "flat.mopir", "--data", ".", folder="finetune")
