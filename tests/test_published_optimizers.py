"""The published arguments of sparse optimizers load unchanged and plan what their own program would have pruned."""

import math

import numpy as np
import pytest

from mopruning.errors import RecipeError, UnknownNameError
from mopruning.granularity import Balanced, Unstructured
from mopruning.masks import mask
from mopruning.published import SPARSE_BLOCK, from_optimizer_arguments
from mopruning.recipe import Recipe
from mopruning.schedules import Polynomial
from tests.published_network import NET, by_name, targets


def test_optimizer_defaults_are_inactive():
    recipe = from_optimizer_arguments()
    assert not recipe.active
    assert recipe.skip_keywords == ("bias", "beta", "gamma")
    assert recipe.granularity == Unstructured()
    assert recipe.plan(NET).pruned == ()


def test_arguments_of_the_published_example():
    step = 60
    recipe = from_optimizer_arguments(
        target_sparsity=0.8,
        pretrain_step=step * 40,
        sparse_step=step * 80,
        frequency=step / 5,
        keywords_no_sparse=["bias", "bn", "conv1.weight"],
        special_sparsity_dict={"conv2.weight": 0.7},
    )
    assert recipe == Recipe(
        0.8,
        schedule=Polynomial(2400, 4800, 12.0),
        layers={"conv2.weight": 0.7},
        skip_keywords=("bias", "bn", "conv1.weight"),
    )
    assert targets(recipe) == {"conv2.weight": 0.7, "conv3.weight": 0.8, "fc.weight": 0.8}


def test_special_sparsity_that_the_published_example_lost_silently():
    recipe = from_optimizer_arguments(target_sparsity=0.95, special_sparsity_dict={"conv1_weight": 0.7})
    with pytest.raises(UnknownNameError, match=r"special_sparsity_dict: 'conv1_weight' .* did you mean 'conv1.weight'"):
        recipe.plan(NET)


def test_special_sparsity_alone():
    recipe = from_optimizer_arguments(special_sparsity_dict={"fc.weight": 0.5})
    assert recipe.active
    assert targets(recipe) == {"fc.weight": 0.5}


def test_keywords_win_over_special_sparsity():
    recipe = from_optimizer_arguments(
        target_sparsity=0.9, keywords_no_sparse=["fc"], special_sparsity_dict={"fc.weight": 0.5}
    )
    assert by_name(recipe)["fc.weight"].reason == "skipped by keyword 'fc'"


def test_keywords_are_substrings():
    shapes = {
        "block.unbiased.weight": (8, 8),
        "beta/kernel:0": (8, 8),
        "conv2d/kernel:0": (8, 8),
        "dense0_weight": (8, 8),
    }
    assert set(targets(from_optimizer_arguments(target_sparsity=0.5), shapes)) == {"conv2d/kernel:0", "dense0_weight"}
    every = from_optimizer_arguments(target_sparsity=0.5, keywords_no_sparse=[])
    assert set(targets(every, shapes)) == set(shapes)


def test_no_keywords_where_vectors_follow_their_filters():
    assert from_optimizer_arguments(target_sparsity=0.5, granularity="filter:group").skip_keywords == ()
    given = from_optimizer_arguments(target_sparsity=0.5, granularity="filter:group", keywords_no_sparse=["bias"])
    assert given.skip_keywords == ("bias",)


def test_vectors_on_request():
    recipe = from_optimizer_arguments(target_sparsity=0.5, include_1d=True)
    assert set(targets(recipe)) == set(NET)
    recipe = from_optimizer_arguments(target_sparsity=0.5, include_1d=True, keywords_no_sparse=["bias"])
    assert set(targets(recipe)) == {name for name in NET if "bias" not in name}


@pytest.mark.parametrize(
    "arguments", [{"sparse_block": {k: list(v) for k, v in SPARSE_BLOCK.items()}}, {"enable_channel_balance": True}]
)
def test_published_groups(arguments):
    shapes = NET | {"conv4.weight": (256, 128, 3, 3), "conv5.weight": (127, 128, 3, 3), "conv1d.weight": (8, 6, 3)}
    rows = by_name(from_optimizer_arguments(target_sparsity=0.5, **arguments), shapes)
    assert rows["conv4.weight"].granularity == Balanced((-1, 4, -1, 1))
    assert rows["fc.weight"].granularity == Unstructured()  # 10 outputs: the rule is for convolutions
    dense = {"conv1.weight", "conv2.weight", "conv3.weight", "conv5.weight", "conv1d.weight"}
    assert {name for name, row in rows.items() if row.misfit} == dense
    assert "both must be multiples of 4" in rows["conv5.weight"].reason
    scores = np.random.default_rng(0).random((256, 128, 3, 3))
    kept = mask(scores, rows["conv4.weight"].granularity, 0.5)
    assert (kept.reshape(256, 32, 4, 3, 3).sum(axis=(0, 2, 3)) == 256 * 4 * 3 // 2).all()


def test_without_groups_odd_channels_are_pruned():
    for arguments in ({}, {"sparse_block": None}, {"sparse_block": {}}, {"enable_channel_balance": False}):
        assert targets(from_optimizer_arguments(target_sparsity=0.5, **arguments))["conv3.weight"] == 0.5


def test_other_tiles():
    recipe = from_optimizer_arguments(target_sparsity=0.5, sparse_block={"2d": [1, 64], "4d": (1, 4, 1, 1)})
    assert recipe.granularity_by_axes == {"2d": Balanced((1, 64)), "4d": Balanced((1, 4, 1, 1))}
    assert Recipe.load(recipe.to_dict()) == recipe


def test_granularity_of_choice():
    recipe = from_optimizer_arguments(target_sparsity=0.5, granularity="bank:64")
    assert set(targets(recipe)) == {"conv2.weight", "fc.weight"}


def test_the_other_arguments():
    assert from_optimizer_arguments(granularity="2:4").sparsity == 0.5  # N:M says by itself how sparse it is
    assert not from_optimizer_arguments(granularity="2:4", target_sparsity=0.0).active
    assert from_optimizer_arguments(init_sparsity=0.25, target_sparsity=0.5).initial_sparsity == 0.25
    assert from_optimizer_arguments(L1_regularization=True).l1 == 1e-5
    assert from_optimizer_arguments(L1_regularization=True).active
    assert from_optimizer_arguments(L1_regularization=3e-4).l1 == 3e-4
    assert from_optimizer_arguments(L1_regularization=False).l1 == 0.0
    recipe = from_optimizer_arguments(
        target_sparsity=0.5, score="random", seed=3, allocation="global", exponent=1, skip=["fc.*"], max_sparsity=0.9
    )
    assert recipe == Recipe(
        0.5,
        score="random",
        seed=3,
        allocation="global",
        schedule=Polynomial(exponent=1.0),
        skip=("fc.*",),
        max_sparsity=0.9,
        skip_keywords=("bias", "beta", "gamma"),
    )


@pytest.mark.parametrize(
    ("arguments", "restores", "fixes"),
    [
        ({"restore_sparsity": True, "target_sparsity": 0.95}, True, False),
        ({"resume": True, "target_sparsity": 0.95}, True, False),
        ({"restore_sparsity": True, "fix_sparsity": True}, True, True),
        ({"resume": True}, True, True),
        ({"fix_sparsity": True}, False, True),
        ({"finetune": True}, False, True),
        ({"finetune": True, "target_sparsity": 0.95}, False, True),
    ],
)
def test_resuming_and_fine_tuning(arguments, restores, fixes):
    recipe = from_optimizer_arguments(**arguments)
    assert (recipe.restore_sparsity, recipe.fix_sparsity) == (restores, fixes)
    assert recipe.active
    assert set(targets(recipe)) == {"conv1.weight", "conv2.weight", "conv3.weight", "fc.weight"}


def test_the_published_misspelling_of_finetune():
    with pytest.warns(DeprecationWarning, match="'fineune' is a misspelling: write finetune"):
        assert from_optimizer_arguments(fineune=True) == from_optimizer_arguments(finetune=True)
    with pytest.warns(DeprecationWarning, match="fineune"):
        assert not from_optimizer_arguments(fineune=False).active


def test_fractions_of_steps_are_cut_off():
    schedule = from_optimizer_arguments(
        target_sparsity=0.9, pretrain_step=7.9, sparse_step=100.5, frequency=0.2
    ).schedule
    assert schedule == Polynomial(7, 100, 1)
    assert schedule.sparsity(107, 0.0, 0.9) == 0.9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target_sparsity": 1.2}, "target_sparsity must lie from 0 to 1"),
        ({"target_sparsity": "much"}, "target_sparsity must be a number, got 'much'"),
        ({"frequency": "100"}, "frequency must be a number, got '100'"),
        ({"frequency": math.inf}, "frequency must be finite"),
        ({"keywords_no_sparse": 3}, "keywords_no_sparse: expected a list of names"),
        ({"special_sparsity_dict": ["a"]}, "special_sparsity_dict: expected a mapping"),
        ({"special_sparsity_dict": {"a": "2:4"}}, r"special_sparsity_dict\['a'\] must be a number, got '2:4'"),
        ({"sparse_block": [1]}, "sparse_block: expected a mapping"),
        (
            {"sparse_block": {"4d": [1, 4]}},
            r"sparse_block\['4d'\]: expected a list of as many extents as axes, got \[1, 4\]",
        ),
        ({"sparse_block": {"4d": 4}}, r"sparse_block\['4d'\]: expected a list"),
        ({"sparse_block": {"4d": [0, 1, 1, 1]}}, "every extent of the tile"),
        ({"sparse_block": SPARSE_BLOCK, "granularity": "filter"}, "granularity and sparse_block .* give one"),
        ({"enable_channel_balance": True, "granularity": "filter"}, "enable_channel_balance.* give one"),
        ({"enable_channel_balance": "yes"}, "enable_channel_balance must be true or false"),
        ({"resume": 1}, "resume must be true or false"),
        ({"L1_regularization": -1.0}, "L1_regularization must be 0 or more"),
        ({"L1_regularization": "yes"}, "L1_regularization must be a number"),
        ({"init_sparsity": 3}, "init_sparsity must lie from 0 to 1"),
        ({"target_sparsity": 0.9, "exponent": 0}, "exponent"),
    ],
)
def test_bad_arguments_of_optimizers(arguments, message):
    with pytest.raises(RecipeError, match=message):
        from_optimizer_arguments(**arguments)
