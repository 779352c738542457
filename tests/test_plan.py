"""Plans: every parameter with what happens to it and why; names that match nothing are errors."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mopruning.counting import zeros_of
from mopruning.errors import RecipeError, UnknownNameError
from mopruning.granularity import NM, BankBalanced, Filter, KernelPattern, Stripe, Unstructured
from mopruning.names import Names, stripped
from mopruning.recipe import LayerRule, Recipe
from tests.plan_network import SHAPES, WIDE, by_name

# --- what is left dense, and why


def test_every_parameter_has_one_row_in_order():
    plan = Recipe(0.9).plan(SHAPES)
    assert [(row.name, row.shape) for row in plan.rows] == list(SHAPES.items())
    assert [row.name for row in plan.pruned] == WIDE


def test_reasons():
    recipe = Recipe(
        0.9, "bank:64", skip=["conv2.*"], skip_keywords=["fc"], layers={"conv1.weight": LayerRule(0.0, Unstructured())}
    )
    rows = by_name(recipe)
    assert {name: row.reason for name, row in rows.items() if row.granularity is None} == {
        "conv1.weight": "sparsity 0, named by 'conv1.weight'",
        "conv1.bias": "1-D (bias or normalisation)",
        "bn1.weight": "1-D (bias or normalisation)",
        "bn1.bias": "1-D (bias or normalisation)",
        "conv2.weight": "skipped by 'conv2.*'",
        "conv3.weight": BankBalanced(64).misfit((256, 127, 1, 1)),
        "fc.weight": "skipped by keyword 'fc'",
        "fc.bias": "1-D (bias or normalisation)",
        "scale": "a single number",
        "empty.weight": "no elements",
    }
    assert [name for name, row in rows.items() if row.misfit] == ["conv3.weight"]
    assert all(row.target is None for row in rows.values() if row.granularity is None)


def test_parameters_that_the_recipe_does_not_name_stay_dense():
    rows = by_name(Recipe(layers={"conv2.weight": 0.9}))
    assert rows["conv2.weight"].target == 0.9
    assert rows["fc.weight"].reason == "not named in the recipe"
    assert rows["fc.bias"].reason == "1-D (bias or normalisation)"
    assert {row.reason for name, row in by_name(Recipe()).items() if name in WIDE} == {"not named in the recipe"}


def test_sparsity_zero_is_said():
    rows = by_name(Recipe(0.0))
    assert {rows[name].reason for name in WIDE} == {"sparsity 0, sparsity of the recipe"}
    for allocation in ("global", "erk", "lamp"):
        assert Recipe(0.0, allocation=allocation).plan(SHAPES).pruned == ()


def test_vectors_are_pruned_on_request():
    rows = by_name(Recipe(0.5, include_1d=True, skip_keywords=["bias"]))
    assert rows["bn1.weight"].target == 0.5
    assert rows["bn1.bias"].reason == "skipped by keyword 'bias'"
    assert rows["scale"].reason == "a single number"


def test_vectors_named_one_by_one_stay_dense_all_the_same():
    rows = by_name(Recipe(layers=dict.fromkeys(SHAPES, 0.5)))
    assert rows["fc.bias"].granularity is None
    assert by_name(Recipe(layers=dict.fromkeys(SHAPES, 0.5), include_1d=True))["fc.bias"].target == 0.5


def test_frozen_parameters_need_their_exact_name():
    frozen = ["module.conv2.weight", "fc.weight", "conv1.weight"]
    rows = by_name(Recipe(0.5, layers={"conv2.weight": 0.9, "fc.*": 0.8}), frozen=frozen)
    assert rows["conv2.weight"].target == 0.9
    assert rows["fc.weight"].reason == rows["conv1.weight"].reason == "frozen"
    assert rows["conv3.weight"].target == 0.5


def test_skip_wins_over_an_exact_name():
    assert by_name(Recipe(layers={"fc.weight": 0.9}, skip=["fc.*"]))["fc.weight"].reason == "skipped by 'fc.*'"


def test_odd_channels_stay_dense_where_the_recipe_says_so():
    rows = by_name(Recipe(0.5, channel_multiple=4))
    assert rows["conv1.weight"].reason == "64 output and 3 input channels, both must be multiples of 4"
    assert rows["conv3.weight"].misfit
    assert rows["conv2.weight"].target == rows["fc.weight"].target == 0.5  # 10 outputs, but no convolution


# --- names


@pytest.mark.parametrize(
    ("setting", "where"),
    [
        ({"layers": {"conv2_weight": 0.5}}, "layers"),
        ({"skip": ["conv2_weight"]}, "skip"),
        ({"bn_scales": {"conv2_weight": "bn1.weight"}}, "bn_scales"),
    ],
)
def test_names_that_match_nothing_are_errors_with_the_nearest(setting, where):
    with pytest.raises(
        UnknownNameError, match=f"{where}: 'conv2_weight' matches no parameter; did you mean 'conv2.weight'"
    ):
        Recipe(0.5, **setting).plan(SHAPES)


def test_globs_that_match_nothing_are_errors():
    for setting in ({"layers": {"conv9.*": 0.5}}, {"skip": ["conv9.*"]}):
        with pytest.raises(UnknownNameError, match=r"'conv9\.\*' matches no parameter; did you mean"):
            Recipe(0.5, **setting).plan(SHAPES)
    with pytest.raises(UnknownNameError, match="there are no parameters at all"):
        Recipe(0.5, skip=["*"]).plan({})


def test_keywords_need_not_match():
    assert len(Recipe(0.5, skip_keywords=["gamma"]).plan(SHAPES).pruned) == len(WIDE)


def test_the_name_of_the_mapping_is_the_callers():
    with pytest.raises(UnknownNameError, match=r"^prune_dict: 'x' matches no parameter"):
        Recipe(layers={"x": 0.5}, layers_from="prune_dict").plan(SHAPES)


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "_orig_mod.module.", "module._orig_mod."])
@pytest.mark.parametrize("theirs", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_wrapper_prefixes_do_not_matter(prefix, theirs):
    shapes = {theirs + name: shape for name, shape in SHAPES.items()}
    recipe = Recipe(
        layers={prefix + "conv2.weight": 0.5, prefix + "fc.*": 0.8},
        skip=[prefix + "conv1.*"],
        skip_keywords=[prefix + "conv3.weight"],
        bn_scales={prefix + "conv1.weight": prefix + "bn1.weight"},
    )
    plan = recipe.plan(shapes)
    assert {row.name: row.target for row in plan.pruned} == {theirs + "conv2.weight": 0.5, theirs + "fc.weight": 0.8}
    reasons = {stripped(row.name): row.reason for row in plan.rows}
    assert reasons["conv1.weight"] == f"skipped by {prefix + 'conv1.*'!r}"
    assert reasons["conv3.weight"] == f"skipped by keyword {prefix + 'conv3.weight'!r}"
    assert plan.recipe.bn_scales == {theirs + "conv1.weight": theirs + "bn1.weight"}


def test_stripping():
    assert stripped("features._orig_mod.0.weight") == "features.0.weight"
    assert stripped("head.module.weight") == "head.module.weight"
    assert [stripped(name) for name in ("module", "module.", "_orig_mod", "weight")] == [
        "module",
        "module.",
        "_orig_mod",
        "weight",
    ]


def test_a_module_that_is_called_module():
    names = Names(["module.weight", "other.weight"])
    assert names.find("module.*") == (["module.weight"], False)
    assert names.find("module.weight") == (["module.weight"], True)
    assert names.find("weight") == (["module.weight"], True)
    both = Names(["module.a", "a"])
    assert both.find("a") == (["a"], True)
    assert both.find("_orig_mod.a") == (["module.a", "a"], True)


def test_a_name_with_brackets_is_a_name_first():
    assert Names(["w[0]", "w0"]).find("w[0]") == (["w[0]"], True)
    assert Names(["w1", "w0"]).find("w[0]") == (["w0"], False)


def test_two_names_of_one_parameter_are_refused():
    with pytest.raises(RecipeError, match=r"'fc.weight' and 'module.fc.weight' name the same parameter"):
        Recipe(layers={"fc.weight": 0.5, "module.fc.weight": 0.9}).plan(SHAPES)


@pytest.mark.parametrize("turned", [False, True])
def test_the_more_specific_rule_wins_in_any_order(turned):
    rules = {"*": 0.1, "*.weight": 0.2, "conv*.weight": 0.3, "conv2.weight": 0.4}
    layers = dict(reversed(rules.items())) if turned else rules
    rows = by_name(Recipe(layers=layers))
    assert [rows[name].target for name in WIDE] == [0.3, 0.4, 0.3, 0.2]
    assert rows["conv2.weight"].reason == "named by 'conv2.weight'"


def test_of_equally_long_globs_the_later_wins():
    layers = {"fc.*": 0.1, "*ght": 0.2}
    assert by_name(Recipe(0.5, layers=layers))["fc.weight"].target == 0.2
    assert by_name(Recipe(0.5, layers=dict(reversed(layers.items()))))["fc.weight"].target == 0.1


def test_rules_fill_each_other_in():
    layers = {"*": 0.9, "conv*": "filter", "conv2.weight": 0.5, "conv3.weight": {"granularity": "unstructured"}}
    rows = by_name(Recipe(layers=layers))
    assert [(rows[name].granularity, rows[name].target) for name in WIDE] == [
        (Filter(), 0.9),
        (Filter(), 0.5),
        (Unstructured(), 0.9),
        (Unstructured(), 0.9),
    ]


# --- how much


def test_granularity_by_number_of_axes():
    rows = by_name(Recipe(0.5, "filter", granularity_by_axes={"4d": "stripe"}, layers={"conv3.weight": "unstructured"}))
    assert [rows[name].granularity for name in WIDE] == [Stripe(), Stripe(), Unstructured(), Filter()]


def test_a_target_above_what_the_granularity_holds_is_capped_and_said():
    row = by_name(Recipe(0.9, layers={"conv2.weight": "2:4"}))["conv2.weight"]
    assert row.target == 0.5
    assert row.reason == "named by 'conv2.weight', sparsity of the recipe, 2:4 holds at most 0.5 (asked 0.9)"


def test_nm_without_any_sparsity_has_its_own():
    rows = by_name(Recipe(layers={"conv2.weight": "2:4", "fc.weight": "m8n1"}))
    assert (rows["conv2.weight"].target, rows["fc.weight"].target) == (0.5, 0.875)
    assert by_name(Recipe(granularity="1:4"))["fc.weight"].target == 0.75
    assert by_name(Recipe(0.25, layers={"fc.weight": "2:4"}))["fc.weight"].target == 0.25


def test_a_granularity_without_any_sparsity_is_an_error():
    with pytest.raises(RecipeError, match=r"layers\['fc.weight'\]: filter needs a sparsity, such as 0.9; got none"):
        Recipe(layers={"fc.weight": "filter"}).plan(SHAPES)


def test_a_target_that_rounds_to_nothing_is_said():
    row = by_name(Recipe(0.2, "2:4"))["fc.weight"]
    assert row.target == 0.2
    assert row.reason == "sparsity of the recipe, too little for one zero in 2:4"


@pytest.mark.parametrize("allocation", ["global", "lamp"])
def test_thresholds_over_layers_wait_for_the_weights(allocation):
    rows = by_name(Recipe(0.9, allocation=allocation, layers={"fc.weight": 0.5, "conv2.weight": "bank:64"}))
    assert rows["fc.weight"].target == 0.5
    assert rows["conv1.weight"].target is None
    assert (
        rows["conv1.weight"].reason == f"sparsity of the recipe shared out as {allocation}, decided at each mask update"
    )
    assert (rows["conv2.weight"].granularity, rows["conv2.weight"].target) == (BankBalanced(64), None)


def test_erk_reaches_the_total_over_what_it_shares_out():
    recipe = Recipe(0.8, allocation="erk", layers={"fc.weight": 0.25}, skip=["conv1.*"])
    rows = by_name(recipe)
    assert rows["fc.weight"].target == 0.25
    shared = ["conv2.weight", "conv3.weight"]
    zeros = sum(zeros_of(rows[name].target, math.prod(SHAPES[name])) for name in shared)
    assert zeros == zeros_of(0.8, sum(math.prod(SHAPES[name]) for name in shared))
    assert rows["conv2.weight"].target != rows["conv3.weight"].target


def test_erk_says_what_it_leaves_dense():
    row = by_name(Recipe(0.5, allocation="erk"), {"a": (100, 100), "b": (4, 4)})["b"]
    assert row.granularity is None
    assert row.reason == "sparsity 0, sparsity of the recipe shared out as erk"


def test_bounds_out_of_reach_are_an_error():
    with pytest.raises(RecipeError, match="cannot be reached"):
        Recipe(0.9, max_sparsity=0.5).plan(SHAPES)
    assert by_name(Recipe(0.4, max_sparsity=0.5, layers={"fc.weight": 0.9}))["fc.weight"].target == 0.9


def test_fixed_sparsity_keeps_every_zero():
    rows = by_name(Recipe(fix_sparsity=True, granularity="bank:64", skip=["fc.*"]))
    assert (rows["conv2.weight"].granularity, rows["conv2.weight"].target) == (BankBalanced(64), None)
    assert rows["conv3.weight"].granularity == Unstructured()  # banks do not fit it, but its zeros stay zeros
    assert {rows[name].reason for name in WIDE[:3]} == {"keeps the zeros it has"}
    assert rows["fc.weight"].reason == "skipped by 'fc.*'"
    assert rows["fc.bias"].granularity is None


def test_fixed_sparsity_heeds_what_is_named():
    assert [row.name for row in Recipe(fix_sparsity=True, layers={"fc.weight": 0.9}).plan(SHAPES).pruned] == [
        "fc.weight"
    ]
    for sparsity in (0.0, 0.9):
        plan = Recipe(sparsity, fix_sparsity=True, layers={"fc.weight": 0.9}, allocation="erk").plan(SHAPES)
        assert [row.name for row in plan.pruned] == WIDE
        assert {row.target for row in plan.pruned} == {None}


def test_bn_scales_name_single_parameters():
    with pytest.raises(RecipeError, match=r"bn_scales: 'bn1\.\*' matches 2 parameters, expected one name"):
        Recipe(0.5, bn_scales={"conv1.weight": "bn1.*"}).plan(SHAPES)


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.text("abc.", min_size=1, max_size=6),
        st.lists(st.integers(0, 8), max_size=5).map(tuple),
        max_size=6,
    ),
    st.floats(0, 1),
    st.sampled_from([Unstructured(), BankBalanced(4), NM(2, 4), Filter(), Stripe(), KernelPattern()]),
    st.sampled_from(["uniform", "global", "erk", "lamp"]),
    st.booleans(),
    st.data(),
)
def test_nothing_is_silent(shapes, sparsity, granularity, allocation, fix, data):
    named = data.draw(st.lists(st.sampled_from(sorted(shapes)), unique=True)) if shapes else []
    layers = dict.fromkeys(named, 0.5)
    recipe = Recipe(sparsity, granularity, allocation=allocation, layers=layers, fix_sparsity=fix)
    plan = recipe.plan(shapes, frozen=list(shapes)[:1])
    assert [(row.name, row.shape) for row in plan.rows] == list(shapes.items())
    for row in plan.rows:
        assert row.reason
        if row.granularity is None:
            assert row.target is None
        else:
            assert len(row.shape) > 1
            assert row.granularity.misfit(row.shape) is None
            assert row.target is None or 0.0 < row.target <= row.granularity.ceiling()
    assert plan.difference(json.loads(json.dumps(plan.to_dict()))) == []
