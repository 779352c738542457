"""Gates: saliencies by hand, what a threshold keeps, and which threshold keeps how many."""

import doctest
import math
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mopruning.errors import WeightError
from mopruning.manidp import NOTHING_PRUNED, gate, saliency, threshold

module = sys.modules[saliency.__module__]

means = hnp.arrays(np.float64, st.integers(1, 130), elements=st.floats(0, 1000))
rates = st.floats(0.001, 1.0)


def test_doctests():
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0


def test_saliency_by_hand():
    pooled = np.array([[1.0, 2.0]])
    fc1 = np.array([[1.0, 1.0], [1.0, -1.0], [2.0, 0.0]])  # hidden: 3, -1 -> 0, 2
    fc2 = np.array([[1.0, 5.0, 0.5], [-1.0, 5.0, 0.0], [300.0, 0.0, 300.0]])
    bias = np.array([0.25, 1.0, 1.0])
    np.testing.assert_array_equal(saliency(pooled, fc1, fc2, bias), [[4.25, 0.0, 1000.0]])
    np.testing.assert_array_equal(saliency(pooled, fc1, fc2, bias, clamp_max=3.0), [[3.0, 0.0, 3.0]])


def test_gate_scales_by_saliency_and_keeps_the_threshold_itself():
    pi = np.array([[0.0, 0.5, 2.0], [0.49999, 0.50001, 0.5]])
    np.testing.assert_array_equal(gate(pi, 0.5), [[0.0, 0.5, 2.0], [0.0, 0.50001, 0.5]])


@given(hnp.arrays(np.float32, (3, 8), elements=st.floats(0, 1000, width=32)))
def test_nothing_is_pruned_at_first(pi):
    np.testing.assert_array_equal(gate(pi, NOTHING_PRUNED), pi)
    np.testing.assert_array_equal(gate(pi, 0.0), pi)


@given(means, rates)
def test_threshold_is_the_kth_largest(mean, rate):
    """As many channels reach it as asked for; more only where several share it."""
    wanted = max(1, math.ceil(rate * mean.size - 1e-9))
    found = threshold(mean, rate)
    assert found in mean
    assert (mean >= found).sum() >= wanted
    assert (mean > found).sum() < wanted


@given(means, st.randoms(use_true_random=False), rates)
def test_threshold_does_not_depend_on_the_order(mean, random, rate):
    order = list(range(mean.size))
    random.shuffle(order)
    assert threshold(mean[order], rate) == threshold(mean, rate)


@given(means, rates, rates)
def test_threshold_falls_as_more_remain(mean, one, other):
    low, high = sorted((one, other))
    assert threshold(mean, low) >= threshold(mean, high)


@pytest.mark.parametrize(
    ("channels", "rate", "kept"),
    [
        (64, 0.65, 42),  # 41.6 rounded up
        (16, 0.65, 11),
        (100, 0.29, 29),
        (100, 0.07, 7),  # 0.07 * 100 is 7.000000000000001
        (100, 0.57, 57),
        (10, 1e-12, 1),
        (10, 1.0, 10),
    ],
)
def test_how_many_remain(channels, rate, kept):
    mean = np.random.default_rng(channels).permutation(channels).astype(np.float32)
    assert threshold(mean, rate) == channels - kept


def test_threshold_leaves_the_means_alone():
    mean = np.array([3.0, 1.0, 2.0])
    assert threshold(mean, 0.5) == 2.0
    np.testing.assert_array_equal(mean, [3.0, 1.0, 2.0])


@pytest.mark.parametrize("rate", [0.0, -0.1, 1.0001, math.nan])
def test_rates_out_of_range(rate):
    with pytest.raises(ValueError, match="remain_rate must be above 0 and at most 1"):
        threshold(np.ones(3), rate)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_diverged_gates(bad):
    with pytest.raises(WeightError, match="mean saliency: expected finite numbers"):
        threshold(np.array([1.0, bad]), 0.5)
