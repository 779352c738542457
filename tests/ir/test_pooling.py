"""Windows of pools against onnxruntime: which of them count, what each counts, and the places within one."""

from __future__ import annotations

import doctest
import itertools
import math

import numpy as np
import pytest

from mopruning.ir import pooling
from mopruning.ir.lowering import Refusal, Window, window_of
from mopruning.ir.pooling import all_windows, counted, counts, taps
from tests.ir.small_models import model, node, run

X = np.random.default_rng(3).standard_normal((2, 3, 9, 8)).astype(np.float32)
PADS = [[0, 0, 0, 0], [1, 1, 1, 1], [0, 1, 1, 0]]


def pooled(x: np.ndarray, window: Window, whole: Window, kernel: list[int], padding: bool) -> np.ndarray:
    """The mean over each window, by its sum and what it counts."""
    around = [(0, 0), (0, 0), *zip(whole.starts, whole.ends, strict=True)]
    padded = np.pad(x.astype(np.float64), around)
    windows = counts(whole, x.shape[2:], kernel)
    total = np.zeros((*x.shape[:2], *windows))
    for place in taps(window, kernel):
        parts = [
            slice(before, before + (count - 1) * stride + 1, stride)
            for (before, _), count, stride in zip(place, windows, window.strides, strict=True)
        ]
        total += padded[(..., *parts)]
    high, wide = counted(window, whole, x.shape[2:], kernel, padding)
    return total / (high[:, None] * wide)


def test_doctests():
    result = doctest.testmod(pooling)
    assert result.attempted
    assert not result.failed


@pytest.mark.parametrize("ceil", [0, 1])
@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("strides", [[1, 1], [2, 3], [3, 3], [4, 2]], ids=str)
@pytest.mark.parametrize("pads", PADS, ids=str)
@pytest.mark.parametrize("kernel", [[2, 2], [3, 2], [3, 3]], ids=str)
def test_means_are_those_of_onnxruntime(kernel, pads, strides, padding, ceil):
    made = node(
        "AveragePool",
        "y",
        "x",
        kernel_shape=kernel,
        strides=strides,
        pads=pads,
        count_include_pad=padding,
        ceil_mode=ceil,
    )
    net = model({"x": list(X.shape)}, [made], ["y"])
    window = window_of(net.graph.node(0), 2)
    whole = all_windows(window, X.shape[2:], kernel, bool(ceil))
    (expected,) = run(net, {"x": X})
    np.testing.assert_allclose(pooled(X, window, whole, kernel, bool(padding)), expected, atol=1e-6)


def test_dilated_windows_are_slices_at_their_places():
    window = Window((1, 2), (2, 3), (0, 0, 0, 0))
    before = [tuple(place[0] for place in axes) for axes in taps(window, [2, 3])]
    assert before == list(itertools.product([0, 2], [0, 3, 6]))
    assert all(sum(place) == span for axes in taps(window, [2, 3]) for place, span in zip(axes, (2, 6), strict=True))
    assert math.prod(counts(window, [9, 8], [2, 3])) == 7 * 1


def test_without_ceil_the_window_stays():
    window = Window((2, 2), (1, 1), (0, 0, 0, 0))
    assert all_windows(window, [None, 5], [2, 2], ceil=False) is window


def test_an_open_size_is_refused_where_it_decides():
    assert all_windows(Window((1,), (1,), (0, 1)), [None], [2], ceil=True).pads == (0, 1)
    with pytest.raises(Refusal, match="axis of open size; give the graph's inputs shapes"):
        all_windows(Window((2,), (1,), (0, 1)), [None], [2], ceil=True)
