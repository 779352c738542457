"""Allocation: totals exact, bounds kept, and the same counts for every array library."""

import doctest
import itertools
import math
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mopruning import allocation, parts
from mopruning.allocation import ALLOCATIONS, erk, global_masks, global_threshold, lamp_threshold, uniform
from mopruning.counting import zeros_of
from mopruning.errors import RecipeError
from mopruning.granularity import NM, BankBalanced, Filter, Unstructured
from mopruning.masks import mask
from mopruning.scores import lamp
from tests.mixed_layers import MIXED, MIXED_SHAPES, NET

sparsities = st.floats(0.0, 1.0)


def network(seed: int = 0, shapes: Mapping[str, tuple[int, ...]] = NET) -> dict[str, np.ndarray]:
    """Magnitudes of a network whose layers differ in scale, as trained ones do."""
    rng = np.random.default_rng(seed)
    return {
        name: np.abs(rng.normal(size=shape, scale=rng.uniform(0.5, 2))).astype(np.float32)
        for name, shape in shapes.items()
    }


def unstructured(layers: Mapping[str, object]) -> dict[str, Unstructured]:
    return dict.fromkeys(layers, Unstructured())


def zeros(shares: Mapping[str, float], shapes: Mapping[str, tuple[int, ...]] = NET) -> dict[str, int]:
    return {name: zeros_of(share, math.prod(shapes[name])) for name, share in shares.items()}


TOTAL = sum(math.prod(shape) for shape in NET.values())


def test_doctests():
    result = doctest.testmod(allocation)
    assert result.attempted > 0
    assert result.failed == 0


def test_the_table_says_what_each_needs():
    assert {name: row.scores for name, row in ALLOCATIONS.items()} == {
        "uniform": False,
        "erk": False,
        "global": True,
        "lamp": True,
    }
    layers = network()
    for row in ALLOCATIONS.values():
        given = (layers, unstructured(layers)) if row.scores else (NET,)
        shares = row.function(*given, 0.7, 0.1, 0.9)
        assert list(shares) == list(NET)
        assert all(0.0 <= share <= 1.0 for share in shares.values())


every_allocation = pytest.mark.parametrize("name", ALLOCATIONS)


def allocate(name: str, shapes: Mapping[str, tuple[int, ...]], *bounds: float) -> dict[str, float]:
    row = ALLOCATIONS[name]
    layers = network(0, shapes)
    return row.function(layers, unstructured(layers), *bounds) if row.scores else row.function(shapes, *bounds)


@every_allocation
@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ((0.95, 0.0, 0.9), "sparsity 0.95 cannot be reached: with every layer from 0 to 0.9"),
        ((0.1, 0.2, 1.0), "sparsity 0.1 cannot be reached: with every layer from 0.2 to 1"),
        ((0.5, 0.6, 0.4), "minimum sparsity of a layer, 0.6, exceeds the maximum, 0.4"),
        ((1.5, 0.0, 1.0), "sparsity must lie from 0 to 1"),
        ((0.5, -1, 1.0), "minimum sparsity of a layer must lie from 0 to 1"),
    ],
)
def test_impossible_requests_say_what_can_be_reached(name, bounds, message):
    with pytest.raises(RecipeError, match=message):
        allocate(name, NET, *bounds)


@every_allocation
def test_no_layers_and_empty_layers(name):
    assert allocate(name, {}, 0.5) == {}
    shares = allocate(name, {"none": (0, 4), "some": (4, 4), "one": ()}, 0.5)
    if name != "uniform":  # which gives each layer the same, whatever its size
        assert sum(zeros(shares, {"none": (0, 4), "some": (4, 4), "one": ()}).values()) == 8


@every_allocation
@pytest.mark.parametrize("sparsity", [0.0, 1.0])
def test_nothing_and_everything(name, sparsity):
    assert set(allocate(name, NET, sparsity).values()) == {sparsity}


@pytest.mark.parametrize("name", ["erk", "global", "lamp"])
@given(sparsity=sparsities, bounds=st.tuples(sparsities, sparsities).map(sorted))
def test_totals_are_exact_and_bounds_kept(name, sparsity, bounds):
    low, high = min(bounds[0], sparsity), max(bounds[1], sparsity)
    counts = zeros(allocate(name, NET, sparsity, low, high))
    limits = {n: (zeros_of(low, math.prod(s)), zeros_of(high, math.prod(s))) for n, s in NET.items()}
    assert all(limits[n][0] <= count <= limits[n][1] for n, count in counts.items())
    reach = [sum(side) for side in zip(*limits.values(), strict=True)]
    assert sum(counts.values()) == min(max(zeros_of(sparsity, TOTAL), reach[0]), reach[1])


def published_erk(shapes: Mapping[str, tuple[int, ...]], sparsity: float) -> dict[str, float]:
    """The rule of the paper: density eps * sum / product; layers beyond 1 become dense, eps is found again."""
    dense: set[str] = set()
    while True:
        free = [name for name in shapes if name not in dense]
        size = sum(math.prod(shapes[name]) for name in free)
        kept = (1 - sparsity) * sum(map(math.prod, shapes.values())) - sum(math.prod(shapes[name]) for name in dense)
        raw = {name: sum(shapes[name]) / math.prod(shapes[name]) for name in free}
        eps = kept / sum(raw[name] * math.prod(shapes[name]) for name in free)
        over = {name for name in free if eps * raw[name] > 1}
        if not over:
            assert kept <= size
            return {name: 0.0 if name in dense else 1 - eps * raw[name] for name in shapes}
        dense |= over


@pytest.mark.parametrize("sparsity", [0.5, 0.8, 0.9, 0.95])
def test_erk_is_the_published_formula_to_one_weight(sparsity):
    shares, expected = erk(NET, sparsity), published_erk(NET, sparsity)
    for name, shape in NET.items():
        assert shares[name] == pytest.approx(expected[name], abs=1 / math.prod(shape))
    assert erk(NET, 0.5)["gain"] == 0.0  # dense, as the formula asks for more than all of it


def test_erk_of_equal_layers_is_uniform():
    assert erk({"a": (8, 8), "b": (8, 8)}, 0.75) == {"a": 0.75, "b": 0.75}


def test_global_masks_by_hand():
    layers = {"a": np.array([[1.0, 5.0], [3.0, 3.0]]), "b": np.array([3.0, 4.0])}
    marks = global_masks(layers, 0.5)  # three stay: 5, 4 and the first of the three 3s
    assert marks["a"].tolist() == [[False, True], [True, False]]
    assert marks["b"].tolist() == [False, True]
    assert global_threshold(layers, unstructured(layers), 0.5) == {"a": 0.5, "b": 0.5}


tied = hnp.arrays(
    np.float32, hnp.array_shapes(min_dims=0, max_dims=3, max_side=5), elements=st.integers(0, 4).map(float)
)


@given(arrays=st.lists(tied, max_size=4), sparsity=sparsities)
def test_global_masks_are_one_ranking_and_global_threshold_gives_the_same(arrays, sparsity):
    layers = {f"layer{i}": array for i, array in enumerate(arrays)}
    marks = global_masks(layers, sparsity)
    joined = np.concatenate([np.zeros(0, np.float32), *(a.reshape(-1) for a in arrays)])
    expected = np.zeros(joined.size, bool)
    expected[np.argsort(-joined, kind="stable")[: joined.size - zeros_of(sparsity, joined.size)]] = True
    assert np.concatenate([np.zeros(0, bool), *(m.reshape(-1) for m in marks.values())]).tolist() == expected.tolist()
    shares = global_threshold(layers, unstructured(layers), sparsity)
    for name, scores in layers.items():
        np.testing.assert_array_equal(mask(scores, Unstructured(), shares[name]), marks[name], strict=True)


@given(
    values=st.permutations(range(9)),
    cuts=st.tuples(st.integers(1, 4), st.integers(5, 8)),
    sparsity=sparsities,
    bounds=st.tuples(sparsities, sparsities).map(sorted),
)
def test_bounded_threshold_keeps_the_most(values, cuts, sparsity, bounds):
    """Of all ways to share out the zeros within the bounds, the one that loses the least (scores grow by powers)."""
    low, high = min(bounds[0], sparsity), max(bounds[1], sparsity)
    layers = {str(i): 2.0 ** np.array(part) for i, part in enumerate(np.split(np.array(values), cuts))}
    shapes = {name: part.shape for name, part in layers.items()}
    found = zeros(global_threshold(layers, unstructured(layers), sparsity, low, high), shapes)
    ranges = [range(zeros_of(low, part.size), zeros_of(high, part.size) + 1) for part in layers.values()]

    def lost(counts: tuple[int, ...]) -> float:
        return sum(np.sort(part)[:count].sum() for part, count in zip(layers.values(), counts, strict=True))

    ways = [counts for counts in itertools.product(*ranges) if sum(counts) == sum(found.values())]
    assert tuple(found.values()) == min(ways, key=lost)


def test_unbounded_ranks_once_and_bounded_again(monkeypatch):
    calls = []
    monkeypatch.setattr(parts, "keep_largest", lambda p, *_: calls.append(len(p)) or [np.arange(x.size) < 1 for x in p])
    layers = network()
    global_masks(layers, 0.9)
    global_threshold(layers, unstructured(layers), 0.9)
    assert calls == [5, 5]


def realised(shares: Mapping[str, float], granularities=MIXED, shapes=MIXED_SHAPES) -> dict[str, int]:
    return {name: granularities[name].zeros(shapes[name], share) for name, share in shares.items()}


@given(sparsity=sparsities, bounds=st.tuples(sparsities, sparsities).map(sorted), seed=st.integers(0, 3))
def test_a_mixed_network_never_gets_more_zeros_than_asked(sparsity, bounds, seed):
    low, high = min(bounds[0], sparsity), max(bounds[1], sparsity)
    layers = network(seed, MIXED_SHAPES)
    shares = global_threshold(layers, MIXED, sparsity, low, high)
    counts = realised(shares)
    total = sum(map(math.prod, MIXED_SHAPES.values()))
    assert sum(counts.values()) <= max(zeros_of(sparsity, total), sum(zeros_of(low, a.size) for a in layers.values()))
    for name, scores in layers.items():
        assert counts[name] <= zeros_of(high, scores.size)
        assert counts[name] == scores.size - np.count_nonzero(mask(scores, MIXED[name], shares[name]))


def test_zeros_that_banks_round_away_go_to_other_layers():
    shapes = {str(i): (64, 64) for i in range(20)}
    layers = network(1, shapes)
    banks = dict.fromkeys(shapes, BankBalanced(64))
    for sparsity in (0.3, 0.7, 0.9):
        counts = realised(global_threshold(layers, banks, sparsity), banks, shapes)
        missing = zeros_of(sparsity, 20 * 64 * 64) - sum(counts.values())
        assert 0 <= missing < 64  # less than one more weight in each bank of one layer


def test_a_ramp_over_banks_never_revives_a_weight():
    weights = network(2, MIXED_SHAPES)
    before = {name: np.ones(scores.shape, bool) for name, scores in weights.items()}
    for sparsity in np.linspace(0.05, 0.95, 19):
        shares = global_threshold(weights, MIXED, sparsity)
        marks = {name: mask(scores, MIXED[name], shares[name]) for name, scores in weights.items()}
        assert not any((marks[name] & ~before[name]).any() for name in marks if name != "kernel")
        weights = {name: scores * marks[name] for name, scores in weights.items()}
        before = marks


def test_units_are_ranked_by_their_mean():
    layers = {
        "small": np.array([[1.0, 1.0], [4.0, 4.0]]),  # means 1 and 4
        "large": np.array([[3.0, 3.0, 3.0, 3.0], [2.0, 2.0, 2.0, 2.0]]),  # means 3 and 2, though sums 12 and 8
    }
    filters = dict.fromkeys(layers, Filter())
    assert global_threshold(layers, filters, 0.5) == {"small": 0.5, "large": 0.5}
    assert realised(global_threshold(layers, filters, 0.9), filters, {n: a.shape for n, a in layers.items()}) == {
        "small": 2,
        "large": 8,
    }
    filters["large"] = Unstructured()
    layers["large"][1] = [0.5, 0.5, 9.0, 0.5]
    assert global_threshold(layers, filters, 5 / 12) == {"small": 0.5, "large": 0.375}


def test_what_a_granularity_can_hold_bounds_its_layer():
    layers = network(0, {"half": (8, 8), "free": (8, 8)})
    granularities = {"half": NM(2, 4), "free": Unstructured()}
    assert global_threshold(layers, granularities, 0.7) == {"half": 0.5, "free": pytest.approx(57 / 64)}
    assert global_threshold(layers, dict.fromkeys(layers, NM(2, 4)), 0.9) == {"half": 0.5, "free": 0.5}


@given(st.lists(tied, min_size=1, max_size=4), sparsities)
def test_lamp_is_the_global_threshold_over_lamp_scores(arrays, sparsity):
    layers = {f"layer{i}": array for i, array in enumerate(arrays)}
    expected = global_threshold({n: lamp(a) for n, a in layers.items()}, unstructured(layers), sparsity)
    assert lamp_threshold(layers, unstructured(layers), sparsity) == expected


def test_lamp_does_not_mind_the_scale_of_a_layer():
    layers = network()
    scaled = {name: scores * np.float32(2.0**i) for i, (name, scores) in enumerate(layers.items())}
    expected = lamp_threshold(layers, unstructured(layers), 0.9)
    assert lamp_threshold(scaled, unstructured(layers), 0.9) == expected
    assert global_threshold(scaled, unstructured(layers), 0.9) != expected


def test_lamp_of_units_adds_up_where_the_weights_are():
    layers = {"a": np.array([[1.0, 8.0], [4.0, 4.0]]), "b": np.array([[1.0, 1.0], [3.0, 3.0]])}
    filters = dict.fromkeys(layers, Filter())
    means = {name: lamp(scores).mean(axis=1) for name, scores in layers.items()}
    assert means["b"].min() < means["a"].min()  # so that layer loses its filter first
    assert lamp_threshold(layers, filters, 0.25) == {"a": 0.0, "b": 0.5}


def test_uniform_and_global_masks_refuse_what_is_no_share():
    with pytest.raises(RecipeError, match=r"for 90 percent write 0\.9"):
        uniform(NET, 90)
    with pytest.raises(RecipeError, match="sparsity must lie from 0 to 1"):
        global_masks(network(), 1.01)
