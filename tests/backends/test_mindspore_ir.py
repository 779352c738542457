"""From the IR to MindSpore and back: what arrives computes, is called, and trains as what was sent."""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress

import numpy as np
import pytest

pytest.importorskip("mopruning.backends.mindspore", exc_type=ImportError)
pytest.importorskip("onnxruntime")

import mindspore as ms
import onnx_ir
from mindspore import Tensor, nn

from mopruning.backends import mindspore
from mopruning.backends.mindspore.reader import read_mindir, run_mindir, to_ir
from mopruning.backends.mindspore.source import run_folder, to_folder
from mopruning.backends.mindspore.writer import from_ir
from mopruning.errors import FormatError
from mopruning.ir.validation import UnsupportedOperators
from tests.backends.mindspore_ir_networks import (
    Losses,
    Native,
    Unusual,
    distance,
    expected,
    held,
    images,
    network,
    outputs,
    weights,
)
from tests.ir.small_models import content

NETWORKS = ("tiny", "mnist_cnn", "resnet8_cifar")


@pytest.fixture(autouse=True)
def usual_mode():
    """Leave MindSpore in the mode in which it starts."""
    yield
    ms.set_context(mode=ms.PYNATIVE_MODE)


@pytest.mark.parametrize("name", NETWORKS)
def test_there_and_back(name):
    net = network(name)
    before = content(net)
    cell = from_ir(net)
    for batch in (1, 3):
        x = images(net, batch)
        assert distance(outputs(cell, x), expected(net, x)) < 5e-6
    assert held(cell) == weights(net)
    assert not cell.training
    back = to_ir(cell.set_train(), Tensor(images(net)))
    assert all(part.training for _, part in cell.cells_and_names())
    assert weights(back) == weights(net)
    assert distance(expected(back, x), expected(net, x)) < 1e-6
    assert [node.op_type for node in back.graph] == [node.op_type for node in net.graph]
    shapes = [[str(size) for size in model.graph.inputs[0].shape] for model in (net, back)]
    assert shapes[0] == shapes[1]
    norms = [[n.attributes for n in model.graph if n.op_type == "BatchNormalization"] for model in (net, back)]
    for one, other in zip(*norms, strict=True):
        assert one["momentum"].value == pytest.approx(other["momentum"].value)
        assert one["epsilon"].value == pytest.approx(other["epsilon"].value)
    assert content(net) == before


@pytest.mark.parametrize("mode", [ms.GRAPH_MODE, ms.PYNATIVE_MODE], ids=["GRAPH", "PYNATIVE"])
def test_arrivals_train_and_their_zeros_stay(mode):
    ms.set_context(mode=mode)
    net = network("tiny")
    cell = from_ir(net)
    zeros = {p.name: p.asnumpy() == 0 for p in cell.trainable_params()}
    pruned = [p.name for p in cell.trainable_params() if p.ndim > 1 and zeros[p.name].mean() > 0.5]
    optimizer = mindspore.SGDSparse(cell, learning_rate=0.5, recipe={"fix_sparsity": True})
    before = {p.name: p.asnumpy().copy() for p in cell.get_parameters()}
    losses = Losses(cell, optimizer).run(images(net, 8), 20)
    assert sum(losses[-3:]) < sum(losses[:3])
    after = {p.name: p.asnumpy() for p in cell.get_parameters()}
    moved = [name for name in before if (after[name] != before[name]).any()]
    assert moved == list(before)  # running statistics, too
    assert pruned
    assert all((after[name][zeros[name]] == 0).all() for name in pruned)


def test_statistics_move_by_the_momentum_as_in_pytorch():
    torch = pytest.importorskip("torch")
    net = network("tiny")
    cell = from_ir(net)
    theirs = torch.nn.BatchNorm2d(8, momentum=0.1)
    features = np.random.default_rng(0).standard_normal((4, 8, 3, 3)).astype(np.float32)
    cell.stem_bn.set_train()
    for _ in range(5):
        cell.stem_bn(Tensor(features))
        theirs(torch.from_numpy(features))
    np.testing.assert_allclose(cell.stem_bn.moving_mean.asnumpy(), theirs.running_mean.numpy(), atol=1e-6)
    np.testing.assert_allclose(cell.stem_bn.moving_variance.asnumpy(), theirs.running_var.numpy(), rtol=1e-5)


def test_dropout_drops_in_training_alone():
    net = network("tiny")
    cell, x = from_ir(net), images(net)
    kept = outputs(cell, x)
    assert distance(outputs(cell, x), kept) == 0
    cell.dropout.set_train()
    assert distance(outputs(cell, x), kept) > 0  # not two runs of it: a seed that another test has set makes them alike


def test_folder_runs_and_trains_without_this_package(tmp_path):
    net = network("tiny")
    folder = tmp_path / "net"
    to_folder(net, folder)
    x = images(net)
    assert distance(run_folder(folder, [x]), expected(net, x)) < 5e-6
    assert sorted(file.name for file in folder.iterdir()) == ["model.py", "weights.ckpt"]
    np.save(tmp_path / "x.npy", x)
    program = f"""
import sys
sys.path.insert(0, {str(folder)!r})
sys.modules["mopruning"] = None
import mindspore as ms, numpy as np
from mindspore import nn
import model
ms.set_context(mode=ms.GRAPH_MODE)
network = model.load()
x = ms.Tensor(np.load({str(tmp_path / "x.npy")!r}))
np.save({str(tmp_path / "y.npy")!r}, network(x).asnumpy())
loss = nn.WithLossCell(network, nn.SoftmaxCrossEntropyWithLogits(sparse=True, reduction="mean"))
step = nn.TrainOneStepCell(loss, nn.SGD(network.trainable_params(), 0.05)).set_train()
losses = [float(step(x, ms.Tensor([0, 1], ms.int32)).asnumpy()) for _ in range(5)]
assert losses[-1] < losses[0], losses
ms.save_checkpoint(network, {str(tmp_path / "again.ckpt")!r})
"""
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, cwd=tmp_path)
    assert distance([np.load(tmp_path / "y.npy")], expected(net, x)) < 5e-6
    assert set(ms.load_checkpoint(str(tmp_path / "again.ckpt"))) == set(weights(net))


def test_a_cell_of_ones_own_is_read():
    cell = Native()
    x = np.random.default_rng(0).standard_normal((3, 3, 16, 16)).astype(np.float32)
    tokens = np.random.default_rng(1).integers(0, 10, (3, 5)).astype(np.int32)
    wanted = outputs(cell, x, tokens)
    model = to_ir(cell, [Tensor(x[:1]), Tensor(tokens[:1])])
    assert distance(expected(model, x, tokens), wanted) < 1e-5
    assert {p.name for p in cell.get_parameters()} == set(weights(model))
    kinds = [node.op_type for node in model.graph]
    assert kinds.count("Dropout") == 1
    assert kinds.count("BatchNormalization") == 1
    norm = next(node for node in model.graph if node.op_type == "BatchNormalization")
    assert norm.attributes["momentum"].value == pytest.approx(0.7)
    assert type(cell.drop) is nn.Dropout
    assert distance(outputs(cell, x, tokens), wanted) == 0
    arrived = from_ir(model)
    assert distance(outputs(arrived, x, tokens), wanted) < 1e-5
    fixed = to_ir(cell, [Tensor(x), Tensor(tokens)], dynamic_batch=False)
    assert list(fixed.graph.inputs[0].shape) == [3, 3, 16, 16]
    assert distance(expected(fixed, x, tokens), wanted) < 1e-5


def test_every_unsupported_operator_is_listed():
    with pytest.raises(UnsupportedOperators) as raised:
        to_ir(Unusual(), Tensor(np.ones((2, 3), np.float32)))
    assert "Lgamma" in str(raised.value)
    assert "Atan" in str(raised.value)


def test_what_cannot_be_exported_is_a_format_error():
    with pytest.raises(FormatError, match="Dense: cannot be exported with this example"):
        to_ir(nn.Dense(3, 2), Tensor(np.ones((2, 4), np.float32)))
    with pytest.raises(TypeError, match=r"expected a mindspore\.nn\.Cell"):
        to_ir(len, Tensor(np.ones(2)))


@pytest.mark.parametrize("opened", [True, False])
def test_mindir_files(tmp_path, opened):
    net = network("mnist_cnn" if opened else "tiny")  # where shapes are open, MindSpore loses them at a padded pool
    cell = from_ir(net)
    example = Tensor(shape=[None, *images(net).shape[1:]], dtype=ms.float32) if opened else Tensor(images(net))
    ms.export(cell, example, file_name=str(tmp_path / "net"), file_format="MINDIR")
    model = read_mindir(tmp_path / "net.mindir")
    assert weights(model) == weights(net)
    x = images(net)
    assert distance(expected(model, x), expected(net, x)) < 1e-5
    assert distance(run_mindir(tmp_path / "net.mindir", [x]), expected(net, x)) < 1e-5
    assert isinstance(model.graph.inputs[0].shape[0], int) != opened


def test_hostile_mindir_files(tmp_path):
    cell = from_ir(network("tiny"))
    ms.export(cell, Tensor(images(network("tiny"))), file_name=str(tmp_path / "net"), file_format="MINDIR")
    whole = (tmp_path / "net.mindir").read_bytes()
    forged = tmp_path / "forged.mindir"
    random = np.random.default_rng(0)
    for attempt in range(60):
        changed = bytearray(whole)
        if attempt % 3 == 0:
            del changed[int(random.integers(len(whole))) :]
        else:
            for place in random.integers(len(whole), size=4):
                changed[place] = int(random.integers(256))
        forged.write_bytes(changed)
        with suppress(FormatError):  # of which UnsupportedOperators is one
            read_mindir(forged)
    forged.write_bytes(b"")
    with pytest.raises(FormatError, match="no graph"):
        read_mindir(forged)


def test_large_constants_lie_in_the_checkpoint(tmp_path):
    table = np.arange(40, dtype=np.float32).reshape(1, 40)
    x = onnx_ir.val("x", onnx_ir.DataType.FLOAT, ["N", 40])
    held_there = onnx_ir.val("table", const_value=onnx_ir.tensor(table, name="table"))
    node = onnx_ir.node("Mul", [x, held_there], name="scaled")
    node.outputs[0].name = "y"
    graph = onnx_ir.Graph(
        [x], node.outputs, nodes=[node], initializers=[held_there], opset_imports={"": 20}, name="scale"
    )
    metadata = {"mopruning.roles": '{"table":"constant"}'}
    model = onnx_ir.Model(graph, ir_version=10, metadata_props=metadata)
    inputs = np.ones((2, 40), np.float32)
    to_folder(model, tmp_path / "net")
    np.testing.assert_array_equal(run_folder(tmp_path / "net", [inputs])[0], np.repeat(table, 2, 0))
    np.testing.assert_array_equal(outputs(from_ir(model), inputs)[0], np.repeat(table, 2, 0))
    assert not held(from_ir(model))
