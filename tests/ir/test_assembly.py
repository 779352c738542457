"""Graphs that readers put together: names, roles, dense layers, and what is refused."""

import doctest

import numpy as np
import pytest

from mopruning.errors import FormatError
from mopruning.ir import assembly
from mopruning.ir.assembly import Assembly
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
