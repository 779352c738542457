"""Stripe lowering: the same outputs by fewer products, and no lowering where it would not pay or be wrong."""

import doctest
import importlib
from collections import Counter

import numpy as np
import pytest

from mopruning import mask
from mopruning.ir.passes import cost, fold_batchnorm, infer_shapes
from mopruning.ir.passes.lower_stripes import lower_stripes
from mopruning.ir.validation import validate
from tests.ir.small_models import Weights, array, content, model, node, run

PADDED = {"pads": [1, 1, 1, 1]}


def pruned(shape, sparsity, seed=0):
    weight = np.random.default_rng(seed).standard_normal(shape).astype(np.float32) / np.float32(shape[1]) ** 0.5
    return weight * mask(abs(weight), "stripe", sparsity)


def convolution(weight, image, bias=True, **attributes):
    weights = {"w": weight} | ({"b": np.arange(len(weight), dtype=np.float32)} if bias else {})
    nodes = [node("Conv", "conv", f"x {' '.join(weights)}", **attributes), node("Relu", "y", "conv")]
    x = np.random.default_rng(1).standard_normal((2, weight.shape[1], *image)).astype(np.float32)
    return model({"x": ["N", weight.shape[1], *image]}, nodes, ["y"], weights), x


def operators(net):
    return Counter(item.op_type for item in net.graph)


def test_doctests():
    result = doctest.testmod(importlib.import_module("mopruning.ir.passes.lower_stripes"))
    assert result.attempted > 0
    assert result.failed == 0


CASES = {
    "padded": ((48, 96, 3, 3), (7, 6), PADDED),
    "not padded": ((32, 96, 3, 3), (7, 6), {}),
    "uneven padding": ((32, 96, 3, 3), (7, 6), {"pads": [0, 1, 2, 0]}),
    "dilated": ((32, 96, 3, 3), (9, 8), {"dilations": [2, 3], "pads": [2, 3, 2, 3]}),
    "strided": ((32, 96, 5, 5), (9, 8), {"strides": [2, 1], "pads": [2, 2, 2, 2]}),
    "filters no multiple of a block": ((19, 96, 3, 3), (5, 5), PADDED),
    "1-D": ((32, 96, 5), (11,), {"pads": [2, 2]}),
    "3-D": ((16, 96, 3, 3, 3), (4, 5, 4), {"pads": [1] * 6}),
}


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("case", CASES)
def test_outputs_stay_and_products_go(case, bias):
    shape, image, attributes = CASES[case]
    weight = pruned(shape, 0.8)
    weight[3] = 0  # a filter that is pruned whole
    net, x = convolution(weight, image, bias, **attributes)
    before = content(net)
    lowered = lower_stripes(net)
    assert content(net) == before
    validate(lowered)
    assert operators(lowered)["Conv"] > 1
    assert "w" not in lowered.graph.initializers
    np.testing.assert_allclose(run(lowered, {"x": x})[0], run(net, {"x": x})[0], rtol=1e-5, atol=1e-5)
    found, dense = cost(lowered, batch=2), cost(net, batch=2)
    assert found.macs < dense.macs
    kept = int((weight != 0).any(axis=1).sum())
    if "strides" not in attributes:
        results = dense.macs // weight.size
        assert found.effective_macs <= kept * (shape[1] + 1) * results * 2.5  # without padding 1x1 sees a larger image


def test_products_are_counted():
    weight = np.zeros((32, 128, 3, 3), np.float32)
    weight[:, :, 0, 2] = weight[16:, :, 1, 1] = 1.0
    net, _ = convolution(weight, (8, 8), **PADDED)
    lowered = lower_stripes(net)
    assert operators(lowered) == {"Conv": 6, "Add": 1, "Concat": 1, "Gather": 1, "Relu": 1}
    stripes = 16 + 2 * 16
    assert cost(lowered, batch=1).macs == 64 * stripes * (128 + 9)
    assert cost(net, batch=1).macs == 64 * 32 * 128 * 9


def test_what_does_not_pay_or_cannot_be_stays():
    few = pruned((32, 4, 3, 3), 0.7)
    full = pruned((32, 96, 3, 3), 0.05)
    point = np.ones((32, 96, 1, 1), np.float32)
    grouped = pruned((32, 96, 3, 3), 0.8)
    for weight, attributes in [(few, {}), (full, {}), (point, {}), (pruned((16, 96, 3, 3), 0.7), {"strides": [2, 2]})]:
        net, _ = convolution(weight, (8, 8), **attributes)
        assert content(lower_stripes(net)) == content(net)
    net, _ = convolution(pruned((32, 96, 3, 3), 0.75), (4, 4))  # the input is four times as large as the output
    assert content(lower_stripes(net)) != content(net)
    shaped = infer_shapes(net)
    assert content(lower_stripes(shaped)) == content(shaped)
    x = {"x": ["N", 192, 8, 8]}
    net = model(x, [node("Conv", "y", "x w", group=2)], ["y"], {"w": grouped})
    assert content(lower_stripes(net)) == content(net)
    net = model({**x, "w": [32, 192, 3, 3]}, [node("Conv", "y", "x w")], ["y"])
    assert content(lower_stripes(net)) == content(net)


def test_a_network_after_folding():
    w = Weights()
    w.make("a.weight", 64, 3, 3, 3)
    w["b.weight"] = pruned((64, 64, 3, 3), 0.85, seed=3)
    w.make("c.weight", 64, 64, 3, 3)
    nodes = [
        node("Conv", "a", "x a.weight", **PADDED),
        node("Conv", "b", "a b.weight", **PADDED),
        node("BatchNormalization", "bn", f"b {w.norm('bn', 64)}"),
        node("Conv", "shared", "a b.weight", **PADDED),
        node("Add", "sum", "bn shared"),
        node("Conv", "y", "sum c.weight", **PADDED),
    ]
    net = model({"x": ["N", 3, 6, 6]}, nodes, ["y"], w)
    lowered = lower_stripes(fold_batchnorm(net))
    assert {"a", "y"} <= {item.name for item in lowered.graph}  # few channels, dense
    assert not {"b", "shared"} & {item.name for item in lowered.graph}
    assert [value.name for value in lowered.graph.outputs] == ["y"]
    np.testing.assert_array_equal(array(lowered, "a.weight"), array(net, "a.weight"))
    x = np.random.default_rng(4).standard_normal((1, 3, 6, 6)).astype(np.float32)
    np.testing.assert_allclose(run(lowered, {"x": x})[0], run(net, {"x": x})[0], rtol=1e-4, atol=1e-4)
