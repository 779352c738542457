"""Which initializers are parameters, and that a canonical view shows a weight as [out, in, *kernel]."""

import doctest

import numpy as np
import pytest

from mopruning.ir import parameters as module
from mopruning.ir import table
from mopruning.ir.parameters import parameters, source
from tests.ir.small_models import Weights, encoder, model, node, recurrent, resnet20, run


@pytest.mark.parametrize("tested", [module, table])
def test_doctests(tested):
    result = doctest.testmod(tested)
    assert result.attempted > 0
    assert result.failed == 0


def test_a_resnet_has_its_weights_scales_and_biases_in_order():
    net = resnet20()
    found = parameters(net)
    names = [name for name in net.graph.initializers if not name.endswith(("running_mean", "running_var"))]
    assert list(found) == names
    assert {role for name, role in roles(found).items() if "bn" in name} == {"scale", "bias"}
    assert roles(found)["layer1.0.conv1.weight"] == "weight"
    assert found["fc.bias"].node.name == "fc"


def roles(found):
    return {name: parameter.role for name, parameter in found.items()}


def test_an_encoder_has_weights_behind_transposes_and_free_operands():
    found = parameters(encoder())
    assert {name for name, role in roles(found).items() if role == "weight"} == {
        "embeddings.weight",
        *(f"{part}.weight" for part in ("query", "key", "value", "output", "up", "down")),
    }
    assert roles(found)["positions"] == ""
    assert "root" not in found  # one number is part of a formula
    assert found["up.weight"].node.name == "up.matmul"


def reads(operator, weight, images, **attributes):
    """Which inputs each output channel depends on, found by running the layer on one input channel at a time."""
    net = model({"x": list(images.shape[1:])}, [node(operator, "y", "x w", **attributes)], ["y"], {"w": weight})
    dependent = []
    for image in images:
        out = run(net, {"x": image})[0]
        dependent.append(np.abs(out).reshape(out.shape[0], out.shape[1], -1).sum(axis=(0, 2)) > 0)
    return np.stack(dependent, axis=1), net


@pytest.mark.parametrize(
    ("operator", "shape", "attributes"),
    [
        ("Conv", (6, 4, 1, 1), {}),
        ("ConvTranspose", (4, 6, 1, 1), {}),
        ("Gemm", (6, 4), {"transB": 1}),
        ("Gemm", (4, 6), {}),
        ("MatMul", (4, 6), {}),
    ],
)
def test_canonical_is_output_by_input_however_it_is_stored(operator, shape, attributes):
    weight = (np.random.default_rng(0).random(shape) < 0.5).astype(np.float32)
    tail = (1, 1) if len(shape) == 4 else ()
    images = np.eye(4, dtype=np.float32).reshape(4, 1, 4, *tail)
    dependent, net = reads(operator, weight, images, **attributes)
    canonical = parameters(net)["w"].canonical(weight)
    assert np.shares_memory(canonical, weight)
    np.testing.assert_array_equal(canonical.reshape(6, 4) != 0, dependent)


def test_canonical_of_a_grouped_transposed_convolution():
    weight = (np.random.default_rng(0).random((4, 3, 1, 1)) < 0.6).astype(np.float32)
    dependent, net = reads("ConvTranspose", weight, np.eye(4, dtype=np.float32).reshape(4, 1, 4, 1, 1), group=2)
    canonical = parameters(net)["w"].canonical(weight)
    assert canonical.shape == (6, 2, 1, 1)
    inside = np.block([[np.ones((3, 2)), np.zeros((3, 2))], [np.zeros((3, 2)), np.ones((3, 2))]]) > 0
    assert not dependent[~inside].any()
    np.testing.assert_array_equal(canonical.reshape(12) != 0, dependent[inside])


def test_a_weight_stored_as_tensorflow_does_is_seen_through_its_transpose():
    stored = np.random.default_rng(0).standard_normal((3, 3, 4, 6)).astype(np.float32)
    nodes = [node("Transpose", "w_t", "w", perm=[3, 2, 0, 1]), node("Conv", "y", "x w_t")]
    found = parameters(model({"x": ["N", 4, 5, 5]}, nodes, ["y"], {"w": stored}))["w"]
    assert (found.node.name, found.order) == ("y", (3, 2, 0, 1))
    np.testing.assert_array_equal(found.canonical(stored), stored.transpose(3, 2, 0, 1))


def test_several_transposes_are_put_together_and_a_reshape_ends_it():
    nodes = [
        node("Transpose", "a", "w", perm=[2, 0, 1]),
        node("Identity", "b", "a"),
        node("Transpose", "c", "b"),
        node("Reshape", "d", "c flat"),
        node("MatMul", "y", "x d"),
    ]
    w = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)
    net = model({"x": ["N", 6]}, nodes, ["y"], {"w": w, "flat": np.array([6, 4])})
    value, order = source(net.graph.node("c").outputs[0])
    assert value.name == "w"
    np.testing.assert_array_equal(w.transpose(order), w.transpose(2, 0, 1).transpose())
    assert source(net.graph.node("y").inputs[1])[1] is None
    assert source(net.graph.node("y").inputs[0]) == (None, None)
    found = parameters(net)["w"]
    assert found.role == "weight"
    assert found.canonical(w) is w


def test_recurrent_weights_are_stacked_rows():
    net = recurrent("LSTM")
    found = parameters(net)
    assert roles(found) == {"w": "weight", "r": "weight", "b": "bias"}
    assert found["w"].canonical(np.zeros((2, 12, 5))).shape == (24, 5)


def test_int8_weights_count_and_whole_numbers_do_not():
    w = Weights()
    w["w"] = np.ones((2, 3), np.int8)
    w["shift"] = np.array([1, 2])
    nodes = [node("Cast", "f", "w", to=1), node("Gemm", "y", "x f", transB=1), node("Add", "z", "shift shift")]
    found = parameters(model({"x": ["N", 3]}, nodes, ["y", "z"], w))
    assert list(found) == ["w"]
    assert found["w"].node.name == "y"
