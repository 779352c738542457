"""The arguments that sparsity adds to a framework's optimizer, read alike by every adapter."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mopruning.published import from_optimizer_arguments
from mopruning.recipe import Recipe

_GROUPS = inspect.Parameter("groups", inspect.Parameter.KEYWORD_ONLY, default=())  # no part of a recipe's text
_ARGUMENTS = (*inspect.signature(from_optimizer_arguments).parameters.values(), _GROUPS)

SPARSE_ARGUMENTS = frozenset(argument.name for argument in _ARGUMENTS)
"""Names of the arguments that say what to prune; no framework's optimizer has one of that name."""


def take_sparse(arguments: dict[str, Any]) -> dict[str, Any]:
    """Move the sparse arguments out of those of an optimizer, in place, and return them.

    >>> arguments = {"lr": 0.1, "target_sparsity": 0.9}
    >>> take_sparse(arguments), arguments
    ({'target_sparsity': 0.9}, {'lr': 0.1})
    """
    return {key: arguments.pop(key) for key in sorted(SPARSE_ARGUMENTS & arguments.keys())}


def read_sparse(recipe: Any, sparse: Mapping[str, Any], who: str = "SparseOptimizer") -> Recipe:
    """Return the recipe that an optimizer was given, as one or as arguments.

    Args:
        recipe: A recipe (object, mapping or file), or None.
        sparse: Sparse arguments by name: those of `from_optimizer_arguments`, and `groups`, which filters of the
            network go together. A recipe, too, may come with `groups`.
        who: Class the arguments were given to, for messages.

    Raises:
        TypeError: If both are given, or an argument is unknown.
        RecipeError: If the recipe or an argument makes no sense.

    >>> read_sparse(None, {"target_sparsity": 0.9}).sparsity
    0.9
    """
    if unknown := sparse.keys() - SPARSE_ARGUMENTS:
        known = ", ".join(sorted(SPARSE_ARGUMENTS))
        raise TypeError(f"{who}: unknown arguments {', '.join(sorted(unknown))}; known: {known}")
    asked = {name: value for name, value in sparse.items() if name != _GROUPS.name}
    if recipe is not None and asked:
        raise TypeError(f"give recipe= or the arguments {', '.join(sorted(asked))}, not both")
    loaded = Recipe.load(recipe) if recipe is not None else from_optimizer_arguments(**asked)
    return replace(loaded, groups=sparse[_GROUPS.name]) if _GROUPS.name in sparse else loaded


def sparse_signature(native: Any, added: Any) -> inspect.Signature:
    """Return the signature of a sparse class: the native one, then what sparsity adds.

    Args:
        native: The native optimizer's class, or its `__init__`.
        added: The function whose keyword-only arguments an adapter adds, such as `recipe`.
    """
    shown = [*inspect.signature(native).parameters.values()]
    shown = [one for one in shown if one.kind is not inspect.Parameter.VAR_KEYWORD]
    arguments = (*inspect.signature(added).parameters.values(), *_ARGUMENTS)
    return inspect.Signature([*shown, *(one for one in arguments if one.kind is inspect.Parameter.KEYWORD_ONLY)])
