"""Filters of several weights that can only be removed together: how they are chosen, at once and in time."""

from __future__ import annotations

import dataclasses
import doctest
import json
import math
from fractions import Fraction

import array_api_strict
import numpy as np
import pytest

from mopruning import Filter, Pruner, Recipe, coupling, mask
from mopruning import coupled_masks as module
from mopruning.coupled_masks import coupled_masks
from mopruning.coupling import Coupled, FilterGroup
from mopruning.errors import RecipeError, StateError, WeightError
from tests.coupled_network import GROUPS, RAMP, SHAPES, TURNED, dead, draw, planned, reasons


def by_fractions(group, scores, zeros):
    """Choose the channels that go, in exact arithmetic: the least sums, of equal ones the later."""
    totals = [Fraction(0)] * group.channels
    for member in group.members:
        for channel, filter_scores in zip(member.channels, scores[member.name], strict=True):
            if channel >= 0:
                totals[channel] += sum(Fraction(float(s)) for s in np.ravel(filter_scores))
    may = [channel for channel in range(group.channels) if channel not in group.fixed]
    return sorted(sorted(may, key=lambda channel: (totals[channel], -channel))[:zeros])


def test_doctests():
    assert doctest.testmod(coupling).failed == 0


@pytest.mark.parametrize("coarse", [False, True], ids=["distinct", "many ties"])
def test_channels_of_the_least_sums_go_in_every_member(coarse):
    for seed in range(20):
        scores = {name: abs(array) for name, array in draw(seed).items()}
        scores["block.weight"] *= np.float32(2.0**-20)  # another scale, which must neither drown nor count double
        if coarse:
            scores = {name: np.round(array * 2) / 2 for name, array in scores.items()}
        masks = coupled_masks(GROUPS[:1], scores.__getitem__, dict.fromkeys(SHAPES, 0.5))
        gone = by_fractions(GROUPS[0], scores, 4)
        assert dead(masks["stem.weight"]) == gone
        assert [TURNED[i] for i in dead(masks["block.weight"])] == [c for c in TURNED if c in gone]
        assert 2 not in gone


def test_a_sum_counts_every_member():
    scores = {"a": np.array([[1.0, 2.0], [3.0, 0.0], [0.5, 0.0]]), "b": np.array([[0.0], [1.5], [2.0]])}
    group = FilterGroup(3, (), (Coupled("a", range(3)), Coupled("b", range(3))))
    masks = coupled_masks([group], scores.__getitem__, {"a": 0.34, "b": 0.34})  # 3, 4.5 and 2.5
    assert {name: dead(one) for name, one in masks.items()} == {"a": [2], "b": [2]}
    equal = {"a": scores["a"], "b": np.array([[1.5], [0.0], [4.0]])}  # 4.5, 3 and 4.5
    assert dead(coupled_masks([group], equal.__getitem__, {"a": 0.67, "b": 0.67})["b"]) == [1, 2]


def test_what_reads_a_channel_multiplies_its_score():
    scores = {"a": np.array([[3.0, 1.0], [2.0, 0.0], [0.0, 1.0], [0.0, 0.0]])}  # 4, 2, 1, 0
    reading = {
        "b": np.array([[[1.0], [0.5], [1.0], [9.0]], [[0.0], [1.5], [1.0], [9.0]]]),
        "c": np.array([[0.0, 0.0, 9.0, 1.0, 0.0, 0.0, 1.0, 1.0]]),  # two inputs a channel: those of c are flattened
    }
    readers = Coupled("b", range(4)), Coupled("c", (3, 3, -1, 0, 1, 1, 2, 2))
    group = FilterGroup(4, (), (Coupled("a", range(4)),), readers=readers)  # read by 2, 2, 4 and 18: 8, 4, 4 and 0
    chosen = {
        sparsity: dead(coupled_masks([group], scores.__getitem__, {"a": sparsity}, None, reading.__getitem__)["a"])
        for sparsity in (0.25, 0.5, 0.75)
    }
    assert chosen == {0.25: [3], 0.5: [2, 3], 0.75: [1, 2, 3]}
    assert dead(coupled_masks([group], scores.__getitem__, {"a": 0.5})["a"]) == [2, 3]
    swapped = {"b": reading["b"][:, [0, 2, 1, 3]], "c": reading["c"][:, [0, 1, 2, 3, 6, 7, 4, 5]]}  # 8, 8, 2 and 0
    assert dead(coupled_masks([group], scores.__getitem__, {"a": 0.5}, None, swapped.__getitem__)["a"]) == [2, 3]
    loud = {"b": reading["b"] * [[1.0], [0.1], [50.0], [1.0]], "c": reading["c"]}
    assert dead(coupled_masks([group], scores.__getitem__, {"a": 0.5}, None, loud.__getitem__)["a"]) == [1, 3]


def test_readers_count_where_they_read_every_channel_that_may_go():
    scores = {"a": np.array([[4.0], [2.0], [1.0]])}
    reading = {"b": np.array([[0.0, 9.0, 9.0]])}
    for channels, fixed, gone in (((0, 1, 2), (), 0), ((0, 1, -1), (), 2), ((0, 1, -1), (2,), 0)):
        group = FilterGroup(3, fixed, (Coupled("a", range(3)),), readers=(Coupled("b", channels),))
        masks = coupled_masks([group], scores.__getitem__, {"a": 0.34}, None, reading.__getitem__)
        assert dead(masks["a"]) == [gone]
        assert set(masks) == {"a"}  # nothing goes in a reader


@pytest.mark.parametrize("score", ["magnitude", "random"])
def test_a_pruner_needs_what_reads_by_magnitude(score):
    group = dataclasses.replace(GROUPS[1], readers=(Coupled("free.weight", range(12)),))
    dense = {"skip": ["free.weight"], "score": score}
    with_it, without = (planned(groups=(one,), **dense) for one in (group, GROUPS[1]))
    assert "free.weight" not in Pruner(without).needed
    assert ("free.weight" in Pruner(with_it).needed) == (score == "magnitude")
    weights = draw()
    given = {name: weights[name] for name in Pruner(with_it).needed}
    read, alone = (dead(Pruner(one).step(given)["wide.weight"]) for one in (with_it, without))
    assert (read == alone) == (score == "random")
    filters = sum(abs(weights[name]).reshape(12, -1).sum(axis=1) for name in group.names)
    expected = np.argsort(filters * abs(weights["free.weight"]).sum(axis=0))[:6]
    assert score == "random" or read == sorted(expected.tolist())


def test_a_channel_that_is_gone_stays_so_however_it_is_read():
    group = dataclasses.replace(GROUPS[1], readers=(Coupled("free.weight", range(12)),))
    pruner = Pruner(planned(groups=(group,), schedule=RAMP))
    weights, gone = draw(), set()
    for _ in range(6):
        masks = pruner.step(weights)
        if masks is None:
            continue
        weights = {name: array * masks.get(name, 1) for name, array in weights.items()}
        now = set(dead(masks["wide.weight"]))
        assert gone <= now
        gone = now
        weights["free.weight"][:, sorted(gone)] = 100.0  # what reads them trains on
    assert len(gone) == 6


@pytest.mark.parametrize(
    ("readers", "message"),
    [
        ((Coupled("free.weight", range(6)),), "'free.weight' has 12 inputs here, 6 in the group that it reads"),
        ((Coupled("stem.bias", range(12)),), "'stem.bias' has 0 inputs here, 12 in the group"),
    ],
)
def test_readers_of_another_network(readers, message):
    with pytest.raises(RecipeError, match=message):
        planned(groups=(dataclasses.replace(GROUPS[1], readers=readers),))
    assert planned(groups=(dataclasses.replace(GROUPS[1], readers=(Coupled("elsewhere", range(3)),)),)) == planned(
        groups=GROUPS[1:2]
    )


def test_neither_library_nor_order_of_members_makes_a_difference(torch, device, monkeypatch):
    """Sums that differ in the last bits of float32, made of the same weights in other places."""
    to_host = module.on_host  # array-api-strict stands for a device of which it says nothing itself
    strict = type(array_api_strict.asarray(0.0))
    monkeypatch.setattr(module, "on_host", lambda a: np.asarray(a) if isinstance(a, strict) else to_host(a))
    random = np.random.default_rng(0)
    names = ("a", "b", "c")
    naive = 0
    for _ in range(200):
        one = abs(random.standard_normal(60)).astype(np.float32)
        channels = np.array([random.permutation(one) for _ in range(6)])
        nudged = int(random.integers(6))
        channels[nudged, random.integers(60)] *= np.float32(1 + 2**-21)
        scores = {"a": channels[:, :9].reshape(6, 1, 3, 3), "b": channels[:, 9:12], "c": channels[:, 12:]}
        first = [nudged, *(i for i in range(6) if i != nudged)][:3]
        naive += sorted(np.argsort(-sum(s.reshape(6, -1).sum(axis=1) for s in scores.values()))[:3]) != sorted(first)
        for order, convert in (
            (names, np.asarray),
            (names[::-1], np.asarray),
            (names, array_api_strict.asarray),
            (("b", "c", "a"), lambda array: torch.from_numpy(array.copy()).to(device)),
        ):
            group = FilterGroup(6, (), tuple(Coupled(name, range(6)) for name in order))
            masks = coupled_masks(
                [group], {n: convert(s) for n, s in scores.items()}.__getitem__, dict.fromkeys("abc", 0.5)
            )
            for name, found in masks.items():
                assert type(found) is type(convert(scores[name]))
                keep = np.asarray(found.cpu() if hasattr(found, "cpu") else found)
                assert keep.shape == scores[name].shape
                assert sorted({*range(6)} - {*dead(keep)}) == sorted(first)
    assert naive > 20  # so the cases are near enough to matter


def test_mask_lies_where_its_weight_lies(torch, device):
    weights = {"a": np.ones((3, 2, 1, 1)), "b": torch.ones((3, 4), dtype=torch.bfloat16, device=device)}
    group = FilterGroup(3, (), (Coupled("a", range(3)), Coupled("b", range(3))))
    masks = coupled_masks([group], weights.__getitem__, {"a": 0.4, "b": 0.4})
    assert (masks["a"].dtype, masks["a"].flags.c_contiguous, masks["a"].flags.writeable) == (np.bool_, True, True)
    assert (masks["b"].dtype, masks["b"].device, masks["b"].is_contiguous()) == (torch.bool, weights["b"].device, True)
    assert dead(masks["a"]) == dead(masks["b"].cpu()) == [2]


def test_a_filter_alone_goes_as_with_filter():
    plan = planned(groups=GROUPS[2:], layers={"free.weight": 0.4})
    weights = draw(3)
    masks = Pruner(plan).step(weights)
    for name in ("stem.weight", "wide.weight", "free.weight"):
        target = 0.4 if name == "free.weight" else 0.5
        np.testing.assert_array_equal(masks[name], mask(abs(weights[name]), "filter", target))
        np.testing.assert_array_equal(mask(abs(weights[name]), Filter(group=True), target), masks[name])


@pytest.mark.parametrize(
    ("sparsity", "fixed", "zeros"), [(0.29, (), 2), (0.5, (0, 1), 4), (0.9, (0, 4), 6), (1.0, (), 8)]
)
def test_counts(sparsity, fixed, zeros):
    group = FilterGroup(8, fixed, (Coupled("a", range(8)), Coupled("b", range(8))))
    plan = Recipe(sparsity=sparsity, granularity="filter:group").plan({"a": (8, 3), "b": (8, 5)}, groups=[group])
    masks = Pruner(plan).step(draw(0, {"a": (8, 3), "b": (8, 5)}))
    assert dead(masks["a"]) == dead(masks["b"])
    assert len(dead(masks["a"])) == zeros
    assert not {*dead(masks["a"])} & {*fixed}
    assert ("only 6 of 8 channels may go" in plan.rows[0].reason) == (sparsity == 0.9)


def test_several_filters_of_a_channel_and_several_groups_of_a_weight():
    """A shuffle ties filters of one weight; of stacked projections a third each belongs to a group."""
    shapes = {"shuffled": (6, 4), "stacked": (9, 4), "after": (3, 9)}
    groups = (
        FilterGroup(3, (), (Coupled("shuffled", (0, 1, 2, 0, 1, 2)),)),
        FilterGroup(3, (), (Coupled("stacked", (0, 1, 2, -1, -1, -1, -1, -1, -1)), Coupled("after", (0, 1, 2)))),
        FilterGroup(3, (0, 1, 2), (Coupled("stacked", (-1, -1, -1, 0, 1, 2, -1, -1, -1)),)),
    )
    plan = Recipe(sparsity=0.67, granularity="filter:group").plan(shapes, groups=groups)
    masks = Pruner(plan).step(weights := draw(1, shapes))
    assert len(dead(masks["shuffled"])) == 4
    assert [i % 3 for i in dead(masks["shuffled"])] == 2 * dead(masks["shuffled"])[:2]
    gone = dead(masks["stacked"])
    assert [i for i in gone if i < 6] == dead(masks["after"])
    assert len(dead(masks["after"])) == 2
    rest = mask(abs(weights["stacked"][6:]), "filter", 0.67)
    assert [i - 6 for i in gone if i >= 6] == dead(rest)
    assert reasons(plan)["stacked"][1].endswith("3 filters coupled with after, 3 filters every channel must stay"), (
        reasons(plan)["stacked"]
    )


@pytest.mark.parametrize("scale", [3e-308, 1.0, 1e300])
def test_range_of_float64_is_no_limit(scale):
    scores = {"a": np.array([[3.0], [1.0], [2.0]]) * scale, "b": np.full((3, 5), 1e-300), "c": np.zeros((3, 0, 2))}
    group = FilterGroup(3, (), tuple(Coupled(name, range(3)) for name in scores))
    assert dead(coupled_masks([group], scores.__getitem__, dict.fromkeys("abc", 0.67))["a"]) == [1, 2]
    nothing = {name: 0 * array for name, array in scores.items()}
    assert dead(coupled_masks([group], nothing.__getitem__, dict.fromkeys("abc", 0.34))["a"]) == [2]


def test_what_cannot_be_ranked_is_named():
    weights = draw()
    weights["block.weight"][0, 0, 0, 0] = np.nan
    with pytest.raises(WeightError, match=r"block\.weight: 1 NaN"):
        Pruner(planned()).step(weights)


# --- time


SCORES = ("magnitude", "movement", "taylor", "fpgm", "random", "bn_scale")


@pytest.mark.parametrize("score", SCORES)
def test_ramps_and_resumed_runs(score):
    """Filters stay whole and paired at every step, none revives, and a resumed run is the uninterrupted one."""
    more = {}
    if score == "bn_scale":
        weights = ("stem", "block", "wide", "deep", "free")
        more = {"bn_scales": {f"{name}.weight": f"{name}.gamma" for name in weights}, "skip": ["head.weight"]}
    shapes = SHAPES | {key: SHAPES[name][:1] for name, key in more.get("bn_scales", {}).items()}
    recipe = Recipe(sparsity=0.75, granularity="filter:group", schedule=RAMP, score=score, **more)
    plan = recipe.plan(shapes, groups=GROUPS)
    straight, weights = Pruner(plan), draw(0, shapes)
    if more:
        weights = {name: abs(array) for name, array in weights.items()}
    counts = []
    for step in range(6):
        noise = draw(step + 1, shapes)
        before = straight.masks
        moved = {n: w + np.float32(0.05) * noise[n] for n, w in weights.items()}
        if straight.wants_gradients:
            straight.observe(moved, noise)
        straight.step(moved)
        weights = {n: np.where(straight.masks.get(n, True), w, np.float32(0)) for n, w in moved.items()}
        if straight.masks:
            counts.append(len(dead(straight.masks["wide.weight"])))
            assert dead(straight.masks["wide.weight"]) == dead(straight.masks["deep.weight"])
            assert {*dead(straight.masks["stem.weight"])} == {TURNED[i] for i in dead(straight.masks["block.weight"])}
            assert 2 not in dead(straight.masks["stem.weight"])
            for name, keep in straight.masks.items():
                assert not (keep & ~before.get(name, np.True_)).any(), f"{name} revived at step {step + 1}"
        if step == 2:
            state = straight.state_dict()
            resumed, there = Pruner(plan), weights
            resumed.load_state_dict({**state, "plan": json.loads(json.dumps(state["plan"]))})
        if step > 2:
            there = {n: w + np.float32(0.05) * noise[n] for n, w in there.items()}
            if resumed.wants_gradients:
                resumed.observe(there, noise)
            resumed.step(there)
            there = {n: np.where(resumed.masks.get(n, True), w, np.float32(0)) for n, w in there.items()}
    assert counts == [0, 0, 4, 4, 9, 9]
    for name, keep in straight.masks.items():
        np.testing.assert_array_equal(resumed.masks[name], keep)


def test_existing_zeros_start_the_ramp_where_all_members_have_them():
    weights = draw()
    for name in ("wide.weight", "deep.weight"):
        weights[name][[1, 5, 7]] = 0.0
    weights["stem.weight"][:4] = 0.0  # and none in its partner
    plan = planned(sparsity=0.75, restore_sparsity=True, schedule={"length": 4, "frequency": 2, "exponent": 1.0})
    pruner = Pruner(plan, weights)
    assert dead(pruner.masks["deep.weight"]) == [1, 5, 7]
    pruner.update(weights)
    assert dead(pruner.masks["deep.weight"]) == dead(pruner.masks["wide.weight"]) == [1, 5, 7]
    assert dead(pruner.masks["stem.weight"]) == []
    for _ in range(4):
        pruner.step(weights)
    assert len(dead(pruner.masks["deep.weight"])) == math.floor(0.75 * 12)
    assert {1, 5, 7} <= {*dead(pruner.masks["deep.weight"])}


def test_parameters_that_join_later_join_their_group():
    recipe = Recipe(sparsity=0.5, granularity="filter:group", groups=GROUPS)
    first = {name: shape for name, shape in SHAPES.items() if name != "deep.weight"}
    pruner, weights = Pruner(recipe.plan(first)), draw()
    pruner.step(weights)
    assert "wide.weight" not in pruner.masks
    pruner.replan(recipe.plan(SHAPES))
    pruner.step(weights)
    assert dead(pruner.masks["wide.weight"]) == dead(pruner.masks["deep.weight"])
    assert len(dead(pruner.masks["deep.weight"])) == 6


def test_a_state_belongs_to_its_groups():
    plan = planned()
    pruner = Pruner(plan)
    pruner.step(draw())
    state = pruner.state_dict()
    assert state["plan"]["groups"][0] == {
        "channels": 8,
        "fixed": [2],
        "members": {"stem.weight": None, "block.weight": list(TURNED)},
    }
    other = planned(groups=(FilterGroup(8, (), GROUPS[0].members), *GROUPS[1:]))
    with pytest.raises(StateError, match=r"filters of stem.weight, block.weight are coupled so here only"):
        Pruner(other).load_state_dict(state)
    assert len(plan.difference(other.to_dict())) == 2
    assert plan.difference(plan.to_dict() | {"groups": [{}]})[0].startswith("the other plan is damaged")
    before = planned(granularity="filter").to_dict()  # of a version, or a recipe, that knows no groups
    assert "groups" not in before
    assert "stem.weight: granularity filter:group here, filter there" in plan.difference(before)


def test_a_wrapper_may_come_between():
    """Saved under data parallel, loaded without it, with groups that were read off the bare network either way."""
    wrapped = {f"module.{name}": shape for name, shape in SHAPES.items()}
    recipe = Recipe(sparsity=0.5, granularity="filter:group", groups=GROUPS)
    pruner = Pruner(recipe.plan(wrapped))
    masks = pruner.step({f"module.{name}": array for name, array in draw().items()})
    bare = Pruner(recipe.plan(SHAPES))
    bare.load_state_dict(pruner.state_dict())
    np.testing.assert_array_equal(bare.masks["block.weight"], masks["module.block.weight"])
