"""Dense layers of ONNX files: one form, the same results."""

from __future__ import annotations

import doctest

import numpy as np
import pytest

from mopruning.ir import dense_layers
from mopruning.ir.onnx_files import read_onnx
from tests.ir.onnx_cases import assert_same, floats, operators, run_file, save
from tests.ir.small_models import INT64, array, model, node, run


@pytest.mark.parametrize("module", [dense_layers])
def test_doctests(module):
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0


DENSE = {
    "Gemm": ("Gemm", {"transB": 1}, (3, 4)),
    "Gemm, [in, out]": ("Gemm", {}, (4, 3)),
    "Gemm, scaled": ("Gemm", {"alpha": 0.5, "beta": 2.0}, (4, 3)),
    "Gemm, without its bias": ("Gemm", {"transB": 1, "beta": 0.0}, (3, 4)),
    "MatMul": ("MatMul", {}, (4, 3)),
}


@pytest.mark.parametrize("bias", [(3,), (1, 3), (1,), None], ids=str)
@pytest.mark.parametrize("kind", DENSE)
def test_a_dense_layer_becomes_a_gemm_with_its_weight_as_out_in(kind, bias, tmp_path):
    operator, attributes, shape = DENSE[kind]
    weights = {"fc.weight": floats(*shape)} | ({"fc.bias": floats(*bias)} if bias else {})
    if operator == "Gemm":
        nodes = [node("Gemm", "y", " ".join(["x", *weights]), **attributes)]
    elif bias:
        nodes = [node("MatMul", "product", "x fc.weight"), node("Add", "y", "fc.bias product")]
    else:
        nodes = [node("MatMul", "y", "x fc.weight")]
    path = save(tmp_path / "net.onnx", model({"x": ["N", 4]}, nodes, ["y"], weights))
    net = read_onnx(path)
    gemm = next(one for one in net.graph if one.op_type == "Gemm")
    assert gemm.inputs[1].name == "fc.weight"
    np.testing.assert_array_equal(
        array(net, "fc.weight"), weights["fc.weight"].reshape(shape).T if shape == (4, 3) else weights["fc.weight"]
    )
    assert set(gemm.attributes) == {"transB"}
    if bias == (3,) or (bias == (1, 3) and kind in ("Gemm", "Gemm, [in, out]")):
        assert array(net, "fc.bias").shape == (3,)
        assert operators(net).count("Add") == 0
    feeds = {"x": floats(5, 4)}
    assert_same(run(net, feeds), run_file(path, feeds))


def test_a_gemm_on_a_transposed_input_keeps_its_result(tmp_path):
    path = save(
        tmp_path / "net.onnx", model({"x": [4, "N"]}, [node("Gemm", "y", "x w", transA=1)], ["y"], {"w": floats(4, 3)})
    )
    net = read_onnx(path)
    assert operators(net) == ["Transpose", "Gemm"]
    feeds = {"x": floats(4, 5)}
    assert_same(run(net, feeds), run_file(path, feeds))


def test_a_dense_layer_on_more_axes_transposes_its_weight(tmp_path):
    weights = {"fc.weight": floats(4, 3), "fc.bias": floats(3)}
    nodes = [node("MatMul", "product", "x fc.weight"), node("Add", "y", "product fc.bias")]
    path = save(tmp_path / "net.onnx", model({"x": ["N", 7, 4]}, nodes, ["y"], weights))
    net = read_onnx(path)
    assert operators(net) == ["Transpose", "MatMul", "Add"]
    np.testing.assert_array_equal(array(net, "fc.weight"), weights["fc.weight"].T)
    feeds = {"x": floats(5, 7, 4)}
    assert_same(run(net, feeds), run_file(path, feeds))


def test_a_weight_that_is_also_read_as_it_lies_stays(tmp_path):
    nodes = [
        node("Gather", "rows", "w ids"),
        node("MatMul", "a", "x w"),
        node("Gemm", "b", "x w"),
        node("Add", "y", "a b"),
    ]
    net = model({"x": ["N", 4], "ids": [2]}, nodes, ["y", "rows"], {"w": floats(4, 3)}, types={"ids": INT64})
    path = save(tmp_path / "net.onnx", net)
    net = read_onnx(path)
    assert array(net, "w").shape == (4, 3)
    feeds = {"x": floats(5, 4), "ids": np.array([0, 2])}
    assert_same(run(net, feeds), run_file(path, feeds))


def test_a_weight_of_several_dense_layers_turns_once(tmp_path):
    nodes = [node("MatMul", "a", "x w"), node("Gemm", "y", "a w")]
    path = save(tmp_path / "net.onnx", model({"x": ["N", 4]}, nodes, ["y"], {"w": (matrix := floats(4, 4))}))
    net = read_onnx(path)
    np.testing.assert_array_equal(array(net, "w"), matrix.T)
    assert operators(net) == ["Gemm", "Gemm"]
    feeds = {"x": floats(5, 4)}
    assert_same(run(net, feeds), run_file(path, feeds))
