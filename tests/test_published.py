"""The published formats: each loads unchanged and plans what its own program would have pruned."""

import numpy as np
import pytest
import yaml

from mopruning.errors import RecipeError, UnknownNameError
from mopruning.granularity import NM, BankBalanced, Filter, KernelPattern, Stripe, Unstructured
from mopruning.masks import mask
from mopruning.published import SPARSE_BLOCK, from_optimizer_arguments, from_prune_dict, from_prune_ratio
from mopruning.recipe import LayerRule, Recipe
from mopruning.schedules import OneShot, Polynomial
from tests.published_network import NET, by_name, targets

# --- prune_dict


def test_prune_arguments_in_published_order():
    step, prune_dict = 60, {k: 0.9 for k, shape in NET.items() if len(shape) == 4}
    recipe = from_prune_dict(prune_dict, step * 10, step * 80, 100)
    assert recipe == Recipe(
        granularity=BankBalanced(64), layers=prune_dict, schedule=Polynomial(600, 4800, 100, exponent=3.0)
    )
    assert targets(recipe) == {"conv2.weight": 0.9}


def test_prune_dict_of_all_parameters():
    rows = by_name(from_prune_dict(dict.fromkeys(NET, 0.95), 0, 480, 100))
    assert {name for name, row in rows.items() if row.granularity} == {"conv2.weight", "fc.weight"}
    assert {row.reason for row in rows.values() if len(row.shape) == 1} == {"1-D (bias or normalisation)"}
    assert [name for name, row in rows.items() if row.misfit] == ["conv1.weight", "conv3.weight"]
    assert rows["conv3.weight"].reason == BankBalanced(64).misfit((256, 127, 3, 3))
    assert "127" in rows["conv3.weight"].reason


def test_what_prune_dict_leaves_out_stays_dense():
    rows = by_name(from_prune_dict({"conv2.weight": 0.9}))
    assert rows["fc.weight"].reason == "not named in the recipe"
    assert rows["fc.weight"].granularity is None


@pytest.mark.parametrize(
    ("balance", "granularity"),
    [
        ("fix", BankBalanced(64)),
        ("none", Unstructured()),
        ("2:4", NM(2, 4)),
        ("bank:32", BankBalanced(32)),
        ("filter", Filter()),
        (Stripe(), Stripe()),
    ],
)
def test_balance(balance, granularity):
    assert from_prune_dict({"fc.weight": 0.5}, balance=balance).granularity == granularity


def test_prune_dict_names_misspelt():
    with pytest.raises(
        UnknownNameError, match=r"prune_dict: 'conv2_weight' matches no parameter; did you mean 'conv2.weight'"
    ):
        from_prune_dict({"conv2_weight": 0.9}).plan(NET)


def test_no_prune_dict_prunes_nothing():
    assert not from_prune_dict({}).active
    assert not from_prune_dict({}, balance="2:4").active
    assert from_prune_dict({}, balance="2:4").plan(NET).pruned == ()


def test_continuing_with_prune_dict():
    every = dict.fromkeys(NET, 0.95)
    higher = from_prune_dict(every, 0, 480, 100, restore_sparsity=True)
    assert (higher.restore_sparsity, higher.fix_sparsity) == (True, False)
    fixed = from_prune_dict(every, restore_sparsity=True, fix_sparsity=True)
    assert set(targets(fixed)) == {"conv1.weight", "conv2.weight", "conv3.weight", "fc.weight"}
    assert set(targets(fixed).values()) == {None}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prune_dict": ["fc.weight"]}, "prune_dict: expected a mapping from names"),
        (
            {"prune_dict": {"fc.weight": 95}},
            r"prune_dict\['fc.weight'\]: sparsity must lie from 0 to 1, got 95.0; .* 0.95",
        ),
        (
            {"prune_dict": {}, "balance": "fixed"},
            "balance: expected 'fix', 'none' or a granularity; unknown granularity 'fixed'",
        ),
        ({"prune_dict": {}, "balance": 3}, "balance: expected 'fix', 'none' or a granularity"),
        ({"prune_dict": {}, "prune_device": "gpu"}, "prune_device 'gpu' is unknown; did you mean 'cpu'"),
        ({"prune_dict": {}, "pretrain_step": "0"}, "pretrain_step must be a number, got '0'"),
        ({"prune_dict": {}, "sparse_step": -1}, "sparse_step must be 0 or more, got -1"),
        ({"prune_dict": {}, "fix_sparsity": 1}, "fix_sparsity must be true or false"),
        (
            {"prune_dict": {}, "prune_devise": "cpu"},
            r"\(arguments of Prune\): key 'prune_devise' is unknown; did you mean 'prune_device'",
        ),
        ({"prune_dict": {}, "pretrian_step": 0}, "key 'pretrian_step' is unknown; did you mean 'pretrain_step'"),
    ],
)
def test_bad_arguments_of_prune(arguments, message):
    with pytest.raises(RecipeError, match=message):
        Recipe.load(arguments)


# --- prune_ratio

PRUNE_RATIO = """
prune_ratio:
  module.features.0.weight: 0.3
  module.features.3.weight: 0.45
  module.classifier.weight: 0.2
"""
VGG = {
    "features.0.weight": (64, 3, 3, 3),
    "features.0.bias": (64,),
    "features.3.weight": (64, 64, 3, 3),
    "features.7.weight": (128, 64, 3, 3),
    "classifier.weight": (10, 512),
}
M4N2 = """
prune_ratio:
  module.features.3.weight: m4n2
  module.features.7.weight: "m8n1"
"""


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("listed", [False, True])
def test_prune_ratio_with_and_without_prefix(wrapped, listed):
    shapes = {("module." if wrapped else "") + name: shape for name, shape in VGG.items()}
    recipe = Recipe.load(PRUNE_RATIO if listed else PRUNE_RATIO.replace("module.", ""))
    assert [row.target for row in recipe.plan(shapes).pruned] == [0.3, 0.45, 0.2]
    assert [row.name for row in recipe.plan(shapes).pruned] == [n for n in shapes if "7" not in n and "bias" not in n]
    assert recipe.schedule == OneShot()


def test_what_prune_ratio_leaves_out_stays_dense():
    assert by_name(Recipe.load(PRUNE_RATIO), VGG)["features.7.weight"].reason == "not named in the recipe"


def test_prune_ratio_names_misspelt():
    with pytest.raises(
        UnknownNameError, match=r"prune_ratio: 'module.features.1.weight' matches no parameter; did you mean"
    ):
        Recipe.load({"prune_ratio": {"module.features.1.weight": 0.3}}).plan(VGG)


@pytest.mark.parametrize("prune_type", [None, "mn_prune"])
def test_ratios_of_n_to_m(prune_type):
    recipe = from_prune_ratio(yaml.safe_load(M4N2), prune_type)
    assert recipe.layers == {
        "module.features.3.weight": LayerRule(0.5, NM(2, 4)),
        "module.features.7.weight": LayerRule(0.875, NM(1, 8)),
    }
    rows = by_name(recipe, VGG)
    assert (rows["features.3.weight"].granularity, rows["features.3.weight"].target) == (NM(2, 4), 0.5)
    assert (rows["features.7.weight"].granularity, rows["features.7.weight"].target) == (NM(1, 8), 0.875)


def test_ratios_of_both_kinds():
    recipe = Recipe.load("prune_ratio: {features.0.weight: 0.3, features.3.weight: m4n2}")
    rows = by_name(recipe, VGG)
    assert rows["features.0.weight"].granularity == Unstructured()
    assert rows["features.3.weight"].granularity == NM(2, 4)


@pytest.mark.parametrize(
    ("prune_type", "granularity"),
    [
        ("irre_prune", Unstructured()),
        ("filter_prune", Filter()),
        ("stripe_prune", Stripe()),
        ("pat_prune", KernelPattern(5)),
        ("bank_prune", BankBalanced(64)),
    ],
)
def test_prune_types(prune_type, granularity):
    ratios = yaml.safe_load(PRUNE_RATIO)
    recipe = from_prune_ratio(ratios, prune_type)
    assert recipe.granularity == granularity
    assert recipe == Recipe.load(PRUNE_RATIO + f"prune_type: {prune_type}\n")
    assert recipe == from_prune_ratio(ratios["prune_ratio"], prune_type)
    rows = by_name(recipe, VGG)
    assert rows["features.3.weight"].granularity == granularity
    misfit = granularity.misfit((10, 512))
    assert rows["classifier.weight"].misfit is bool(misfit)


@pytest.mark.parametrize(
    ("ratio", "zeros"), [(0.1, 4 / 9), (0.45, 4 / 9), (0.5, 0.5), (0.75, 0.75), (0.0, 0.0), (1.0, 1.0)]
)
def test_patterns_alone_below_one_half(ratio, zeros):
    recipe = from_prune_ratio({"features.3.weight": ratio}, "pat_prune")
    row = by_name(recipe, VGG)["features.3.weight"]
    assert (row.target or 0.0) == zeros
    if row.granularity:
        kept = mask(np.random.default_rng(0).random(row.shape), row.granularity, row.target)
        assert abs((1 - kept.mean()) - zeros) < 5 / kept.size


def test_a_file_is_named_in_every_message(tmp_path):
    """When it is read, and when it is planned and the network is known."""
    path = tmp_path / "vgg.yaml"
    path.write_text("prune_ratio: {module.features.3.weight: 0.9375}", encoding="utf-8")
    recipe = from_prune_ratio(path, "bank_prune")
    assert recipe == from_prune_ratio(str(path), "bank_prune") == from_prune_ratio(path.read_text(), "bank_prune")
    assert str(by_name(recipe, VGG)["features.3.weight"].granularity) == "bank:64"
    for text, prune_type, message in (
        ("1.2", "filter_prune", r"prune_ratio\['module.conv.weight'\] must lie from 0 to 1, got 1.2"),
        ("m2n4", "mn_prune", r"prune_ratio\['module.conv.weight'\]: NM: expected whole numbers 0 <= n <= m"),
        ("0.3", "filter_prun", "prune_type 'filter_prun' is unknown; did you mean 'filter_prune'"),
    ):
        path.write_text(f"prune_ratio: {{module.conv.weight: {text}}}", encoding="utf-8")
        with pytest.raises(RecipeError, match=f"vgg.yaml: {message}"):
            from_prune_ratio(path, prune_type)
    path.write_text("prune_ratio: {module.feature.3.weight: 0.5}", encoding="utf-8")
    for recipe in (from_prune_ratio(path), Recipe.load(path)):
        with pytest.raises(
            UnknownNameError,
            match=r"vgg.yaml: prune_ratio: 'module.feature.3.weight' .* did you mean 'features.3.weight'",
        ):
            recipe.plan(VGG)
    path.write_text("prune_ratio: [0.5", encoding="utf-8")
    with pytest.raises(RecipeError, match=r"^[^ ]*vgg.yaml, line 1: "):
        from_prune_ratio(path)


def test_empty_prune_ratio_prunes_nothing():
    for empty in ({"prune_ratio": {}}, {"prune_ratio": None}, {}):
        assert not from_prune_ratio(empty).active
        assert from_prune_ratio(empty).plan(VGG).pruned == ()


@pytest.mark.parametrize(
    ("mapping", "prune_type", "message"),
    [
        (
            {"a": 0.5},
            "irregular",
            "prune_type 'irregular' is unknown; did you mean|prune_type 'irregular' is unknown; known: .*irre_prune",
        ),
        ({"a": 0.5}, "mn_prune", r"prune_ratio\['a'\]: mn_prune expects text such as 'm4n2', got 0.5"),
        ({"a": "m4n2"}, "filter_prune", r"prune_ratio\['a'\]: expected a number for filter_prune, got 'm4n2'"),
        ({"a": "filter"}, None, r"prune_ratio\['a'\]: expected a number for prune_ratio, got 'filter'"),
        ({"a": "m2n4"}, None, "0 <= n <= m"),
        ({"a": 1.5}, None, r"prune_ratio\['a'\] must lie from 0 to 1"),
        ({"a": None}, None, r"prune_ratio\['a'\] must be a number, got None"),
        ({"prune_ratio": [0.5]}, None, "prune_ratio: expected a mapping"),
        (
            {"prune_ratio": {"a": 0.5}, "prune_typ": "x"},
            None,
            "prune_ratio YAML: key 'prune_typ' is unknown; did you mean 'prune_type'",
        ),
    ],
)
def test_bad_prune_ratios(mapping, prune_type, message):
    with pytest.raises(RecipeError, match=message):
        from_prune_ratio(mapping, prune_type)


# --- told apart by their keys


def test_every_form_loads_unchanged(tmp_path):
    every = dict.fromkeys(NET, 0.95)
    forms = [
        (every, from_prune_dict(every)),
        ({"dense0_weight": 0.9, "conv0_weight": 0}, from_prune_dict({"dense0_weight": 0.9, "conv0_weight": 0})),
        (
            {"prune_dict": every, "pretrain_step": 0, "sparse_step": 480, "frequency": 12.5, "balance": "none"},
            from_prune_dict(every, 0, 480, 12.5, balance="none"),
        ),
        ({"prune_dict": every, "fix_sparsity": True, "prune_device": "cpu"}, from_prune_dict(every, fix_sparsity=True)),
        (
            {"target_sparsity": 0.8, "frequency": 12.5, "special_sparsity_dict": {"fc.weight": 0.7}},
            from_optimizer_arguments(target_sparsity=0.8, frequency=12.5, special_sparsity_dict={"fc.weight": 0.7}),
        ),
        ({"finetune": True}, from_optimizer_arguments(finetune=True)),
        (
            {"sparse_block": SPARSE_BLOCK, "target_sparsity": 0.8},
            from_optimizer_arguments(sparse_block=SPARSE_BLOCK, target_sparsity=0.8),
        ),
        (yaml.safe_load(PRUNE_RATIO), from_prune_ratio(yaml.safe_load(PRUNE_RATIO))),
        (yaml.safe_load(M4N2), from_prune_ratio(yaml.safe_load(M4N2))),
        ({"sparsity": 0.9, "granularity": "bank:64"}, Recipe(0.9, BankBalanced(64))),
        ({"restore_sparsity": True}, Recipe(restore_sparsity=True)),
    ]
    for mapping, recipe in forms:
        plain = {k: {a: list(t) for a, t in v.items()} if v is SPARSE_BLOCK else v for k, v in mapping.items()}
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(plain), encoding="utf-8")
        assert Recipe.load(mapping) == Recipe.load(path) == Recipe.load(path.read_text()) == recipe
        assert Recipe.load(recipe.to_dict()) == recipe


def test_loading_changes_no_mapping():
    mapping = {"prune_dict": {"fc.weight": 0.9, "conv3.weight": 0.9}, "pretrain_step": 0}
    recipe = Recipe.load(mapping)
    recipe.plan(NET)
    assert mapping == {"prune_dict": {"fc.weight": 0.9, "conv3.weight": 0.9}, "pretrain_step": 0}


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"target_sparsity": 0.9, "layers": {}}, r"\(arguments of a sparse optimizer\): key 'layers' is unknown"),
        ({"target_sparsity": 0.9, "sparse_stp": 3}, "key 'sparse_stp' is unknown; did you mean 'sparse_step'"),
        ({"target_sparsty": 0.9}, "key 'target_sparsty' is unknown; did you mean"),
        ({"special_sparsity": {"a": 1}}, "key 'special_sparsity' is unknown"),
        ({"fc.weight": 0.9, "sparsty": 0.9}, "key 'fc.weight' is unknown|key 'sparsty' is unknown"),
        ({"fc.weight": "2:4"}, "key 'fc.weight' is unknown"),
    ],
)
def test_mixed_or_misspelt_forms_are_refused(mapping, message):
    with pytest.raises(RecipeError, match=message):
        Recipe.load(mapping)
