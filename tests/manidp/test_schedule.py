"""Rates over time: where they start, where they end, and that they only fall."""

import doctest
import itertools
import math
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mopruning.manidp import learning_rate, remain_rate

module = sys.modules[remain_rate.__module__]


def test_doctests():
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0


@given(st.integers(1, 500), st.floats(0.01, 1))
def test_remain_rate_falls_to_its_target(epochs, target):
    rates = [remain_rate(epoch, epochs, target) for epoch in range(epochs)]
    assert rates[-1] == pytest.approx(target)
    assert all(target - 1e-12 <= later <= earlier <= 1 for earlier, later in itertools.pairwise(rates))
    assert rates[0] == pytest.approx((1 - target) / 2 * math.cos(math.pi / epochs) + (1 + target) / 2)


def test_published_remain_rates():
    """400 epochs to 0.65: nearly everything at first, halfway at half time."""
    assert remain_rate(0, 400, 0.65) == pytest.approx(0.9999946, abs=1e-7)
    assert remain_rate(199, 400, 0.65) == pytest.approx(0.825)
    assert remain_rate(399, 400, 0.65) == pytest.approx(0.65)


@given(st.integers(1, 2000), st.floats(1e-4, 10))
def test_learning_rate_falls_towards_zero(updates, start):
    rates = [learning_rate(update, updates, start) for update in range(updates)]
    assert rates[0] == pytest.approx(start)
    assert all(0 < later < earlier for earlier, later in itertools.pairwise(rates))
    assert learning_rate(updates, updates, start) == pytest.approx(0, abs=1e-12)
