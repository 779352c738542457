"""The pruner: when masks change, how sparse they are then, what survives a restart."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mopruning import Pruner, Recipe
from mopruning.errors import RecipeError, StateError, WeightError

SHAPES = {"a": (8, 8), "a.scale": (8,), "b": (4, 16), "bias": (4,)}
RAMP = {"start": 2, "length": 4, "frequency": 2}


def draw(seed=0):
    random = np.random.default_rng(seed)
    return {name: random.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}


def pruner_of(weights=None, **recipe):
    return Pruner(Recipe(**recipe).plan(SHAPES), weights)


def share(mask) -> float:
    return 1.0 - np.count_nonzero(mask) / mask.size


def test_masks_change_at_scheduled_steps_alone():
    pruner, weights = pruner_of(sparsity=0.5, schedule=RAMP), draw()
    changed = [pruner.step(weights) is not None for _ in range(9)]
    assert changed == [False, True, False, True, False, True, False, False, False]
    assert pruner.steps == 9
    assert set(pruner.masks) == {"a", "b"}
    assert pruner.sparsity == 0.5


def test_weights_are_read_at_updates_alone():
    class Untouchable(dict):
        def __getitem__(self, key):
            raise AssertionError(f"{key} was read")

    pruner = pruner_of(sparsity=0.5, schedule={"start": 5})
    for _ in range(4):
        assert pruner.step(Untouchable()) is None


def test_sparsity_rises_by_the_schedule():
    pruner, weights = pruner_of(sparsity=0.5, schedule={**RAMP, "exponent": 1.0}), draw()
    shares = []
    for _ in range(7):
        pruner.step(weights)
        shares.append(pruner.sparsity)
    assert shares == [0.0, 0.0, 0.0, 0.25, 0.25, 0.5, 0.5]


def test_initial_sparsity_starts_the_ramp():
    pruner, weights = pruner_of(sparsity=0.5, initial_sparsity=0.25, schedule={**RAMP, "exponent": 1.0}), draw()
    pruner.step(weights)
    pruner.step(weights)
    assert pruner.sparsity == 0.25


@pytest.mark.parametrize("score", ["movement", "random", "fpgm"])
@pytest.mark.parametrize("allocation", ["uniform", "global"])
def test_what_is_pruned_stays_pruned(score, allocation):
    """Whatever the scores do: weights are zero where they were pruned, and all others move."""
    granularity = "filter" if score == "fpgm" else "unstructured"
    pruner = pruner_of(
        sparsity=0.75,
        score=score,
        allocation=allocation,
        granularity=granularity,
        schedule={"length": 10, "frequency": 1},
    )
    weights, random = draw(), np.random.default_rng(1)
    before = {}
    for step in range(12):
        if pruner.wants_gradients:
            # slopes of very different size: scores of `a` lie far below those of `b`, then far above
            scale = {"a": 100.0 if step < 6 else 0.01}
            gradients = {
                n: scale.get(n, 1.0) * random.standard_normal(w.shape).astype(np.float32) for n, w in weights.items()
            }
            pruner.observe(weights, gradients)
        weights = {n: w + 0.1 * random.standard_normal(w.shape).astype(np.float32) for n, w in weights.items()}
        pruner.step(weights)
        for name, mask in pruner.masks.items():
            weights[name] = np.where(mask, weights[name], np.float32(0))
            assert not (mask & ~before.get(name, np.True_)).any(), f"{name} revived at step {step + 1}"
        before = dict(pruner.masks)
    assert pruner.sparsity == 0.75


def test_layers_ranked_together_do_not_revive_each_other():
    """Scores of one layer may fall far below those of another; what is pruned there lies lower still."""
    recipe = Recipe(
        sparsity=0.5,
        score="movement",
        allocation="global",
        initial_sparsity=0.25,
        schedule={"start": 1, "length": 1, "frequency": 1},
    )
    pruner = Pruner(recipe.plan({"a": (1, 4), "b": (1, 4)}))
    weights = {name: np.ones((1, 4), np.float32) for name in ("a", "b")}
    pruner.observe(weights, {"a": np.array([[1.0, 1.0, -1.0, -1.0]]), "b": -np.ones((1, 4))})
    pruner.step(weights)
    assert pruner.masks["a"].tolist() == [[False, False, True, True]]
    assert pruner.masks["b"].all()
    pruner.observe(weights, {"a": np.zeros((1, 4)), "b": np.full((1, 4), 100.0)})
    pruner.step(weights)
    assert pruner.masks["a"].tolist() == [[False, False, True, True]]
    assert pruner.masks["b"].tolist() == [[True, True, False, False]]


def test_bounds_of_an_allocation_rise_with_the_ramp():
    pruner = pruner_of(
        sparsity=0.75, allocation="global", min_sparsity=0.5, max_sparsity=0.875, schedule={**RAMP, "exponent": 1.0}
    )
    weights = draw()
    weights["a"] *= 100.0
    shares = []
    for _ in range(6):
        if pruner.step(weights) is not None:
            shares.append((share(pruner.masks["a"]), share(pruner.masks["b"])))
    assert shares == [(0.0, 0.0), (0.25, 0.5), (0.625, 0.875)]


def test_an_update_that_failed_is_still_due():
    pruner, weights = pruner_of(sparsity=0.5), draw()
    broken = {**weights, "b": np.full((4, 16), np.nan, np.float32)}
    for _ in range(2):
        with pytest.raises(WeightError, match="b: 64 NaN"):
            pruner.step(broken)
    assert pruner.masks == {}
    assert pruner.step(weights) is not None


@pytest.mark.parametrize("score", ["magnitude", "fpgm"])
def test_errors_name_the_parameter(score):
    pruner, weights = pruner_of(sparsity=0.5, score=score), draw()
    weights["a"][3, 3] = np.inf
    with pytest.raises(WeightError, match=r"^a: 0 NaN and 1 infinite"):
        pruner.step(weights)


def test_gradients_are_wanted_only_as_long_as_they_count():
    assert not pruner_of(sparsity=0.5).wants_gradients
    weights = draw()
    wanted = {}
    for score in ("movement", "taylor"):
        pruner = pruner_of(sparsity=0.5, score=score, schedule=RAMP)
        wanted[score] = []
        for _ in range(8):
            wanted[score].append(pruner.wants_gradients)
            if pruner.wants_gradients:
                pruner.observe(weights, weights)
            pruner.step(weights)
    assert wanted["movement"] == [True] * 6 + [False] * 2
    assert wanted["taylor"] == [False, True, False, True, False, True, False, False]


def test_old_gradients_do_not_stand_in_for_missing_ones():
    pruner, weights = pruner_of(sparsity=0.5, score="taylor", schedule={"length": 2, "frequency": 1}), draw()
    pruner.observe(weights, weights)
    pruner.step(weights)
    with pytest.raises(StateError, match=r"gradient of a, .*backward"):
        pruner.step(weights)


def test_movement_adds_up_over_updates():
    pruner = pruner_of(sparsity=0.5, score="movement", schedule={"start": 3})
    weights = {name: np.ones(shape, np.float32) for name, shape in SHAPES.items()}
    toward_zero = np.zeros((8, 8), np.float32)
    toward_zero[:, :4] = 1.0
    for sign in (1.0, 1.0, -1.0):  # the last step alone would say the opposite
        pruner.observe(weights, {"a": sign * toward_zero, "b": np.ones((4, 16), np.float32)})
        pruner.step(weights)
    assert not pruner.masks["a"][:, :4].any()
    assert pruner.masks["a"][:, 4:].all()


def test_bn_scale_finds_its_vector():
    pruner, weights = (
        pruner_of(sparsity=0.5, score="bn_scale", granularity="filter", layers={"b": 0.0}, bn_scales={"a": "a.scale"}),
        draw(),
    )
    weights["a.scale"] = np.arange(8, dtype=np.float32)
    pruner.step(weights)
    assert pruner.masks["a"].any(1).tolist() == [False] * 4 + [True] * 4


@pytest.mark.parametrize(
    ("scales", "message"),
    [
        ({}, "no normalisation of 8 channels follows a"),
        ({"a": "bias"}, r"a has 8 output channels, 'bias' has shape \(4,\)"),
    ],
)
def test_bn_scale_without_a_vector_is_explained(scales, message):
    with pytest.raises(RecipeError, match=message):
        pruner_of(sparsity=0.5, score="bn_scale", bn_scales=scales)


def test_restore_starts_from_the_zeros_there():
    weights = draw()
    weights["a"][:, ::2] = 0.0
    pruner = pruner_of(weights, sparsity=0.75, restore_sparsity=True, schedule={**RAMP, "exponent": 1.0})
    assert share(pruner.masks["a"]) == 0.5
    assert share(pruner.masks["b"]) == 0.0
    shares = []
    for _ in range(6):
        pruner.step(weights)
        shares.append((share(pruner.masks["a"]), share(pruner.masks["b"])))
    assert shares == [(0.5, 0.0)] * 3 + [(0.625, 0.375)] * 2 + [(0.75, 0.75)]
    assert not pruner.masks["a"][:, ::2].any()


def test_restore_never_goes_back():
    weights = draw()
    weights["a"][:6] = 0.0
    pruner = pruner_of(weights, sparsity=0.25, restore_sparsity=True)
    pruner.step(weights)
    assert share(pruner.masks["a"]) == 0.75
    assert share(pruner.masks["b"]) == 0.25


def test_fix_changes_nothing():
    weights = draw()
    weights["a"][0] = 0.0
    pruner = pruner_of(weights, sparsity=0.75, fix_sparsity=True)
    assert [pruner.step(weights) for _ in range(5)] == [None] * 5
    assert pruner.masks["a"].tolist() == (weights["a"] != 0).tolist()


def test_continuing_needs_the_weights():
    with pytest.raises(StateError, match="pass weights to Pruner"):
        pruner_of(sparsity=0.5, fix_sparsity=True)


def test_latecomers_are_pruned_even_after_the_last_update():
    weights = draw()
    recipe = Recipe(sparsity=0.5)
    pruner = Pruner(recipe.plan({"a": (8, 8)}))
    pruner.step(weights)
    first = pruner.masks["a"]
    pruner.replan(recipe.plan({"a": (8, 8), "b": (4, 16)}))
    weights["a"] = np.where(first, weights["a"], np.float32(0))
    assert pruner.step(weights) is not None
    assert share(pruner.masks["b"]) == 0.5
    assert np.array_equal(pruner.masks["a"], first)
    assert pruner.step(weights) is None


def test_latecomers_wait_for_the_first_update():
    weights = draw()
    recipe = Recipe(sparsity=0.5, schedule={"start": 3})
    pruner = Pruner(recipe.plan({"a": (8, 8)}))
    pruner.step(weights)
    pruner.replan(recipe.plan({"a": (8, 8), "b": (4, 16)}))
    assert pruner.step(weights) is None
    assert pruner.step(weights) is not None


@pytest.mark.parametrize("score", ["magnitude", "movement"])
@pytest.mark.parametrize("stop", range(8))
def test_resumed_pruner_decides_as_the_uninterrupted_one(score, stop):
    def step(pruner, number):
        weights = draw(number)
        if pruner.wants_gradients:
            pruner.observe(weights, draw(100 + number))
        return pruner.step(weights)

    straight, stopped, resumed = (pruner_of(sparsity=0.75, score=score, schedule=RAMP) for _ in range(3))
    for number in range(stop):
        step(straight, number)
        step(stopped, number)
    resumed.load_state_dict(stopped.state_dict())
    for number in range(stop, 9):
        assert (step(straight, number) is None) == (step(resumed, number) is None)
        assert straight.masks.keys() == resumed.masks.keys()
        for name in straight.masks:
            assert np.array_equal(straight.masks[name], resumed.masks[name])
    assert resumed.sparsity == 0.75


def test_state_is_numbers_text_and_arrays_with_a_bit_for_each_weight():
    pruner = pruner_of(sparsity=0.5)
    pruner.step(draw())
    state = pruner.state_dict()
    assert {name: bits.nbytes for name, bits in state["masks"].items()} == {"a": 8, "b": 8}
    assert state["observed"] == {}
    json.dumps({**state, "masks": {name: bits.tolist() for name, bits in state["masks"].items()}})


def test_state_of_another_plan_is_refused_with_the_difference():
    pruner = pruner_of(sparsity=0.5)
    pruner.step(draw())
    other = Pruner(Recipe(sparsity=0.5, layers={"a": 0.75, "b": "2:4"}).plan({**SHAPES, "c": (2, 2)}))
    with pytest.raises(StateError) as caught:
        other.load_state_dict(pruner.state_dict())
    for part in ("c is here only", "a: target 0.75 here, 0.5 there", "b: granularity 2:4 here, unstructured there"):
        assert part in str(caught.value)
    assert other.steps == 0
    assert other.masks == {}


def test_long_differences_are_cut():
    many = {f"w{i}": (4, 4) for i in range(9)}
    one, other = (Pruner(Recipe(sparsity=s).plan(many)) for s in (0.5, 0.75))
    with pytest.raises(StateError, match=r"and 4 more$"):
        one.load_state_dict(other.state_dict())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda state: state.pop("masks"), "lacks masks"),
        (lambda state: state.update(version=2), "has version 2, this mopruning reads 1"),
        (lambda state: state["masks"].update(a=np.zeros(7, np.uint8)), "mask of a: 7 bytes, expected 8"),
        (lambda state: state["masks"].update(bias=np.zeros(1, np.uint8)), "damaged: it holds bias"),
        (lambda state: state.update(plan={"rows": 3}), "damaged"),
    ],
    ids=["missing", "version", "size", "stranger", "plan"],
)
def test_damaged_state_is_refused_whole(damage, message):
    pruner, weights = pruner_of(sparsity=0.5), draw()
    pruner.step(weights)
    state = pruner.state_dict()
    damage(state)
    fresh = pruner_of(sparsity=0.5)
    with pytest.raises(StateError, match=message):
        fresh.load_state_dict(state)
    assert (fresh.steps, fresh.masks) == (0, {})
    with pytest.raises(StateError, match="got list"):
        fresh.load_state_dict([])


def test_state_loads_under_a_wrappers_names():
    """A run that was saved under data parallel or compiled goes on without the wrapper, and the other way round."""
    weights = {"module._orig_mod.a": np.arange(8.0).reshape(2, 4), "module._orig_mod.b": np.ones((2, 2))}
    plain = {name.removeprefix("module._orig_mod."): value for name, value in weights.items()}
    recipe = Recipe(sparsity=0.5)
    wrapped, bare = (Pruner(recipe.plan({name: w.shape for name, w in ws.items()})) for ws in (weights, plain))
    wrapped.step(weights)
    bare.load_state_dict(wrapped.state_dict())
    assert bare.steps == 1
    np.testing.assert_array_equal(bare.masks["a"], wrapped.masks["module._orig_mod.a"])
    again = Pruner(wrapped.plan)
    again.load_state_dict(bare.state_dict())
    assert again.masks.keys() == wrapped.masks.keys()
