"""Resampling along one axis agrees with ONNX's own definition of Resize."""

from __future__ import annotations

import doctest

import numpy as np
import pytest

pytest.importorskip("onnx")

from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from mopruning.ir import resampling

SIZES = [(5, 9), (9, 4), (3, 1), (1, 4), (6, 12)]


def reference(x, new, mode, coordinates, rounding):
    attributes = {"mode": mode, "coordinate_transformation_mode": coordinates, "nearest_mode": rounding}
    node = helper.make_node("Resize", ["x", "", "", "sizes"], ["y"], **attributes)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "xy"]
    sizes = helper.make_tensor("sizes", TensorProto.INT64, [1], [new])
    graph = helper.make_graph([node], "net", ends[:1], ends[1:], [sizes])
    net = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    return ReferenceEvaluator(net).run(None, {"x": x})[0]


def test_docstrings():
    assert doctest.testmod(resampling).failed == 0


@pytest.mark.parametrize(("old", "new"), SIZES)
@pytest.mark.parametrize("coordinates", ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"])
def test_shares_and_places(old, new, coordinates):
    x = np.random.default_rng(0).standard_normal(old).astype(np.float32)
    places = resampling.positions(old, new, None, coordinates)
    if coordinates == "pytorch_half_pixel" and new == 1:  # which onnx 1.23's evaluator puts at -0.5, its text at 0
        assert places.tolist() == [0]
        return
    for mode in ("linear", "cubic"):
        table = resampling.shares(places, old, mode)
        np.testing.assert_allclose(table.sum(1), 1, rtol=1e-12)
        np.testing.assert_allclose(table @ x, reference(x, new, mode, coordinates, "floor"), atol=1e-5)
    for rounding in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil"):
        index = resampling.nearest(places, old, rounding)
        np.testing.assert_array_equal(x[index], reference(x, new, "nearest", coordinates, rounding))


def test_the_formulas_take_numbers_that_compute_as_arrays_do():
    place = np.arange(4, dtype=np.float64)
    for coordinates in ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"):
        places = resampling.moved(place, np.float64(8), np.float64(4), 0.5, coordinates)
        np.testing.assert_allclose(places, resampling.positions(8, 4, 0.5, coordinates), rtol=1e-7)
    for rounding in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil"):
        places = resampling.positions(4, 9, None, "half_pixel")
        index = np.clip(resampling.rounded(places, rounding), 0, 3)
        np.testing.assert_array_equal(index, resampling.nearest(places, 4, rounding))
    for mode in ("linear", "cubic"):
        assert sum(share for _, share in resampling.taps(0.3, mode)) == pytest.approx(1, abs=1e-12)
