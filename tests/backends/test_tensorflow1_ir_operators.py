"""Every operator of the profile computes in TensorFlow what it does in onnxruntime, and so does what is read back."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("tensorflow")
pytest.importorskip("onnxruntime")

from mopruning.backends.tensorflow1.exporting.nodes import Source
from mopruning.backends.tensorflow1.reader import read, to_ir
from mopruning.backends.tensorflow1.writer import LOWERINGS, from_ir, lowered
from mopruning.ir.operators import OPERATORS
from tests.ir.operator_cases import ELEMENTS, LAYERS, POOLS, RESIZES, SHAPES
from tests.ir.small_models import run

CASES = [*LAYERS, *POOLS, *ELEMENTS, *SHAPES, *RESIZES[::3]]


def assert_same(actual, expected, tolerance):
    for one, other in zip(actual, expected, strict=True):
        one, other = np.asarray(one), np.asarray(other)
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        if other.size:
            span = np.ptp(other.astype(np.float64)) if other.size > 1 else np.abs(other).max()
            np.testing.assert_allclose(
                one.astype(np.float64), other.astype(np.float64), rtol=0, atol=tolerance * max(span, 1e-6)
            )


def test_every_operator_has_a_lowering():
    assert set(LOWERINGS) == set(OPERATORS)


@pytest.mark.parametrize("one", CASES, ids=str)
def test_operator_there_and_back(one):
    names = [f"a.layer.{index}" for index in range(len(one.weights))]
    net, expected = one.graph(names), one.expected(names)
    network = from_ir(net)
    assert_same(network.run(list(one.inputs)), expected, 2e-5)
    back = to_ir(network)
    feeds = {f"x{index}": value for index, value in enumerate(one.inputs)}
    assert_same(run(back, feeds), expected, 2e-5)


@pytest.mark.parametrize("one", CASES[:: len(CASES) // 20], ids=str)
def test_operator_through_a_frozen_graph(one):
    names = [f"a.layer.{index}" for index in range(len(one.weights))]
    net, expected = one.graph(names), one.expected(names)
    low, _, _ = lowered(net, frozen=True)
    back = read(Source("frozen", low.graph.as_graph_def()))
    assert_same(run(back, {f"x{index}": value for index, value in enumerate(one.inputs)}), expected, 2e-5)
