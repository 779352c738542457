"""Recipes: values checked, forms read, and read back equal."""

import doctest
import importlib
import json
import subprocess
import sys
from dataclasses import FrozenInstanceError, fields
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from mopruning.errors import RecipeError
from mopruning.granularity import (
    NM,
    Balanced,
    BankBalanced,
    Block,
    Channel,
    Filter,
    KernelPattern,
    Stripe,
    Unstructured,
)
from mopruning.recipe import LayerRule, Recipe
from mopruning.schedules import OneShot, Polynomial, Schedule


@pytest.mark.parametrize("module", ["document", "names", "plan", "published", "recipe", "values"])
def test_doctests(module):
    failed, attempted = doctest.testmod(importlib.import_module(f"mopruning.{module}"))
    assert attempted > 0
    assert failed == 0


def test_import_loads_neither_yaml_nor_rich():
    code = "import sys, mopruning.published, mopruning.plan; print({'yaml', 'rich'} & set(sys.modules))"
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, text=True, capture_output=True, check=True)
    assert done.stdout.strip() == "set()"


# --- values


def test_defaults_prune_nothing():
    recipe = Recipe()
    assert not recipe.active
    assert recipe == Recipe.load({}) == Recipe.load(recipe.to_dict())
    assert (recipe.granularity, recipe.schedule, recipe.layers) == (Unstructured(), OneShot(), {})


def test_recipe_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        Recipe().sparsity = 0.5  # type: ignore[misc]


def test_values_are_brought_to_one_form():
    recipe = Recipe(
        sparsity=np.float32(0.5),
        granularity="bank:64",
        schedule={"start": 3, "length": 800, "frequency": 12.5},  # type: ignore[arg-type]
        layers={"a": 1, "b": "2:4", "c": "m8n1", "d": {"sparsity": 0.25, "granularity": "filter"}, "e": NM(1, 4)},
        skip=["x", "y*"],  # type: ignore[arg-type]
        skip_keywords="bias",  # type: ignore[arg-type]
        granularity_by_axes={"4d": "stripe"},
        seed=np.int64(3),  # type: ignore[arg-type]
        l1=1,
    )
    assert recipe.sparsity == 0.5
    assert type(recipe.sparsity) is float
    assert recipe.granularity == BankBalanced(64)
    assert recipe.schedule == Polynomial(3, 800, 12.5)
    assert recipe.layers == {
        "a": LayerRule(1.0),
        "b": LayerRule(granularity=NM(2, 4)),
        "c": LayerRule(granularity=NM(1, 8)),
        "d": LayerRule(0.25, Filter()),
        "e": LayerRule(granularity=NM(1, 4)),
    }
    assert (recipe.skip, recipe.skip_keywords) == (("x", "y*"), ("bias",))
    assert recipe.granularity_by_axes == {"4d": Stripe()}
    assert (recipe.seed, recipe.l1) == (3, 1.0)
    assert type(recipe.seed) is int


def test_layers_of_the_caller_are_copied():
    layers = {"a": 0.5}
    recipe = Recipe(layers=layers)
    layers["b"] = 0.9
    assert recipe.layers == {"a": LayerRule(0.5)}


def test_equality_is_by_value():
    assert Recipe(0.9, "2:4", layers={"a": 0.5}) == Recipe(0.9, NM(2, 4), layers={"a": LayerRule(0.5)})
    assert Recipe(0.9) != Recipe(0.8)
    assert Recipe(0.9, layers_from="prune_dict") == Recipe(0.9)


def test_nm_alone_means_its_own_sparsity():
    assert Recipe(granularity="2:4").sparsity == 0.5
    assert Recipe(granularity="2:4", sparsity=0.25).sparsity == 0.25
    assert Recipe(granularity="2:4", layers={"a": 0.25}).sparsity is None
    assert Recipe(granularity="2:4", fix_sparsity=True).sparsity is None


def test_restoring_without_a_target_keeps_the_sparsity():
    assert Recipe(restore_sparsity=True).fix_sparsity
    assert Recipe(restore_sparsity=True, sparsity=0.0, layers={"a": 0.0}).fix_sparsity
    assert not Recipe(restore_sparsity=True, sparsity=0.9).fix_sparsity
    assert not Recipe(restore_sparsity=True, layers={"a": 0.9}).fix_sparsity
    assert not Recipe(restore_sparsity=True, layers={"a": "2:4"}).fix_sparsity


@pytest.mark.parametrize(
    ("settings", "active"),
    [
        ({}, False),
        ({"sparsity": 0.0}, False),
        ({"sparsity": 0.0, "layers": {"a": 0.0, "b": "2:4"}}, False),
        ({"layers": {"a": 0.0, "b": "filter"}}, False),
        ({"layers": {"a": "4:4"}}, False),
        ({"granularity": "bank:64", "schedule": {"length": 800}, "score": "movement"}, False),
        ({"sparsity": 0.1}, True),
        ({"layers": {"a": 0.0, "b": 0.1}}, True),
        ({"layers": {"a": "2:4"}}, True),
        ({"granularity": "2:4"}, True),
        ({"restore_sparsity": True}, True),
        ({"fix_sparsity": True}, True),
        ({"l1": 1e-5}, True),
    ],
)
def test_active(settings, active):
    assert Recipe(**settings).active is active


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sparsity": 1.5}, "recipe: sparsity must lie from 0 to 1, got 1.5"),
        ({"sparsity": 90}, "for 90 percent write 0.9"),
        ({"sparsity": "0.9"}, "recipe: sparsity must be a number, got '0.9'"),
        ({"sparsity": True}, "recipe: sparsity must be a number, got True"),
        ({"sparsity": float("nan")}, "recipe: sparsity must be finite, got nan"),
        ({"sparsity": np.zeros(2)}, "recipe: sparsity must be a number"),
        ({"sparsity": [0.9]}, "recipe: sparsity must be a number"),
        ({"sparsity": 10**400}, "recipe: sparsity must be a number"),
        ({"granularity": "bank64"}, "unknown granularity 'bank64'; known forms"),
        ({"granularity": None}, "recipe: granularity must be a granularity or its text"),
        ({"granularity": "m2n4"}, "0 <= n <= m"),
        ({"score": "magnitud"}, "recipe: score 'magnitud' is unknown; did you mean 'magnitude'"),
        ({"score": None}, "recipe: score None is unknown; known: .*taylor"),
        ({"allocation": "globl", "sparsity": 0.9}, "recipe: allocation 'globl' is unknown; did you mean 'global'"),
        ({"allocation": "erk"}, "allocation 'erk' shares out the recipe's sparsity: give one"),
        ({"schedule": 800}, "schedule: expected a Schedule or a mapping"),
        ({"schedule": {"lenght": 800}}, "schedule: key 'lenght' is unknown; did you mean 'length'"),
        ({"schedule": {"length": "800"}}, "schedule: length must be a number, got '800'"),
        ({"schedule": {"length": -1}}, "length"),
        ({"layers": ["a"]}, "layers: expected a mapping from names"),
        ({"layers": {3: 0.5}}, "layers: expected the name of a parameter, got 3"),
        ({"layers": {"": 0.5}}, "layers: expected the name of a parameter, got ''"),
        ({"layers": {"a": 1.5}}, r"layers\['a'\]: sparsity must lie from 0 to 1"),
        ({"layers": {"a": None}}, r"layers\['a'\]: a layer rule needs a sparsity, a granularity or both"),
        ({"layers": {"a": {}}}, r"layers\['a'\]: a layer rule needs a sparsity"),
        ({"layers": {"a": "0.5"}}, r"layers\['a'\]: unknown granularity '0.5'"),
        ({"layers": {"a": {"sparsiti": 0.5}}}, r"layers\['a'\]: key 'sparsiti' is unknown; did you mean 'sparsity'"),
        ({"layers": {"a": {"granularity": 4}}}, r"layers\['a'\]: granularity must be a granularity or its text"),
        ({"layers": {"a": [0.5]}}, r"layers\['a'\]: sparsity must be a number"),
        ({"skip": 3}, "recipe: skip: expected a list of names, got 3"),
        ({"skip": {"a": 1}}, "recipe: skip: expected a list of names"),
        ({"skip": [1]}, "recipe: skip: expected the name of a parameter, got 1"),
        ({"skip_keywords": [""]}, "recipe: skip_keywords: expected the name of a parameter, got ''"),
        ({"include_1d": 1}, "recipe: include_1d must be true or false, got 1"),
        ({"restore_sparsity": "yes"}, "recipe: restore_sparsity must be true or false, got 'yes'"),
        ({"min_sparsity": 0.5, "max_sparsity": 0.4}, "min_sparsity 0.5 lies above max_sparsity 0.4"),
        ({"max_sparsity": 2.0}, "recipe: max_sparsity must lie from 0 to 1"),
        ({"initial_sparsity": -0.1}, "recipe: initial_sparsity must lie from 0 to 1"),
        ({"bn_scales": ["a"]}, "bn_scales: expected a mapping from names"),
        ({"bn_scales": {"a": 3}}, r"bn_scales\['a'\]: expected the name of a parameter, got 3"),
        ({"seed": -1}, "recipe: seed must be 0 or more, got -1"),
        ({"seed": 1.5}, "recipe: seed must be a whole number, got 1.5"),
        ({"l1": -1e-5}, "recipe: l1 must be 0 or more, got -1e-05"),
        ({"channel_multiple": 0}, "recipe: channel_multiple must be 1 or more, got 0"),
        ({"granularity_by_axes": {4: "filter"}}, "granularity_by_axes: expected the name .* got 4"),
        ({"granularity_by_axes": {"4": "filter"}}, "expected a number of axes such as '4d', got '4'"),
    ],
)
def test_what_makes_no_sense_is_refused(settings, message):
    with pytest.raises(RecipeError, match=message):
        Recipe(**settings)


# --- reading


def test_load_returns_a_recipe_as_it_is():
    recipe = Recipe(0.5)
    assert Recipe.load(recipe) is recipe


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"sparsty": 0.9}, "recipe: key 'sparsty' is unknown; did you mean 'sparsity'"),
        ({"sparsity": 0.9, "granulrity": "filter"}, "recipe: key 'granulrity' is unknown; did you mean 'granularity'"),
        ({"layers_from": "x"}, "recipe: key 'layers_from' is unknown"),
        ({"nothing like it": "x"}, "recipe: key 'nothing like it' is unknown; known: allocation"),
        ({1: 0.9}, "recipe: keys are text, got 1"),
    ],
)
def test_unknown_keys_are_refused(mapping, message):
    with pytest.raises(RecipeError, match=message):
        Recipe.load(mapping)


YAML = """
sparsity: 0.9          # of everything
granularity: 2:4       # YAML 1.1 would read the number 124
l1: 1e-5               # and this as text
allocation: erk
schedule: {start: 100, length: 800, frequency: 50}
layers:
  fc.weight: 0.5
  'conv*': {sparsity: .25, granularity: bank:64:balance}
skip: [conv1.*]
"""
FROM_YAML = Recipe(
    sparsity=0.9,
    granularity=NM(2, 4),
    l1=1e-5,
    allocation="erk",
    schedule=Polynomial(100, 800, 50),
    layers={"fc.weight": 0.5, "conv*": LayerRule(0.25, BankBalanced(64, "balance"))},
    skip=("conv1.*",),
)


def test_yaml_text_and_files(tmp_path):
    assert Recipe.load(YAML) == FROM_YAML
    for name in ("recipe.yaml", "recipe.yml", "no-suffix"):
        path = tmp_path / name
        path.write_text(YAML, encoding="utf-8")
        assert Recipe.load(path) == Recipe.load(str(path)) == FROM_YAML


def test_json_files(tmp_path):
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(FROM_YAML.to_dict()), encoding="utf-8")
    assert Recipe.load(path) == FROM_YAML


@pytest.mark.parametrize("text", ["1:4", "2:4", "4:8", "16:64", "59:59"])
def test_yaml_ratios_are_text(text):
    n, m = map(int, text.split(":"))
    assert Recipe.load(f"granularity: {text}\nsparsity: 0.5").granularity == NM(n, m)


@pytest.mark.parametrize(
    ("text", "value"), [("0", 0.0), ("1", 1.0), (".5", 0.5), ("5e-1", 0.5), ("1.", 1.0), ("+0.5", 0.5)]
)
def test_yaml_numbers(text, value):
    assert Recipe.load(f"sparsity: {text}").sparsity == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sparsity: 0.9\nlayers: [1, 2", "recipe text, line 2: "),
        ("sparsity: 0.9\n\tskip: x", "recipe text, line 2: "),
        ("sparsity: 0.9\nseed: 1\nsparsity: 0.8", "recipe text, line 3: key 'sparsity' is given twice"),
        ("layers:\n  a: 0.1\n  a: 0.2", "recipe text, line 3: key 'a' is given twice"),
        ("- sparsity", "recipe text: expected a mapping such as 'sparsity: 0.9', got list"),
        ("", "recipe text: expected a mapping such as 'sparsity: 0.9', got NoneType"),
        ("recipes/mine", "there is no file 'recipes/mine' either"),
        ("no/such/file.yaml", "recipe file 'no/such/file.yaml' cannot be read: No such file"),
        ("sparsity: !!python/object/apply:os.getcwd []", "recipe text, line 1: could not determine a constructor"),
        ("sparsity: 2001-99-99", "recipe text: "),
        ("sparsity: " + "9" * 5000, "recipe text: "),
        ("a: " + "[" * 5000, "recipe text"),
        ("sparsity: \x00", "recipe text"),
        ("sparsity: on", "recipe: sparsity must be a number, got True"),
        ("sparsity: .nan", "recipe: sparsity must be finite"),
    ],
)
def test_bad_text_is_refused(text, message):
    with pytest.raises(RecipeError, match=message):
        Recipe.load(text)


def test_yaml_leading_zeros_are_decimal():
    assert Recipe.load("seed: 010").seed == 10


def test_bad_files_are_refused_with_their_name(tmp_path):
    for name, content, message in (
        ("a.yaml", b"sparsity: [", "a.yaml, line 1: "),
        ("a.json", b'{"sparsity": 0.9,\n "seed" 1}', "a.json, line 2: "),
        ("b.json", b'{"seed": 1, "seed": 2}', "b.json: key 'seed' is given twice"),
        ("c.json", b"[]", "c.json: expected a mapping"),
        ("d.yaml", b"sparsity: \xff", "d.yaml' is no UTF-8 text"),
        ("e.yaml", b"sparsty: 0.9", "e.yaml: key 'sparsty' is unknown"),
    ):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(RecipeError, match=message):
            Recipe.load(path)
    with pytest.raises(RecipeError, match="cannot be read: Is a directory"):
        Recipe.load(tmp_path)


def test_other_sources_are_refused():
    with pytest.raises(RecipeError, match="expected a Recipe, a mapping, a path or YAML text, got int"):
        Recipe.load(3)  # type: ignore[arg-type]


# --- writing

shares = st.floats(0, 1)
granularities = st.one_of(
    st.sampled_from([Unstructured(), Filter(), Channel(), Stripe(), KernelPattern(), KernelPattern(5)]),
    st.builds(KernelPattern, patterns=st.just(("111010000", "010010110"))),
    st.builds(BankBalanced, st.integers(1, 256), st.sampled_from(["dense", "balance"])),
    st.integers(1, 64).flatmap(lambda m: st.builds(NM, st.integers(0, m), st.just(m))),
    st.builds(Block, st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple)),
    st.builds(Balanced, st.lists(st.sampled_from([-1, 1, 4, 64]), min_size=1, max_size=4).map(tuple)),
)
names = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1, max_size=12)
rules = st.one_of(
    st.builds(LayerRule, shares, st.none() | granularities), st.builds(LayerRule, granularity=granularities)
)
schedules = st.one_of(
    st.builds(OneShot, st.integers(0, 10**6)),
    st.builds(Polynomial, st.integers(0, 10**6), st.integers(0, 10**6), st.floats(0, 1e6), st.floats(0.1, 9)),
)
recipes = st.builds(
    Recipe,
    sparsity=shares,
    granularity=granularities,
    score=st.sampled_from(["magnitude", "movement", "taylor", "fpgm", "bn_scale", "random"]),
    allocation=st.sampled_from(["uniform", "global", "erk", "lamp"]),
    schedule=schedules,
    layers=st.dictionaries(names, rules, max_size=4),
    skip=st.lists(names, max_size=3).map(tuple),
    skip_keywords=st.lists(names, max_size=3).map(tuple),
    include_1d=st.booleans(),
    min_sparsity=st.floats(0, 0.5),
    max_sparsity=st.floats(0.5, 1),
    bn_scales=st.dictionaries(names, names, max_size=2),
    seed=st.integers(0, 2**63),
    restore_sparsity=st.booleans(),
    fix_sparsity=st.booleans(),
    l1=st.floats(0, 10),
    initial_sparsity=shares,
    granularity_by_axes=st.dictionaries(st.sampled_from(["1d", "2d", "4d"]), granularities),
    channel_multiple=st.integers(1, 64),
)


@settings(max_examples=60, deadline=None)
@given(recipes)
def test_what_is_written_reads_back_equal(recipe):
    written = recipe.to_dict()
    assert Recipe.load(written) == recipe
    assert Recipe.load(json.loads(json.dumps(written))) == recipe
    assert Recipe.load(yaml.safe_dump(written, allow_unicode=True)) == recipe
    assert set(written) == {f.name for f in fields(Recipe)} - {"layers_from", "groups"}


@settings(max_examples=60, deadline=None)
@given(st.none() | shares, granularities, st.dictionaries(names, rules, max_size=4), st.booleans())
def test_recipes_without_a_sparsity_read_back_equal(sparsity, granularity, layers, restore):
    recipe = Recipe(sparsity, granularity, layers=layers, restore_sparsity=restore)
    assert Recipe.load(recipe.to_dict()) == recipe
    assert Recipe.load(recipe.to_dict()).active is recipe.active


def test_a_schedule_of_ones_own_cannot_be_written():
    class Never(Schedule):
        end = 0

        def latest_update(self, last, step):
            return None

        def sparsity(self, update, initial, target):
            return initial

    with pytest.raises(RecipeError, match="only OneShot and Polynomial can be saved"):
        Recipe(0.5, schedule=Never()).to_dict()
