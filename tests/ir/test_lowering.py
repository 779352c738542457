"""The walk that every writer makes over a graph: what is computed when, and how refusals are told."""

import doctest
from types import ModuleType

import numpy as np
import onnx_ir
import pytest

from mopruning.ir import lowering
from mopruning.ir.builder import Builder
from mopruning.ir.lowering import Lowering, Refusal, lowerings, lowers, open_shape, operands, weight_shape, window_of
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


def lowered(operator, attributes, *weights, shape=("N", 6, 4)):
    """A writer and a node of `x` and weights: names that end in "weight" are parameters, others constants."""
    x = onnx_ir.val("x", onnx_ir.DataType.FLOAT, list(shape))
    values = [
        None if content is None else onnx_ir.val(name, const_value=onnx_ir.tensor(content, name=name))
        for name, content in weights
    ]
    node = onnx_ir.node(operator, [x, *values], attributes, name="node")
    held = [value for value in values if value is not None]
    graph = onnx_ir.Graph([x], node.outputs, nodes=[node], initializers=held, opset_imports={"": 20})
    low = Text(onnx_ir.Model(graph, ir_version=10), {}, "Text")
    low.roles = {str(value.name): "parameter" if value.name.endswith("weight") else "constant" for value in held}
    return low, node


@pytest.mark.parametrize(
    ("axes", "attributes", "expected"),
    [
        ([-1, 1], {}, [1, 2]),
        ([2, -1], {}, [2]),
        (None, {}, [0, 1, 2]),
        ([], {}, [0, 1, 2]),
        ([], {"noop_with_empty_axes": 1}, None),
    ],
)
def test_axes_of_a_reduction(axes, attributes, expected):
    low, node = lowered("ReduceSum", attributes, ("axes", None if axes is None else np.array(axes, np.int64)))
    assert low.reduced_axes(node) == expected


def test_computed_axes_are_refused():
    low, node = lowered("ReduceSum", {}, ("axes.weight", np.array([1], np.int64)))
    with pytest.raises(Refusal, match="its axes are computed; they must be constants"):
        low.reduced_axes(node)


def test_cuts_of_a_slice():
    row = [np.array(numbers, np.int64) for numbers in ([0, 1], [9, -1], [-1, 1], [2, -1])]
    low, node = lowered("Slice", {}, ("starts", row[0]), ("ends", row[1]), ("axes", row[2]), ("steps", row[3]))
    assert low.cuts(node) == [(0, 9, 2, 2), (1, -1, 1, -1)]
    low, node = lowered("Slice", {}, ("starts", row[0]), ("ends", row[1]))
    assert low.cuts(node) == [(0, 9, 0, 1), (1, -1, 1, 1)]
    low, node = lowered("Slice", {}, ("starts", row[0]), ("ends.weight", row[1]))
    with pytest.raises(Refusal, match="its ends are computed"):
        low.cuts(node, ("starts", "ends"))


def test_the_share_of_a_dropout_is_short():
    assert lowered("Dropout", {}, ("ratio", np.array(0.1, np.float32)))[0].number(None) is None
    for ratio, expected in ((np.array(0.1, np.float32), 0.1), (None, 0.5)):
        low, node = lowered("Dropout", {}, ("ratio", ratio))
        assert low.dropped_share(node) == expected
    low, node = lowered("Dropout", {}, ("ratio.weight", np.array(0.1, np.float32)))
    assert low.dropped_share(node) is None


@pytest.mark.parametrize(
    ("slope", "shape", "found"),
    [([1], ("N", 6, 4), True), ([6], ("N", 6), True), ([4], ("N", 6, 4), False), ([6, 1], ("N", 6, 4), False)],
)
def test_slopes_are_found_where_there_is_one_a_channel(slope, shape, found):
    low, node = lowered("PRelu", {}, ("a.weight", np.ones(slope, np.float32)), shape=shape)
    assert (low.channel_slopes(node) is node.inputs[1]) is found


@pytest.mark.parametrize(("operator", "found"), [("Unsqueeze", True), ("Abs", False)])
def test_slopes_are_found_behind_what_spreads_them_only(operator, found):
    low, node = lowered("PRelu", {}, ("a.weight", np.ones(6, np.float32)), shape=("N", 6))
    weight = node.inputs[1]
    spread = onnx_ir.node(operator, [weight])
    spread.outputs[0].shape = onnx_ir.Shape([6])
    prelu = onnx_ir.node("PRelu", [node.inputs[0], spread.outputs[0]])
    assert low.channel_slopes(prelu) is (weight if found else None)


def test_what_stands_for_an_array_is_made_once_a_form():
    low, _ = lowered("Relu", {})
    made, array = iter(["first", "second"]), np.ones(3)
    assert [low.once(array, lambda: next(made), form) for form in ("a", "a", "b", "a")] == [
        "first",
        "first",
        "second",
        "first",
    ]


def module_of(**functions):
    """A module that defines these functions."""
    found = ModuleType("family")
    for name, function in functions.items():
        function.__module__, function.__name__ = "family", name
        setattr(found, name, function)
    return found


def test_marked_functions_are_found_by_their_operators():
    pool, add = lowers("MaxPool", "AveragePool")(lambda low, node: None), lowers("Add")(lambda low, node: None)
    elsewhere = lowers("Sub")(lambda low, node: None)
    family = module_of(pool=pool, add=add, helper=lambda: None)
    family.imported = elsewhere
    assert lowerings(family) == {"MaxPool": pool, "AveragePool": pool, "Add": add}


def test_an_operator_is_marked_once_and_in_the_profile():
    first, second = (lowers("Add")(lambda low, node: None) for _ in range(2))
    with pytest.raises(ValueError, match=r"family\.second: Add is lowered twice"):
        lowerings(module_of(first=first, second=second))
    with pytest.raises(ValueError, match=r"family\.odd: Ad is not in the operator profile"):
        lowerings(module_of(odd=lowers("Ad")(lambda low, node: None)))
