"""Nodes and constants of ONNX files: what they are called, and that they compute what they did."""

from __future__ import annotations

import doctest

import numpy as np
import onnx_ir
import pytest
from onnx import helper, numpy_helper

from mopruning.ir import onnx_nodes
from mopruning.ir.onnx_files import read_onnx
from tests.ir.onnx_cases import assert_same, floats, operators, run_file, save
from tests.ir.small_models import array, model, node, run


@pytest.mark.parametrize("module", [onnx_nodes])
def test_doctests(module):
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0


def test_constants_become_initializers_under_their_names(tmp_path):
    weight = floats(3, 4)
    nodes = [
        helper.make_node("Constant", [], ["fc.weight"], value=numpy_helper.from_array(weight)),
        helper.make_node("Constant", [], ["half"], value_float=0.5),
        helper.make_node("Constant", [], ["shape"], value_ints=[-1, 2]),
        helper.make_node("Constant", [], ["out"], value_ints=[7]),
        node("Gemm", "fc", "x fc.weight", transB=1),
        node("Mul", "scaled", "fc half"),
        node("Reshape", "y", "scaled shape"),
    ]
    path = save(tmp_path / "net.onnx", model({"x": ["N", 4]}, nodes, ["y", "out"]))
    net = read_onnx(path)
    assert list(net.graph.initializers) == ["fc.weight", "half", "shape", "out.value"]
    assert operators(net) == ["Identity", "Gemm", "Mul", "Reshape"]
    feeds = {"x": floats(2, 4)}
    assert_same(run(net, feeds), run_file(path, feeds))


def test_nodes_without_names_get_those_of_their_modules(tmp_path):
    weights = {
        "layer1.0.conv1.weight": floats(4, 3, 1, 1),
        "layer1.0.bn1.weight": floats(4),
        "b": floats(4),
        "v": np.ones(4, np.float32),
    }
    nodes = [
        node("Conv", "", "x layer1.0.conv1.weight", "c"),
        node("BatchNormalization", "", "c layer1.0.bn1.weight b b v", "n"),
        node("Relu", "same", "n", "r"),
        node("Relu", "same", "r", "y"),
    ]
    net = read_onnx(save(tmp_path / "net.onnx", model({"x": ["N", 3, 8, 8]}, nodes, ["y"], weights)))
    assert [one.name for one in net.graph] == ["layer1.0.conv1", "layer1.0.bn1", "same", "same_1"]


def test_constants_of_the_conversion_are_called_after_their_nodes(tmp_path):
    nodes = [
        node("Dropout", "drop", "x", "d", ratio=0.25),
        node("ReduceMean", "mean", "d", "y", axes=[1]),
    ]
    net = read_onnx(save(tmp_path / "net.onnx", model({"x": ["N", 4, 4]}, nodes, ["y"], opsets={"": 11})))
    assert {name: array(net, name).tolist() for name in net.graph.initializers} == {
        "drop.ratio": 0.25,
        "mean.axes": [1],
    }
    assert net.opset_imports == {"": 20}


def test_a_weight_that_the_exporter_stored_once_is_there_under_both_names(tmp_path):
    weights = {"bn1.weight": np.ones(4, np.float32), "bias": floats(4)}
    names = ["bn2.weight", "bn2.running_var"]
    nodes = [
        *(node("Identity", "", "bn1.weight", name) for name in names),
        node("BatchNormalization", "bn1", "x bn1.weight bias bias bn1.weight"),
        node("BatchNormalization", "bn2", f"bn1 {names[0]} bias bias {names[1]}"),
    ]
    path = save(tmp_path / "net.onnx", model({"x": ["N", 4, 2, 2]}, nodes, ["bn2"], weights))
    net = read_onnx(path)
    assert operators(net) == ["BatchNormalization"] * 2
    assert {*weights, *names} == set(net.graph.initializers)
    feeds = {"x": floats(2, 4, 2, 2)}
    assert_same(run(net, feeds), run_file(path, feeds))


def test_the_batch_axis_stays_open_and_unknown_sizes_are_open(tmp_path):
    proto = onnx_ir.to_proto(
        model({"a": ["batch", 3, 8, 8], "b": [-1, 3, "?", "?"], "c": [2, 3]}, [node("Relu", "y", "a")], ["y"])
    )
    del proto.graph.value_info[:]
    shapes = {value.name: list(value.shape) for value in read_onnx(save(tmp_path / "net.onnx", proto)).graph.inputs}
    assert [str(size) for size in shapes["a"]] == ["batch", "3", "8", "8"]
    assert [str(size) for size in shapes["b"]] == ["N", "3", "None", "None"]
    assert shapes["c"] == [2, 3]


def test_initializers_listed_as_inputs_are_no_inputs(tmp_path):
    weights = {"w": floats(3, 4), "b": floats(3)}
    nodes = [node("Gemm", "y", "x w b", transB=1)]
    proto = onnx_ir.to_proto(model({"x": ["N", 4], "w": [3, 4]}, nodes, ["y"], weights, opsets={"": 9}))
    proto.ir_version = 3
    net = read_onnx(save(tmp_path / "net.onnx", proto))
    assert [value.name for value in net.graph.inputs] == ["x"]


def test_functions_are_inlined(tmp_path):
    function = helper.make_function(
        "own",
        "Twice",
        ["a"],
        ["b"],
        [helper.make_node("Constant", [], ["k"], value_float=2.0), node("Mul", "", "a k", "b")],
        [helper.make_opsetid("", 17)],
    )
    nodes = [
        helper.make_node("Twice", ["x"], ["h"], domain="own"),
        helper.make_node("Twice", ["h"], ["y"], domain="own"),
    ]
    net = model({"x": ["N", 4]}, nodes, ["y"], opsets={"": 17, "own": 1}, functions=[function])
    path = save(tmp_path / "net.onnx", net)
    net = read_onnx(path)
    assert operators(net) == ["Mul", "Mul"]
    feeds = {"x": floats(2, 4)}
    assert_same(run(net, feeds), run_file(path, feeds))
