"""Shards: every rank finds its part of the mask of the whole, bit for bit, and no rank sees a whole parameter."""

import doctest

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mopruning import Pruner, Recipe, mask, sharded_granularity, sharded_selection, shards, sparsity
from mopruning.coupling import Coupled, FilterGroup
from mopruning.errors import RecipeError, StateError, WeightError
from mopruning.granularity import parse_granularity
from mopruning.selection import keep_largest
from mopruning.sharding import Sharded
from mopruning.shards import Shard
from tests.threaded_ranks import Together, chunks
from tests.threaded_ranks import shards as shards_of

# granularity, shape, shared axis
CASES = [
    ("unstructured", (7, 5), 0),
    ("unstructured", (11,), 0),
    ("unstructured", (4, 6, 3, 3), 1),
    ("bank:4", (5, 8), 0),
    ("bank:4", (3, 8, 2), 1),  # a bank is cut where the border is no multiple of 4
    ("bank:4:balance", (3, 14), 1),
    ("bank:4:balance", (14,), 0),
    ("bank:16", (16,), 0),  # a vector of one bank
    ("2:4", (6, 8, 3, 3), 0),
    ("2:4", (12,), 0),
    ("balanced:4x2", (12, 4), 0),
    ("balanced:-1x2", (3, 12), 1),
    ("filter", (7, 3, 2), 0),
    ("filter", (7, 6), 1),  # every filter is cut
    ("channel", (7, 6, 2), 0),
    ("channel", (7, 6, 2), 1),
    ("stripe", (5, 4, 3, 3), 0),
    ("stripe", (5, 4, 3, 3), 1),
    ("block:4x2", (12, 6), 0),  # some blocks are cut, some ranks lie within one
    ("block:1x2", (9, 6), 0),
    ("pattern", (5, 4, 3, 3), 0),
    ("pattern:5", (5, 4, 3, 3), 1),
]


def draw(shape: tuple[int, ...], dtype: str, tied: bool, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if not tied:
        return rng.normal(size=shape).astype(dtype)
    return (rng.integers(-2, 3, shape) * rng.choice([-1.0, 1.0], shape)).astype(dtype)  # -0.0, too, equals 0.0


def masks_of(scores, granularity: str, share: float, axis: int, borders: tuple[int, ...]):
    """The masks that ranks find, joined, and what they told each other."""
    held = shards_of(tuple(scores.shape), axis, borders)
    together = Together(len(held))

    def work(exchange):
        shard = held[exchange.rank]
        place = Sharded({"w": shard}, exchange)
        found = place.mask("w", shard.part(scores), parse_granularity(granularity), share)
        assert tuple(found.shape) == shard.held
        return np.asarray(found), place.zeros("w", found)

    results = together.run(work)
    zeros = {count for _, count in results}
    joined = np.concatenate([found for found, _ in results], axis=axis)
    assert zeros == {joined.size - np.count_nonzero(joined)}
    return joined, together.told


@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("granularity", "shape", "axis"), CASES)
def test_masks_of_shards_are_those_of_the_whole(granularity, shape, axis, tied, ranks):
    shares = [(0.5, "float32"), (0.3, "float64"), (0.8, "float16"), (0.0, "float32"), (1.0, "float32")]
    for seed, (share, dtype) in enumerate(shares):
        scores = draw(shape, dtype, tied, seed)
        found, _ = masks_of(scores, granularity, share, axis, chunks(shape[axis], ranks))
        np.testing.assert_array_equal(found, mask(scores, granularity, share))


def test_zeros_are_equal_whatever_their_sign():
    scores = np.array([[0.0, -0.0], [-0.0, 0.0], [-0.0, 0.0], [0.0, -0.0]])
    for keep in range(9):
        found, _ = masks_of(scores, "unstructured", 1 - keep / 8, 0, (0, 1, 4))
        assert found.reshape(-1).tolist() == [True] * keep + [False] * (8 - keep)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_any_borders_and_any_values(data):
    granularity, shape, axis = data.draw(st.sampled_from(CASES))
    extent = shape[axis]
    inner = data.draw(st.lists(st.integers(0, extent), min_size=0, max_size=3).map(sorted))
    kinds = st.sampled_from([np.float32, np.float64, np.int8, np.int64, np.uint8])
    scores = data.draw(hnp.arrays(kinds, shape, elements={"allow_nan": False, "allow_infinity": False}))
    share = data.draw(st.floats(0, 1))
    found, _ = masks_of(scores, granularity, share, axis, (0, *inner, extent))
    np.testing.assert_array_equal(found, mask(scores, granularity, share))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("granularity", ["unstructured", "2:4", "filter", "pattern"])
def test_tensors(granularity, dtype):
    scores = torch.from_numpy(draw((5, 4, 3, 3), "float32", tied=False)).to(dtype)
    found, _ = masks_of(scores, granularity, 0.6, 0, (0, 2, 2, 5))
    np.testing.assert_array_equal(found, mask(scores, granularity, 0.6).numpy())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int32])
@pytest.mark.parametrize("tied", [True, False])
def test_arrays_of_another_device_are_selected_from_alike(dtype, tied):
    """Tensors stand for arrays in a memory that NumPy cannot see, which are sorted rather than counted in blocks."""
    values = torch.from_numpy(draw((40, 5), "float64", tied) * (1 if tied else 1e3)).to(dtype)
    together = Together(2)
    held = shards_of((40, 5), 0, (0, 17, 40))

    def work(exchange):
        shard = held[exchange.rank]
        return [sharded_selection.keep_largest(shard.part(values), k, shard, exchange) for k in (0, 1, 77, 199, 200)]

    for found, keep in zip(zip(*together.run(work), strict=True), (0, 1, 77, 199, 200), strict=True):
        assert all(isinstance(part, torch.Tensor) for part in found)
        (expected,) = keep_largest([values.numpy().reshape(-1)], keep)
        np.testing.assert_array_equal(torch.cat(found).numpy().reshape(-1), expected)


@pytest.mark.parametrize(("granularity", "shape", "axis"), CASES)
def test_masks_of_arrays_of_another_device(granularity, shape, axis):
    scores = torch.from_numpy(draw(shape, "float32", tied=False))
    held = shards_of(shape, axis, chunks(shape[axis], 3))

    def work(exchange):
        shard = held[exchange.rank]
        return sharded_granularity.keep(shard.part(scores), parse_granularity(granularity), 0.4, shard, exchange)

    found = torch.cat(Together(3).run(work), axis)
    np.testing.assert_array_equal(found.numpy(), mask(scores.numpy(), granularity, 0.4))


@pytest.mark.parametrize(
    ("granularity", "most"), [("unstructured", 1 << 16), ("bank:64", 2), ("filter", 1 << 16), ("channel", 512)]
)
def test_no_rank_is_told_the_elements_of_a_parameter(granularity, most):
    scores = draw((256, 512), "float32", tied=False)
    _, told = masks_of(scores, granularity, 0.5, 0, (0, 100, 256))
    assert max(values.size for values in told) <= most
    elements = set(np.unique(scores).tolist())
    heard = {value for values in told if values.dtype == np.float64 for value in values.reshape(-1).tolist()}
    assert len(elements & heard) <= 1  # the largest of all may be told


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_all_ranks_refuse_what_one_cannot_rank(value):
    scores = draw((6, 4), "float32", tied=False)
    scores[5, 1] = value
    with pytest.raises(WeightError) as whole:
        mask(scores, "unstructured", 0.5, name="w")
    with pytest.raises(WeightError) as sharded:
        masks_of(scores, "unstructured", 0.5, 0, (0, 3, 6))
    assert str(sharded.value) == str(whole.value)


NET = {"conv": (8, 4, 3, 3), "up": (8, 6, 2, 2), "fc": (7, 72), "scale": (8,), "head": (3, 8)}
AXES = {"conv": 0, "up": 1, "fc": 0, "scale": 0}  # the head lies whole on every rank


def network(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    spread = {"conv": 1.0, "up": 0.5, "fc": 2.0, "scale": 1.0, "head": 1.5}
    return {  # in steps, so that many are equal, in a layer and across layers
        name: (np.round(rng.normal(size=shape, scale=spread[name]) * 8) / 8).astype(np.float32)
        for name, shape in NET.items()
    }


def updates(recipe: Recipe, place=None, part=lambda name, array: array, state=None, steps: int = 4):
    """Pruned for some steps: masks at each, sparsity and the state in the end."""
    start = {name: part(name, np.where(abs(array) < 0.2, 0, array)) for name, array in network(9).items()}
    pruner = Pruner(recipe.plan(NET), start, place)
    if state is not None:
        pruner.load_state_dict(state)
    masks, shares = [], []
    for step in range(pruner.steps, steps):
        weights = {name: part(name, array) for name, array in network(step).items()}
        for name, keep in pruner.masks.items():
            weights[name] = weights[name] * keep
        gradients = {name: part(name, array) for name, array in network(100 + step).items()}
        if pruner.wants_gradients:
            pruner.observe(weights, gradients)
        pruner.step(weights)
        masks.append(dict(pruner.masks))
        shares.append(pruner.sparsity)
    return masks, shares, pruner.state_dict()


def sharded(ranks: int, recipe: Recipe, **arguments):
    """The same on ranks: joined masks, and sparsity and state that all ranks agree on."""
    held = {name: shards_of(NET[name], axis, chunks(NET[name][axis], ranks)) for name, axis in AXES.items()}

    def work(exchange):
        mine = {name: parts[exchange.rank] for name, parts in held.items()}
        part = lambda name, array: mine[name].part(array) if name in mine else array  # noqa: E731
        return updates(recipe, Sharded(mine, exchange), part, **arguments)

    results = Together(ranks).run(work)
    for _, shares, state in results:
        assert shares == results[0][1]
        assert str(state["masks"]) == str(results[0][2]["masks"])
    masks = [
        {n: np.concatenate([m[n] for m in of], AXES[n]) if n in AXES else of[0][n] for n in of[0]}
        for of in zip(*(masks for masks, _, _ in results), strict=True)
    ]
    return masks, results[0][1], results[0][2]


RECIPES = {
    "layers": {"sparsity": 0.6, "layers": {"conv": {"granularity": "2:4"}, "up": {"granularity": "filter"}}},
    "global": {"sparsity": 0.7, "allocation": "global"},
    "global, mixed": {
        "sparsity": 0.5,
        "allocation": "global",
        "max_sparsity": 0.6,
        "layers": {
            "conv": {"granularity": "filter"},
            "up": {"granularity": "channel"},
            "fc": {"granularity": "bank:8"},
        },
    },
    "erk": {"sparsity": 0.7, "allocation": "erk", "granularity": "bank:4"},
    "movement": {"sparsity": 0.5, "score": "movement", "allocation": "global"},
    "taylor": {"sparsity": 0.5, "score": "taylor"},
    "random": {"sparsity": 0.5, "score": "random", "seed": 3, "allocation": "global"},
    "bn_scale": {
        "score": "bn_scale",
        "granularity": "filter",
        "bn_scales": {"conv": "scale"},
        "layers": {"conv": 0.5},
    },
    "fixed": {"fix_sparsity": True, "restore_sparsity": True},
    "restored": {"sparsity": 0.9, "restore_sparsity": True},
}


def recipe_of(name: str) -> Recipe:
    ramp = {} if name == "fixed" else {"schedule": {"start": 1, "length": 2, "frequency": 1}}
    return Recipe(**RECIPES[name], **ramp)


@pytest.mark.parametrize("name", RECIPES)
def test_a_pruner_decides_on_shards_as_on_the_whole(name):
    masks, shares, state = updates(recipe_of(name))
    for ranks in (2, 3):
        found, their_shares, their_state = sharded(ranks, recipe_of(name))
        assert their_shares == shares
        np.testing.assert_equal(found, masks)
        np.testing.assert_equal(their_state["masks"], state["masks"])


def test_a_run_goes_on_whole_or_on_another_number_of_ranks():
    recipe = recipe_of("global")
    masks, shares, _ = updates(recipe)
    _, _, saved = sharded(3, recipe, steps=2)
    for found, theirs, _ in (updates(recipe, state=saved), sharded(2, recipe, state=saved)):
        np.testing.assert_equal(found, masks[2:])
        assert theirs == shares[2:]


def test_accumulated_scores_go_on_only_where_they_were_saved():
    recipe = recipe_of("movement")
    held = Shard((4, 2), 0, (0, 1, 4), 0)
    _, _, whole = updates(recipe, steps=2)
    masks, _, _ = updates(recipe)
    np.testing.assert_equal(sharded(2, recipe, state=whole)[0], masks[2:])
    with pytest.raises(StateError, match="only on as many ranks"):
        Sharded({"w": held}, Together(1)).part("w", np.zeros((3, 2)))


GROUPS = (FilterGroup(8, (), (Coupled("conv", range(8)),)), FilterGroup(7, (), (Coupled("fc", range(7)),)))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"granularity": "filter:group", "groups": GROUPS, "skip": ["up", "head"]}, "filter:group cannot prune conv"),
        ({"score": "fpgm", "granularity": "filter"}, "score 'fpgm' cannot rank conv .*use 'magnitude'"),
        ({"allocation": "lamp"}, "allocation 'lamp' cannot rank conv .*use 'global'"),
        (
            {"layers": {"fc": {"granularity": "balanced:-1x2", "sparsity": 0.5}}},
            "balanced:-1x2 cannot prune fc .*every group of 7",
        ),
        ({"score": "bn_scale", "bn_scales": {"up": "scale"}, "layers": {"up": 0.5}}, "'bn_scale' cannot rank up"),
    ],
)
def test_what_shards_do_not_allow_is_said_at_once(given, message):
    def work(exchange):
        mine = {name: Shard(NET[name], axis, chunks(NET[name][axis], 2), 0) for name, axis in AXES.items()}
        plan = Recipe(sparsity=None if "layers" in given else 0.5, **given).plan(NET)
        Pruner(plan, None, Sharded(mine, exchange))

    with pytest.raises(RecipeError, match=message):
        Together(1).run(work)


def test_a_report_counts_whole_parameters():
    whole = {"fc": np.array([[0.0, 1.0], [2.0, 0.0], [0.0, 0.0]]), "head": np.array([0.0, 1.0])}
    held = shards_of((3, 2), 0, (0, 2, 3))

    def work(exchange):
        shard = held[exchange.rank]
        return Sharded({"fc": shard}, exchange).total(sparsity({"fc": shard.part(whole["fc"]), "head": whole["head"]}))

    assert Together(2).run(work) == [sparsity(whole)] * 2


def test_doctests():
    result = doctest.testmod(shards)
    assert result.attempted > 0
    assert result.failed == 0
