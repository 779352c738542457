"""The arguments that sparsity adds to any optimizer."""

import doctest
import inspect

import pytest

from mopruning import Recipe, sparse_arguments
from mopruning.coupling import Coupled, FilterGroup
from mopruning.sparse_arguments import SPARSE_ARGUMENTS, read_sparse, sparse_signature, take_sparse


def test_doctests():
    result = doctest.testmod(sparse_arguments)
    assert result.attempted > 0
    assert result.failed == 0


def test_recipe_in_any_form_is_read():
    assert read_sparse({"sparsity": 0.5}, {}) == read_sparse(Recipe(sparsity=0.5), {})
    assert not read_sparse(None, {}).active


def test_groups_come_with_a_recipe_or_with_arguments():
    groups = [FilterGroup(2, (), (Coupled("fc", (0, 1)),))]
    asked = {"target_sparsity": 0.5, "granularity": "filter:group"}
    recipe = Recipe(sparsity=0.5, granularity="filter:group")
    for loaded in (read_sparse(recipe, {"groups": groups}), read_sparse(None, {**asked, "groups": groups})):
        assert loaded.groups == tuple(groups)
    assert take_sparse({"lr": 0.1, "groups": groups}) == {"groups": groups}
    assert recipe.groups == ()


@pytest.mark.parametrize(
    ("recipe", "sparse", "message"),
    [
        ({"sparsity": 0.5}, {"target_sparsity": 0.5}, "give recipe= or the arguments target_sparsity, not both"),
        (None, {"target_sparsty": 0.5}, "SparseOptimizer: unknown arguments target_sparsty; known: .*target_sparsity"),
    ],
)
def test_what_makes_no_sense_is_refused(recipe, sparse, message):
    with pytest.raises(TypeError, match=message):
        read_sparse(recipe, sparse)


def test_signature_shows_native_added_and_sparse_arguments():
    def native(lr, momentum=0.9, **kwargs): ...
    def added(*args, recipe=None): ...

    shown = sparse_signature(native, added).parameters
    assert list(shown)[:3] == ["lr", "momentum", "recipe"]
    assert set(list(shown)[3:]) == SPARSE_ARGUMENTS
    assert all(one.kind is inspect.Parameter.KEYWORD_ONLY for one in list(shown.values())[2:])
