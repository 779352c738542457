"""Recipe and provenance: what a file carries about how its weights came to be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from mopruning.errors import FormatError
from mopruning.ir import json_text

if TYPE_CHECKING:
    from mopruning.recipe import Recipe

NOTES = ("recipe", "provenance")
"""Keys in the metadata of a file; in that of a network `mopruning.ir.mopir.PREFIX` stands before them."""


def no_place(target: object, names: Iterable[str]) -> str:
    """Say that a file has been written without something.

    >>> no_place("net.npz", ["recipe", "provenance"])
    'net.npz has no place for provenance and recipe'
    """
    return f"{target} has no place for {' and '.join(sorted(names))}"


def read_notes(carried: Mapping[str, str]) -> dict[str, Any]:
    """Return recipe and provenance as far as metadata has them: what the JSON says, or the text where it is none.

    >>> read_notes({"recipe": '{"sparsity":0.5}', "graph": "{}"})
    {'recipe': {'sparsity': 0.5}}
    """
    found: dict[str, Any] = {}
    for key in NOTES:
        text = carried.get(key)
        if text is not None:
            try:
                found[key] = json_text.parse(text)
            except FormatError:
                found[key] = text
    return found


def write_notes(carried: Mapping[str, str], recipe: Recipe, came_from: str) -> dict[str, str]:
    """Return the recipe, and the provenance with the name of the file before in it, as JSON texts by key.

    Args:
        carried: Metadata of what was pruned; its provenance is kept if it is a JSON object.
        recipe: How it was pruned.
        came_from: Name of the file that it was read from.

    >>> from mopruning.recipe import Recipe
    >>> write_notes({"provenance": '{"seed":0}'}, Recipe(sparsity=0.5), "net.onnx")["provenance"]
    '{"seed":0,"pruned_from":"net.onnx"}'
    """
    before = read_notes(carried).get("provenance")
    provenance = (before if isinstance(before, dict) else {}) | {"pruned_from": came_from}
    content = {"recipe": recipe.to_dict(), "provenance": provenance}
    return {key: json_text.compact(one) for key, one in content.items()}


def settings(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a recipe in plain form says beyond what holds without it.

    >>> settings({"sparsity": 0.5, "score": "magnitude"})
    {'sparsity': 0.5}
    """
    from mopruning.recipe import Recipe

    usual = Recipe().to_dict()
    return {key: value for key, value in recipe.items() if key not in usual or value != usual[key]}
