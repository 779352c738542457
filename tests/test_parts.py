"""Parts: layers ranked as one, whatever their library, device and dtype, and never held in memory together."""

import doctest
import weakref
from collections.abc import Mapping

import array_api_strict
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mopruning import allocation, arrays, parts, scores
from mopruning.allocation import global_masks, global_threshold, lamp_threshold
from mopruning.errors import RecipeError, WeightError
from mopruning.granularity import BankBalanced, Channel, Filter, Stripe, Unstructured
from tests.mixed_layers import MIXED, MIXED_SHAPES, NET


def network(seed: int = 0, shapes: Mapping[str, tuple[int, ...]] = NET) -> dict[str, np.ndarray]:
    """Magnitudes of a network whose layers differ in scale, as trained ones do."""
    rng = np.random.default_rng(seed)
    return {
        name: np.abs(rng.normal(size=shape, scale=rng.uniform(0.5, 2))).astype(np.float32)
        for name, shape in shapes.items()
    }


def unstructured(layers: Mapping[str, object]) -> dict[str, Unstructured]:
    return dict.fromkeys(layers, Unstructured())


def test_doctests():
    result = doctest.testmod(parts)
    assert result.attempted > 0
    assert result.failed == 0


class Lazy(Mapping):
    """Computes scores when they are looked up, and counts how many of them live at once."""

    def __init__(self, layers: Mapping[str, np.ndarray]) -> None:
        self.layers = layers
        self.alive = self.most = self.looked_up = 0

    def __getitem__(self, name: str) -> np.ndarray:
        computed = self.layers[name] * np.float32(1.0)
        self.looked_up += 1
        self.alive += 1
        self.most = max(self.most, self.alive)
        weakref.finalize(computed, self._gone)
        return computed

    def _gone(self) -> None:
        self.alive -= 1

    def __iter__(self):
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)


@pytest.mark.parametrize("allocate", [global_threshold, lamp_threshold])
@pytest.mark.parametrize("bounds", [(0.0, 1.0), (0.3, 0.8)])
def test_a_computing_mapping_is_never_held(allocate, bounds):
    layers = network(0, {str(i): (64, 64) for i in range(8)})
    lazy = Lazy(layers)
    assert allocate(lazy, unstructured(layers), 0.7, *bounds) == allocate(layers, unstructured(layers), 0.7, *bounds)
    assert lazy.alive == 0
    assert lazy.most <= 2  # one at work, one being computed


def test_global_masks_never_hold_a_computing_mapping():
    lazy = Lazy(network(0, {str(i): (64, 64) for i in range(8)}))
    global_masks(lazy, 0.7)
    assert (lazy.alive, lazy.most) == (0, 2)


def test_a_large_layer_is_computed_once_a_pass_not_once_a_block():
    layers = {str(i): np.random.default_rng(i).random((1024, 1024), np.float32) for i in range(3)}  # on all cores
    lazy = Lazy(layers)
    marks = global_masks(lazy, 0.9)
    assert lazy.looked_up <= 3 * 8
    for name, expected in global_masks(layers, 0.9).items():
        np.testing.assert_array_equal(marks[name], expected)


@given(
    hnp.arrays(np.float32, (6, 4, 3, 3), elements=st.floats(0, 100, width=32)),
    st.sampled_from([Filter(), Channel(), Stripe()]),
)
def test_unit_means_are_means(scores, granularity):
    means = parts.unit_means(scores, granularity)
    axes = {"filter": (1, 2, 3), "channel": (0, 2, 3), "stripe": (1,)}[str(granularity)]
    expected = np.broadcast_to(scores.astype(np.float64).mean(axis=axes, keepdims=True), scores.shape)
    np.testing.assert_allclose(means, expected, rtol=1e-9, atol=1e-12)


def assert_allocates_alike(convert, read):
    """Compare a library with NumPy: the same shares of every layer, the same masks."""
    layers = network(3, MIXED_SHAPES)
    layers["conv"] = np.round(layers["conv"] * 3)  # ties
    others = {name: convert(array) for name, array in layers.items()}
    for function, sparsity, low, high in (
        (global_threshold, 0.5, 0.0, 1.0),
        (global_threshold, 0.8, 0.2, 0.9),
        (lamp_threshold, 0.8, 0.0, 1.0),
    ):
        assert function(others, MIXED, sparsity, low, high) == function(layers, MIXED, sparsity, low, high)
    expected = global_masks(layers, 0.75)
    for name, mark in global_masks(others, 0.75).items():
        assert type(mark) is type(others[name])
        np.testing.assert_array_equal(read(mark), expected[name])


@pytest.fixture
def elsewhere(monkeypatch):
    """Make arrays of other libraries look as if they lay on another device."""
    for module in (arrays, allocation, scores):
        monkeypatch.setattr(module, "host_view", lambda array: array if isinstance(array, np.ndarray) else None)


def test_torch_allocates_alike(torch, device):
    assert_allocates_alike(
        lambda a: torch.tensor(a, device=device, requires_grad=True), lambda mark: mark.cpu().numpy()
    )


def test_other_devices_allocate_alike(torch, elsewhere):
    assert_allocates_alike(torch.from_numpy, np.asarray)


def test_only_the_array_api_is_needed(elsewhere):
    assert_allocates_alike(array_api_strict.asarray, np.from_dlpack)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ml_dtypes.bfloat16, np.int8, bool])
def test_every_dtype_is_ranked(dtype):
    layers = {name: (scores * 9).astype(dtype) for name, scores in network().items()}
    wide = {name: scores.astype(np.float64) for name, scores in layers.items()}
    for name, mark in global_masks(layers, 0.6).items():
        np.testing.assert_array_equal(mark, global_masks(wide, 0.6)[name], strict=True)


def test_layers_of_different_dtypes_are_compared_as_they_are():
    above = np.nextafter(np.float64(np.float32(0.1)), 1.0)  # between two float32 numbers
    layers = {"narrow": np.full(3, 0.1, np.float32), "wide": np.array([above]), "whole": np.array([0], np.int32)}
    marks = global_masks(layers, 0.8)
    assert [int(mark.sum()) for mark in marks.values()] == [0, 1, 0]


def test_views_are_ranked():
    values = np.random.default_rng(0).random((6, 8))
    layers = {"a": values, "b": values.T[1:, ::2]}
    copies = {name: array.copy() for name, array in layers.items()}
    for name, mark in global_masks(layers, 0.5).items():
        np.testing.assert_array_equal(mark, global_masks(copies, 0.5)[name], strict=True)


def test_scores_stay_as_they_are_and_masks_are_writable():
    layers = network()
    for mark in global_masks(layers, 0.5).values():
        mark[...] = False
    for name, fresh in network().items():
        np.testing.assert_array_equal(layers[name], fresh)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    "call",
    [
        lambda layers: global_masks(layers, 0.5),
        lambda layers: global_threshold(layers, unstructured(layers), 0.5),
        lambda layers: global_threshold(layers, dict.fromkeys(layers, Filter()), 0.5),
        lambda layers: lamp_threshold(layers, unstructured(layers), 0.5),
    ],
)
def test_what_cannot_be_ranked_is_refused_by_name(bad, call, torch, device):
    layers = network()
    layers["head"][2, 3] = bad
    for convert in (np.asarray, lambda array: torch.tensor(array, device=device)):
        with pytest.raises(WeightError, match="head: "):
            call({name: convert(scores) for name, scores in layers.items()})


def test_a_granularity_that_does_not_fit_is_refused():
    layers = network()
    with pytest.raises(RecipeError, match=r"head \(10, 64\) cannot be allocated to bank:48: .*64"):
        global_threshold(layers, unstructured(layers) | {"head": BankBalanced(48)}, 0.5)
