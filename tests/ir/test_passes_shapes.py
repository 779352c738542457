"""Inferred shapes and types against those that onnxruntime computes."""

import doctest
import importlib

import numpy as np
import pytest

from mopruning.ir.passes import ShapeError, infer_shapes
from mopruning.ir.passes.shapes import static_shape
from tests.ir.small_models import content, encoder, model, node, recurrent, resnet20, run

CASES = {
    "resnet": (resnet20, {"image": (2, 3, 16, 16)}),
    "encoder": (encoder, {"ids": (2, 6)}),
    "LSTM": (lambda: recurrent("LSTM"), {"x": (7, 2, 5)}),
}


def test_doctests():
    result = doctest.testmod(importlib.import_module("mopruning.ir.passes.shapes"))
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize("case", CASES)
def test_every_value_has_the_shape_and_type_that_running_gives(case):
    build, shapes = CASES[case]
    net = build()
    before = content(net)
    shaped = infer_shapes(net, shapes=shapes)
    assert content(net) == before
    assert [item.name for item in shaped.graph] == [item.name for item in net.graph]
    names = [value.name for item in net.graph for value in item.outputs]
    types = {"ids": np.int64}
    feeds = {name: np.ones(shape, types.get(name, np.float32)) for name, shape in shapes.items()}
    values = {value.name: value for item in shaped.graph for value in item.outputs}
    for name, array in zip(names, run(net, feeds, names), strict=True):
        assert static_shape(values[name]) == array.shape, name
        assert values[name].dtype.numpy() == array.dtype, name
    for name, value in shaped.graph.initializers.items():
        assert value.const_value is net.graph.initializers[name].const_value


def test_open_axes_stay_open_and_named():
    shaped = infer_shapes(resnet20(32))
    assert str(shaped.graph.node("layer2.0.add").outputs[0].shape) == "[N,32,16,16]"
    assert str(shaped.graph.outputs[0].shape) == "[N,10]"


def test_other_sizes_replace_what_was_declared():
    net = infer_shapes(resnet20(32), batch=4)
    other = infer_shapes(net, image=(64, 32))
    assert static_shape(other.graph.node("layer3.0.add").outputs[0]) == (4, 64, 16, 8)
    assert static_shape(net.graph.node("layer3.0.add").outputs[0]) == (4, 64, 8, 8)


def test_large_weights_are_not_read():
    net = model({"x": ["N", 600]}, [node("Gemm", "y", "x w", transB=1)], ["y"], {"w": np.ones((5, 600), np.float32)})

    def read():
        raise AssertionError("the weight was read")

    import onnx_ir

    lazy = onnx_ir.LazyTensor(read, dtype=onnx_ir.DataType.FLOAT, shape=onnx_ir.Shape([5, 600]), name="w")
    net.graph.initializers["w"].const_value = lazy
    assert str(infer_shapes(net).graph.outputs[0].shape) == "[N,5]"


def test_contradictions_are_refused_with_the_node():
    net = model({"x": ["N", 3], "y": [4, 2]}, [node("MatMul", "product", "x y")], ["product"])
    with pytest.raises(ShapeError, match=r"model 'net': its shapes do not fit together: .*MatMul"):
        infer_shapes(net)
