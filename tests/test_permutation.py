"""The search for channel permutations: published figures, exact values, and that it only ever gains."""

import doctest
import importlib
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mopruning import mask
from mopruning.errors import RecipeError, WeightError
from mopruning.granularity import NM
from mopruning.permutation import kept, kept_at_best, search
from mopruning.permutation.arrangements import arrangements, count, sets_of, touching
from mopruning.permutation.magnitudes import whole_numbers
from mopruning.permutation.stripe_tables import StripeTables, reordered

MODULES = ("arrangements", "channel_swap", "kept", "magnitudes", "parts", "search", "stripe_groups", "stripe_tables")


@pytest.mark.parametrize("name", MODULES)
def test_doctests(name):
    assert doctest.testmod(importlib.import_module(f"mopruning.permutation.{name}")).failed == 0


def published():
    """The matrix of the published table: 128 filters, 64 channels."""
    return np.random.RandomState(1).uniform(size=(128, 64))


def normal(rows, channels, seed=0):
    return np.random.default_rng(seed).standard_normal((rows, channels)).astype(np.float32)


# ---- the published table


def test_published_bounds():
    matrix = published()
    assert matrix.sum() == pytest.approx(4083.16877, abs=1e-5)
    assert np.sort(matrix, axis=None)[-4096:].sum() == pytest.approx(3060.23810, abs=1e-5)
    assert kept_at_best(matrix) == pytest.approx(3042.33226, abs=1e-5)
    assert kept(matrix) == pytest.approx(2852.37725, abs=1e-5)


@pytest.mark.parametrize(("window", "magnitude", "efficacy"), [(8, 2919.757, 0.355), (12, 2921.947, 0.366)])
def test_published_searches(window, magnitude, efficacy):
    matrix = published()
    found = search([matrix], window=window, escapes=0)
    # The published sums are single-precision ones, whose last digits depend on the order of the additions.
    assert found.after == pytest.approx(magnitude, abs=0.003)
    assert round(found.efficacy, 3) == efficacy
    assert found.after == kept(matrix[:, found.order])
    assert (found.method, found.reason) == ("stripe_groups", "")


def test_window_of_8_adds_up_to_the_published_figure_in_single_precision():
    matrix = published()
    order = search([matrix], escapes=0).order
    left = np.sort(matrix.astype(np.float32)[:, order].reshape(-1, 4), axis=1)[:, 2:].ravel()
    assert f"{np.cumsum(left, dtype=np.float32)[-1]:.3f}" == "2919.757"


def test_published_channel_swap():
    found = search([published()], method="channel_swap", escapes=0)
    assert round(found.efficacy, 3) == 0.321


# ---- parts


def test_kept_is_what_the_mask_leaves():
    weight = normal(16, 24)
    for n, m in ((2, 4), (1, 4), (3, 8), (5, 12)):
        left = np.abs(weight[mask(np.abs(weight), NM(n, m), 1 - n / m)]).sum(dtype=np.float64)
        assert kept(weight, n, m) == pytest.approx(left, rel=1e-6)
    assert kept(weight, 0, 4) == 0.0
    assert kept(weight, 4, 4) == pytest.approx(np.abs(weight).sum(dtype=np.float64))
    assert kept(np.array([[-128, 1, 2, 3]], np.int8)) == 131.0


@pytest.mark.parametrize(("stripes", "m"), [(2, 4), (3, 4), (2, 3), (3, 2), (2, 5)])
def test_arrangements_are_all_and_distinct(stripes, m):
    found = arrangements(stripes, m)
    assert len(found) == count(stripes, m)
    assert {tuple(sorted(one)) for one in found.tolist()} == {tuple(range(stripes * m))}
    dealt = {frozenset(frozenset(one[i * m : (i + 1) * m]) for i in range(stripes)) for one in found.tolist()}
    assert len(dealt) == len(found)
    assert found[0].tolist() == list(range(stripes * m))


@pytest.mark.parametrize(("n", "m", "stripes"), [(2, 4, 2), (2, 4, 3), (1, 4, 2), (3, 4, 2), (2, 5, 2), (3, 6, 2)])
def test_tables_hold_what_each_set_keeps(n, m, stripes):
    columns = whole_numbers(normal(70, 4 * m), n)
    assert columns.shape == (4 * m, 128)
    tables = StripeTables(columns, n, m, np.arange(4 * m).reshape(4, m))
    head, lasts = (3, 1)[: stripes - 1], np.array([0, 2])
    found = tables.together(head, lasts)
    for row, last in zip(found, lasts, strict=True):
        chosen = (*head, last)
        for value, one in zip(row, touching(stripes, m), strict=True):
            set_of_columns = columns[[chosen[column // m] * m + column % m for column in one]]
            assert value == np.sort(set_of_columns, axis=0)[m - n :].sum(dtype=np.float64)
    assert tables.alone(np.arange(4)).tolist() == [
        np.sort(columns[i * m : (i + 1) * m], axis=0)[m - n :].sum(dtype=np.float64) for i in range(4)
    ]


def test_sets_of_arrangements_are_their_stripes():
    for stripes, m in ((2, 4), (3, 3)):
        named = [
            tuple(chosen[column // m] * m + column % m for column in one)
            for size in range(1, stripes + 1)
            for chosen in itertools.combinations(range(stripes), size)
            for one in touching(size, m)
        ]
        for row, numbers in zip(arrangements(stripes, m).reshape(-1, stripes, m), sets_of(stripes, m), strict=True):
            assert [sorted(stripe) for stripe in row.tolist()] == [sorted(named[number]) for number in numbers]


def test_reordered_tables_are_those_of_the_other_order():
    columns = whole_numbers(normal(64, 16), 2)
    tables = StripeTables(columns, 2, 4, np.arange(16).reshape(4, 4))
    straight = tables.together((0, 1), np.array([2]))
    turned = tables.together((2, 0), np.array([1]))  # as the other order, 0, 1, 2 are its stripes 1, 2, 0
    np.testing.assert_array_equal(turned[:, reordered(4, (1, 2, 0))], straight)


# ---- any search


@settings(max_examples=25, deadline=None)
@given(
    m=st.integers(2, 6),
    data=st.data(),
    rows=st.integers(1, 9),
    stripes=st.integers(2, 5),
    method=st.sampled_from(["stripe_groups", "channel_swap", "random"]),
    seed=st.integers(0, 99),
)
def test_order_is_a_permutation_that_keeps_no_less(m, data, rows, stripes, method, seed):
    n = data.draw(st.integers(1, m - 1))
    weight = normal(rows, stripes * m, seed)
    found = search([weight], n, m, method=method, escapes=2, seed=seed)
    assert sorted(found.order.tolist()) == list(range(stripes * m))
    assert found.before == kept(weight, n, m)
    assert found.after == kept(weight[:, found.order], n, m)
    assert found.before <= found.after <= found.best * (1 + 1e-12) <= found.total * (1 + 1e-11)


def test_nothing_is_left_to_gain_within_a_window():
    weight = normal(24, 32)
    order = search([weight], escapes=0).order
    stripes = order.reshape(-1, 4)
    for one, other in itertools.combinations(range(8), 2):
        window = np.concatenate([stripes[one], stripes[other]])
        most = max(kept(weight[:, window[places]]) for places in arrangements(2, 4))
        assert most <= kept(weight[:, window]) * (1 + 1e-4)


def test_small_matrix_reaches_what_trying_everything_does():
    weight = normal(6, 8)
    found = search([weight])
    assert found.after == pytest.approx(max(kept(weight[:, list(one)]) for one in arrangements(2, 4)))
    assert found.after > found.before


@pytest.mark.parametrize(
    ("method", "weight", "escapes"),
    [("stripe_groups", normal(32, 32, seed=1), 20), ("channel_swap", published(), 100)],
)
def test_escapes_go_on_and_the_seed_decides(method, weight, escapes):
    without, first, again, other = (
        search([weight], method=method, escapes=count, seed=seed)
        for count, seed in ((0, 1), (escapes, 1), (escapes, 1), (escapes, 2))
    )
    assert first.after > without.after
    np.testing.assert_array_equal(first.order, again.order)
    assert (first.order != other.order).any()


def test_siblings_count_together():
    one, other = normal(8, 16), normal(24, 16, seed=1)
    found = search([one, other], escapes=0)
    assert found.after == pytest.approx(kept(one[:, found.order]) + kept(other[:, found.order]))
    np.testing.assert_array_equal(found.order, search([np.concatenate([one, other])], escapes=0).order)


def test_neither_scale_sign_nor_type_of_a_weight_matters():
    weight = normal(12, 16)
    order = search([weight], escapes=0).order
    for other in (weight * 2.0**-20, -weight, weight.astype(np.float64)):
        np.testing.assert_array_equal(search([other], escapes=0).order, order)
    for other in (weight.astype(np.float16), (weight * 40).astype(np.int8)):
        assert search([other], escapes=0).efficacy > 0.1


@pytest.mark.parametrize(("channels", "window"), [(72, None), (24, 12)])
def test_many_channels_are_improved_in_parts(monkeypatch, channels, window):
    module = importlib.import_module("mopruning.permutation.search")
    for name, size in {"_MOST_CHANNELS": 64, "_PART": 16, "_WIDE_PART": 16}.items():
        monkeypatch.setattr(module, name, size)
    weight = normal(8, channels)
    found = search([weight], window=window, escapes=1)
    assert sorted(found.order.tolist()) == list(range(channels))
    assert found.efficacy > 0.3


def test_large_groups_are_swapped():
    found = search([normal(8, 64)], 8, 16, escapes=0)
    assert (found.method, found.efficacy > 0.2) == ("channel_swap", True)


# ---- what is not searched


@pytest.mark.parametrize(
    ("weight", "n", "m", "reason"),
    [
        (normal(4, 10), 2, 4, "10 channels are no multiple of 4"),
        (normal(4, 4), 2, 4, "4 channels are fewer than two groups of 4"),
        (normal(4, 8), 4, 4, "4:4 keeps everything in any order"),
        (normal(4, 8), 0, 4, "0:4 keeps nothing in any order"),
        (np.zeros((4, 8)), 2, 4, "pruning loses no more than 0.1% of its magnitude"),
        (np.tile([1.0, 0.0, 0.0, 0.0], (4, 2)), 1, 4, "pruning loses no more than 0.1% of its magnitude"),
    ],
)
def test_what_cannot_gain_stays(weight, n, m, reason):
    found = search([weight], n, m)
    assert (found.reason, found.method, found.efficacy) == (reason, "", 0.0)
    assert found.order.tolist() == list(range(weight.shape[1]))
    assert found.before == found.after


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"n": 5}, "0 <= n <= m"),
        ({"method": "genetic"}, "channel_swap, random, got 'genetic'"),
        ({"window": 10}, "a multiple of 4, 8 or more, got 10"),
        ({"window": 4}, "a multiple of 4, 8 or more, got 4"),
        ({"window": 16}, "in 2,627,625 ways"),
    ],
)
def test_impossible_settings(arguments, said):
    with pytest.raises(RecipeError, match=said.replace("(", r"\(")):
        search([normal(4, 16)], **arguments)


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ([], "got none"),
        ([normal(4, 8), normal(4, 12)], r"got \[4, 8\], \[4, 12\]"),
        ([np.zeros(8)], r"got \[8\]"),
        ([np.full((4, 8), np.nan)], "NaN or infinite"),
    ],
)
def test_impossible_weights(weights, said):
    with pytest.raises(WeightError, match=said):
        search(weights)
