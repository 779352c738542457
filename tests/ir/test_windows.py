"""Padding of ONNX files: in numbers, with the same results."""

from __future__ import annotations

import doctest

import pytest

from mopruning.ir import windows
from mopruning.ir.onnx_files import read_onnx
from mopruning.ir.validation import UnsupportedOperators
from tests.ir.onnx_cases import assert_same, floats, run_file, save
from tests.ir.small_models import model, node, run


def test_doctests():
    result = doctest.testmod(windows)
    assert result.attempted
    assert not result.failed


@pytest.mark.parametrize("rule", ["SAME_UPPER", "SAME_LOWER", "VALID"])
@pytest.mark.parametrize("operator", ["Conv", "MaxPool", "AveragePool", "ConvTranspose"])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_auto_pad_becomes_pads(rule, operator, stride, tmp_path):
    weight = {"Conv": {"w": floats(4, 6, 3, 4)}, "ConvTranspose": {"w": floats(6, 4, 3, 4)}}.get(operator, {})
    attributes = {} if weight else {"kernel_shape": [3, 4]}
    made = node(operator, "y", "x w" if weight else "x", auto_pad=rule, strides=[stride, stride], **attributes)
    path = save(tmp_path / "net.onnx", model({"x": ["N", 6, 8, 7]}, [made], ["y"], weight))
    net = read_onnx(path)
    assert "auto_pad" not in net.graph.node(0).attributes
    feeds = {"x": floats(2, 6, 8, 7)}
    assert_same(run(net, feeds), run_file(path, feeds))


@pytest.mark.parametrize("rule", ["NOTSET", "SAME_UPPER"])
@pytest.mark.parametrize("size", [15, 16, 17])
def test_the_output_shape_of_a_transposed_convolution_becomes_pads(rule, size, tmp_path):
    made = node("ConvTranspose", "y", "x w", auto_pad=rule, strides=[2, 2], output_shape=[size, 16])
    path = save(tmp_path / "net.onnx", model({"x": ["N", 6, 8, 8]}, [made], ["y"], {"w": floats(6, 4, 4, 3)}))
    feeds = {"x": floats(2, 6, 8, 8)}
    assert_same(run(read_onnx(path), feeds), run_file(path, feeds))


def test_padding_that_depends_on_an_open_size_is_refused(tmp_path):
    made = node("MaxPool", "pool", "x", auto_pad="SAME_UPPER", strides=[2, 2], kernel_shape=[3, 3])
    with pytest.raises(UnsupportedOperators, match=r"'pool'.*auto_pad"):
        read_onnx(save(tmp_path / "net.onnx", model({"x": ["N", 6, "H", "W"]}, [made], ["pool"])))
