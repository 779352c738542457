"""Filters that can only be removed together, in every framework: the groups go in as an argument, the core decides."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mopruning import Pruner, Recipe
from mopruning.coupling import Coupled, FilterGroup
from mopruning.errors import GranularityWarning
from tests.backends.harness import LAYERS, RECIPE, gradients_at, initial_weights
from tests.backends.presence import require
from tests.backends.test_contract import STEPS, assert_pruned, assert_same, harness_module

TURNED = (7, 6, 5, 4, 3, 2, 1, 0)
READ = (*range(8), *(0,) * 12, *(1,) * 20, *(2,) * 24)  # so much of some channels that these stay
GROUPS = (
    FilterGroup(
        8,
        (3,),
        (Coupled("conv.weight", range(8)), Coupled("out.weight", TURNED)),
        (Coupled("conv.bias", range(8)),),
        (Coupled("up.weight", READ), Coupled("hidden.weight", READ)),
    ),
    FilterGroup(
        6,
        (),
        (Coupled("hidden.weight", (0, 1, 2, 3, 4, 5) * 2),),
        (Coupled("hidden.bias", (0, 1, 2, 3, 4, 5) * 2),),
    ),
)
GROUPED = {**RECIPE, "sparsity": 0.5, "granularity": "filter:group", "skip": ["up.weight"]}
"""What reads channels and is not pruned counts all the same."""


def decided(weights: dict[str, np.ndarray], skip: tuple[str, ...] = ("up.weight",)) -> dict[str, np.ndarray]:
    """Return the masks that the core makes of weights at the end of the ramp."""
    shapes = {name: LAYERS[name][1] for name in weights}
    recipe = Recipe.load({**GROUPED, "schedule": {"start": 0}, "skip": [name for name in skip if name in shapes]})
    masks = Pruner(recipe.plan(shapes, groups=GROUPS)).step(weights)
    assert masks is not None
    assert masks["conv.weight"][:4].all()  # channels 0 to 2 for what reads them, 3 as it is fixed
    assert {float(mask.mean()) for mask in masks.values()} == {0.5}
    for name in ("conv", "hidden"):
        if f"{name}.bias" in masks:
            filters = masks[f"{name}.weight"].reshape(len(masks[f"{name}.weight"]), -1)
            np.testing.assert_array_equal(masks[f"{name}.bias"], filters.all(axis=1))
    return dict(masks)


@pytest.mark.parametrize("backend", ["pytorch", "mxnet", "mindspore"])
def test_optimizers_take_groups(backend: str, tmp_path: Path) -> None:
    require(backend)
    harness = harness_module(backend).HARNESS
    case = replace(harness.plain_sgd, options={**harness.plain_sgd.options, "groups": GROUPS})
    weights = initial_weights(case)
    sums = [abs(weights[name]).reshape(8, -1).sum(axis=1) for name in ("conv.weight", "out.weight")]
    filters = sums[0] + sums[1][list(TURNED)]
    assert set(np.argsort(filters)[4:]) != {0, 1, 2, 3}  # what filters alone would say
    straight = harness.sparse(case, weights, GROUPED)
    for step in range(STEPS):
        straight.step(gradients_at(step, weights))
        assert_pruned(straight)
        if step == 4:
            straight.save(tmp_path)
    assert_same(straight.masks(), decided(straight.weights()), "masks")
    assert not straight.weights()["conv.bias"][~straight.masks()["conv.bias"]].any()
    resumed = harness.sparse(case, initial_weights(case, seed=1), GROUPED)
    resumed.load(tmp_path)
    for step in range(5, STEPS):
        resumed.step(gradients_at(step, weights))
    assert_same(resumed.masks(), straight.masks(), "masks")
    assert_same(resumed.weights(), straight.weights(), "weights")


def test_optimizer_and_prune_of_tensorflow1_take_groups() -> None:
    require("tensorflow1")
    import tensorflow.compat.v1 as tf

    from mopruning.backends import tensorflow1

    start = initial_weights(harness_module("tensorflow1").HARNESS.plain_sgd)
    members = Coupled("conv", range(8)), Coupled("out", TURNED)
    reader = Coupled("hidden", READ)
    groups = [FilterGroup(8, (3,), members, (Coupled("conv_bias", range(8)),), (reader,))]
    for make in ("optimizer", "prune"):
        with tf.Graph().as_default(), tf.Session() as session:
            conv = tf.get_variable("conv", initializer=start["conv.weight"].transpose(2, 3, 1, 0))
            out = tf.get_variable("out", initializer=start["out.weight"].T)
            shift = tf.get_variable("conv_bias", initializer=start["conv.bias"])
            hidden = tf.get_variable("hidden", initializer=start["hidden.weight"].T)
            loss = sum(tf.reduce_sum(variable) for variable in (conv, out, shift, hidden))
            if make == "optimizer":
                optimizer = tensorflow1.GradientDescentOptimizerSparse(
                    0.25, target_sparsity=0.5, granularity="filter:group", groups=groups, skip=["hidden"]
                )
                train = optimizer.minimize(loss)
            else:
                train = tensorflow1.Prune(
                    [conv, out, shift, hidden],
                    prune_dict={"conv": 0.5, "out": 0.5},
                    balance="filter:group",
                    groups=groups,
                ).prune_op
            session.run(tf.global_variables_initializer())
            session.run(train)
            kernel, matrix, vector = session.run([conv, out, shift])
        names = ("conv.weight", "out.weight", "conv.bias", "hidden.weight")
        moved = {name: start[name] - np.float32(0.25 if make == "optimizer" else 0) for name in names}
        masks = decided(moved, skip=("hidden.weight",))
        np.testing.assert_array_equal(kernel.transpose(3, 2, 0, 1), moved["conv.weight"] * masks["conv.weight"])
        np.testing.assert_array_equal(matrix.T, moved["out.weight"] * masks["out.weight"])
        np.testing.assert_array_equal(vector, moved["conv.bias"] * masks["conv.bias"])


def test_prune_takes_groups() -> None:
    require("pytorch")
    from mopruning.backends import pytorch

    harness = harness_module("pytorch")
    module = harness.module_with(initial_weights(harness.HARNESS.plain_sgd))
    asked = dict.fromkeys(("conv.weight", "out.weight", "hidden.weight"), 0.5)
    pruner = pytorch.Prune(module, prune_dict=asked, balance="filter:group", groups=GROUPS)
    pruner.prune()
    gone = {name: (dict(module.named_parameters())[name] == 0).flatten(1).all(dim=1).numpy() for name in asked}
    np.testing.assert_array_equal(gone["conv.weight"], gone["out.weight"][::-1])
    np.testing.assert_array_equal(gone["hidden.weight"][:6], gone["hidden.weight"][6:])
    assert (gone["conv.weight"].sum(), gone["conv.weight"][3], gone["hidden.weight"].sum()) == (4, False, 6)
    np.testing.assert_array_equal(gone["conv.weight"], (dict(module.named_parameters())["conv.bias"] == 0).numpy())
    assert pruner.prune_dict == asked
    assert pruner.plan.rows[0].reason == "named by 'conv.weight', coupled with out.weight"
    with pytest.warns(GranularityWarning, match=r"conv.weight .* coupled with out.weight, which stays dense"):
        half = pytorch.Prune(module, prune_dict={"conv.weight": 0.5}, balance="filter:group", groups=GROUPS)
    assert half.prune_dict == {}
