"""Sub-graphs: a part computes what it computed in the whole."""

import doctest
import importlib

import numpy as np
import pytest

from mopruning.errors import MopruningError
from mopruning.ir.passes import ExtractError, extract
from mopruning.ir.validation import validate
from tests.ir.small_models import Weights, content, encoder, model, node, resnet20, run

IMAGE = np.random.default_rng(0).standard_normal((2, 3, 16, 16)).astype(np.float32)


def test_doctests():
    result = doctest.testmod(importlib.import_module("mopruning.ir.passes.extract"))
    assert result.attempted > 0
    assert result.failed == 0


def test_parts_of_a_resnet_make_up_the_whole():
    net = resnet20()
    before = content(net)
    first = extract(net, outputs=["layer1.2.relu2"])
    second = extract(net, inputs=["layer1.2.relu2"], outputs=["layer3.0.add"])
    third = extract(net, inputs=["layer3.0.add"])
    assert content(net) == before
    x = IMAGE
    for part in (first, second, third):
        validate(part)
        x = run(part, {part.graph.inputs[0].name: x})[0]
    np.testing.assert_array_equal(x, run(net, {"image": IMAGE})[0])
    assert sum(len(part.graph) for part in (first, second, third)) == len(net.graph)
    names = [set(part.graph.initializers) for part in (first, second, third)]
    assert set.union(*names) == set(net.graph.initializers)
    assert sum(map(len, names)) == len(net.graph.initializers)


def test_a_new_input_declares_shape_and_type_and_weights_are_shared():
    net = resnet20()
    part = extract(net, inputs=["layer1.2.relu2"], outputs=["layer2.0.add"])
    (given,) = part.graph.inputs
    assert str(given.shape).startswith("[N,16,")
    assert given.dtype.name == "FLOAT"
    for name, value in part.graph.initializers.items():
        assert value.const_value is net.graph.initializers[name].const_value
    assert part.opset_imports == net.opset_imports


def test_several_inputs_and_outputs_keep_the_order_asked_for():
    net = resnet20()
    names = ["layer1.0.add", "layer1.0.bn2", "relu"]
    part = extract(net, inputs=["relu", "layer1.0.relu1"], outputs=names)
    assert [value.name for value in part.graph.inputs] == ["relu", "layer1.0.relu1"]
    assert [value.name for value in part.graph.outputs] == names
    relu, inner = run(net, {"image": IMAGE}, ["relu", "layer1.0.relu1"])
    expected = run(net, {"image": IMAGE}, names)
    for new, old in zip(run(part, {"relu": relu, "layer1.0.relu1": inner}), expected, strict=True):
        np.testing.assert_array_equal(new, old)


def test_a_node_name_stands_for_what_it_gives():
    nodes = [node("Split", "halves", "x", "low high", axis=1, num_outputs=2), node("Sub", "minus", "low high", "out")]
    net = model({"x": ["N", 4]}, nodes, ["out"])
    assert [value.name for value in extract(net, outputs=["halves"]).graph.outputs] == ["low", "high"]
    part = extract(net, inputs=["halves"], outputs=["minus"])
    assert [value.name for value in part.graph.inputs] == ["low", "high"]
    assert [item.name for item in part.graph] == ["minus"]
    assert [value.name for value in extract(net, inputs=["low", "high"]).graph.inputs] == ["low", "high"]


def test_without_names_it_drops_what_nothing_needs():
    w = Weights()
    w.make("w", 3, 3), w.make("unused", 5)
    nodes = [node("Gemm", "dead", "b w"), node("Gemm", "y", "a w")]
    net = model({"a": ["N", 3], "b": ["N", 3]}, nodes, ["y"], w)
    part = extract(net)
    assert [value.name for value in part.graph.inputs] == ["a"]
    assert [item.name for item in part.graph] == ["y"]
    assert list(part.graph.initializers) == ["w"]


def test_a_part_of_an_encoder_that_starts_inside_needs_its_ids_no_more():
    net = encoder()
    ids = np.random.default_rng(0).integers(0, 30, (2, 6))
    part = extract(net, inputs=["embedded"], outputs=["norm"])
    embedded, expected = run(net, {"ids": ids}, ["embedded", "norm"])
    np.testing.assert_array_equal(run(part, {"embedded": embedded})[0], expected)
    assert "embeddings.weight" not in part.graph.initializers


@pytest.mark.parametrize(
    ("inputs", "outputs", "message"),
    [
        (
            ["layer1.2.relu"],
            [],
            r"inputs: 'layer1.2.relu' is neither a value nor a node .* did you mean 'layer1.2.relu[12]'",
        ),
        ([], ["zzz"], r"outputs: 'zzz' is neither a value nor a node of the model$"),
        (["layer2.0.relu1"], ["layer2.0.add"], r"also need 'image', besides the given inputs 'layer2.0.relu1'"),
        (["layer3.0.add"], ["layer1.0.add"], r"also need 'image'"),
        (["image", "layer3.0.add"], ["layer1.0.add"], r"do not depend on the input 'layer3.0.add'"),
    ],
)
def test_what_cannot_be_cut_is_refused_by_name(inputs, outputs, message):
    with pytest.raises(ExtractError, match=message) as error:
        extract(resnet20(), inputs, outputs)
    assert isinstance(error.value, (MopruningError, ValueError))


def test_one_name_may_be_given_as_text():
    assert [item.name for item in extract(resnet20(), "flatten", "fc").graph] == ["fc"]
