"""Graphs that readers put together: names, roles, dense layers, and what is refused."""

import doctest

import numpy as np
import pytest

from mopruning.errors import FormatError
from mopruning.ir import assembly
from mopruning.ir.assembly import END, Assembly
from mopruning.ir.roles import ROLES, roles_of
from mopruning.ir.validation import UnsupportedOperators


def ones(*shape):
    return np.ones(shape, np.float32)


def test_doctests():
    result = doctest.testmod(assembly)
    assert result.attempted
    assert not result.failed


def test_nodes_and_constants_are_numbered_where_names_repeat():
    net = Assembly("net")
    x = net.input("x", ["N", 4])
    for _ in range(2):
        x = net.node("Reshape", "flat", [x, net.constant("flat.shape", [0, -1])])
    model = net.model({"y": x}, source="test")
    assert [node.name for node in model.graph] == ["flat", "flat_1"]
    assert list(model.graph.initializers) == ["flat.shape", "flat.shape_1"]
    assert [value.name for value in model.graph.outputs] == ["y"]
    assert set(roles_of(model).values()) == {"constant"}


def test_parameters_keep_their_names_and_are_shared():
    net, weight = Assembly("net"), ones(4, 4)
    x = net.input("x", ["N", 4])
    for _ in range(2):
        x = net.dense("fc", x, net.parameter("fc.weight", weight), axes=2)
    assert list(net.model({"y": x}, source="test").graph.initializers) == ["fc.weight"]
    with pytest.raises(FormatError, match=r"two tensors are called 'fc\.weight'"):
        net.parameter("fc.weight", ones(4, 4))
    with pytest.raises(FormatError, match="a value is called 'x', as a parameter is"):
        net.parameter("x", ones(1))


@pytest.mark.parametrize(("shape", "nodes"), [(["N", 4], ["Gemm"]), (["N", 7, 4], ["Transpose", "MatMul", "Add"])])
def test_dense_layers_are_spelt_as_the_profile_does(shape, nodes):
    net = Assembly("net")
    x = net.input("x", shape)
    y = net.dense("fc", x, net.parameter("w", ones(3, 4)), net.parameter("b", ones(3)), axes=len(shape))
    model = net.model({"y": y}, source="test")
    assert [node.op_type for node in model.graph] == nodes
    assert list(model.graph.outputs[0].shape)[-1] == 3
    assert {name: roles_of(model)[name] for name in ("w", "b")} == {"w": "parameter", "b": "parameter"}


def test_roles_that_use_does_not_tell_are_noted():
    net = Assembly("net")
    x = net.node("Add", "shift", [net.input("x", ["N", 4]), net.parameter("shift", ones(4), "buffer")])
    model = net.model({"y": x}, source="test")
    assert model.metadata_props[ROLES] == '{"shift":"buffer"}'


def test_outputs_that_nothing_computes_get_a_node():
    net = Assembly("net")
    x = net.input("x", ["N", 4])
    y = net.node("Relu", "relu", [x])
    model = net.model({"same": x, "y": y, "again": y}, source="test")
    assert [value.name for value in model.graph.outputs] == ["same", "y", "again"]
    assert [node.op_type for node in model.graph] == ["Relu", "Identity", "Identity"]


def test_what_makes_no_sense_is_refused():
    net = Assembly("net")
    x = net.input("x", ["N", 4])
    with pytest.raises(FormatError, match="net: model 'net': its shapes do not fit together"):
        net.model({"y": net.dense("fc", x, net.parameter("w", ones(3, 5)), axes=2)}, source="test")
    net = Assembly("net")
    with pytest.raises(UnsupportedOperators, match=r"node 'e' \(Einsum\): this operator is not in the profile"):
        net.model({"y": net.node("Einsum", "e", [net.input("x", [4])], {"equation": "i->i"})}, source="test")


@pytest.mark.parametrize(
    ("operator", "axes", "options", "nodes"),
    [
        ("ReduceMean", [2, 3], {"keepdims": True, "rank": 4}, {"y": "GlobalAveragePool"}),
        ("ReduceMax", [2, 3], {"keepdims": True, "rank": 4}, {"y": "GlobalMaxPool"}),
        ("ReduceMean", [2, 3], {"keepdims": True}, {"y": "ReduceMean", "y.axes": [2, 3]}),
        ("ReduceSum", [2, 3], {"keepdims": True, "rank": 4}, {"y": "ReduceSum", "y.axes": [2, 3]}),
        ("ReduceMean", [1, 2], {"keepdims": True, "rank": 4}, {"y": "ReduceMean", "y.axes": [1, 2]}),
        ("ReduceMean", [2, 3], {"keepdims": False, "rank": 4, "numbers": "n"}, {"y": "ReduceMean", "n": [2, 3]}),
        ("ReduceMax", [], {"keepdims": False, "rank": 4}, {"y": "ReduceMax"}),
    ],
)
def test_reductions_of_images_are_global_pools(operator, axes, options, nodes):
    net = Assembly("net")
    y = net.reduction(operator, "y", net.input("x", ["N", 3, 5, 6]), axes, **options)
    graph = net.model({"y": y}, source="test").graph
    found = {node.name: node.op_type for node in graph}
    assert found | {name: value.const_value.numpy().tolist() for name, value in graph.initializers.items()} == nodes
    assert len(graph.outputs[0].shape) == (4 if options["keepdims"] else 4 - (len(axes) or 4))


def test_constants_are_named_after_the_node_that_reads_them():
    net = Assembly("net")
    x = net.input("x", ["N", 6, 4])
    x = net.slice("cut", x, {2: (1, END, 1), 1: (0, 4, 2)})
    x = net.transpose("turn", net.transpose("same", x, [0, 1, 2]), [0, 2, 1])
    model = net.model({"y": net.reshape("flat", x, [0, -1])}, source="test")
    assert [(node.op_type, node.name) for node in model.graph] == [
        ("Slice", "cut"),
        ("Transpose", "turn"),
        ("Reshape", "flat"),
    ]
    contents = {name: value.const_value.numpy().tolist() for name, value in model.graph.initializers.items()}
    assert contents == {
        "cut.starts": [1, 0],
        "cut.ends": [END, 4],
        "cut.axes": [2, 1],
        "cut.steps": [1, 2],
        "flat.shape": [0, -1],
    }
    assert list(model.graph.outputs[0].shape)[1] == 6


def test_indices_are_cast_where_the_source_has_another_type():
    net = Assembly("net")
    x = net.node("Shape", "shape", [net.input("x", ["N", 6])])
    assert net.index("i", x, np.int64) is x
    model = net.model({"y": net.index("i", x, "int32")}, source="test")
    assert model.graph.outputs[0].dtype.name == "INT32"
