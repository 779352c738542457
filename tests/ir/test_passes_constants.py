"""Constant folding: the same results from fewer nodes, and weights that stay what they are."""

import doctest
import importlib
import tracemalloc

import ml_dtypes
import numpy as np
import onnx_ir
import pytest
from onnx import numpy_helper

from mopruning.ir.passes import fold_constants, infer_shapes
from mopruning.ir.passes.constants import LARGEST, constant
from mopruning.ir.validation import validate
from tests.ir.small_models import INT64, array, content, encoder, model, node, resnet20, run

W = np.arange(12, dtype=np.float32).reshape(3, 4)


def operators(net):
    return [item.op_type for item in net.graph]


def test_doctests():
    module = importlib.import_module("mopruning.ir.passes.constants")
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0


def test_shape_arithmetic_of_an_encoder_folds_and_gives_the_same():
    net = encoder()
    before = content(net)
    folded = fold_constants(infer_shapes(net, batch=2))
    assert content(net) == before
    left = {item.name for item in folded.graph}
    assert {item.name for item in net.graph} - left == {"shape", "size", "head_size", "rows", "split_shape"}
    ids = np.random.default_rng(0).integers(0, 30, (2, 6))
    np.testing.assert_array_equal(run(net, {"ids": ids})[0], run(folded, {"ids": ids})[0])


def test_weights_stay_the_same_tensors_under_their_names():
    net = encoder()
    folded = fold_constants(infer_shapes(net, batch=2))
    kept = {name for name in net.graph.initializers if name in folded.graph.initializers}
    assert {name for name in net.graph.initializers if name.endswith((".weight", ".bias"))} <= kept
    for name in kept:
        assert folded.graph.initializers[name].const_value is net.graph.initializers[name].const_value
    assert operators(folded).count("Transpose") == operators(net).count("Transpose")


def scaled(name):
    """A network that multiplies by exp of a number, as those with a learned temperature do."""
    nodes = [node("Exp", "exp", name), node("Mul", "y", "x exp")]
    return model({"x": ["N", 4]}, nodes, ["y"], {name: np.array([0.5], np.float32)})


@pytest.mark.parametrize("name", ["logit_scale", "temperature", "head.temperature", "blocks.0.gamma"])
def test_a_trained_number_keeps_its_name(name):
    folded = fold_constants(scaled(name))
    assert operators(folded) == ["Exp", "Mul"]
    assert list(folded.graph.initializers) == [name]
    assert list(fold_constants(scaled(name), weights=True).graph.initializers) == ["exp"]


@pytest.mark.parametrize(
    "name",
    ["onnx::Exp_12", "/act/Constant_output_0", "const_fold_opt__7", "val_3", "_to_copy", "exp.input", "c", "Const:0"],
)
def test_a_number_that_an_exporter_made_is_folded(name):
    folded = fold_constants(scaled(name))
    assert operators(folded) == ["Mul"]
    assert list(folded.graph.initializers) == ["exp"]


def test_the_metadata_say_more_than_names():
    net = scaled("val_3")
    net.metadata_props.update({"mopruning.source": "pytorch", "mopruning.roles": '{"val_3":"parameter"}'})
    assert operators(fold_constants(net)) == ["Exp", "Mul"]
    net = scaled("temperature")
    net.metadata_props["mopruning.source"] = "pytorch"
    assert operators(fold_constants(net)) == ["Mul"]


def test_the_slope_of_a_prelu_keeps_its_name():
    nodes = [node("Unsqueeze", "wide", "onnx::PRelu_3 axes"), node("PRelu", "y", "x wide")]
    numbers = {"onnx::PRelu_3": np.array([0.25], np.float32), "axes": np.array([1])}
    folded = fold_constants(model({"x": ["N", 4]}, nodes, ["y"], numbers))
    assert operators(folded) == ["Unsqueeze", "PRelu"]
    assert array(folded, "onnx::PRelu_3") == 0.25


def test_on_request_weights_are_computed_too():
    nodes = [node("Transpose", "t", "w", perm=[1, 0]), node("MatMul", "y", "x t")]
    net = model({"x": ["N", 4]}, nodes, ["y"], {"w": W})
    assert operators(fold_constants(net)) == ["Transpose", "MatMul"]
    folded = fold_constants(net, weights=True)
    assert operators(folded) == ["MatMul"]
    assert list(folded.graph.initializers) == ["t"]
    np.testing.assert_array_equal(array(folded, "t"), W.T)


def test_a_weight_that_is_used_elsewhere_stays():
    nodes = [node("Transpose", "t", "w", perm=[1, 0]), node("MatMul", "m", "x t"), node("Add", "y", "m w")]
    folded = fold_constants(model({"x": [3, 3]}, nodes, ["y"], {"w": W[:, :3]}), weights=True)
    assert set(folded.graph.initializers) == {"w", "t"}


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"value": numpy_helper.from_array(W)}, W),
        ({"value_float": 2.5}, np.float32(2.5)),
        ({"value_floats": [1.0, 2.0]}, np.float32([1, 2])),
        ({"value_int": 7}, np.int64(7)),
        ({"value_ints": [1, -1]}, np.array([1, -1])),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_constant_nodes_become_initializers(attributes, expected):
    kind = INT64 if np.asarray(expected).dtype == np.int64 else 1
    net = model(
        {"x": [3, 1]}, [node("Constant", "c", "", **attributes), node("Mul", "y", "x c")], ["y"], types={"x": kind}
    )
    folded = fold_constants(net)
    validate(folded)
    np.testing.assert_array_equal(array(folded, "c"), expected)
    assert array(folded, "c").dtype == np.asarray(expected).dtype


def test_a_weight_in_a_constant_node_is_lifted_and_no_more():
    nodes = [
        node("Constant", "w", "", value=numpy_helper.from_array(W)),
        node("Transpose", "t", "w", perm=[1, 0]),
        node("MatMul", "y", "x t"),
    ]
    folded = fold_constants(model({"x": ["N", 4]}, nodes, ["y"]))
    assert operators(folded) == ["Transpose", "MatMul"]
    assert list(folded.graph.initializers) == ["w"]


def test_text_and_unknown_operators_are_left_for_validate():
    nodes = [
        node("Constant", "text", "", value_string="a"),
        node("NonZero", "where", "w"),
        node("Custom", "own", "w", domain="own"),
        node("Add", "bad", "w three"),
        node("Relu", "y", "x"),
    ]
    weights = {"w": np.array([1, 0, 2]), "three": np.ones((2, 2), np.int64)}
    net = model({"x": [1]}, nodes, ["y", "text", "where", "own", "bad"], weights, opsets={"": 20, "own": 1})
    for value in list(net.graph.outputs)[1:]:
        net.graph.outputs.remove(value)
    assert operators(fold_constants(net)) == ["Constant", "NonZero", "Custom", "Add", "Relu"]


def test_outputs_of_the_graph_are_still_given_by_nodes():
    nodes = [node("Add", "a", "c c"), node("Mul", "b", "a c")]
    folded = fold_constants(model({}, nodes, ["b"], {"c": np.array([2, 3])}))
    assert operators(folded) == ["Mul"]
    np.testing.assert_array_equal(run(folded, {})[0], [8, 18])


def test_several_outputs_and_left_out_inputs():
    nodes = [node("Split", "s", "c", "a b", num_outputs=2), node("Clip", "d", "a _ five"), node("Sum", "y", "x d b")]
    net = model({"x": [2]}, nodes, ["y"], {"c": np.array([9, 1, 2, 3]), "five": np.array(5)}, types={"x": INT64})
    nodes[2].op_type = "Sum"
    folded = fold_constants(net)
    assert operators(folded) == ["Sum"]
    np.testing.assert_array_equal(array(folded, "d"), [5, 1])
    assert list(folded.graph.initializers) == ["b", "d"]


def test_a_large_result_is_not_made():
    side = int(LARGEST**0.5) + 1
    nodes = [
        node("ConstantOfShape", "fill", "shape"),
        node("Expand", "wide", "one shape"),
        node("Range", "range", "zero many step"),
        node("Concat", "short", "shape shape", axis=0),
    ]
    weights = {
        "shape": np.array([side, side]),
        "one": np.ones((1, 1), np.float32),
        "zero": np.array(0),
        "many": np.array(10**12),
        "step": np.array(1),
    }
    ends = [node("Add", f"{name}.end", f"{name} {name}") for name in ("fill", "wide", "range", "short")]
    net = model({}, [*nodes, *ends], [end.name for end in ends], weights)
    tracemalloc.start()
    folded = fold_constants(net)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [item.name for item in folded.graph][:4] == ["fill", "wide", "range", "fill.end"]
    assert peak < 1 << 20


def test_only_the_known_part_of_a_shape_folds():
    nodes = [
        node("Shape", "all", "x"),
        node("Shape", "last", "x", start=-2),
        node("Concat", "y", "all last", axis=0),
    ]
    net = model({"x": ["N", 3, 4]}, nodes, ["y"])
    folded = fold_constants(net)
    assert operators(folded) == ["Shape", "Concat"]
    np.testing.assert_array_equal(array(folded, "last"), [3, 4])


def test_identity_of_a_weight_is_the_weight():
    net = model({"x": ["N", 4]}, [node("Identity", "i", "w"), node("Gemm", "y", "x i", transB=1)], ["y"], {"w": W})
    folded = fold_constants(net)
    assert folded.graph.node("y").inputs[1].name == "w"
    assert operators(folded) == ["Gemm"]


def test_an_initializer_that_callers_may_override_is_no_constant():
    net = model(
        {"c": [2]},
        [node("Add", "a", "c c"), node("Neg", "y", "a")],
        ["y"],
        {"c": np.ones(2, np.int64)},
        types={"c": INT64},
    )
    assert operators(fold_constants(net, weights=True)) == ["Add", "Neg"]


def test_older_opsets_fold_by_their_own_rules():
    nodes = [node("Unsqueeze", "u", "c", axes=[0]), node("Add", "y", "x u")]
    folded = fold_constants(
        model({"x": [1, 2]}, nodes, ["y"], {"c": np.array([1, 2])}, types={"x": INT64}, opsets={"": 11})
    )
    np.testing.assert_array_equal(array(folded, "u"), [[1, 2]])


def test_bfloat16_constants_fold():
    c = np.array(1.5, ml_dtypes.bfloat16)
    net = model({"x": [2]}, [node("Neg", "n", "c"), node("Add", "y", "x n")], ["y"], types={"x": 16})
    value = onnx_ir.val("c", const_value=onnx_ir.tensor(c, name="c"))
    net.graph.initializers.add(value)
    net.graph.node("n").replace_input_with(0, value)
    folded = fold_constants(net)
    assert array(folded, "n").dtype == ml_dtypes.bfloat16
    assert float(array(folded, "n")) == -1.5


def test_the_value_of_a_weight_on_its_way_to_a_node():
    nodes = [
        node("Transpose", "t", "w"),
        node("Slice", "s", "t zero two zero"),
        node("MatMul", "m", "x s"),
        node("Relu", "y", "m"),
    ]
    weights = {"w": W, "zero": np.array([0]), "two": np.array([2])}
    net = model({"x": ["N", 2]}, nodes, ["y"], weights)
    graph = net.graph
    assert constant(graph.node("t").outputs[0]).base is not None  # a view, no copy
    np.testing.assert_array_equal(constant(graph.node("m").inputs[1]), W.T[:2])
    assert constant(graph.node("m").inputs[0]) is None
    assert constant(graph.outputs[0]) is None
    assert constant(None) is None


def test_what_is_used_twice_is_computed_once():
    nodes = [node("Add", f"w{place + 1}", f"w{place} w{place}") for place in range(40)]
    graph = model({"x": [2]}, [*nodes, node("Mul", "y", "x w40")], ["y"], {"w0": np.float32([1, 3])}).graph
    np.testing.assert_array_equal(constant(graph.node("y").inputs[1]), np.float32([2**40, 3 * 2**40]))


def test_computed_weights_go_once_they_are_used():
    nodes = [node("Neg", f"w{place + 1}", f"w{place}") for place in range(12)]
    graph = model({"x": [1]}, [*nodes, node("Mul", "y", "x w12")], ["y"], {"w0": np.ones(1 << 18, np.float32)}).graph
    tracemalloc.start()
    found = constant(graph.node("y").inputs[1])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.nbytes == 1 << 20
    assert peak < 5 * found.nbytes  # not 12


def test_values_far_from_the_input():
    nodes = [node("Neg", f"v{place + 1}", f"v{place}") for place in range(1500)]
    net = model({"v0": [2]}, [*nodes, node("Concat", "y", "v1500 v1500", axis=0)], ["y"])
    varying = set()
    assert constant(net.graph.node("y").inputs[0], varying) is None
    assert varying == set(net.graph) - {net.graph.node("y")}
    assert constant(net.graph.node("y").outputs[0], varying) is None
    assert varying == set(net.graph)


def test_nodes_in_a_circle_give_nothing():
    graph = model({"x": [2]}, [node("Add", "a", "w w"), node("Add", "y", "x a")], ["y"], {"w": W[0]}).graph
    np.testing.assert_array_equal(constant(graph.node("a").outputs[0]), 2 * W[0])
    graph.node("a").replace_input_with(0, graph.node("a").outputs[0])
    assert constant(graph.node("a").outputs[0]) is None


def test_a_network_without_constants_keeps_all_its_nodes():
    net = resnet20(32)
    assert operators(fold_constants(net)) == operators(net)
    assert content(fold_constants(net)) == content(net.clone())
