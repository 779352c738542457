"""Graphs as text: every attribute, size and name survives, and what the text cannot hold is refused."""

import ml_dtypes
import numpy as np
import onnx_ir
import pytest
from onnx import helper

from mopruning.errors import FormatError
from mopruning.ir import mopir
from mopruning.ir.graph_text import from_text, to_text
from mopruning.ir.validation import UnsupportedOperators
from tests.ir.small_models import content, model, node, resnet20


@pytest.mark.parametrize(
    "attribute",
    [
        onnx_ir.AttrInt64("a", -(2**63)),
        onnx_ir.AttrFloat32("a", 1.0),
        onnx_ir.AttrFloat32("a", float("-inf")),
        onnx_ir.AttrFloat32("a", 1e-45),
        onnx_ir.AttrString("a", 'ümlaut "quoted" \\ \n \x00 \U0001f600'),
        onnx_ir.AttrInt64s("a", []),
        onnx_ir.AttrInt64s("a", [1, 2]),
        onnx_ir.AttrFloat32s("a", []),
        onnx_ir.AttrFloat32s("a", [1.0, float("inf")]),
        onnx_ir.AttrFloat32s("a", [2.0]),
        onnx_ir.AttrStrings("a", []),
        onnx_ir.AttrStrings("a", ["nan", ""]),
        onnx_ir.AttrTensor("a", onnx_ir.tensor(np.arange(6, dtype=np.int16).reshape(2, 3))),
        onnx_ir.AttrTensor("a", onnx_ir.tensor(np.array(2.5, np.float32))),
        onnx_ir.AttrTensor("a", onnx_ir.tensor(np.ones((2, 0), ml_dtypes.bfloat16))),
    ],
    ids=repr,
)
def test_attributes_of_each_type_survive(attribute):
    def net():
        x = onnx_ir.val("x", onnx_ir.DataType.FLOAT, ["N"])
        made = onnx_ir.Node("", "Any", [x], [attribute], name="any")
        made.outputs[0].name = "y"
        return onnx_ir.Model(
            onnx_ir.Graph([x], made.outputs, nodes=[made], opset_imports={"": 20}, name="net"), ir_version=10
        )

    assert content(from_text(to_text(net()), {})) == content(net())


def test_sizes_of_axes_survive_if_they_are_plain(tmp_path):
    sizes = ["N", 3, None, "batch_size", "2*s0 + 1", "s0//2", "max(a, b)", "2**s0", "a" * 200]
    x = onnx_ir.val("x", onnx_ir.DataType.FLOAT, sizes)
    graph = onnx_ir.Graph([x], [x], nodes=[], opset_imports={"": 20}, name="net")
    loaded = from_text(to_text(onnx_ir.Model(graph, ir_version=10)), {}).graph.inputs[0]
    assert [size if isinstance(size, int) else size.value for size in loaded.shape] == [*sizes[:7], None, None]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda net: net.graph.node(0).attributes.add(onnx_ir.AttrGraph("body", net.graph)), "of type GRAPH"),
        (
            lambda net: net.graph.node(0).attributes.add(
                onnx_ir.AttrTensor("big", onnx_ir.tensor(np.zeros(20_000, np.float32)))
            ),
            "attribute 'big' is a tensor of 80000 bytes: make it an initializer",
        ),
        (lambda net: setattr(net.graph.node(0), "domain", "custom"), "this one is of 'custom'"),
        (lambda net: net.graph.opset_imports.clear(), "does not say which version"),
        (lambda net: setattr(net.graph.node(0).outputs[0], "name", "image"), "two values are called 'image'"),
        (lambda net: setattr(net.graph.inputs[0], "name", ""), "has no name"),
        (lambda net: net.graph.node(0).replace_input_with(0, onnx_ir.val("other")), "uses 'other' before it is made"),
        (
            lambda net: setattr(net.graph.inputs[0], "type", onnx_ir.SequenceType(onnx_ir.TensorType(1))),
            "holds tensors only",
        ),
        (lambda net: net.metadata_props.update(odd="\ud800"), "cannot be written as JSON"),
    ],
)
def test_graphs_that_the_text_cannot_hold_are_refused(change, reason):
    net = resnet20(32)
    change(net)
    with pytest.raises(FormatError, match=reason):
        to_text(net)


def test_functions_and_foreign_operators_are_refused(tmp_path):
    body = [helper.make_node("Relu", ["a"], ["b"])]
    function = helper.make_function("own", "Twice", ["a"], ["b"], body, [helper.make_opsetid("", 20)])
    net = model({"x": [2]}, [node("Relu", "y", "x")], ["y"], functions=[function], opsets={"": 20, "own": 1})
    with pytest.raises(FormatError, match="functions of its own"):
        to_text(net)
    with pytest.raises(UnsupportedOperators):
        mopir.save(model({"x": [2]}, [node("Einsum", "y", "x", equation="i->i")], ["y"]), tmp_path / "net.mopir")
    assert not list(tmp_path.iterdir())
