"""Conformity against a plain loop over every group, and against the masks it should recognise."""

import doctest
import itertools
import json
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mopruning import NM, BankBalanced, Channel, Filter, Stripe, conformity, mask
from mopruning.conformity import BANKS, NM_GROUPS
from mopruning.conformity import conformity as read

SHAPES = st.one_of(
    st.tuples(st.integers(0, 6), st.sampled_from([1, 3, 4, 8, 12, 16, 32, 48, 64, 127, 128])),
    st.tuples(st.integers(1, 4), st.sampled_from([3, 4, 8, 16, 64]), st.integers(1, 3)),
    st.tuples(st.integers(1, 3), st.sampled_from([4, 16, 64]), st.integers(1, 3), st.integers(0, 3)),
)


def weight(shape, share, seed):
    rng = np.random.default_rng(seed)
    return rng.standard_normal(shape) * (rng.random(shape) >= share)


def counts_of(array, size):
    """Non-zeros of every group of `size` consecutive input channels, one by one."""
    others = [range(n) for axis, n in enumerate(array.shape) if axis != 1]
    found = []
    for index in itertools.product(*others):
        row = array[(index[0], slice(None), *index[1:])]
        found += [np.count_nonzero(row[start : start + size]) for start in range(0, len(row), size)]
    return found


@settings(deadline=None, max_examples=60)
@given(SHAPES, st.sampled_from([0.0, 0.5, 0.9, 1.0]), st.integers(0, 3))
def test_every_number_agrees_with_a_plain_loop(shape, share, seed):
    array = weight(shape, share, seed)
    found = read(array)
    for size in {*NM_GROUPS, *BANKS}:
        counts = counts_of(array, size) if array.size and shape[1] % size == 0 else None
        if size in found.nm:
            assert found.nm[size] == (max(counts) if counts else None)
        if size in found.banks:
            assert found.banks[size] == ((min(counts), max(counts)) if counts else None)
    alive = array.reshape(*shape[:2], int(np.prod(shape[2:]))) != 0
    assert found.zero_filters == ((~alive.any(axis=(1, 2))).sum(), shape[0])
    assert found.zero_channels == ((~alive.any(axis=(0, 2))).sum(), shape[1])
    stripes = ~alive.any(axis=1)
    assert found.zero_stripes == ((stripes.sum(), stripes.size) if len(shape) > 2 else (0, 0))


def test_blocks_of_a_large_weight_add_up(monkeypatch):
    array = weight((37, 64, 3, 3), 0.8, 0)
    whole = read(array)
    monkeypatch.setattr(conformity, "_BLOCK", 2 * 64 * 9)  # two output channels at a time
    assert read(array) == whole


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 8), (4, 16), (0, 4)])
def test_nm_masks_are_recognised(n, m):
    array = np.random.default_rng(0).standard_normal((8, 64, 3, 3))
    assert read(array * mask(abs(array), NM(n, m))).nm[m] == n


@pytest.mark.parametrize("bank", BANKS)
def test_bank_masks_are_recognised(bank):
    array = np.random.default_rng(0).standard_normal((8, 128))
    found = read(array * mask(abs(array), BankBalanced(bank), 0.875))
    assert found.banks[bank] == (bank // 8, bank // 8)
    assert f"{bank // 8} of {bank}" in found.patterns() or bank < 64  # the largest bank that holds is named


@pytest.mark.parametrize(
    ("granularity", "units"), [(Filter(), "zero_filters"), (Channel(), "zero_channels"), (Stripe(), "zero_stripes")]
)
def test_structured_masks_are_recognised(granularity, units):
    array = np.random.default_rng(0).standard_normal((8, 16, 3, 3))
    zero, of = getattr(read(array * mask(abs(array), granularity, 0.5)), units)
    assert zero * 2 == of


def test_dense_weight_satisfies_no_pattern():
    found = read(np.ones((4, 64)))
    assert found.patterns() == ()
    assert (found.nm[4], found.banks[64]) == (4, (64, 64))


def test_one_weight_too_many_loosens_the_pattern():
    array = np.zeros((4, 64))
    array[:, ::32] = 1.0
    assert read(array).banks[64] == (2, 2)
    array[3, 5] = 1.0
    assert read(array).banks[64] == (2, 3)
    assert read(array).nm[4] == 1
    array[3, 4] = np.nan
    assert read(array).nm[4] == 2


def test_vector_counts_as_one_row():
    found = read(np.array([0.0, 1.0, 0.0, 0.0]))
    assert found.nm[4] == 1
    assert (found.zero_filters, found.zero_channels) == ((3, 4), (0, 0))


@pytest.mark.parametrize("shape", [(), (0,), (4, 0, 3), (0, 64)])
def test_weights_without_groups(shape):
    assert set(read(np.zeros(shape)).nm.values()) <= {None, 0}


def test_views_read_alike():
    array = weight((16, 8, 3, 3), 0.7, 1)
    stored = np.ascontiguousarray(array.transpose(2, 3, 1, 0))
    assert read(stored.transpose(3, 2, 0, 1)) == read(array)


def test_other_libraries_read_alike():
    torch = pytest.importorskip("torch")
    array = weight((16, 8), 0.7, 1).astype(np.float32)
    assert read(torch.from_numpy(array).requires_grad_()) == read(array)
    assert read(torch.from_numpy(array).bfloat16()) == read(array)
    with pytest.raises(TypeError, match="host memory"):
        read(torch.zeros(4, 4, device="meta"))


def test_list_is_refused():
    with pytest.raises(TypeError, match="expected an array"):
        read([[1.0]])


def test_dict_is_plain_and_survives_json():
    found = read(weight((4, 64), 0.9, 0)).to_dict()
    assert json.loads(json.dumps(found)) == found


def test_memory_stays_small_beside_the_weight():
    array = np.zeros((1024, 1024, 3, 3), np.float32)
    tracemalloc.start()
    try:
        read(array)
        assert tracemalloc.get_traced_memory()[1] < array.nbytes / 4
    finally:
        tracemalloc.stop()


def test_doctests():
    failed, attempted = doctest.testmod(conformity)
    assert attempted
    assert not failed
