"""BatchNorm folding: the same outputs, the same zeros, and no folding where it would be wrong."""

import doctest
import importlib

import numpy as np
import pytest

from mopruning.ir.passes import fold_batchnorm
from mopruning.ir.validation import validate
from tests.ir.small_models import Weights, array, content, model, node, put, resnet20, run

LAYERS = {
    "Conv": ("Conv", (6, 4, 3, 3), {"pads": [1, 1, 1, 1]}, [2, 4, 5, 5]),
    "grouped Conv": ("Conv", (6, 2, 3, 3), {"group": 2, "strides": [2, 2]}, [2, 4, 5, 5]),
    "1-D Conv": ("Conv", (6, 4, 3), {}, [2, 4, 5]),
    "ConvTranspose": ("ConvTranspose", (4, 6, 3, 3), {"strides": [2, 2]}, [2, 4, 5, 5]),
    "grouped ConvTranspose": ("ConvTranspose", (4, 3, 3, 3), {"group": 2}, [2, 4, 5, 5]),
    "Gemm": ("Gemm", (6, 4), {"transB": 1}, [2, 4]),
    "Gemm [in, out]": ("Gemm", (4, 6), {"transB": 0}, [2, 4]),
}


def layer_and_norm(layer, bias, dtype=np.float32):
    operator, shape, attributes, image = LAYERS[layer]
    w = Weights()
    names = [w.make("w", *shape)] + ([w.make("b", 6)] if bias else [])
    w["w"][np.random.default_rng(1).random(shape) < 0.6] = 0.0
    nodes = [
        node(operator, "layer", f"x {' '.join(names)}", **attributes),
        node("BatchNormalization", "bn", f"layer {w.norm('bn', 6)}", epsilon=1e-3),
        node("Relu", "y", "bn"),
    ]
    weights = {name: values.astype(dtype) for name, values in w.items()}
    kind = {np.float32: 1, np.float16: 10}[dtype]
    x = np.random.default_rng(2).standard_normal(image).astype(dtype)
    return model({"x": ["N", *image[1:]]}, nodes, ["y"], weights, types={"x": kind}), x


def operators(net):
    return [item.op_type for item in net.graph]


def test_doctests():
    result = doctest.testmod(importlib.import_module("mopruning.ir.passes.fold_batchnorm"))
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("layer", LAYERS)
def test_outputs_zeros_and_names_stay(layer, bias):
    net, x = layer_and_norm(layer, bias)
    before = content(net)
    folded = fold_batchnorm(net)
    assert content(net) == before
    assert operators(folded) == [LAYERS[layer][0], "Relu"]
    assert list(folded.graph.initializers) == ["w", "b" if bias else "layer.bias"]
    np.testing.assert_allclose(run(folded, {"x": x})[0], run(net, {"x": x})[0], rtol=1e-5, atol=1e-5)
    old, new = array(net, "w"), array(folded, "w")
    np.testing.assert_array_equal(new == 0, old == 0)
    assert not np.signbit(new[old == 0]).any()  # a scale below 0 must not make -0.0, which a file keeps as a value
    assert (array(net, "bn.weight") < 0).any()


def test_float16_is_rounded_once():
    net, x = layer_and_norm("Conv", True, np.float16)
    folded = fold_batchnorm(net)
    parts = {name: array(net, name).astype(np.float64) for name in net.graph.initializers}
    epsilon = net.graph.node("bn").attributes["epsilon"].as_float()
    scale = parts["bn.weight"] / np.sqrt(parts["bn.running_var"] + epsilon)
    np.testing.assert_array_equal(array(folded, "w"), (parts["w"] * scale[:, None, None, None]).astype(np.float16))
    offset = scale * (parts["b"] - parts["bn.running_mean"]) + parts["bn.bias"]
    np.testing.assert_array_equal(array(folded, "b"), offset.astype(np.float16))
    np.testing.assert_allclose(run(folded, {"x": x})[0], run(net, {"x": x})[0], rtol=2e-2, atol=2e-2)


def test_a_whole_resnet_folds_and_gives_the_same():
    net = resnet20()
    folded = fold_batchnorm(net)
    validate(folded)
    assert "BatchNormalization" not in operators(folded)
    assert len(folded.graph) == len(net.graph) - operators(net).count("BatchNormalization")
    assert {item.name for item in folded.graph} < {item.name for item in net.graph}
    image = np.random.default_rng(0).standard_normal((2, 3, 16, 16)).astype(np.float32)
    expected = run(net, {"image": image})[0]
    np.testing.assert_allclose(run(folded, {"image": image})[0], expected, atol=1e-5 * np.ptp(expected))
    assert folded.graph.initializers["fc.weight"].const_value is net.graph.initializers["fc.weight"].const_value


def test_the_output_of_the_graph_keeps_its_name():
    net, x = layer_and_norm("Conv", True)
    relu = net.graph.node("y")
    net.graph.outputs[0] = relu.inputs[0]
    net.graph.remove(relu, safe=True)
    folded = fold_batchnorm(net)
    assert [value.name for value in folded.graph.outputs] == ["bn"]
    assert operators(folded) == ["Conv"]
    np.testing.assert_allclose(run(folded, {"x": x})[0], run(net, {"x": x})[0], rtol=1e-5, atol=1e-5)


def stays(nodes, outputs=("y",), weights=None, inputs=None):
    w = weights or Weights()
    w.make("w", 4, 4, 1, 1)
    norm = w.norm("bn", 4)
    nodes = [
        node(item.op_type, item.name, " ".join(item.input))
        if item.op_type != "BN"
        else node("BatchNormalization", item.name, f"{item.input[0]} {norm}")
        for item in nodes
    ]
    net = model(inputs or {"x": ["N", 4, 2, 2]}, nodes, list(outputs), w)
    x = np.random.default_rng(0).standard_normal((2, 4, 2, 2)).astype(np.float32)
    folded = fold_batchnorm(net)
    for old, new in zip(run(net, {"x": x}), run(folded, {"x": x}), strict=True):
        np.testing.assert_allclose(new, old, rtol=1e-5, atol=1e-5)
    return "BatchNormalization" in operators(folded)


def test_it_stays_where_folding_would_change_something_else():
    conv, norm = node("Conv", "c", "x w"), node("BN", "y", "c")
    assert not stays([conv, norm])
    assert stays([conv, norm], outputs=["y", "c"])  # the convolution's own result is asked for
    assert stays([conv, node("BN", "n", "c"), node("Add", "y", "n c")])  # or used
    assert stays([node("Relu", "c", "x"), norm])  # nothing to fold into
    assert stays([node("BN", "y", "x")])
    assert stays([conv, node("BN", "n", "c"), node("Conv", "d", "n w"), node("Relu", "y", "d")])  # a shared weight
    assert stays([node("Neg", "v", "w"), node("Conv", "c", "x v"), norm])  # a computed one


def test_a_shared_bias_is_left_to_its_other_user():
    w = Weights()
    w.make("w", 4, 4, 1, 1), w.make("v", 4, 4, 1, 1), w.make("b", 4)
    nodes = [
        node("Conv", "c", "x w b"),
        node("BatchNormalization", "n", f"c {w.norm('bn', 4)}"),
        node("Conv", "y", "n v b"),
    ]
    net = model({"x": ["N", 4, 2, 2]}, nodes, ["y"], w)
    folded = fold_batchnorm(net)
    np.testing.assert_array_equal(array(folded, "b"), w["b"])
    assert folded.graph.node("c").inputs[2].name == "c.bias"
    x = np.random.default_rng(0).standard_normal((1, 4, 2, 2)).astype(np.float32)
    np.testing.assert_allclose(run(folded, {"x": x})[0], run(net, {"x": x})[0], rtol=1e-5, atol=1e-5)


def test_statistics_that_give_no_number_are_left_alone():
    net, _ = layer_and_norm("Conv", True)
    put(net, "bn.running_var", np.float32([-1, 1, 1, 1, 1, 1]))
    assert "BatchNormalization" in operators(fold_batchnorm(net))
