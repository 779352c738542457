"""The operator table against ONNX's own definitions, and against what the networks need."""

import doctest
import functools
import re
from pathlib import Path

import numpy as np
import onnx
import pytest

from mopruning import backends
from mopruning.ir import operators, operators_page
from mopruning.ir.operator_names import FRAMEWORKS, OPERATOR_NAMES
from mopruning.ir.operators import DTYPES, OPERATORS, OPSET
from tests.backends.presence import require

ROWS = list(OPERATORS.values())
NETWORKS = {
    "convolutional": "Conv ConvTranspose BatchNormalization Relu Clip Sigmoid MaxPool AveragePool GlobalAveragePool "
    "Gemm Flatten Add Concat Dropout Split Slice Reshape Transpose Pad Resize HardSwish HardSigmoid",
    "transformer": "MatMul LayerNormalization Gelu Erf Softmax Gather Transpose Slice Split Where Concat Reshape "
    "Expand Unsqueeze Squeeze Shape Cast Equal Div Mul Sub Sqrt Pow Tanh ReduceMean ReduceSum ReduceMax",
    "recurrent": "LSTM GRU",
}


def schema(name):
    return onnx.defs.get_schema(name, OPSET)


@pytest.mark.parametrize("module", [operators, operators_page], ids=lambda module: module.__name__)
def test_doctests(module):
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize("network", NETWORKS)
def test_the_profile_has_what_networks_need(network):
    assert set(NETWORKS[network].split()) - OPERATORS.keys() == set()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_row_agrees_with_onnx(row):
    definition = schema(row.name)
    assert not definition.deprecated
    assert definition.domain == ""
    assert definition.min_input <= row.inputs[0] <= row.inputs[1] <= max(definition.max_input, 1)
    assert definition.min_output <= row.outputs[0] <= row.outputs[1] <= definition.max_output
    known = definition.attributes
    assert set(row.attributes) <= known.keys()
    assert {name for name, attribute in known.items() if attribute.required} <= set(row.attributes)
    assert all(index < row.inputs[1] for index in row.parameters)


@pytest.mark.parametrize("row", [row for row in ROWS if row.only], ids=lambda row: row.name)
def test_allowed_values_are_of_the_attribute_type_and_onnx_can_read_them(row):
    python = {"INT": int, "FLOAT": float, "STRING": str}
    assert row.only.keys() <= set(row.attributes) | {"layout"}
    for name, values in row.only.items():
        kind = onnx.AttributeProto.AttributeType.Name(int(schema(row.name).attributes[name].type))
        assert values
        assert {type(value) for value in values} == {python[kind]}


def test_every_row_can_be_printed_in_the_docs():
    assert [row.name for row in ROWS if not row.kind] == []
    assert len({id(row) for row in ROWS}) == len(OPERATORS)
    assert all(name == row.name for name, row in OPERATORS.items())


def test_every_framework_has_a_name_for_every_operator():
    assert list(OPERATOR_NAMES) == list(OPERATORS)
    assert all(len(names) == len(FRAMEWORKS) and all(names) for names in OPERATOR_NAMES.values())
    assert list(FRAMEWORKS) == list(backends.FRAMEWORKS)


def spaces_of(framework):
    """What stands before the names of a framework -> where they are looked up."""
    if framework == "pytorch":
        torch = pytest.importorskip("torch")
        return {"nn": torch.nn, "torch": torch, "F": torch.nn.functional, "x": torch.Tensor}
    if framework == "mxnet":
        operators = pytest.importorskip("mopruning.backends.mxnet.framework").mx
        return {"np": operators.np}
    if framework == "tensorflow1":
        return {"tf": pytest.importorskip("tensorflow.compat.v1")}
    mindspore = pytest.importorskip("mindspore")
    return {"nn": mindspore.nn, "ops": mindspore.ops, "x": mindspore.Tensor}


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_what_frameworks_call_them_is_there(framework):
    require(framework)
    spaces, column = spaces_of(framework), list(FRAMEWORKS).index(framework)
    pattern = re.compile(rf"\b({'|'.join(spaces)})\.([\w.]*\w)")
    named = [(name, *found) for name, texts in OPERATOR_NAMES.items() for found in pattern.findall(texts[column])]
    assert len(named) > 10
    missing = []
    for operator, space, name in named:
        try:
            functools.reduce(getattr, name.split("."), spaces[space])
        except AttributeError:
            missing.append(f"{operator}: {space}.{name}")
    assert missing == []


def test_weights_are_the_parameters_that_can_be_pruned():
    weights = {row.name: sorted(row.weights) for row in ROWS if row.weights}
    assert weights == {
        "Conv": [1],
        "ConvTranspose": [1],
        "Gemm": [1],
        "MatMul": [1],
        "LSTM": [1, 2],
        "GRU": [1, 2],
        "Gather": [0],
    }
    assert OPERATORS["ConvTranspose"].weights[1] == "[in, out/groups, *kernel]"


def test_types_are_known_to_numpy_or_ml_dtypes():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    assert [np.dtype(getattr(ml_dtypes, name, name)).name for name in DTYPES] == list(DTYPES)


def test_the_page_is_that_of_the_table():
    written = (Path(__file__).parents[2] / "docs" / "operators.md").read_text(encoding="utf-8")
    assert written == operators_page.page(), f"the table has changed; write the page anew: {operators_page.COMMAND}"


def test_the_page_has_a_line_for_every_row():
    lines = [line for line in operators_page.page().splitlines() if line.startswith("| [")]
    assert [re.match(r"\| \[(\w+)\]", line)[1] for line in lines] == list(OPERATORS)
    assert {line.replace(r"\|", "").count("|") for line in lines} == {6}
    resize = next(line for line in lines if "[Resize]" in line)
    for text in ("1 to 4", "`nearest_mode`", "`align_corners`", "`cubic_coeff_a` = `-0.75`"):
        assert text in resize
    assert "| Resize | F.interpolate |" in operators_page.page()
