"""Exact selection: against a sort that is obviously right, and against content made to mislead the sampler."""

import threading
from collections.abc import Sequence

import array_api_strict
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mopruning.blocks import in_blocks
from mopruning.selection import keep_largest, keep_largest_in_groups

DENORMAL = 5e-324
PALETTE = [0.0, -0.0, 1.0, -1.0, 2.0, 2.0 + 2**-50, DENORMAL, -DENORMAL, 1e308, -1e308, np.inf]


def slow_keep(scores, keep):
    """Mark the first `keep` by falling score, then rising index."""
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    kept = set(order[:keep])
    return [i in kept for i in range(len(scores))]


def stable_keep(scores, keep):
    """`slow_keep` for arrays too large for loops: NumPy's stable sort of the negated scores."""
    mark = np.zeros(scores.size, bool)
    mark[np.argsort(-scores, kind="stable")[:keep]] = True
    return mark


def split(array, sizes):
    return np.split(array, np.cumsum(sizes)[:-1])


@given(st.data())
def test_keep_largest_is_the_head_of_a_sort(data):
    sizes = data.draw(st.lists(st.integers(0, 12), min_size=1, max_size=5))
    scores = data.draw(hnp.arrays(np.float64, sum(sizes), elements=st.sampled_from(PALETTE)))
    keep = data.draw(st.integers(0, scores.size))
    marks = keep_largest(split(scores, sizes), keep)
    assert [mark.size for mark in marks] == sizes
    assert all(mark.dtype == bool for mark in marks)
    assert np.concatenate(marks).tolist() == slow_keep(scores, keep)


@given(st.data())
def test_portable_keep_largest_is_the_head_of_a_sort(data):
    sizes = data.draw(st.lists(st.integers(0, 12), min_size=1, max_size=5))
    scores = data.draw(hnp.arrays(np.float64, sum(sizes), elements=st.sampled_from(PALETTE)))
    keep = data.draw(st.integers(0, scores.size))
    marks = keep_largest([array_api_strict.asarray(part) for part in split(scores, sizes)], keep)
    assert np.concatenate([np.asarray(mark) for mark in marks]).tolist() == slow_keep(scores, keep)


@pytest.mark.parametrize("size", [50, 20_000])
def test_a_key_ranks_like_an_array_of_its_values(size):
    values = np.round(np.random.default_rng(size).standard_normal(size) * 8)
    parts, strict = split(values, [size // 3, size - size // 3]), array_api_strict.asarray(values)
    for keep in (0, 1, size // 3, size - 1, size):
        expected = stable_keep(np.abs(values), keep)
        np.testing.assert_array_equal(np.concatenate(keep_largest(parts, keep, np.abs)), expected)
        np.testing.assert_array_equal(np.asarray(keep_largest([strict], keep, array_api_strict.abs)[0]), expected)


@given(st.data())
def test_groups_keep_the_head_of_a_sort_each(data):
    shape = data.draw(st.tuples(st.integers(0, 4), st.integers(1, 20), st.integers(1, 3)))
    dtype = data.draw(st.sampled_from([np.float64, np.int8, np.uint8]))
    elements = st.sampled_from(PALETTE) if dtype == np.float64 else st.integers(0, 3)
    values = data.draw(hnp.arrays(dtype, shape, elements=elements))
    keep = data.draw(st.integers(0, shape[1]))
    expected = np.empty(shape, bool)
    for row, across in np.ndindex(shape[0], shape[2]):
        expected[row, :, across] = slow_keep(values[row, :, across].tolist(), keep)
    np.testing.assert_array_equal(keep_largest_in_groups(values, keep), expected)
    if values.size:
        portable = keep_largest_in_groups(array_api_strict.asarray(values), keep)
        np.testing.assert_array_equal(np.asarray(portable), expected)


@pytest.mark.parametrize("size", [2, 3, 4, 5, 16, 17, 64, 255, 256, 300, 70_000])
def test_groups_full_of_ties_of_every_length(size):
    # at 256 the count of ties outgrows a byte, at 70 000 two
    values = np.random.default_rng(size).integers(0, 3, (5, size, 2)).astype(np.float32)
    values[0] = 1.0
    for keep in {1, size // 3, size // 2, size - 1}:
        marks = keep_largest_in_groups(values, keep)
        for row, across in np.ndindex(5, 2):
            np.testing.assert_array_equal(marks[row, :, across], stable_keep(values[row, :, across], keep))


@pytest.mark.parametrize("shape", [(300_000, 4, 1), (40_000, 4, 9), (12_000, 5, 25), (9_000, 64, 2), (1, 16, 90_000)])
def test_more_than_a_million_in_groups(shape):
    values = np.random.default_rng(3).integers(0, 20, shape).astype(np.float32)  # many ties
    order = np.argsort(-values, axis=1, kind="stable")
    for keep in (1, shape[1] // 2, shape[1] - 1):
        expected = np.empty(shape, bool)
        np.put_along_axis(expected, order, (np.arange(shape[1]) < keep)[np.newaxis, :, np.newaxis], axis=1)
        np.testing.assert_array_equal(keep_largest_in_groups(values, keep), expected)


def misleading(size):
    """Content on which a regular sample of one in 127 says little or something false about the rest."""
    rng = np.random.default_rng(0)
    noise = rng.standard_normal(size).astype(np.float32)
    index = np.arange(size)
    return {
        "rising": np.sort(noise),
        "falling": np.sort(noise)[::-1],
        "constant": np.full(size, 0.5, np.float32),
        "all zero": np.zeros(size, np.float32),
        "one outlier above": np.where(index == 77, 1.0, 0.5).astype(np.float32),
        "one outlier below": np.where(index == size - 1, 0.25, 0.5).astype(np.float32),
        "sample sees only zeros": np.where(index % 127 == 0, 0, noise).astype(np.float32),
        "sample sees only the largest": np.where(index % 127 == 0, 9 + noise, noise).astype(np.float32),
        "sample sees only the noise": np.where(index % 127 == 0, noise, 0).astype(np.float32),
        "sample sees one value, the rest another": np.where(index % 127 == 0, 1.0, 2.0).astype(np.float32),
        "half tied": np.where(noise > 0, noise, 0).astype(np.float32),
        "ties at every level": np.round(noise * 4),
        "95% zero": np.where(rng.random(size) < 0.95, 0, np.abs(noise)).astype(np.float32),
        "zeros of both signs": np.where(index % 2, -0.0, 0.0).astype(np.float32),
        "zeros of both signs and little else": np.where(index % 3, np.where(index % 2, -0.0, 0.0), noise),
        "denormals": (index % 1000).astype(np.float32) * np.float32(1e-45),
        "neighbouring floats": (np.uint32(0x3F800000) + (index % 3).astype(np.uint32)).view(np.float32),
        "int8 grid": np.round(noise * 32).astype(np.int8),
        "large integers": 2**62 + rng.integers(0, 3, size),
    }


@pytest.mark.parametrize("content", misleading(1))
@pytest.mark.parametrize("size", [8193, 50_000])
def test_content_that_misleads_the_sample(content, size):
    scores = misleading(size)[content]
    ties = int(np.count_nonzero(scores == scores[0]))
    for keep in sorted({1, 2, size // 20, size // 2, size - size // 20, size - 1, size, min(size, ties), ties - 1}):
        if scores.dtype.kind == "i":
            expected = stable_keep(
                -(scores.max() - scores.astype(np.int64)), keep
            )  # negating 2**62 + 2 is fine, -128 not
        else:
            expected = stable_keep(scores, keep)
        whole = keep_largest([scores], keep)
        np.testing.assert_array_equal(whole[0], expected, err_msg=f"keep {keep}")
        parts = keep_largest(split(scores, [size // 3, 0, 5, size - size // 3 - 5]), keep)
        np.testing.assert_array_equal(np.concatenate(parts), expected, err_msg=f"keep {keep} in parts")


@pytest.mark.parametrize("stride", [3, 5, 7, 9, 11, 13, 17, 25, 27, 31, 51, 63, 101, 127])
def test_content_in_step_with_a_sample_of_any_stride(stride):
    index = np.arange(20_000)
    on_stride, noise = index % stride == 0, np.random.default_rng(stride).standard_normal(index.size)
    for scores in (np.where(on_stride, 0, noise), np.where(on_stride, noise, 0), np.where(on_stride, 9, -9) + noise):
        for keep in (100, 10_000, 19_900):
            np.testing.assert_array_equal(keep_largest([scores], keep)[0], stable_keep(scores, keep))


@pytest.mark.parametrize("content", ["rising", "half tied", "ties at every level", "sample sees only zeros"])
def test_more_than_a_million(content):
    scores = misleading(1_300_001)[content]
    for share in (0.05, 0.5, 0.999):
        keep = int(share * scores.size)
        np.testing.assert_array_equal(keep_largest([scores], keep)[0], stable_keep(scores, keep))


def test_many_tiny_parts_are_ranked_as_one():
    scores = np.random.default_rng(1).standard_normal(20_000)
    parts = keep_largest(np.split(scores, 2000), 1234)
    np.testing.assert_array_equal(np.concatenate(parts), stable_keep(scores, 1234))


def test_inputs_stay_as_they_were():
    for size in (100, 20_000, 600_000):
        scores = np.random.default_rng(2).standard_normal(size)
        scores.flags.writeable = False
        before = scores.copy()
        keep_largest([scores], size // 2)
        keep_largest([scores[: size // 2], scores[size // 2 :]], 7)
        keep_largest_in_groups(scores.reshape(-1, 10, 1), 5)
        keep_largest_in_groups(scores.reshape(-1, 20, 1), 5)
        np.testing.assert_array_equal(scores, before)


def test_parts_may_be_computed_when_asked_for():
    class Squares(Sequence):
        def __len__(self):
            return 3

        def __getitem__(self, index):
            return np.arange(5000.0)[:: [1, 2, 3][index]] ** 2

    marks = keep_largest(Squares(), 4000)
    np.testing.assert_array_equal(np.concatenate(marks), stable_keep(np.concatenate(list(Squares())), 4000))


@pytest.mark.parametrize("size", [4, 20_000])
def test_parts_of_different_width_are_compared_exactly(size):
    # NumPy 1 compares a float32 array and a float64 scalar in float32, where these two are equal
    narrow = np.full(size, 0.1, np.float32)
    wide = np.full(size, np.float64(np.float32(0.1)) + 1e-12)
    kept = keep_largest([narrow, wide], size)
    assert (np.count_nonzero(kept[0]), np.count_nonzero(kept[1])) == (0, size)
    kept = keep_largest([narrow, wide], size + 1)
    assert (np.flatnonzero(kept[0]).tolist(), np.count_nonzero(kept[1])) == ([0], size)


def test_nothing_to_choose_from():
    assert keep_largest([], 0) == []
    assert [mark.shape for mark in keep_largest([np.empty(0), np.empty(0)], 0)] == [(0,), (0,)]
    assert keep_largest_in_groups(np.empty((0, 4, 1)), 2).shape == (0, 4, 1)


@pytest.mark.parametrize(
    ("length", "size"), [(1, 10), (7, 7), (1000, 1 << 19), (1000, 1 << 22), (1 << 22, 1 << 22), (3, 0)]
)
def test_blocks_cover_the_axis_once(length, size):
    seen, lock = np.zeros(length, int), threading.Lock()

    def work(start, stop):
        with lock:
            seen[start:stop] += 1

    in_blocks(work, length, size)
    assert (seen == 1).all()


def test_an_error_in_a_block_surfaces():
    def work(start, stop):
        if start:
            raise ValueError("from a thread")

    with pytest.raises(ValueError, match="from a thread"):
        in_blocks(work, 1 << 12, 1 << 22)
