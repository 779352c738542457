"""The link between a pruner and parameters, with arrays in place of a framework's tensors."""

from typing import ClassVar

import numpy as np
import pytest

from mopruning.coupling import Coupled, FilterGroup
from mopruning.errors import RecipeError
from mopruning.pruner import STATE_VERSION, plan_text, read_plan_text
from mopruning.recipe import Recipe
from mopruning.schedules import Polynomial
from mopruning.sparsifier import ErasingSparsifier


class Arrays(dict):
    aliases = frozen = ()

    @property
    def shapes(self):
        return {name: array.shape for name, array in self.items()}

    def eraser(self, name, mask):
        return lambda: self[name].__setitem__(~mask, 0)


class ArraySparsifier(ErasingSparsifier):
    def erase_weights(self):
        for erase in self._erasers.values():
            erase()


def linked(**settings):
    weights = Arrays(fc=np.array([[4.0, -1.0, 3.0, 2.0]]))
    return weights, ArraySparsifier(weights, Recipe(sparsity=0.5, **settings))


def test_masks_come_into_force_where_a_step_changes_them():
    weights, sparsifier = linked(schedule=Polynomial(1, 0))
    assert not sparsifier.pruning
    assert sparsifier.step()
    assert sparsifier.pruning
    assert weights["fc"].tolist() == [[4, 0, 3, 0]]
    assert not sparsifier.step()


def test_what_a_pruner_returned_is_enforced():
    weights, sparsifier = linked()
    assert not sparsifier.enforce(None)
    assert not sparsifier.pruning
    sparsifier.pruner.steps = 1
    assert sparsifier.enforce(sparsifier.pruner.update(weights))
    assert weights["fc"].tolist() == [[4, 0, 3, 0]]


def test_masks_are_in_force_from_the_start_where_zeros_are_kept():
    weights = Arrays(fc=np.array([[4.0, 0.0]]))
    sparsifier = ArraySparsifier(weights, Recipe(fix_sparsity=True))
    weights["fc"][:] = 5.0
    sparsifier.erase_weights()
    assert weights["fc"].tolist() == [[5, 0]]


def test_devices_misspelt():
    with pytest.raises(RecipeError, match="prune_device 'cpus' is unknown; did you mean 'cpu'"):
        ArraySparsifier(Arrays(fc=np.ones((1, 2))), Recipe(sparsity=0.5), "cpus")


def test_plans_travel_as_text():
    plan = Recipe(sparsity=0.5).plan({"fc": (1, 4)}).to_dict()
    assert read_plan_text(plan_text(plan).encode()) == {"version": STATE_VERSION, "plan": plan}
    for damaged in ("{", "{}", "[]", "3"):
        with pytest.raises((ValueError, KeyError, TypeError)):
            read_plan_text(damaged)


def test_groups_name_tied_parameters_by_their_first_name():
    class Tied(Arrays):
        aliases: ClassVar = {"head": "fc"}

    groups = [FilterGroup(2, (), (Coupled("fc", (0, 1)), Coupled("head", (0, 1)), Coupled("out", (0, 1))))]
    weights = Tied(fc=np.array([[1.0, 2.0], [4.0, 1.0]]), out=np.array([[1.0], [9.0]]))
    sparsifier = ArraySparsifier(weights, Recipe(sparsity=0.5, granularity="filter:group", groups=groups))
    assert [group.names for group in sparsifier.pruner.plan.groups] == [("fc", "out")]
    sparsifier.step()
    assert weights["fc"].tolist() == [[0, 0], [4, 1]]
    assert weights["out"].tolist() == [[0], [9]]
