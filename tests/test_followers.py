"""Parameters that follow: what a channel has in biases, scales and shifts goes with its filters."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mopruning import Pruner, Recipe
from mopruning.coupled_masks import coupled_masks
from mopruning.coupling import Coupled, FilterGroup
from mopruning.errors import RecipeError, StateError
from mopruning.sharding import Sharded
from mopruning.shards import Shard
from tests.coupled_network import GROUPS, RAMP, SHAPES, TURNED, dead, draw, reasons

# Both sums are joined behind one another, and normalised so; the classifier has a bias.
JOINED = (*range(8), *(-1,) * 12), (*(-1,) * 8, *range(12))
NORMED = {
    **{name: SHAPES[name] for name in ("stem.weight", "stem.bias", "block.weight")},
    "block.scale": (8,),
    "wide.weight": SHAPES["wide.weight"],
    "deep.weight": SHAPES["deep.weight"],
    "joined.shift": (20,),
    "head.weight": SHAPES["head.weight"],
    "head.bias": (10,),
}
FOLLOWED = (
    FilterGroup(
        8,
        (2,),
        GROUPS[0].members,
        (Coupled("stem.bias", range(8)), Coupled("block.scale", TURNED), Coupled("joined.shift", JOINED[0])),
    ),
    FilterGroup(12, (), GROUPS[1].members, (Coupled("joined.shift", JOINED[1]),)),
    FilterGroup(10, range(10), GROUPS[2].members, (Coupled("head.bias", range(10)),)),
)
PRUNED = ("stem.weight", "stem.bias", "block.weight", "block.scale", "wide.weight", "deep.weight", "joined.shift")


def planned(groups=FOLLOWED, shapes=NORMED, frozen=(), **recipe):
    return Recipe(**{"sparsity": 0.5, "granularity": "filter:group", **recipe}).plan(shapes, frozen, groups)


def assert_follow(masks):
    """Fail unless each follower has lost the channels that its members have, and nothing else."""
    first, second = dead(masks["stem.weight"]), dead(masks["wide.weight"])
    assert dead(masks["stem.bias"]) == first
    assert sorted(TURNED[place] for place in dead(masks["block.scale"])) == first
    assert dead(masks["joined.shift"]) == [*first, *(8 + channel for channel in second)]


def test_followers_lose_what_members_lose_and_have_no_say():
    weights = draw(0, NORMED)
    masks = Pruner(planned()).step(weights)
    assert tuple(masks) == PRUNED
    assert_follow(masks)
    assert (len(dead(masks["stem.bias"])), len(dead(masks["joined.shift"]))) == (4, 10)
    alone = Pruner(planned(groups=tuple(FilterGroup(g.channels, g.fixed, g.members) for g in FOLLOWED))).step(weights)
    turned_about = weights | {name: 1 / weights[name] for name in ("stem.bias", "block.scale", "joined.shift")}
    other = Pruner(planned()).step(turned_about)
    for name in alone:
        np.testing.assert_array_equal(masks[name], alone[name])
        np.testing.assert_array_equal(masks[name], other[name])


def test_mask_lies_where_the_follower_lies(torch, device):
    scores = {"a": np.array([[3.0], [1.0], [2.0]]), "b": torch.tensor([5.0, 0.0, 0.0], device=device)}
    slope = np.ones((3, 1, 1), np.float16)
    group = FilterGroup(3, (), (Coupled("a", range(3)),), (Coupled("b", range(3)), Coupled("slope", (1, 0, 2))))
    masks = coupled_masks([group], scores.__getitem__, {"a": 0.34}, {**scores, "slope": slope}.__getitem__)
    assert (masks["b"].dtype, masks["b"].device) == (torch.bool, scores["b"].device)
    assert (masks["slope"].dtype, masks["slope"].shape) == (np.bool_, (3, 1, 1))
    assert (dead(masks["a"]), dead(masks["b"].cpu()), dead(masks["slope"])) == ([1], [1], [0])


# --- plans


def test_rows_name_the_nearest_weight_that_is_followed():
    plan = planned()
    assert {name: reasons(plan)[name] for name in ("stem.bias", "block.scale", "joined.shift", "head.bias")} == {
        "stem.bias": (None, "follows stem.weight"),
        "block.scale": (None, "follows block.weight"),
        "joined.shift": (None, "follows deep.weight"),
        "head.bias": ("dense", "1-D (bias or normalisation)"),
    }
    assert tuple(row.name for row in plan.pruned) == PRUNED
    assert plan.followers == {"stem.bias", "block.scale", "joined.shift"}
    assert plan.rows[1].texts()[2:] == ("filter:group", "-", "follows stem.weight")
    assert planned(skip=["wide.*"]).rows[6].reason == "follows block.weight"


@pytest.mark.parametrize(
    ("recipe", "reason"),
    [
        ({"skip": ["*.scale"]}, "skipped by '*.scale'"),
        ({"skip_keywords": ["scale", "gamma"]}, "skipped by keyword 'scale'"),
        ({"layers": {"block.scale": 0.0}}, "sparsity 0, named by 'block.scale'"),
        ({"frozen": ["module.block.scale"]}, "frozen"),
    ],
)
def test_a_follower_left_out_stays_dense_and_the_group_goes(recipe, reason):
    plan = planned(**recipe)
    assert reasons(plan)["block.scale"] == ("dense", reason)
    assert not any(row.misfit for row in plan.rows if row.name != "head.weight")
    masks = Pruner(plan).step(draw(0, NORMED))
    assert set(masks) == {*PRUNED} - {"block.scale"}
    assert dead(masks["stem.bias"]) == dead(masks["stem.weight"]) != []


@pytest.mark.parametrize("recipe", [{"include_1d": True}, {"layers": {"block.*": 0.5, "stem.bias": 0.9}}])
def test_a_follower_has_no_target_of_its_own(recipe):
    plan = planned(**recipe)
    assert reasons(plan)["stem.bias"] == (None, "follows stem.weight")
    assert reasons(plan)["block.scale"] == (None, "follows block.weight")
    assert_follow(Pruner(plan).step(draw(0, NORMED)))
    if "include_1d" in recipe:  # otherwise channels would go in the bias that must stay in its layer
        assert reasons(plan)["head.bias"] == ("dense", "follows head.weight, which loses no filters")


def test_only_named_weights_have_their_followers_and_other_shapes_are_a_way_of_their_own():
    named = planned(sparsity=None, layers={"wide.weight": 0.5, "deep.weight": 0.5})
    assert [row.name for row in named.pruned] == ["wide.weight", "deep.weight", "joined.shift"]
    masks = Pruner(named).step(draw(0, NORMED))
    assert dead(masks["joined.shift"]) == [8 + channel for channel in dead(masks["deep.weight"])]
    own = planned(include_1d=True, granularity_by_axes={"1d": "unstructured"})
    assert reasons(own)["block.scale"] == (0.5, "sparsity of the recipe")
    masks = Pruner(own).step(weights := draw(0, NORMED))
    assert dead(masks["block.scale"]) == sorted(np.argsort(abs(weights["block.scale"]))[:4])


def test_a_follower_that_is_no_parameter_is_passed_over():
    fewer = {name: shape for name, shape in NORMED.items() if name != "block.scale"}
    masks = Pruner(planned(shapes=fewer)).step(draw(0, fewer))
    assert set(masks) == {*PRUNED} - {"block.scale"}


def test_other_allocations_and_bn_scales_take_no_notice_of_followers():
    layers = {name: {"sparsity": 0.5, "granularity": "filter:group"} for name in ("wide.weight", "deep.weight")}
    shared = planned(granularity="unstructured", allocation="global", layers=layers)
    masks = Pruner(shared).step(draw(0, NORMED))
    assert dead(masks["joined.shift"]) == [8 + channel for channel in dead(masks["deep.weight"])]
    whole = planned()
    assert whole.difference(planned(sparsity=0.5, min_sparsity=0.2).to_dict()) == []

    shapes = {"conv": (8, 3, 3, 3), "bn.weight": (8,), "bn.bias": (8,), "next": (6, 8), "norm.weight": (6,)}
    groups = [
        FilterGroup(
            8, (), (Coupled("conv", range(8)),), (Coupled("bn.weight", range(8)), Coupled("bn.bias", range(8)))
        ),
        FilterGroup(6, (), (Coupled("next", range(6)),), (Coupled("norm.weight", range(6)),)),
    ]
    weights = draw(1, shapes)
    masks = Pruner(planned(groups, shapes, score="bn_scale")).step(weights)
    assert dead(masks["conv"]) == dead(masks["bn.weight"]) == sorted(np.argsort(abs(weights["bn.weight"]))[:4])


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (
            [FilterGroup(8, (), GROUPS[0].members, (Coupled("stem.bias", range(7)),))],
            "'stem.bias' has 8 filters here, 7 in its group",
        ),
        (
            [FOLLOWED[0], FilterGroup(12, (), GROUPS[1].members, (Coupled("stem.bias", range(8)),))],
            "filter 0 of 'stem.bias' belongs to two groups",
        ),
        (
            [
                FilterGroup(8, (), (Coupled("stem.weight", range(8)),), (Coupled("block.weight", TURNED),)),
                FilterGroup(12, (), GROUPS[1].members, (Coupled("joined.shift", JOINED[1]),)),
                FilterGroup(8, (), (Coupled("block.weight", (-1,) * 8),)),
            ],
            "'block.weight' is a member of one group and follows in another; make it a member",
        ),
    ],
)
def test_what_cannot_follow_says_why(groups, message):
    with pytest.raises(RecipeError, match=message):
        planned(groups)
    with pytest.raises(RecipeError, match="'a' stands twice in one group"):
        FilterGroup(4, (), (Coupled("a", (0,)),), (Coupled("a", (1,)),))
    with pytest.raises(RecipeError, match="'b' has channels 0 to 4, but the group has 4 channels"):
        FilterGroup(4, (), (Coupled("a", (0,)),), (Coupled("b", (0, 4)),))


# --- time


def trained(weights, seed, masks):
    moved = {name: one + np.float32(0.05) * draw(seed, NORMED)[name] for name, one in weights.items()}
    return {name: np.where(masks.get(name, True), one, np.float32(0)) for name, one in moved.items()}


@pytest.mark.parametrize("score", ["magnitude", "movement"])
def test_a_resumed_ramp_is_the_uninterrupted_one(score):
    plan = planned(sparsity=0.75, schedule=RAMP, score=score)
    straight, resumed, weights, counts = Pruner(plan), Pruner(plan), draw(0, NORMED), []
    for step in range(6):
        before = straight.masks
        for pruner in (straight, resumed) if step > 2 else (straight,):
            if pruner.wants_gradients:
                pruner.observe(weights, draw(step, NORMED))
            pruner.step(weights)
        weights = trained(weights, step, straight.masks)
        if straight.masks:
            assert_follow(straight.masks)
            assert not any((keep & ~before.get(name, np.True_)).any() for name, keep in straight.masks.items())
            counts.append(len(dead(straight.masks["joined.shift"])))
        if step == 2:
            state = straight.state_dict()
            resumed.load_state_dict({**state, "plan": json.loads(json.dumps(state["plan"]))})
    assert counts == [0, 0, 7, 7, 15, 15]
    for name in PRUNED:
        np.testing.assert_array_equal(resumed.masks[name], straight.masks[name])


@pytest.mark.parametrize(
    "recipe", [{"fix_sparsity": True, "sparsity": None}, {"restore_sparsity": True, "sparsity": 0.6}]
)
def test_zeros_that_a_network_comes_with(recipe):
    """Those of channels that are gone stay; other zeros of a bias, which it starts with, are none of pruning."""
    weights = draw(0, NORMED)
    weights["stem.bias"][:] = 0.0
    weights["block.scale"][:] = 0.0
    weights["stem.weight"][[1, 4, 5]] = 0.0
    weights["block.weight"][[TURNED.index(1), TURNED.index(4)]] = 0.0
    weights["joined.shift"][1] = 0.0
    schedule = {"start": 5, "length": 4, "frequency": 1}
    pruner = Pruner(planned(**recipe, schedule=schedule), weights)
    assert dead(pruner.masks["stem.bias"]) == [1, 4]
    assert sorted(TURNED[place] for place in dead(pruner.masks["block.scale"])) == [1, 4]
    assert dead(pruner.masks["joined.shift"]) == [1]  # 4 is gone as well, and its shift is not zero yet
    again = Pruner(pruner.plan, weights)
    again.load_state_dict(pruner.state_dict())
    np.testing.assert_array_equal(again.masks["stem.bias"], pruner.masks["stem.bias"])
    for _ in range(9):
        pruner.step(weights)
    if pruner.plan.recipe.fix_sparsity:
        assert dead(pruner.masks["stem.bias"]) == [1, 4]
        assert reasons(pruner.plan)["stem.bias"] == (None, "follows stem.weight")
    else:
        assert_follow(pruner.masks)
        assert len(dead(pruner.masks["stem.bias"])) == 4


def test_zeros_that_stay_need_no_groups_and_all_stay_where_vectors_are_asked_for():
    assert Recipe(fix_sparsity=True, granularity="filter:group").plan(NORMED).groups == ()
    weights = draw(0, NORMED)
    weights["stem.bias"][3] = 0.0
    plan = planned(sparsity=None, fix_sparsity=True, include_1d=True)
    assert plan.groups == ()
    assert dead(Pruner(plan, weights).masks["stem.bias"]) == [3]
    assert planned(sparsity=None, fix_sparsity=True, skip=["block.*"]).followers == {"joined.shift"}  # no classifier


def test_shards_are_refused_where_followers_need_whole_filters():
    held = {"block.weight": Shard((8, 8, 3, 3), 0, (0, 4, 8), 0)}
    kept = {"sparsity": None, "fix_sparsity": True}
    Sharded(held, exchange=None).check(planned(**kept, groups=()))
    with pytest.raises(RecipeError, match=r"filter:group cannot prune block\.weight .*which ranks share out"):
        Sharded(held, exchange=None).check(planned(**kept))


# --- states


def test_a_state_without_followers_goes_on_where_there_are_none():
    bare = tuple(FilterGroup(group.channels, group.fixed, group.members) for group in FOLLOWED)
    old = Pruner(planned(bare))
    old.step(draw(0, NORMED))
    state = old.state_dict()
    assert all("followers" not in group for group in state["plan"]["groups"])
    Pruner(planned(bare)).load_state_dict(state)
    with pytest.raises(StateError, match=r"stem\.bias: granularity filter:group here, none there"):
        Pruner(planned()).load_state_dict(state)
    new = planned()
    saved = new.to_dict()["groups"][0]
    assert saved["followers"] == {
        "stem.bias": None,
        "block.scale": list(TURNED),
        "joined.shift": list(JOINED[0]),
    }
    assert len(new.difference({**new.to_dict(), "groups": old.plan.to_dict()["groups"]})) == 4


def test_names_of_wrappers_and_ties_hold_for_followers():
    wrapped = {f"module.{name}": shape for name, shape in NORMED.items()}
    masks = Pruner(planned(shapes=wrapped)).step({f"module.{n}": array for n, array in draw(0, NORMED).items()})
    bare = Pruner(planned()).step(draw(0, NORMED))
    np.testing.assert_array_equal(masks["module.block.scale"], bare["block.scale"])
    twice = FilterGroup(2, (), (Coupled("a", (0, 1)),), (Coupled("b", (0, 1)), Coupled("c", (0, 1))))
    assert twice.renamed(lambda name: {"c": "b"}.get(name, name)).followers == (Coupled("b", (0, 1)),)
