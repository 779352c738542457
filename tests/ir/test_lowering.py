"""The walk that every writer makes over a graph: what is computed when, and how refusals are told."""

import doctest

import numpy as np
import onnx_ir
import pytest

from mopruning.ir import lowering
from mopruning.ir.builder import Builder
from mopruning.ir.lowering import Lowering, Refusal, open_shape, operands, weight_shape, window_of
from mopruning.ir.passes.shapes import infer_shapes
from mopruning.ir.validation import UnsupportedOperators


class Text(Lowering[str]):
    """A framework in which everything is a line of text."""

    def fetch(self, name):
        return f"<{name}>"


def join(low, node):
    low.set(node.outputs[0], f"{node.op_type}({', '.join(str(low.get(value)) for value in node.inputs if value)})")


def refuse(low, node):
    raise Refusal("only on Sundays")


def text_of(model, **operators):
    low = Text(infer_shapes(model), operators, "Text")
    for value in low.model.graph.inputs:
        low.set(value, str(value.name))
    low.run()
    return [low.get(value) for value in low.model.graph.outputs]


def branches():
    net = Builder("branches")
    x = net.input("x", (4,))
    return net.model(
        {"sum": net.add(net.sigmoid(net.gemm(x, "fc", 4), "left"), net.relu(x, "right"), "sum"), "r": net.relu(x, "r")}
    )


def test_doctests():
    result = doctest.testmod(lowering)
    assert result.attempted
    assert not result.failed


def test_every_value_is_asked_for_once():
    assert text_of(branches(), Gemm=join, Sigmoid=join, Relu=join, Add=join) == [
        "Add(Sigmoid(Gemm(x, <fc.weight>, <fc.bias>)), Relu(x))",
        "Relu(x)",
    ]


def test_all_refusals_are_told_at_once_and_what_reads_them_is_not():
    with pytest.raises(UnsupportedOperators) as error:
        text_of(branches(), Gemm=join, Relu=refuse, Add=join)
    assert str(error.value).splitlines() == [
        "model 'branches' cannot be expressed in Text, 3 problems:",
        "  node 'left' (Sigmoid): it has no such operator",
        "  node 'right' (Relu): only on Sundays",
        "  node 'r' (Relu): only on Sundays",
    ]


def constants_and_weights():
    x = onnx_ir.val("x", onnx_ir.DataType.FLOAT, ["N", 3])
    two, weight = (
        onnx_ir.val(name, const_value=onnx_ir.tensor(array, name=name))
        for name, array in (("two", np.full(1, 2.0, np.float32)), ("fc.weight", np.ones((5, 3), np.float32)))
    )
    doubled = onnx_ir.node("Mul", [two, two], name="doubled")
    turned = onnx_ir.node("Transpose", [weight], {"perm": [1, 0]}, name="turned")
    dense = onnx_ir.node("MatMul", [x, turned.outputs[0]], name="dense")
    scaled = onnx_ir.node("Mul", [dense.outputs[0], doubled.outputs[0]], name="scaled")
    nodes = [doubled, turned, dense, scaled]
    return onnx_ir.Model(
        onnx_ir.Graph([x], scaled.outputs, nodes=nodes, initializers=[two, weight], opset_imports={"": 20}),
        ir_version=10,
    )


def test_constants_are_computed_and_weights_wait_for_their_layer():
    seen = []

    def matmul(low, node):
        weight = low.dense_weight(node.inputs[1])
        seen.append((str(weight.name), weight_shape(weight)))
        join_without(low, node)

    def join_without(low, node):
        low.set(node.outputs[0], f"dense({low.get(node.inputs[0])})")

    assert text_of(constants_and_weights(), MatMul=matmul, Mul=join) == ["Mul(dense(x), [4.])"]
    assert seen == [("fc.weight", [5, 3])]


def test_windows_and_operands_are_filled_up():
    node = onnx_ir.node("Conv", [onnx_ir.val("x"), onnx_ir.val("w")], {"pads": [0, 1, 2, 3], "strides": [2, 1]})
    window = window_of(node, 2)
    assert (window.strides, window.dilations, window.starts, window.ends) == ((2, 1), (1, 1), (0, 1), (2, 3))
    assert [value and value.name for value in operands(node, 3)] == ["x", "w", None]


@pytest.mark.parametrize("shape", [None, ["N", "M"]])
def test_shapes_that_are_too_open_are_refused(shape):
    value = onnx_ir.Value(name="x", shape=None if shape is None else onnx_ir.Shape(shape))
    with pytest.raises(Refusal, match="the shape of 'x' is"):
        open_shape(value)
