"""What coupling makes of a plan: its rows, its reasons and its errors."""

from __future__ import annotations

import copy
import pickle

import pytest

from mopruning import Pruner, Recipe
from mopruning.coupling import Coupled, FilterGroup
from mopruning.errors import RecipeError, UnknownNameError
from tests.coupled_network import GROUPS, SHAPES, dead, draw, planned, reasons


def test_rows_tell_what_is_coupled():
    plan = planned()
    assert reasons(plan) == {
        "stem.weight": (0.5, "sparsity of the recipe, coupled with block.weight"),
        "stem.bias": ("dense", "1-D (bias or normalisation)"),
        "block.weight": (0.5, "sparsity of the recipe, coupled with stem.weight"),
        "wide.weight": (0.5, "sparsity of the recipe, coupled with deep.weight"),
        "deep.weight": (0.5, "sparsity of the recipe, coupled with wide.weight"),
        "free.weight": (0.5, "sparsity of the recipe"),
        "head.weight": ("dense", "every channel must stay"),
    }
    assert [group.names for group in plan.groups] == [GROUPS[0].names, GROUPS[1].names, ("free.weight",)]
    assert {str(row.granularity) for row in plan.pruned} == {"filter:group"}


def test_long_groups_and_little_sparsity_are_told_short():
    shapes = dict.fromkeys("abcdef", (4, 4))
    group = FilterGroup(4, (), tuple(Coupled(name, range(4)) for name in shapes))
    plan = Recipe(sparsity=0.2, granularity="filter:group").plan(shapes, groups=[group])
    assert plan.rows[0].reason.endswith("coupled with b, c, d and 2 more, too little for one channel")


@pytest.mark.parametrize(
    ("recipe", "own", "others"),
    [
        ({"skip": ["block.*"]}, "skipped by 'block.*'", "coupled with block.weight, which stays dense"),
        (
            {"layers": {"block.weight": 0.0}},
            "sparsity 0, named by 'block.weight'",
            "coupled with block.weight, which stays dense",
        ),
        (
            {"layers": {"block.weight": {"sparsity": 0.5, "granularity": "2:4"}}},
            "named by 'block.weight'",
            "coupled with block.weight, which is pruned as 2:4",
        ),
        (
            {"sparsity": None, "layers": {"stem.weight": 0.5, "wide.weight": 0.5, "deep.weight": 0.5}},
            "not named in the recipe",
            "coupled with block.weight, which stays dense",
        ),
    ],
)
def test_a_member_left_out_leaves_all_dense(recipe, own, others):
    plan = planned(**recipe)
    assert reasons(plan)["block.weight"][1] == own
    assert reasons(plan)["stem.weight"] == ("dense", others)
    assert [row.name for row in plan.rows if row.misfit] == ["stem.weight"]
    assert reasons(plan)["deep.weight"][0] == 0.5
    assert "stem.weight" not in Pruner(plan).step(draw())


def test_a_frozen_or_missing_member_leaves_all_dense():
    recipe = Recipe(sparsity=0.5, granularity="filter:group")
    frozen = recipe.plan(SHAPES, frozen=["block.weight"], groups=GROUPS)
    assert reasons(frozen)["stem.weight"] == ("dense", "coupled with block.weight, which stays dense")
    fewer = {name: shape for name, shape in SHAPES.items() if name != "block.weight"}
    assert reasons(recipe.plan(fewer, groups=GROUPS))["stem.weight"] == (
        "dense",
        "coupled with block.weight, which is no parameter here",
    )


def coupled(a, b, channels=8):
    return [FilterGroup(channels, (), (Coupled("stem.weight", a), Coupled("block.weight", b)))]


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"groups": ()}, r"filter:group \(stem.weight, .* and 3 more\) needs to know .*groups=.*pytorch.filter_groups"),
        ({"layers": {"stem.weight": 0.75}}, "one sparsity, got stem.weight 0.75, block.weight 0.5; give all of them"),
        ({"allocation": "erk"}, "allocation 'erk' gives each weight a sparsity of its own.*use allocation 'uniform'"),
        ({"allocation": "global"}, "allocation 'global' gives each weight a sparsity"),
        ({"allocation": "lamp"}, "allocation 'lamp' gives each weight a sparsity"),
        ({"groups": coupled(range(8), range(7))}, "'block.weight' has 8 filters here, 7 in its group; are these"),
        (
            {"groups": coupled(range(8), range(8)) + coupled(range(8), [-1] * 8)},
            "filter 0 of 'stem.weight' belongs to two groups; make them one",
        ),
    ],
)
def test_what_cannot_be_planned_says_why(recipe, message):
    with pytest.raises(RecipeError, match=message):
        planned(**recipe)


def test_groups_of_another_network_are_no_groups():
    other = [FilterGroup(4, (), (Coupled("blok.weight", range(4)),))]
    with pytest.raises(
        UnknownNameError, match=r"groups: 'blok.weight' matches no parameter; did you mean 'block.weight'"
    ):
        planned(groups=other)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FilterGroup(4, (4,), ()), "fixed channels 4 to 4, but the group has 4 channels"),
        (lambda: FilterGroup(4, (-1,), ()), "fixed channels -1 to -1, but"),
        (lambda: FilterGroup(4, (), (Coupled("a", (0, 4)),)), "'a' has channels 0 to 4, but the group has 4 channels"),
        (lambda: FilterGroup(4, (), (Coupled("a", (-2, 0)),)), "'a' has channels -2 to 0, but"),
        (lambda: FilterGroup(4, (), (Coupled("a", (0,)), Coupled("a", (1,)))), "'a' stands twice in one group"),
        (lambda: Coupled("a", (0.5,)), r"channels of 'a': expected whole numbers, got \(0.5,\)"),
        (lambda: Recipe(sparsity=0.5, groups=[("a", "b")]), "expected FilterGroup objects, got tuple"),
        (lambda: Recipe(sparsity=0.5, groups=3), "expected FilterGroup objects, got int"),
        (lambda: Recipe.load({"sparsity": 0.5, "groups": []}), "key 'groups' is unknown"),
    ],
)
def test_malformed_groups_are_refused(make, message):
    with pytest.raises(RecipeError, match=message):
        make()


def test_other_allocations_stand_beside_coupled_filters_of_their_own_sparsity():
    layers = {name: {"sparsity": 0.5, "granularity": "filter:group"} for name in ("wide.weight", "deep.weight")}
    plan = planned(granularity="unstructured", allocation="erk", layers=layers)
    assert reasons(plan)["wide.weight"] == (0.5, "named by 'wide.weight', coupled with deep.weight")
    masks = Pruner(plan).step(draw())
    assert dead(masks["wide.weight"]) == dead(masks["deep.weight"])


def test_groups_travel_with_a_recipe_and_are_no_part_of_it():
    recipe = Recipe(sparsity=0.5, granularity="filter:group", groups=list(GROUPS))
    assert recipe.couples
    assert recipe == Recipe(sparsity=0.5, granularity="filter:group")
    assert "groups" not in recipe.to_dict()
    assert repr(recipe) == repr(Recipe(sparsity=0.5, granularity="filter:group"))
    assert pickle.loads(pickle.dumps(recipe)).groups == GROUPS == copy.deepcopy(recipe).groups
    assert recipe.plan(SHAPES) == recipe.plan(SHAPES, groups=GROUPS)
    by_layer = Recipe(layers={"a": {"sparsity": 0.5, "granularity": "filter:group"}})
    assert by_layer.couples
    assert Recipe(sparsity=0.5, granularity_by_axes={"4d": "filter:group"}).couples
    assert not Recipe(sparsity=0.5, granularity="filter").couples


def test_nothing_is_asked_where_nothing_is_coupled():
    assert Recipe(sparsity=0.5, granularity="filter").plan(SHAPES, groups=GROUPS).groups == ()
    kept = Recipe(fix_sparsity=True, granularity="filter:group").plan(SHAPES)
    assert Pruner(kept, draw()).masks["stem.weight"].all()
