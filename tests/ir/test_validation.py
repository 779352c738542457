"""What is let through, and what is refused: everything at once, by node, operator and reason."""

import doctest

import numpy as np
import onnx
import onnx_ir
import pytest
from onnx import TensorProto, helper

from mopruning.errors import FormatError
from mopruning.ir import dtypes, validation
from mopruning.ir.validation import UnsupportedOperators, describe, validate
from tests.ir.small_models import FLOAT, INT64, content, encoder, model, node, recurrent, resnet20

GOOD = {"resnet": resnet20, "encoder": encoder, "LSTM": lambda: recurrent("LSTM"), "GRU": lambda: recurrent("GRU")}
IMAGE = {"x": ["N", 4, 8, 8]}
W = {"w": np.ones((4, 4, 1, 1), np.float32), "v": np.ones(4, np.float32)}


def branch() -> onnx.NodeProto:
    graph = helper.make_graph([node("Relu", "inner", "x")], "then", [], [onnx.ValueInfoProto(name="inner")])
    return node("If", "choice", "flag", then_branch=graph, else_branch=graph)


def refused(net: onnx_ir.Model) -> list[tuple[str, str, str]]:
    with pytest.raises(UnsupportedOperators) as error:
        validate(net)
    problems = error.value.problems
    assert all(str(problem) in str(error.value) for problem in problems)
    return [(problem.node, problem.operator, problem.why) for problem in problems]


@pytest.mark.parametrize("module", [validation, dtypes])
def test_doctests(module):
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize("build", GOOD.values(), ids=GOOD)
def test_networks_of_the_profile_pass_and_stay_as_they_are(build):
    net = build()
    before = content(net)
    assert validate(net) is None
    assert content(net) == before


def test_everything_wrong_is_told_at_once():
    net = model(
        {**IMAGE, "flag": []},
        [
            node("Conv", "conv", "x w", auto_pad="SAME_UPPER", kernel_shape=[1, 1]),
            branch(),
            node("FusedConv", "fused", "conv w", domain="com.microsoft"),
            node("NonZero", "odd", "fused"),
            node("Softmax", "soft", "x", axis=1, gain=2.0),
        ],
        ["odd", "soft"],
        W,
        types={"flag": TensorProto.BOOL},
        opsets={"": 17, "com.microsoft": 1},
    )
    found = refused(net)
    assert [(name, operator) for name, operator, _ in found] == [
        ("", ""),
        ("conv", "Conv"),
        ("choice", "If"),
        ("fused", "FusedConv"),
        ("odd", "NonZero"),
        ("soft", "Softmax"),
    ]
    for (_, _, why), said in zip(
        found,
        ["opset 20, got 17", "'SAME_UPPER'", "subgraph", "'com.microsoft'", "not in the profile", "'gain'"],
        strict=True,
    ):
        assert said in why


def test_the_error_is_a_format_error_that_counts_and_names():
    net = model(IMAGE, [node("Celu", "act", "x")], ["act"])
    with pytest.raises(
        FormatError, match=r"model 'net' is outside the operator profile, 1 problem:\n  node 'act' \(Celu"
    ):
        validate(net)


CASES = {
    "constant": (node("Constant", "c", "", value_float=1.0), "fold_constants"),
    "too few inputs": (node("Conv", "n", "x"), "has 1 inputs, expected 2 to 3"),
    "too many inputs": (node("Relu", "n", "x x"), "has 2 inputs, expected 1"),
    "empty required input": (node("Conv", "n", "_ w"), "its input 0 is missing"),
    "too many outputs": (node("MaxPool", "n", "x", "n mask", kernel_shape=[2, 2]), "has 2 outputs, expected 1"),
    "required attribute": (node("MaxPool", "n", "x"), "attribute 'kernel_shape' is missing"),
    "attribute's type": (node("Softmax", "n", "x", axis=1.0), "'axis' is of type FLOAT, expected INT"),
    "training": (node("BatchNormalization", "n", "x v v v v", training_mode=1), "'training_mode' is 1; only 0"),
    "scaled product": (node("Gemm", "n", "m k", alpha=2.0), "'alpha' is 2.0; only 1.0"),
    "reset before": (node("GRU", "n", "s u q", hidden_size=2), "'linear_before_reset' is 0; only 1"),
    "sequence lengths": (node("LSTM", "n", "s u q _ i", hidden_size=2), "has sequence_lens"),
    "activations": (node("LSTM", "n", "s u q", activations=["Relu"] * 3), "only sigmoid, tanh, tanh"),
    "dropout trains": (node("Dropout", "n", "x _ yes"), "training_mode must be absent"),
    "nothing gives": (node("Relu", "n", "ghost"), "its input 'ghost' is given by nothing"),
    "types differ": (node("Add", "n", "x i"), "its input 'i' is int64, where another one is float32"),
    "type not allowed": (node("Conv", "n", "i i"), "its input 'i' cannot be int64"),
}


@pytest.mark.parametrize("case", CASES)
def test_one_fault_is_told_with_its_reason(case):
    wrong, said = CASES[case]
    weights = {
        **W,
        "m": np.ones((2, 2), np.float32),
        "k": np.ones((2, 2), np.float32),
        "yes": np.array(True),
        "s": np.ones((2, 1, 2), np.float32),
        "u": np.ones((1, 8, 2), np.float32),
        "q": np.ones((1, 8, 2), np.float32),
    }
    net = model(IMAGE | {"i": [1]}, [wrong, node("Relu", "last", "x")], ["last"], weights, types={"i": INT64})
    found = refused(net)
    assert (wrong.name, wrong.op_type) in {(name, operator) for name, operator, _ in found}
    assert any(said in why for _, _, why in found), found


def test_types_are_followed_through_the_graph():
    nodes = [
        node("Relu", "a", "x"),
        node("Cast", "b", "x", to=INT64),
        node("Concat", "c", "a y", axis=1),
        node("Add", "d", "c b"),
    ]
    net = model(IMAGE | {"y": IMAGE["x"]}, nodes, ["d"], types={"y": TensorProto.DOUBLE})
    assert refused(net) == [("c", "Concat", "its input 'y' is float64, where another one is float32")]
    net.graph.node("a").outputs[0].dtype = onnx_ir.DataType.FLOAT16
    assert refused(net)[0] == ("a", "Relu", "its output 'a' is declared as float16, but is float32")


def test_bfloat16_and_float16_networks_pass_and_others_do_not():
    for kind, fits in ((TensorProto.BFLOAT16, True), (TensorProto.FLOAT16, True), (TensorProto.FLOAT8E5M2, False)):
        net = model(IMAGE | {"k": [4, 4, 1, 1]}, [node("Conv", "conv", "x k")], ["conv"], types={"x": kind, "k": kind})
        if fits:
            validate(net)
        else:
            assert "'x' is of type float8e5m2" in refused(net)[0][2]


def test_sequences_and_text_are_refused():
    net = model({"x": [2], "s": [2]}, [node("Identity", "y", "x")], ["y"], types={"s": TensorProto.STRING})
    net.graph.inputs[0].type = onnx_ir.SequenceType(onnx_ir.TensorType(onnx_ir.DataType.FLOAT))
    assert ["no tensor" in why or "is of type string" in why for _, _, why in refused(net)] == [True, True]


def test_order_names_and_content_are_checked():
    net = model(IMAGE, [node("Relu", "a", "x"), node("Relu", "b", "a"), node("Add", "c", "b w")], ["c"], W)
    a, b, c = net.graph
    net.graph.remove(a)
    net.graph.insert_after(c, a)
    a.name = b.name = "same"
    net.graph.initializers["w"].const_value = None
    net.graph.initializers["v"].shape = onnx_ir.Shape([5])
    assert [(name, why) for name, _, why in refused(net)] == [
        ("", "2 nodes are called 'same'"),
        ("", "initializer 'w' has no content"),
        ("", "initializer 'v' is declared as [5], its content is [4]"),
        ("same", "its input 'a' comes only later: sort the nodes"),
    ]


def test_values_have_names_of_their_own_and_outputs_are_given():
    net = model(IMAGE, [node("Relu", "a", "x"), node("Relu", "b", "a")], ["b"])
    net.graph.node("b").outputs[0].name = "a"
    net.graph.outputs.append(onnx_ir.Value(name="ghost"))
    assert [why for _, _, why in refused(net)] == ["2 values are called 'a'", "nothing gives the output 'ghost'"]
    net.graph.outputs.clear()
    assert "has no outputs" in [why for _, _, why in refused(net)]


def test_nodes_without_names_and_functions_are_refused():
    function = helper.make_function(
        "own", "twice", ["x"], ["y"], [node("Add", "y", "x x")], [helper.make_opsetid("", 20)]
    )
    nodes = [node("Relu", "", "x", "y"), node("twice", "z", "y", domain="own")]
    net = model(IMAGE, nodes, ["z"], opsets={"": 20, "own": 1}, functions=[function])
    net.graph[0].name = ""
    assert [(name, why) for name, _, why in refused(net)] == [
        ("", "has 1 functions of its own; inline them"),
        ("", "1 nodes have no name: Relu"),
        ("z", "its domain is 'own'; only ONNX's own operators are in the profile"),
    ]


def test_left_out_optional_inputs_and_outputs_are_no_fault():
    pooled = node("Clip", "clip", "x _ high")
    w = {"u": np.ones((1, 8, 2), np.float32), "q": np.ones((1, 8, 2), np.float32), "high": np.float32(6)}
    last = node("LSTM", "rnn", "s u q", "_ last", hidden_size=2)
    validate(model(IMAGE | {"s": ["T", "N", 2]}, [pooled, last], ["clip", "last"], w))


def test_description_shows_every_node_shape_and_parameter():
    text = describe(resnet20(32))
    lines = text.splitlines()
    assert lines[0] == f"net: {len(resnet20().graph)} nodes, 272,282 parameters, opset 20"
    assert "input   image  float32 [N, 3, 32, 32]" in lines
    assert "output  fc     float32 [N, 10]" in lines
    (row,) = [line for line in lines if line.startswith("layer2.0.shortcut ")]
    assert row.split() == [
        *("layer2.0.shortcut", "Conv", "layer1.2.relu2", "[N,", "32,", "16,", "16]"),
        *("layer2.0.shortcut.weight", "[32,", "16,", "1,", "1]"),
    ]
    assert len(lines) == 5 + len(resnet20().graph)


def test_a_broken_model_can_still_be_described():
    net = model({"x": ["N", 3], "y": ["N", 4]}, [node("MatMul", "product", "x y")], ["product"], types={"y": FLOAT})
    assert "product  MatMul    x, y" in describe(net)
