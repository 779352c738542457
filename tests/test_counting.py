"""How many zeros a sparsity means."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mopruning.counting import check_sparsity, sparsity_of, zeros_of
from mopruning.errors import RecipeError

SIZES = st.one_of(st.integers(0, 200), st.integers(0, 10**9))


@given(st.integers(0, 10**6), st.integers(0, 10**5))
def test_zeros_are_the_floor_of_what_the_decimals_say(millionths, size):
    # 0.29 * 100 is 28.999999999999996 in floating point, and means 29
    assert zeros_of(millionths / 10**6, size) == math.floor(Fraction(millionths, 10**6) * size)


@given(SIZES)
def test_the_ends_are_exact(size):
    assert (zeros_of(0.0, size), zeros_of(1.0, size)) == (0, size)


@given(st.data())
def test_a_count_has_a_sparsity_that_gives_it_back(data):
    size = data.draw(SIZES)
    zeros = data.draw(st.integers(0, size))
    sparsity = sparsity_of(zeros, size)
    assert 0.0 <= sparsity <= 1.0
    assert zeros_of(sparsity, size) == zeros


@pytest.mark.parametrize(
    "sparsity", [0, 1, 0.5, True, np.float32(0.5), np.float64(0.25), np.array(0.5), Fraction(1, 4)]
)
def test_any_number_from_0_to_1_is_a_sparsity(sparsity):
    checked = check_sparsity(sparsity)
    assert type(checked) is float
    assert checked == sparsity


@pytest.mark.parametrize(
    "sparsity", [-1e-9, 1.0000001, 2, 90, "x", "", None, [0.5, 0.6], float("nan"), -math.inf, 10**400]
)
def test_all_else_is_refused_with_its_place(sparsity):
    with pytest.raises(RecipeError, match=r"^prune_dict: fc\.weight must"):
        check_sparsity(sparsity, "prune_dict: fc.weight")


@pytest.mark.parametrize(("percent", "share"), [(90, "0.9"), (93.75, "0.9375"), (100, "1"), (2, "0.02")])
def test_a_percentage_is_told_its_share(percent, share):
    with pytest.raises(RecipeError, match=f"for {percent:g} percent write {share}$"):
        check_sparsity(percent)


@pytest.mark.parametrize("value", [1.2, 1.999, 101, -0.5])
def test_what_is_no_percentage_is_told_none(value):
    """A number between 1 and 2 is a share that went wrong, such as 0.9 plus 0.3."""
    with pytest.raises(RecipeError, match=f"must lie from 0 to 1, got {value}$"):
        check_sparsity(value)
