"""Sums that no order of additions changes."""

from fractions import Fraction

import array_api_strict
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mopruning import mask
from mopruning.sums import integral, sums_within

REAL = st.floats(allow_nan=False, allow_infinity=False)


@given(hnp.arrays(np.float64, st.integers(1, 40), elements=REAL), st.integers(1, 10_000))
def test_integral_scores_are_whole_and_small_enough_to_add(scores, terms):
    values = integral(scores, terms)
    assert values.dtype == np.float64
    np.testing.assert_array_equal(values, np.round(values))
    assert np.abs(values).max() * terms < 2**53


@given(hnp.arrays(np.float32, st.integers(1, 40), elements=st.floats(-(2**10), 2**10, width=16)), st.integers(1, 1000))
def test_half_precision_scores_keep_every_bit(scores, terms):
    values = integral(scores, terms)
    largest = int(np.argmax(np.abs(scores)))
    if scores[largest]:
        scale = Fraction(values[largest]) / Fraction(float(scores[largest]))
        assert [Fraction(value) for value in values] == [Fraction(float(score)) * scale for score in scores]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int8, np.uint8, np.int64])
def test_integral_takes_every_real_dtype(dtype):
    scores = np.array([0, 1, 2, 100], dtype)
    values = integral(scores, 4)
    np.testing.assert_array_equal(values, np.array([0, 1, 2, 100]) * (values[1]))
    np.testing.assert_array_equal(np.asarray(integral(array_api_strict.asarray(scores.astype(np.float64)), 4)), values)


@pytest.mark.parametrize("extreme", [3e-308, 1.7e308, 1.0])
def test_the_range_of_float64_is_no_limit(extreme):
    values = integral(np.array([extreme, -extreme, 0.0, extreme / 2]), 1 << 20)
    assert np.isfinite(values).all()
    assert values[0] == -values[1] > 0 == values[2]
    assert values[0] >= values[3] >= 0
    assert values[0] * (1 << 20) < 2**53


def test_nothing_and_zeros_pass_through():
    assert integral(np.empty((0, 3)), 3).shape == (0, 3)
    np.testing.assert_array_equal(integral(np.zeros((2, 2), np.float32), 2), np.zeros((2, 2)))
    np.testing.assert_array_equal(sums_within(np.zeros((2, 3)), (1,)), np.zeros((2, 1)))


@given(
    hnp.arrays(np.float32, st.tuples(st.integers(1, 5), st.integers(1, 40)), elements=st.floats(-1, 1, width=32)),
    st.randoms(),
)
def test_the_order_of_a_unit_is_no_matter(scores, random):
    sums = sums_within(scores, (1,))
    order = list(range(scores.shape[1]))
    random.shuffle(order)
    np.testing.assert_array_equal(sums_within(scores[:, order], (1,)), sums)
    np.testing.assert_array_equal(sums_within(np.ascontiguousarray(scores.T)[order], (0,)).T, sums)
    strict = sums_within(array_api_strict.asarray(scores[:, order]), (1,))
    np.testing.assert_array_equal(np.asarray(strict), sums)
    exact = integral(scores, scores.shape[1])
    assert [[sum(Fraction(value) for value in row)] for row in exact] == [[Fraction(s)] for (s,) in sums]


@pytest.mark.parametrize("axes", [(0,), (1,), (2,), (0, 2), (1, 2), (0, 1), (0, 1, 2), ()])
def test_large_arrays_are_added_in_blocks_without_a_difference(axes):
    scores = np.random.default_rng(0).standard_normal((300, 500, 9)).astype(np.float32)
    terms = int(np.prod([scores.shape[axis] for axis in axes]))
    whole = integral(scores, terms).astype(np.int64).sum(axis=axes, keepdims=True)  # integers: another way to be exact
    np.testing.assert_array_equal(sums_within(scores, axes), whole)
    np.testing.assert_array_equal(sums_within(scores[::-1, :, ::-1], axes), whole[::-1, :, ::-1])


def test_near_ties_rank_alike_everywhere(torch, device):
    # Filters of the same weights in another order, and a bit more in one of them: float32 sums rank them at random.
    rng = np.random.default_rng(0)
    differs_from_float32 = 0
    for _ in range(1000):
        one = np.abs(rng.standard_normal(27)).astype(np.float32)
        scores = np.array([rng.permutation(one) for _ in range(6)])
        nudged = rng.integers(6)
        scores[nudged, rng.integers(27)] *= np.float32(1 + 2**-22)
        scores = scores.reshape(6, 3, 3, 3)
        kept = mask(scores, "filter", 0.5)
        first = [nudged, *(i for i in range(6) if i != nudged)][:3]
        assert sorted(first) == np.flatnonzero(kept[:, 0, 0, 0]).tolist()
        np.testing.assert_array_equal(mask(torch.from_numpy(scores).to(device), "filter", 0.5).cpu().numpy(), kept)
        np.testing.assert_array_equal(np.asarray(mask(array_api_strict.asarray(scores), "filter", 0.5)), kept)
        naive = np.argsort(-scores.reshape(6, -1).sum(axis=1, dtype=np.float32), kind="stable")[:3]
        differs_from_float32 += sorted(naive.tolist()) != sorted(first)
    assert differs_from_float32 > 100  # so the cases are near enough to matter
