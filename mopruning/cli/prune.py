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

from mopruning.cli.options import Force, NetworkOrWeights, Target
from mopruning.errors import FormatError, RecipeError

if TYPE_CHECKING:
    from mopruning.coupling import FilterGroup
    from mopruning.files import WeightFile
    from mopruning.plan import Plan
    from mopruning.recipe import Recipe

_NO_WEIGHT = "no weight of a layer"


def prune(
    source: NetworkOrWeights,
    target: Target,
    granularity: Annotated[
        str | None, typer.Option(help="Such as bank:64, 2:4, unstructured (the default), filter:group, block:4x4.")
    ] = None,
    sparsity: Annotated[float | None, typer.Option(help="Share of zeros, 0 to 1.")] = None,
    recipe: Annotated[Path | None, typer.Option(help="A recipe in YAML or JSON, instead of the two above.")] = None,
    force: Force = False,
    permute: Annotated[
        bool, typer.Option("--permute", help="Reorder a network's channels first, so that N:M keeps more.")
    ] = False,
) -> None:
    """Prune the weights in a file once, at the final sparsity, and write another file.

    A schedule in the recipe is passed over. Everything else in the file stays as it is, and so does the file itself;
    OUT is written whole or not at all. A network can be written as any format of networks, or of weights alone.
    """
    from mopruning.cli.opening import check_readable_suffix, files_of, is_network, open_file, trained, weights_alone
    from mopruning.cli.output import counted, show
    from mopruning.cli.staging import bytes_of
    from mopruning.cli.targets import check_free
    from mopruning.report import sparsity as measure

    wanted = _recipe(recipe, granularity, sparsity)
    check_readable_suffix(source)
    read = files_of(source)
    _check_there(read)
    check_free(read, files_of(target), force)
    if weights_alone(source):
        _check_holds(source, target)
    opened = open_file(source)
    if not is_network(opened):
        _check_holds(source, target)
    weights, others = trained(opened)
    plan = _plan(wanted, {name: tuple(array.shape) for name, array in weights.items()}, opened)
    gained = None
    if permute:
        from mopruning.cli.permuting import permuted

        opened, gained = permuted(opened, plan)
        weights, others = trained(opened)
    before = measure(weights).sparsity  # now, because `replace` writes into these very arrays
    pruned = one_shot(plan, weights)
    opened.replace(pruned)
    pruned_share, share = measure(pruned).sparsity, measure({**weights, **pruned}).sparsity
    del weights, pruned  # before another copy is made for the file
    _write(opened, target, plan.recipe)

    if gained is not None:
        show(gained.table())
    show(plan.table())
    print(f"sparsity: {pruned_share:.4f} of the pruned parameters, {share:.4f} of all (was {before:.4f})")
    if others:
        print("also in the file:", counted(list(others.values())))
    if note := _left_behind(opened, target):
        print(note)
    print(f"{source}: {bytes_of(read):,} bytes -> {target}: {bytes_of(files_of(target)):,} bytes")


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


def _check_there(read: tuple[Path, ...]) -> None:
    """Refuse to read what is not there, or is no file."""
    for file in read:
        if not file.is_file():
            strerror = "is no file" if file.exists() else "there is no such file"
            raise FileNotFoundError(errno.ENOENT, strerror, str(file))


def _check_holds(source: Path, target: Path) -> None:
    """Refuse to make a network of weights alone."""
    from mopruning.cli.opening import needs_network
    from mopruning.files import FORMATS

    if needs_network(target):
        raise FormatError(
            f"{source} holds weights without a network, which {target.name} needs; write one of {', '.join(FORMATS)}, "
            "or prune a file that holds the network"
        )


def _plan(recipe: Recipe, shapes: Mapping[str, tuple[int, ...]], opened: WeightFile) -> Plan:
    """Say what happens to every parameter; in a network, only weights of layers are pruned unless named exactly."""
    from mopruning.cli.opening import is_network

    unpruned: tuple[str, ...] = ()
    if is_network(opened):
        unpruned = opened.unpruned
        if recipe.score == "bn_scale":  # what the recipe says itself comes last, and so counts
            recipe = dataclasses.replace(recipe, bn_scales={**opened.scales(), **recipe.bn_scales})
    plan = recipe.plan(shapes, frozen=unpruned, groups=_groups(opened) if recipe.couples else ())
    rows = [dataclasses.replace(row, reason=_NO_WEIGHT) if row.reason == "frozen" else row for row in plan.rows]
    plan = dataclasses.replace(plan, rows=tuple(rows))
    _check_plan(plan, opened)
    return plan


def _groups(opened: WeightFile) -> tuple[FilterGroup, ...]:
    """Read off a network which filters can only be removed together."""
    from mopruning.cli.opening import is_network

    if not is_network(opened):
        raise RecipeError(
            f"{opened.path}: filter:group needs the network, for only its graph says which filters go together, and "
            "this file holds weights alone; prune the network's own file, or take filter, which goes weight by weight"
        )
    from mopruning.ir.coupling import filter_groups

    return filter_groups(opened.model)


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


def _write(opened: WeightFile, target: Path, recipe: Recipe) -> None:
    """Write what was opened, whole or not at all, with the recipe where the format has a place for it."""
    from mopruning.cli.notes import write_notes
    from mopruning.cli.opening import is_network, weights_alone
    from mopruning.cli.staging import staged
    from mopruning.files import format_of, save_weights

    with staged(Path(os.path.abspath(target))) as path:
        if is_network(opened) and not weights_alone(target):
            opened.annotate(recipe, opened.path.name)
            opened.save(path)
        elif format_of(path).name == "mopir":
            from mopruning.ir.container import write
            from mopruning.ir.lazy import lazy

            tensors = opened.held() if format_of(opened.path).name == "mopir" else opened.bare()
            texts = {**opened.notes, **write_notes(opened.notes, recipe, opened.path.name)}
            write(path, {name: lazy(array) for name, array in tensors.items()}, texts)
        else:
            save_weights(opened, path, bare=True)  # what is left behind is told


def _left_behind(opened: WeightFile, target: Path) -> str:
    """Say what a file of weights alone has no place for."""
    from mopruning.cli.notes import no_place
    from mopruning.cli.opening import is_network, weights_alone
    from mopruning.files import format_of

    if is_network(opened):
        note = f"{target} holds parameters and running statistics, without the network"
        return note if weights_alone(target) else ""
    return no_place(target, opened.beside) if opened.beside and format_of(target) != format_of(opened.path) else ""
