"""Plans as text, tables and plain data, and what differs between two of them."""

import json
import math
from dataclasses import replace

import pytest
from rich.console import Console

from mopruning.granularity import Unstructured
from mopruning.plan import Plan, PlanRow
from mopruning.recipe import Recipe
from mopruning.schedules import Polynomial
from tests.plan_network import SHAPES


def test_text_is_an_aligned_table():
    lines = str(Recipe(0.9, "bank:64").plan(SHAPES)).splitlines()
    assert len(lines) == len(SHAPES) + 2
    for column in ("shape", "granularity", "target", "reason"):
        at = lines[0].index(column)
        assert all(line[at - 2 : at] == "  " for line in lines[:-1])
    assert lines[5].split() == ["conv2.weight", "128x64x3x3", "bank:64", "0.9", "sparsity", "of", "the", "recipe"]
    total = sum(math.prod(shape) for shape in SHAPES.values())
    assert lines[-1] == f"2 of 10 parameters pruned, {128 * 64 * 9 + 10240} of {total} weights"
    assert str(Recipe().plan({})).splitlines()[-1] == "0 of 0 parameters pruned, 0 of 0 weights"


def test_rich_table_holds_the_same_words():
    plan = Recipe(0.9, "bank:64").plan({**SHAPES, "[red]odd[/red]": (4, 4)})
    console = Console(width=200)
    with console.capture() as capture:
        console.print(plan.table())
    shown = capture.get()
    for row in plan.rows:
        assert all(text in shown for text in row.texts())


def test_to_dict_is_plain():
    plan = Recipe(0.5, "bank:64").plan({"fc.weight": (10, 64), "fc.bias": (10,)})
    written = plan.to_dict()
    assert json.loads(json.dumps(written)) == written
    assert written["rows"] == [
        {
            "name": "fc.weight",
            "shape": [10, 64],
            "granularity": "bank:64",
            "target": 0.5,
            "reason": "sparsity of the recipe",
        },
        {
            "name": "fc.bias",
            "shape": [10],
            "granularity": None,
            "target": None,
            "reason": "1-D (bias or normalisation)",
        },
    ]
    assert Recipe.load(written["recipe"]) == plan.recipe


def test_difference_names_every_change():
    shapes = {"a": (8, 8), "b": (8, 8), "c": (8, 8), "d": (8, 8)}
    recipe = Recipe(0.5, schedule=Polynomial(0, 100))
    plan = recipe.plan(shapes)
    other = replace(recipe, schedule=Polynomial(0, 200), score="random", layers={"b": 0.25, "c": "2:4"}).plan(
        {"a": (8, 4), "b": (8, 8), "c": (8, 8), "e": (8, 8)}
    )
    assert plan.difference(other.to_dict()) == [
        "d is here only",
        "e is there only",
        "a: shape 8x8 here, 8x4 there",
        "b: target 0.5 here, 0.25 there",
        "c: granularity unstructured here, 2:4 there",
        "recipe: score magnitude here, random there",
        "recipe: schedule {'start': 0, 'length': 100, 'frequency': 100, 'exponent': 3.0} here, "
        "{'start': 0, 'length': 200, 'frequency': 100, 'exponent': 3.0} there",
    ]


def test_difference_passes_over_what_masks_do_not_show():
    shapes = {"a": (8, 8)}
    plan = Recipe(0.5).plan(shapes)
    for same in (
        Recipe(layers={"a": 0.5}),
        Recipe(0.5, restore_sparsity=True),
        Recipe(0.5, skip_keywords=["x"], seed=3, l1=1e-5),
        Recipe(0.5, min_sparsity=0.1),
    ):
        assert plan.difference(same.plan(shapes).to_dict()) == []
    dense = Recipe(0.5, skip=["a"]).plan(shapes)
    assert plan.difference(dense.to_dict()) == [
        "a: granularity unstructured here, none there",
        "a: target 0.5 here, none there",
    ]


def test_difference_minds_what_a_shared_sparsity_depends_on():
    shapes, recipe = {"a": (8, 8)}, Recipe(0.5, allocation="global")
    plan = recipe.plan(shapes)
    for change, words in (
        ({"sparsity": 0.6}, "sparsity 0.5 here, 0.6 there"),
        ({"min_sparsity": 0.1}, "min_sparsity 0.0 here, 0.1 there"),
        ({"allocation": "lamp"}, "allocation global here, lamp there"),
    ):
        assert plan.difference(replace(recipe, **change).plan(shapes).to_dict()) == [f"recipe: {words}"]
    by_chance = Recipe(0.5, score="random", seed=1).plan(shapes)
    assert by_chance.difference(Recipe(0.5, score="random", seed=2).plan(shapes).to_dict()) == [
        "recipe: seed 1 here, 2 there"
    ]


@pytest.mark.parametrize("other", [{}, {"rows": []}, {"rows": [{}], "recipe": {}}, {"rows": 3, "recipe": {}}, [], None])
def test_difference_from_a_damaged_plan(other):
    (words,) = Recipe(0.5).plan({"a": (8, 8)}).difference(other)
    assert words.startswith("the other plan is damaged or was not made by Plan.to_dict()")


def test_plans_compare_by_value():
    row = PlanRow("a", (8, 8), Unstructured(), 0.5, "sparsity of the recipe")
    assert Recipe(0.5).plan({"a": (8, 8)}) == Plan((row,), Recipe(0.5))
