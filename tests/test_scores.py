"""Scores: each against its formula, written out plainly, in every array library."""

import doctest
import warnings

import array_api_strict
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mopruning import arrays, scores
from mopruning.arrays import host_view
from mopruning.errors import RecipeError, WeightError
from mopruning.granularity import Filter
from mopruning.masks import mask
from mopruning.scores import SCORES, bn_scale, fpgm, lamp, magnitude, movement, random, taylor, wanda

SHAPE = (6, 4, 3, 3)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


W, G, GAMMA, NORMS = normal(*SHAPE), normal(*SHAPE, seed=1), normal(6, seed=2), np.abs(normal(4, seed=3))

CASES = {
    "magnitude": (magnitude, (W,)),
    "movement": (movement, (W, G)),
    "taylor": (taylor, (W, G)),
    "fpgm": (fpgm, (W,)),
    "bn_scale": (bn_scale, (W, GAMMA)),
    "random": (lambda w: random(w, 3, "conv"), (W,)),
    "lamp": (lamp, (np.abs(W),)),
    "wanda": (wanda, (W, NORMS)),
}
every_score = pytest.mark.parametrize(("function", "arguments"), CASES.values(), ids=CASES)


@pytest.fixture
def elsewhere(monkeypatch):
    """Make torch's CPU tensors look as if they lay on another device until they are moved to the host."""
    arrived = []

    def to_device(array, device):
        assert device == "cpu"
        arrived.append(array.clone())
        return arrived[-1]

    def view(array):
        return host_view(array) if isinstance(array, np.ndarray) or any(array is a for a in arrived) else None

    monkeypatch.setattr(arrays.array_api_compat, "to_device", to_device)
    for module in (arrays, scores):
        monkeypatch.setattr(module, "host_view", view)


def test_doctests():
    result = doctest.testmod(scores)
    assert result.attempted > 0
    assert result.failed == 0


def test_the_table_holds_what_recipes_may_name():
    assert set(SCORES) == {"magnitude", "movement", "taylor", "fpgm", "bn_scale", "random"}
    assert {name for name, score in SCORES.items() if score.gradients} == {"movement", "taylor"}
    assert {name for name, score in SCORES.items() if score.accumulates} == {"movement"}


@every_score
def test_torch_equals_numpy_and_stays_torch(function, arguments, torch, device):
    expected = function(*arguments)
    result = function(*(torch.tensor(a, device=device, requires_grad=True) for a in arguments))
    assert isinstance(result, torch.Tensor)
    assert not result.requires_grad
    assert result.device.type == device.type
    assert result.shape == arguments[0].shape
    np.testing.assert_array_equal(result.cpu().numpy(), expected, strict=True)


@every_score
def test_other_devices_equal_numpy(function, arguments, torch, elsewhere):
    result = function(*(torch.from_numpy(a.copy()) for a in arguments))
    assert isinstance(result, torch.Tensor)
    np.testing.assert_array_equal(result.numpy(), function(*arguments), strict=True)


@pytest.mark.parametrize("name", sorted(set(CASES) - {"fpgm"}))  # that one leaves the device by the library's own means
def test_only_the_array_api_is_needed(name):
    function, arguments = CASES[name]
    result = function(*(array_api_strict.asarray(a) for a in arguments))
    copy = array_api_strict.asarray(result, copy=True)
    np.testing.assert_array_equal(np.from_dlpack(copy), function(*arguments), strict=True)


@every_score
def test_arguments_stay_as_they_are(function, arguments):
    before = [a.copy() for a in arguments]
    function(*arguments)
    for old, new in zip(before, arguments, strict=True):
        np.testing.assert_array_equal(old, new)


@every_score
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16, np.int8])
def test_every_dtype_is_scored_and_ranked(function, arguments, dtype):
    cast = [(a * 20).astype(dtype) for a in arguments]
    result = function(*cast)
    assert result.shape == SHAPE
    wide = function(*(a.astype(np.float64) for a in cast))
    np.testing.assert_allclose(result.astype(np.float64), wide, rtol=1e-5)
    assert np.count_nonzero(mask(result, "unstructured", 0.5)) == W.size // 2


@every_score
def test_bfloat16_tensors_are_scored(function, arguments, torch, elsewhere):
    half = [torch.from_numpy(a).bfloat16() for a in arguments]
    wide = function(*(a.float().numpy() for a in half))
    np.testing.assert_allclose(function(*half).float().numpy(), wide, rtol=1e-6)


@every_score
@pytest.mark.parametrize(
    "view", [lambda a: a[::2], lambda a: a.T.copy().T, lambda a: a[:0]], ids=["step", "order", "none"]
)
def test_views_and_empty_weights(function, arguments, view):
    cut = [a if a is NORMS else view(a) for a in arguments]
    np.testing.assert_array_equal(function(*cut), function(*(np.ascontiguousarray(a) for a in cut)), strict=True)
    assert function(*cut).shape == cut[0].shape


def test_magnitude_of_the_least_int8(torch, device):
    for array in (np.array([-128, 127], np.int8), torch.tensor([-128, 127], dtype=torch.int8, device=device)):
        assert magnitude(array).tolist() == [128, 127]
    for array in (np.array([True, False]), torch.tensor([True, False], device=device)):
        assert magnitude(array).tolist() == [1, 0]


@pytest.mark.parametrize("function", [movement, taylor])
def test_small_products_of_half_floats_survive(function):
    tiny = np.full(2, 2.0**-13, np.float16)
    assert np.all(np.abs(function(tiny, tiny)) == np.float32(2.0**-26))


def test_movement_and_taylor_by_formula():
    np.testing.assert_array_equal(movement(W, G), -W * G)
    np.testing.assert_array_equal(taylor(W, G), np.abs(W * G))
    with pytest.raises(WeightError, match=r"movement: weights of shape \(6, 4, 3, 3\) got gradients of shape \(6,\)"):
        movement(W, GAMMA)


def distance_sums(filters: np.ndarray) -> list[float]:
    """The sum of distances, one pair after another."""
    flat = filters.reshape(len(filters), -1).astype(np.float64)
    return [sum(float(np.sqrt(((a - b) ** 2).sum())) for b in flat) for a in flat]


@given(
    hnp.arrays(
        np.float32, hnp.array_shapes(min_dims=1, max_dims=5, max_side=6), elements=st.floats(-100, 100, width=32)
    )
)
def test_fpgm_equals_the_naive_sum(weights):
    result = fpgm(weights)
    largest = float(np.abs(weights).max())
    expected = np.broadcast_to(np.reshape(distance_sums(weights), (-1,) + (1,) * (weights.ndim - 1)), weights.shape)
    np.testing.assert_allclose(result, expected, rtol=1e-6, atol=largest * weights.size * 1e-7)


def test_fpgm_of_equal_filters_is_zero_and_equal():
    filters = np.repeat(normal(5, 130, seed=4), [3, 1, 2, 1, 4], axis=0)
    order = np.random.default_rng(0).permutation(len(filters))
    np.testing.assert_allclose(fpgm(filters)[:, 0], distance_sums(filters), rtol=1e-6)
    assert len(set(fpgm(filters)[:, 0].tolist())) == 5
    np.testing.assert_array_equal(fpgm(filters[order]), fpgm(filters)[order])
    assert not fpgm(np.tile(normal(1, 1001), (7, 1))).any()
    assert not fpgm(np.array([[0.0, 1.0], [-0.0, 1.0]])).any()


def test_fpgm_in_blocks(monkeypatch):
    filters = normal(50, 20)
    whole = fpgm(filters)
    monkeypatch.setattr(scores, "_PAIRS", 120)
    np.testing.assert_allclose(fpgm(filters), whole, rtol=1e-6)


def test_fpgm_prunes_the_filter_nearest_the_others():
    filters = np.array([[0.0, 10.0], [1.0, 1.0], [10.0, 0.0], [-10.0, -10.0]])
    assert mask(fpgm(filters), Filter(), 0.25)[:, 0].tolist() == [True, False, True, True]


@pytest.mark.parametrize("scale", [1e-300, 1e300])
def test_fpgm_of_extreme_weights(scale):
    np.testing.assert_allclose(scores._distance_sums(np.array([[1.0], [3.0]]) * scale), [2 * scale] * 2)


def test_bn_scale_by_formula():
    np.testing.assert_array_equal(bn_scale(W, GAMMA), np.abs(GAMMA)[:, None, None, None] * np.ones(SHAPE, np.float32))
    with pytest.raises(WeightError, match=r"scales of shape \(6,\), got \(4,\)"):
        bn_scale(W, GAMMA[:4])
    with pytest.raises(WeightError, match=r"a weight of shape \(\)"):
        bn_scale(np.float32(1.0), GAMMA)


def test_wanda_by_formula():
    np.testing.assert_array_equal(wanda(W, NORMS), np.abs(W) * NORMS[None, :, None, None])
    assert wanda(np.array([1.0, -2.0]), np.array([3.0, 4.0])).tolist() == [3.0, 8.0]
    with pytest.raises(WeightError, match=r"input norms of shape \(4,\), got \(6,\)"):
        wanda(W, GAMMA)


def test_random_depends_on_seed_and_name_alone():
    same = random(np.zeros((3, 5), np.int8), 7, "fc.weight")
    np.testing.assert_array_equal(same, random(np.ones((3, 5)), 7, "fc.weight"), strict=True)
    assert same.dtype == np.float32
    assert (same != random(same, 8, "fc.weight")).any()
    assert (same != random(same, 7, "fc.bias")).any()
    # Written down once: a change of NumPy or of this function that moved a baseline would show here.
    assert (same.reshape(-1)[:3] * 2**24).astype(int).tolist() == FIRST_BITS


FIRST_BITS = [7188193, 9129875, 6637500]


def test_random_is_uniform():
    values = random(np.empty(100_001), 0, "w")
    assert 0.0 <= values.min() < 1e-3 < 0.999 < values.max() < 1.0
    counts = np.histogram(values, 10, (0, 1))[0]
    assert abs(counts - 10_000).max() < 500


@pytest.mark.parametrize("seed", [-1, 0.5, "a", True])
def test_a_bad_seed_is_refused(seed):
    with pytest.raises(RecipeError, match="seed must be a whole number"):
        random(W, seed, "w")


def naive_lamp(values: np.ndarray) -> np.ndarray:
    """The definition, one pair after another: equal values count as larger where they come earlier."""
    squares = values.astype(np.float64).reshape(-1) ** 2
    result = []
    for u, square in enumerate(squares):
        rest = sum(other for v, other in enumerate(squares) if other > square or (other == square and v <= u))
        result.append(square / rest if rest else 0.0)
    return np.reshape(result, values.shape)


grid = st.one_of(st.integers(0, 5).map(float), st.floats(0.0078125, 100, width=32))


@given(hnp.arrays(np.float32, hnp.array_shapes(max_dims=4, max_side=6), elements=grid))
def test_lamp_equals_the_naive_quotient_and_ranks_like_magnitude(values):
    result = lamp(values)
    assert result.dtype == np.float64
    np.testing.assert_allclose(result, naive_lamp(values), rtol=1e-6, atol=1e-12)
    for sparsity in (0.2, 0.5, 0.9):
        np.testing.assert_array_equal(mask(result, "unstructured", sparsity), mask(values, "unstructured", sparsity))


def test_lamp_gives_the_largest_of_every_layer_one():
    for seed in range(5):
        assert lamp(np.abs(normal(40, 30, seed=seed)) * 10.0**seed).max() == 1.0


def test_lamp_of_zeros_negatives_and_extremes():
    assert lamp(np.zeros(3)).tolist() == [0.0, 0.0, 0.0]
    np.testing.assert_allclose(lamp(np.array([-3.0, 1.0, 1.0])), [0.0, 1.0, 0.5])
    np.testing.assert_allclose(lamp(np.array([1e300, 1e300])), [1.0, 0.5])
    np.testing.assert_allclose(lamp(np.array([5e-324, 5e-324])), [1.0, 0.5])


def test_lamp_of_a_large_layer_is_precise():
    values = np.sort(np.abs(normal(200_000)))[::-1]
    squares = values.astype(np.float64) ** 2
    np.testing.assert_allclose(lamp(values), squares / np.cumsum(squares), rtol=1e-5)


@pytest.mark.parametrize("function", [fpgm, lamp])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_cannot_be_ranked_is_refused_by_name(function, bad, torch, device):
    weights = np.abs(W)
    weights[1, 2] = bad
    for array in (weights, torch.tensor(weights, device=device)):
        with pytest.raises(WeightError, match=r"conv1\.weight: "):
            function(array, name="conv1.weight")


def test_nan_passes_through_the_other_scores_so_that_the_mask_names_it():
    weights = W.copy()
    weights[0, 0, 0, 0] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for score in (magnitude(weights), movement(weights, G), taylor(weights, G), wanda(weights, NORMS)):
            with pytest.raises(WeightError, match="conv: 1 NaN and 0 infinite of 216"):
                mask(score, "unstructured", 0.5, name="conv")
