"""Plans: every parameter of a network, what a recipe does to it, and why."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mopruning.allocation import ALLOCATIONS
from mopruning.coupled_rows import couple
from mopruning.coupling import FilterGroup, group_differences
from mopruning.errors import RecipeError
from mopruning.followers import GROUPED
from mopruning.granularity import NM, Granularity, Unstructured, parse_granularity
from mopruning.granularity.base import Shape
from mopruning.names import Names, stripped
from mopruning.recipe import LayerRule, Recipe

if TYPE_CHECKING:
    from rich.table import Table

_COLUMNS = ("parameter", "shape", "granularity", "target", "reason")
# Settings that show in the rows, or that do not bear on masks made before: no reason to refuse a saved state.
_NOT_COMPARED = {
    *("granularity", "layers", "skip", "skip_keywords", "include_1d", "bn_scales", "l1"),
    *("restore_sparsity", "initial_sparsity", "granularity_by_axes", "channel_multiple"),
}


@dataclass(frozen=True)
class PlanRow:
    """What happens to one parameter.

    Args:
        name: The parameter's name, as the network has it.
        shape: Its canonical shape.
        granularity: Which shapes are zeroed in it; None: it is left dense.
        target: Its sparsity in the end; None: left dense, or only a mask update knows, or it follows the filters of
            another (the reason says which).
        reason: Why.
        misfit: Whether it is left dense because the granularity meant for it does not fit its shape, or because
            filters stay dense that are coupled with its own.
    """

    name: str
    shape: Shape
    granularity: Granularity | None
    target: float | None
    reason: str
    misfit: bool = False

    def texts(self) -> tuple[str, str, str, str, str]:
        """Return the row as text, one for each column of the table."""
        shape = "x".join(map(str, self.shape)) or "scalar"
        target = "-" if self.target is None else f"{self.target:.6g}"
        return self.name, shape, "dense" if self.granularity is None else str(self.granularity), target, self.reason


@dataclass(frozen=True)
class Plan:
    """Every parameter of a network, in its order, with what a recipe does to it.

    Args:
        rows: One row for each parameter.
        recipe: The recipe that was planned, with the names in its `bn_scales` as the network has them.
        groups: The filters that are pruned together, under the network's names: every weight whose granularity is
            `Filter(group=True)` is a member, of one that has no other member where it is coupled with nothing; all
            else that has this granularity follows.
    """

    rows: tuple[PlanRow, ...]
    recipe: Recipe
    groups: tuple[FilterGroup, ...] = ()

    @property
    def pruned(self) -> tuple[PlanRow, ...]:
        """The rows of the parameters that are pruned."""
        return tuple(row for row in self.rows if row.granularity is not None)

    @property
    def followers(self) -> frozenset[str]:
        """Names of the parameters that are pruned where the filters of others are, such as a bias."""
        return frozenset(follower.name for group in self.groups for follower in group.followers)

    def __str__(self) -> str:
        lines = [_COLUMNS, *(row.texts() for row in self.rows)]
        widths = [max(len(line[i]) for line in lines) for i in range(len(_COLUMNS))]
        table = [
            "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in lines
        ]
        return "\n".join([*table, self._summary()])

    def table(self) -> Table:
        """Return the plan as a rich table, to be printed on a rich console."""
        from rich.table import Table
        from rich.text import Text

        table = Table(*_COLUMNS, caption=self._summary())
        for row in self.rows:
            table.add_row(*(Text(text) for text in row.texts()), style="dim" if row.granularity is None else "")
        return table

    def _summary(self) -> str:
        weights = [sum(math.prod(row.shape) for row in rows) for rows in (self.pruned, self.rows)]
        return f"{len(self.pruned)} of {len(self.rows)} parameters pruned, {weights[0]} of {weights[1]} weights"

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as numbers, text, lists and mappings: "rows", "recipe" and, where there are any, "groups"."""
        result = {"rows": [_row_dict(row) for row in self.rows], "recipe": self.recipe.to_dict()}
        return result | ({"groups": [group.to_dict() for group in self.groups]} if self.groups else {})

    def difference(self, other: Mapping[str, Any]) -> list[str]:
        """Say in what a saved plan differs from this one, as far as masks made under it are concerned.

        Args:
            other: What `to_dict` of the other plan returned.

        Returns:
            One sentence for each difference; none where masks made under one plan serve the other.

        >>> plan, other = (Recipe(sparsity=s).plan({"fc.weight": (10, 64)}) for s in (0.5, 0.9))
        >>> plan.difference(other.to_dict())
        ['fc.weight: target 0.5 here, 0.9 there']
        """
        try:
            theirs = {str(row["name"]): row for row in other["rows"]}
            recipe = dict(other["recipe"])
            mine = {row.name: _row_dict(row) for row in self.rows}
            result = [f"{name} is here only" for name in mine if name not in theirs]
            result += [f"{name} is there only" for name in theirs if name not in mine]
            for name in (name for name in mine if name in theirs):
                for key in ("shape", "granularity", "target"):
                    here, there = mine[name][key], theirs[name][key]
                    if here != (list(there) if key == "shape" else there):
                        result.append(f"{name}: {key} {_word(here)} here, {_word(there)} there")
            result += group_differences([group.to_dict() for group in self.groups], other.get("groups", ()))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            return [f"the other plan is damaged or was not made by Plan.to_dict() ({type(error).__name__}: {error})"]
        followers = self.followers
        undecided = any(row.target is None and row.name not in followers for row in self.pruned)
        shared = undecided and not self.recipe.fix_sparsity
        passed = _NOT_COMPARED | (set() if shared else {"sparsity", "min_sparsity", "max_sparsity", "allocation"})
        passed |= set() if self.recipe.score == "random" else {"seed"}
        for key, here in self.recipe.to_dict().items():
            if key not in passed and here != recipe.get(key):
                result.append(f"recipe: {key} {_word(here)} here, {_word(recipe.get(key))} there")
        return result


def make_plan(
    recipe: Recipe, shapes: Mapping[str, Shape], frozen: Collection[str] = (), groups: Collection[FilterGroup] = ()
) -> Plan:
    """Say of every parameter what a recipe does to it, and why; see `Recipe.plan`."""
    names = Names(shapes)
    untrained = {stripped(name) for name in frozen}
    rules = _rules(recipe, names)
    skipped: dict[str, str] = {}
    for pattern in recipe.skip:
        for name in names.require(pattern, "skip")[0]:
            skipped.setdefault(name, pattern)
    scales = {_single(names, k): _single(names, v) for k, v in recipe.bn_scales.items()}
    rows: dict[str, PlanRow | _Choice] = {}
    left: dict[str, str] = {}
    for name, given in shapes.items():
        shape = tuple(int(extent) for extent in given)
        rule = rules.get(name, _NO_RULE)
        said = ("frozen" if stripped(name) in untrained and not rule.exact else None) or (
            f"skipped by {skipped[name]!r}" if name in skipped else _keyword(name, recipe)
        )
        if said or rule.sparsity == 0.0:
            left[name] = said or f"sparsity 0, named by {rule.key!r}"
        reason = (
            _too_few_axes(shape, recipe)
            or said
            or ("not named in the recipe" if rule.key is None and _only_named(recipe) else None)
        )
        rows[name] = PlanRow(name, shape, None, None, reason) if reason else _choose(recipe, name, shape, rule)
    settled, coupled = couple(list(_settle(recipe, rows)), groups or recipe.groups, left)
    return Plan(tuple(settled), replace(recipe, bn_scales=scales) if scales else recipe, tuple(coupled))


@dataclass(frozen=True)
class _Rule:
    """What `layers` says about one parameter, once all its keys that match are put together."""

    key: str | None = None
    exact: bool = False
    sparsity: float | None = None
    granularity: Granularity | None = None


_NO_RULE = _Rule()


@dataclass(frozen=True)
class _Choice:
    """A parameter to be pruned, before the allocation has had its say."""

    name: str
    shape: Shape
    granularity: Granularity
    sparsity: float | None
    reason: str


def _rules(recipe: Recipe, names: Names) -> dict[str, _Rule]:
    """Put together the layer rules of each parameter: an exact name over a glob, a longer glob over a shorter."""
    found: dict[str, list[tuple[bool, int, str, LayerRule]]] = {}
    for key, rule in recipe.layers.items():
        matched, exact = names.require(key, recipe.layers_from)
        for name in matched:
            found.setdefault(name, []).append((exact, len(stripped(key)), key, rule))
    result = {}
    for name, entries in found.items():
        exacts = [key for exact, _, key, _ in entries if exact]
        if len(exacts) > 1:
            raise RecipeError(
                f"{recipe.layers_from}: {exacts[0]!r} and {exacts[1]!r} name the same parameter; keep one"
            )
        entries.sort(key=lambda entry: entry[:2])
        merged = _NO_RULE
        for exact, _, key, rule in entries:
            granularity = merged.granularity if rule.granularity is None else parse_granularity(rule.granularity)
            sparsity = merged.sparsity if rule.sparsity is None else rule.sparsity
            merged = _Rule(key, exact, sparsity, granularity)
        result[name] = merged
    return result


def _single(names: Names, key: str) -> str:
    found, _ = names.require(key, "bn_scales")
    if len(found) > 1:
        raise RecipeError(f"bn_scales: {key!r} matches {len(found)} parameters, expected one name")
    return found[0]


def _too_few_axes(shape: Shape, recipe: Recipe) -> str | None:
    if not shape:
        return "a single number"
    return "1-D (bias or normalisation)" if len(shape) == 1 and not recipe.include_1d else None


def _keyword(name: str, recipe: Recipe) -> str | None:
    core = stripped(name)
    found = next((word for word in recipe.skip_keywords if word in name or stripped(word) in core), None)
    return None if found is None else f"skipped by keyword {found!r}"


def _only_named(recipe: Recipe) -> bool:
    return recipe.sparsity is None and (bool(recipe.layers) or not recipe.fix_sparsity)


def _choose(recipe: Recipe, name: str, shape: Shape, rule: _Rule) -> _Choice | PlanRow:
    """Return how a parameter is to be pruned, or the row of one that must be left dense."""
    by_axes = recipe.granularity_by_axes.get(f"{len(shape)}d", recipe.granularity)
    granularity = rule.granularity or parse_granularity(by_axes)
    reason = "" if rule.key is None else f"named by {rule.key!r}"
    misfit = _odd_channels(shape, recipe.channel_multiple) or granularity.misfit(shape)
    if not math.prod(shape):
        return PlanRow(name, shape, None, None, "no elements")
    if recipe.fix_sparsity:  # the zeros that are there stay, whatever shapes they form
        return _Choice(name, shape, Unstructured() if misfit else granularity, None, "keeps the zeros it has")
    sparsity = rule.sparsity
    if sparsity is None and recipe.sparsity is None:
        if not isinstance(granularity, NM):
            raise RecipeError(
                f"{recipe.layers_from}[{rule.key!r}]: {granularity} needs a sparsity, such as 0.9; got none"
            )
        sparsity = granularity.ceiling()
    if misfit:
        return PlanRow(name, shape, None, None, misfit, misfit=True)
    if granularity == GROUPED and sparsity is None and recipe.allocation != "uniform" and recipe.sparsity:
        raise RecipeError(
            f"allocation {recipe.allocation!r} gives each weight a sparsity of its own, and filters that go together "
            f"need one: with {granularity} use allocation 'uniform', and layers for what shall differ"
        )
    return _Choice(name, shape, granularity, sparsity, reason)


def _odd_channels(shape: Shape, multiple: int) -> str | None:
    odd = [n for n in shape[:2] if n % multiple] if len(shape) > 2 else []
    return f"{shape[0]} output and {shape[1]} input channels, both must be multiples of {multiple}" if odd else None


def _settle(recipe: Recipe, rows: Mapping[str, PlanRow | _Choice]) -> Iterable[PlanRow]:
    """Give every choice its target: its own, or what the allocation hands out."""
    allocation = ALLOCATIONS[recipe.allocation]
    shared = {n: c.shape for n, c in rows.items() if isinstance(c, _Choice) and c.sparsity is None}
    targets: dict[str, float] = {}
    if recipe.sparsity == 0.0:
        targets = dict.fromkeys(shared, 0.0)
    elif shared and not (allocation.scores or recipe.fix_sparsity):
        targets = allocation.function(shared, recipe.sparsity, recipe.min_sparsity, recipe.max_sparsity)
    for name, choice in rows.items():
        if isinstance(choice, PlanRow):
            yield choice
        elif recipe.fix_sparsity:
            yield PlanRow(name, choice.shape, choice.granularity, None, choice.reason)
        elif choice.sparsity is not None:
            yield _row(choice, choice.sparsity, [choice.reason])
        else:
            source = "sparsity of the recipe" + (
                "" if recipe.allocation == "uniform" else f" shared out as {recipe.allocation}"
            )
            yield _row(choice, targets.get(name), [choice.reason, source])


def _row(choice: _Choice, target: float | None, reasons: list[str]) -> PlanRow:
    granularity, why = choice.granularity, [reason for reason in reasons if reason]
    if target is None:
        return PlanRow(choice.name, choice.shape, granularity, None, ", ".join([*why, "decided at each mask update"]))
    if target == 0.0:
        return PlanRow(choice.name, choice.shape, None, None, ", ".join(["sparsity 0", *why]))
    ceiling = granularity.ceiling()
    if target > ceiling:
        why.append(f"{granularity} holds at most {ceiling:.6g} (asked {target:.6g})")
        target = ceiling
    if granularity != GROUPED and not granularity.zeros(choice.shape, target):  # of coupled filters `couple` says it
        why.append(f"too little for one zero in {granularity}")
    return PlanRow(choice.name, choice.shape, granularity, target, ", ".join(why))


def _row_dict(row: PlanRow) -> dict[str, Any]:
    granularity = None if row.granularity is None else str(row.granularity)
    return {
        "name": row.name,
        "shape": list(row.shape),
        "granularity": granularity,
        "target": row.target,
        "reason": row.reason,
    }


def _word(value: object) -> str:
    if isinstance(value, list):
        return "x".join(map(str, value))
    return "none" if value is None else str(value)
