"""`mopruning prune`: prune the weights in a file once, and write another file."""

from __future__ import annotations

import dataclasses
import errno
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from mopruning.errors import RecipeError

if TYPE_CHECKING:
    from mopruning.files import WeightFile
    from mopruning.plan import Plan
    from mopruning.recipe import Recipe


def prune(
    source: Annotated[Path, typer.Argument(metavar="IN", help="A .safetensors, .npz, .pth or .pt file.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="Where to; its suffix says the format.")],
    granularity: Annotated[
        str | None, typer.Option(help="Such as bank:64, 2:4, unstructured (the default), filter, block:4x4.")
    ] = None,
    sparsity: Annotated[float | None, typer.Option(help="Share of zeros, 0 to 1.")] = None,
    recipe: Annotated[Path | None, typer.Option(help="A recipe in YAML or JSON, instead of the two above.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace OUT where it exists.")] = False,
) -> None:
    """Prune the weights in a file once, at the final sparsity, and write another file.

    A schedule in the recipe is passed over. Everything else in the file stays as it is, and so does the file itself;
    OUT is written whole or not at all.
    """
    from mopruning.cli.output import counted, show
    from mopruning.files import format_of, open_weights, parameters, save_weights
    from mopruning.report import sparsity as measure

    wanted = _recipe(recipe, granularity, sparsity)
    format_of(source), format_of(target)
    _check_target(source, target, force)
    opened = open_weights(source)
    weights, others = parameters(opened.weights())
    plan = wanted.plan({name: tuple(array.shape) for name, array in weights.items()})
    _check_plan(plan, opened)
    before = measure(weights).sparsity  # now, because `replace` writes into these very arrays
    pruned = one_shot(plan, weights)
    opened.replace(pruned)
    save_weights(opened, target)

    show(plan.table())
    pruned_share, share = measure(pruned).sparsity, measure({**weights, **pruned}).sparsity
    print(f"sparsity: {pruned_share:.4f} of the pruned parameters, {share:.4f} of all (was {before:.4f})")
    others |= {alias: f"tied to {name}" for alias, name in opened.aliases.items()}
    if others:
        print("also in the file:", counted(list(others.values())))
    print(f"{source}: {source.stat().st_size:,} bytes -> {target}: {target.stat().st_size:,} bytes")


def one_shot(plan: Plan, weights: Mapping[str, Any]) -> dict[str, Any]:
    """Prune weights once, at the plan's final targets.

    Args:
        plan: What happens to every parameter; its schedule is passed over.
        weights: Canonical arrays by name.

    Returns:
        New arrays by name, of the pruned parameters alone: exactly 0 where the mask says so.

    Raises:
        WeightError: If a weight that is to be pruned is NaN or infinite.
    """
    from mopruning.arrays import namespace
    from mopruning.pruner import Pruner
    from mopruning.schedules import OneShot

    at_once = dataclasses.replace(plan, recipe=dataclasses.replace(plan.recipe, schedule=OneShot()))
    masks = Pruner(at_once, weights).step(weights) or {}
    pruned = {}
    for name, keep in masks.items():
        array = weights[name]
        if isinstance(array, np.ndarray):
            pruned[name] = array.copy()  # where() would turn big-endian numbers into the machine's own
            pruned[name][~keep] = 0
        else:
            xp = namespace(array)
            pruned[name] = xp.where(keep, array, xp.zeros_like(array))
    return pruned


def _recipe(path: Path | None, granularity: str | None, sparsity: float | None) -> Recipe:
    from mopruning.recipe import Recipe
    from mopruning.scores import SCORES

    if path is not None:
        if granularity is not None or sparsity is not None:
            raise RecipeError("give either --recipe or --granularity and --sparsity, not both")
        recipe = Recipe.load(path)
    else:
        recipe = Recipe(sparsity=sparsity, granularity=granularity or "unstructured")
    if SCORES[recipe.score].gradients:
        usable = ", ".join(name for name, row in SCORES.items() if not row.gradients)
        raise RecipeError(
            f"score {recipe.score!r} needs gradients, which a file of weights does not hold; use {usable}"
        )
    if recipe.fix_sparsity:
        raise RecipeError("fix_sparsity keeps the zeros that are there: there is nothing to prune; give a sparsity")
    if not recipe.active:
        raise RecipeError("nothing would be pruned: give --sparsity, such as 0.9, or a --recipe that has one")
    return recipe


def _check_target(source: Path, target: Path, force: bool) -> None:
    """Refuse to write over the input, under whatever name, or over another file without leave."""
    if not source.is_file():
        strerror = "is no file" if source.exists() else "there is no such file"
        raise FileNotFoundError(errno.ENOENT, strerror, str(source))
    if target.exists() and os.path.samefile(source, target):
        raise FileExistsError(errno.EEXIST, "is the input, which is never changed; name another OUT", str(target))
    if os.path.lexists(target) and not force:
        raise FileExistsError(errno.EEXIST, "exists; name another OUT or add --force", str(target))


def _check_plan(plan: Plan, opened: WeightFile) -> None:
    if not plan.pruned:
        reasons = "; ".join(f"{row.name}: {row.reason}" for row in plan.rows[:3]) or "it holds no parameters"
        raise RecipeError(f"{opened.path}: nothing would be pruned ({reasons})")
    unpaired = [row.name for row in plan.pruned if row.name not in plan.recipe.bn_scales]
    if plan.recipe.score == "bn_scale" and not opened.ordered and unpaired:
        raise RecipeError(
            f"{opened.path}: its tensors are sorted by name, so their order does not tell which scale is whose; "
            f"name the scale of {unpaired[0]!r} in bn_scales"
        )
