"""ONNX files: what is read computes what the file did and keeps its names; what is written is what was in memory."""

from __future__ import annotations

import doctest
import random
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from mopruning.errors import FormatError
from mopruning.ir import mopir, onnx_files
from mopruning.ir.onnx_files import read_onnx, write_onnx
from mopruning.ir.validation import UnsupportedOperators
from tests.ir.onnx_cases import assert_same, floats, run_file, save, sparse_model
from tests.ir.small_models import array, content, encoder, model, node, resnet20, run


@pytest.mark.parametrize("module", [onnx_files])
def test_doctests(module):
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize("make", [resnet20, encoder])
@pytest.mark.parametrize("options", [{}, {"sparse": True}, {"external": True}, {"sparse": True, "external": True}])
def test_a_network_comes_back_as_it_was(make, options, tmp_path):
    net = read_onnx(save(tmp_path / "old.onnx", make()))
    for name, value in net.graph.initializers.items():  # nine tenths of every weight is zero
        if value.const_value.size > 999:
            values = array(net, name).copy()
            values[np.random.default_rng(0).random(values.shape) < 0.9] = 0
            value.const_value = onnx_ir.Tensor(values, name=name)
    before = content(net)
    write_onnx(net, tmp_path / "net.onnx", **options)
    assert content(net) == before
    onnx.checker.check_model(str(tmp_path / "net.onnx"), full_check="sparse" not in options)
    back = read_onnx(tmp_path / "net.onnx")
    assert set(back.graph.initializers) == set(net.graph.initializers)
    assert [one.name for one in back.graph] == [one.name for one in net.graph]
    for name in net.graph.initializers:
        assert array(back, name).tobytes() == array(net, name).tobytes()
        assert array(back, name).shape == array(net, name).shape
    shapes = {
        value.name: [1 if not isinstance(size, int) else size for size in value.shape] for value in net.graph.inputs
    }
    shapes = {name: [*shape[:2], 32, 32] if len(shape) == 4 else shape for name, shape in shapes.items()}
    feeds = {
        value.name: np.zeros(shapes[value.name], np.int64)
        if value.dtype == onnx_ir.DataType.INT64
        else floats(*shapes[value.name])
        for value in net.graph.inputs
    }
    assert_same(run_file(tmp_path / "net.onnx", feeds), run(net, feeds))


def test_external_weights_lie_beside_and_an_older_pair_goes(tmp_path):
    net = resnet20()
    write_onnx(net, tmp_path / "net.onnx", external=True)
    (first,) = tmp_path.glob("net.onnx.*.data")
    assert (tmp_path / "net.onnx").stat().st_size < first.stat().st_size / 10
    kept = {tmp_path / name for name in ("net.onnx.backup.data", f"net.onnx.{0:016x}.data", "net.onnx2.data")}
    for file in kept:  # none is what the model refers to
        file.touch()
    value = net.graph.initializers["fc.weight"]
    value.const_value = onnx_ir.Tensor(array(net, "fc.weight") * 2, name="fc.weight")
    write_onnx(net, tmp_path / "net.onnx", external=True)
    (second,) = set(tmp_path.glob("net.onnx.*.data")) - kept
    assert second != first
    assert array(read_onnx(tmp_path / "net.onnx"), "fc.weight").tobytes() == array(net, "fc.weight").tobytes()
    write_onnx(read_onnx(tmp_path / "net.onnx"), tmp_path / "net.onnx")  # over the file that it is read from
    assert {path.name for path in tmp_path.iterdir()} == {"net.onnx", *(file.name for file in kept)}
    assert array(read_onnx(tmp_path / "net.onnx"), "fc.weight").tobytes() == array(net, "fc.weight").tobytes()


def test_an_interrupted_write_leaves_the_old_pair(tmp_path, monkeypatch):
    write_onnx(resnet20(), tmp_path / "net.onnx", external=True)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    net = resnet20()
    value = net.graph.initializers["fc.weight"]
    value.const_value = onnx_ir.Tensor(array(net, "fc.weight") * 2, name="fc.weight")
    monkeypatch.setattr(onnx_files, "remove", lambda *_, **__: pytest.fail("the model was not written"))
    monkeypatch.setattr(Path, "write_bytes", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write_onnx(net, tmp_path / "net.onnx", external=True)
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert before.items() <= after.items()
    read_onnx(tmp_path / "net.onnx")


@pytest.mark.parametrize("opset", [11, 17, 20, 22])
def test_everything_outside_the_profile_is_listed_at_once(opset, tmp_path):
    then = helper.make_graph([node("Relu", "inner", "x")], "then", [], [onnx.ValueInfoProto(name="inner")])
    nodes = [
        node("NonZero", "nonzero", "x"),
        helper.make_node("Fancy", ["x"], ["fancy"], "fancy", domain="com.example"),
        node("If", "choice", "flag", then_branch=then, else_branch=then),
        node("GRU", "gru", "s w r", hidden_size=3),
    ]
    inputs = {"x": ["N", 4], "s": [5, 2, 4], "flag": []}
    net = model(
        inputs,
        nodes,
        ["nonzero", "fancy", "choice", "gru"],
        {"w": floats(1, 9, 4), "r": floats(1, 9, 3)},
        types={"flag": TensorProto.BOOL},
        opsets={"": opset, "com.example": 1},
    )
    with pytest.raises(UnsupportedOperators) as error:
        read_onnx(save(tmp_path / "net.onnx", net))
    assert [problem.node for problem in error.value.problems] == ["nonzero", "fancy", "choice", "gru"]


def test_what_is_no_onnx_file_is_refused(tmp_path):
    for bad in (b"", b"\0" * 64, b"PK\x03\x04" + bytes(60), bytes(range(256)) * 8):
        (tmp_path / "net.onnx").write_bytes(bad)
        with pytest.raises(FormatError, match="no ONNX file"):
            read_onnx(tmp_path / "net.onnx")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda graph: graph.initializer[0].dims.append(1 << 40), "'w': 48 bytes do not hold the shape"),
        (lambda graph: graph.initializer[0].dims.append(-1), "'w': its shape has negative sizes"),
        (
            lambda graph: setattr(graph.initializer[0], "data_type", TensorProto.STRING),
            "'w': has the type string; read are",
        ),
        (lambda graph: setattr(graph.initializer[0], "data_type", 99), "'w': has the type 99; read are"),
        (lambda graph: graph.initializer[0].ClearField("raw_data"), "'w': 0 numbers do not fill the shape"),
        (lambda graph: graph.initializer.append(graph.initializer[0]), "'w': is there twice"),
        (lambda graph: graph.node[0].input.append("nothing"), "no valid ONNX model"),
        (lambda graph: setattr(graph.node[0].attribute[0], "type", 3), "no valid ONNX model"),
    ],
)
def test_damaged_graphs_are_refused(change, message, tmp_path):
    proto = onnx_ir.to_proto(model({"x": ["N", 4]}, [node("Gemm", "y", "x w", transB=1)], ["y"], {"w": floats(3, 4)}))
    change(proto.graph)
    with pytest.raises(FormatError, match=message):
        read_onnx(save(tmp_path / "net.onnx", proto))


@pytest.mark.parametrize(
    ("opsets", "message"),
    [({"": 6}, "opset 6 cannot be read; expected 7 to 26"), ({"": 99}, "opset 99"), ({"own": 1}, "got none")],
)
def test_opsets_that_cannot_be_read_are_named(opsets, message, tmp_path):
    with pytest.raises(FormatError, match=message):
        read_onnx(save(tmp_path / "net.onnx", model({"x": ["N", 4]}, [node("Relu", "y", "x")], ["y"], opsets=opsets)))


def test_mutated_files_give_an_error_or_a_model(tmp_path):
    nodes = [
        node("Conv", "conv", "x conv.weight", pads=[1, 1, 1, 1]),
        node("GlobalAveragePool", "pool", "conv"),
        node("Squeeze", "flat", "pool", axes=[2, 3]),
        node("Gemm", "fc", "flat fc.weight", alpha=0.5),
        helper.make_node("Constant", [], ["k"], value=numpy_helper.from_array(floats(4))),
        node("Add", "sum", "fc k"),
        node("Softmax", "y", "sum", axis=1),
    ]
    weights = {"conv.weight": floats(6, 3, 3, 3), "fc.weight": floats(6, 4)}
    proto = onnx_ir.to_proto(model({"x": ["N", 3, 8, 8]}, nodes, ["y"], weights, opsets={"": 12}))
    proto.graph.sparse_initializer.extend(sparse_model([1, 5], [2, 3]).graph.sparse_initializer)
    whole, chance, read = proto.SerializeToString(), random.Random(0), 0
    for _ in range(500):
        damaged = bytearray(whole)
        for _ in range(chance.randint(1, 3)):
            place = chance.randrange(len(damaged))
            if chance.random() < 0.8:
                damaged[place] = chance.randrange(256)
            else:
                damaged[place : place + chance.randint(0, 4)] = chance.randbytes(chance.randint(0, 4))
        (tmp_path / "net.onnx").write_bytes(damaged)
        try:
            read += isinstance(read_onnx(tmp_path / "net.onnx"), onnx_ir.Model)
        except FormatError:
            continue
    assert 50 < read < 450  # most bytes are weights, where any value goes


def test_a_model_without_content_or_beyond_two_gigabytes_is_refused(tmp_path):
    net = resnet20()
    net.graph.initializers["fc.bias"].const_value = None
    with pytest.raises(FormatError, match=r"'fc\.bias' has no content"):
        write_onnx(net, tmp_path / "net.onnx")
    huge = onnx_ir.LazyTensor(
        lambda: pytest.fail("made"), onnx_ir.DataType.FLOAT, onnx_ir.Shape([1 << 15, 1 << 15]), name="fc.bias"
    )
    net.graph.initializers["fc.bias"].const_value = huge
    with pytest.raises(FormatError, match="holds 2 GB at most; write it with external=True"):
        write_onnx(net, tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []


def test_negative_sizes_are_open_ones(tmp_path):
    """As PaddlePaddle's exporter writes them; a .mopir file takes no size below 0."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [-1, 2]) for name in ("x", "h", "y")]
    nodes = [helper.make_node("Relu", [before], [after], name=after) for before, after in (("x", "h"), ("h", "y"))]
    graph = helper.make_graph(nodes, "net", values[:1], values[2:], value_info=values[1:2])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]), tmp_path / "net.onnx")
    net = read_onnx(tmp_path / "net.onnx")
    assert not any(isinstance(value.shape[0], int) for value in (*net.graph.inputs, *net.graph.outputs))
    mopir.save(net, tmp_path / "net.mopir")
    assert content(mopir.load(tmp_path / "net.mopir")) == content(net)
