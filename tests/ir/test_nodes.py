"""What nodes ask for, worked out for writers."""

import doctest

import numpy as np
import onnx_ir
import pytest

from mopruning.ir import nodes
from mopruning.ir.nodes import cast_type, even_parts, filler_of, is_usual_selu, pad_amounts


def test_doctests():
    result = doctest.testmod(nodes)
    assert result.attempted
    assert not result.failed


@pytest.mark.parametrize(("alpha", "usual"), [(1.6732632, True), (1.67326, False)])
def test_a_selu_is_the_usual_one_as_far_as_float32_tells(alpha, usual):
    assert is_usual_selu(onnx_ir.node("Selu", [], {"alpha": alpha})) is usual


def test_fillers_keep_their_type():
    given = onnx_ir.tensor(np.array([7], np.int64))
    filler = filler_of(onnx_ir.node("ConstantOfShape", [], {"value": given}))
    assert (filler.numpy().tolist(), filler.dtype) == ([7], onnx_ir.DataType.INT64)


def test_a_cast_goes_by_the_other_operand():
    x, like, unknown = onnx_ir.val("x"), onnx_ir.val("like", onnx_ir.DataType.DOUBLE), onnx_ir.val("unknown")
    assert cast_type(onnx_ir.node("CastLike", [x, like])) == onnx_ir.DataType.DOUBLE
    assert cast_type(onnx_ir.node("CastLike", [x, unknown])) is None


@pytest.mark.parametrize(("size", "count"), [(7, 3), (6, 3), (1, 1), (9, 4)])
def test_even_parts_make_the_whole(size, count):
    parts = even_parts(size, count)
    assert (len(parts), sum(parts)) == (count, size)
    assert len(set(parts[:-1])) <= 1


def test_padding_of_all_axes_and_of_some():
    assert pad_amounts([1, 2, 3, 4], None, 2, 0) == ([1, 2], [3, 4])
    assert pad_amounts([1, 2, 3, 4], [-1, 0], 3, 0) == ([2, 0, 1], [4, 0, 3])
