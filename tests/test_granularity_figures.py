"""Granularities against figures and algorithms that others published."""

import itertools
import math

import numpy as np
import pytest

from mopruning import NM, BankBalanced, KernelPattern, mask
from mopruning.errors import RecipeError
from mopruning.granularity import natural_patterns


def test_a_bank_of_64_at_93_75_percent_keeps_4():
    scores = np.random.default_rng(0).random((64, 128, 3, 3))
    kept = mask(scores, "bank:64", 0.9375)
    assert (kept.reshape(64, 2, 64, 3, 3).sum(axis=2) == 4).all()


@pytest.mark.parametrize("sparsity", [0.1, 0.3, 0.5, 0.7, 0.9, 0.99])
def test_a_bank_keeps_what_the_published_level_pruner_keeps(sparsity):
    for size in (8, 16, 64, 100):
        assert BankBalanced(size).zeros((1, size), sparsity) == int(sparsity * size + 1e-9)


@pytest.mark.parametrize(("n", "m"), [(1, 2), (2, 4), (1, 4), (1, 8), (4, 8), (2, 6)])
def test_n_of_m_is_the_best_of_all_patterns(n, m):
    # The published N:M programs enumerate every pattern and take the one that holds the most magnitude.
    weights = np.random.default_rng(m).standard_normal((6, 2 * m, 3, 3))
    groups = np.abs(weights).transpose(0, 2, 3, 1).reshape(-1, m)
    patterns = np.array([[i in chosen for i in range(m)] for chosen in itertools.combinations(range(m), n)])
    best = patterns[np.argmax(groups @ patterns.T, axis=1)]
    expected = best.reshape(6, 3, 3, 2 * m).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(mask(np.abs(weights), NM(n, m)), expected)


def test_the_pattern_libraries():
    four, five = KernelPattern().patterns, KernelPattern(5).patterns
    assert five == ("101010101", "010111010", "110010110", "011010011")  # X, cross and the two brackets, as published
    assert len(set(four)) == 8
    assert all(pattern.count("1") == 4 and pattern[4] == "1" for pattern in four)  # the centre belongs to every one
    turned = {"".join(np.rot90(np.array(list(p)).reshape(3, 3)).flat) for p in four}
    assert turned == set(four)  # no direction is preferred


@pytest.mark.parametrize("ratio", [4 / 9, 0.5, 0.6, 0.75, 0.9])
def test_five_entry_patterns_give_the_published_sparsity(ratio):
    # 4/9 by patterns alone; a larger ratio removes the share (ratio - 4/9) / (5/9) of the kernels besides.
    weights = np.random.default_rng(5).standard_normal((32, 60, 3, 3))
    kernels = 32 * 60
    removed = math.floor((ratio - 4 / 9) / (5 / 9) * kernels + 1e-9)
    kept = mask(np.abs(weights), KernelPattern(5), ratio)
    assert kept.size - kept.sum() == 4 * kernels + 5 * removed
    assert np.count_nonzero(kept.sum(axis=(2, 3)) == 0) == removed
    # and every kernel that is left holds the pattern with the largest sum of magnitudes
    bits = np.array([[int(c) for c in p] for p in KernelPattern(5).patterns])
    best = np.argmax(np.abs(weights).reshape(-1, 9) @ bits.T, axis=1)
    alive = kept.reshape(-1, 9)[kept.reshape(-1, 9).any(axis=1)]
    np.testing.assert_array_equal(alive, bits[best][kept.reshape(-1, 9).any(axis=1)])


@pytest.mark.parametrize(("entries", "sparsity"), [(4, 5 / 9), (5, 4 / 9)])
def test_patterns_alone_have_the_sparsity_of_their_zeros(entries, sparsity):
    granularity = KernelPattern(entries)
    kept = mask(np.random.default_rng(0).random((16, 8, 3, 3)), granularity, sparsity)
    assert (kept.sum(axis=(2, 3)) == entries).all()


def test_natural_patterns_count_the_largest_around_the_centre():
    def kernel(*cells):
        return np.array([9.0 if i in cells else 0.1 * (i + 1) / 10 for i in range(9)]).reshape(3, 3)

    cross, corner = kernel(1, 3, 5), kernel(0, 1, 3)
    weights = [
        np.ones((4, 4)),
        np.array([[cross, corner], [-cross, -cross]]),
        np.array([[corner]]),
        np.ones((2, 2, 5, 5)),
    ]
    assert natural_patterns(weights) == ("010111000", "110110000")
    assert natural_patterns(weights, size=1) == ("010111000",)
    assert natural_patterns([np.array([[cross]])], entries=2) == ("010010000",)
    assert natural_patterns([np.zeros((1, 1, 3, 3))]) == ("111010000",)  # ties: the earlier cells
    assert KernelPattern(patterns=natural_patterns(weights)).entries == 4
    with pytest.raises(RecipeError, match="none of the weights has 3x3 kernels"):
        natural_patterns([np.ones((4, 4))])
