"""Recipes: what is to be pruned, how much, in which shapes, by which score and when."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mopruning.allocation import ALLOCATIONS
from mopruning.coupling import FilterGroup, read_groups
from mopruning.errors import RecipeError
from mopruning.granularity import NM, Filter, Granularity, Unstructured
from mopruning.granularity.base import Shape
from mopruning.names import check_choice
from mopruning.schedules import OneShot, Polynomial, Schedule
from mopruning.scores import SCORES
from mopruning.values import (
    read_flag,
    read_granularity,
    read_name,
    read_names,
    read_number,
    read_pairs,
    read_sparsity,
    read_whole,
)

if TYPE_CHECKING:
    from mopruning.plan import Plan

_SCHEDULE = tuple(f.name for f in fields(Polynomial))


@dataclass(frozen=True)
class LayerRule:
    """What a recipe says about some parameters; what a rule leaves open (None), a less specific one decides.

    Args:
        sparsity: Own target, 0 to 1; not changed by the recipe's allocation.
        granularity: Own granularity, as an object or text ("2:4", or "m4n2" for the same).

    Raises:
        RecipeError: If either makes no sense, or both are missing.

    >>> LayerRule(0.9), LayerRule(granularity="m4n2")
    (LayerRule(sparsity=0.9, granularity=None), LayerRule(sparsity=None, granularity=NM(n=2, m=4)))
    """

    sparsity: float | None = None
    granularity: Granularity | str | None = None

    def __post_init__(self) -> None:
        if self.sparsity is None and self.granularity is None:
            raise RecipeError("a layer rule needs a sparsity, a granularity or both, got neither")
        if self.sparsity is not None:
            object.__setattr__(self, "sparsity", read_sparsity(self.sparsity, "sparsity"))
        if self.granularity is not None:
            object.__setattr__(self, "granularity", read_granularity(self.granularity, "granularity"))

    def to_dict(self) -> dict[str, Any]:
        """Return the rule as numbers and text; what it leaves open is left out."""
        granularity = None if self.granularity is None else str(self.granularity)
        return {k: v for k, v in (("sparsity", self.sparsity), ("granularity", granularity)) if v is not None}


@dataclass(frozen=True)
class Recipe:
    """What is to be pruned, how much, in which shapes, by which score and when.

    Args:
        sparsity: Target of every prunable parameter, 0 to 1. None: only those that `layers` gives one are pruned;
            with an N:M granularity and no layers it means ``1 - n/m``.
        granularity: Which shapes may be zeroed, as an object or text such as "bank:64", "2:4", "filter".
        score: What is worth keeping: "magnitude", "movement", "taylor", "fpgm", "bn_scale" or "random".
        allocation: How `sparsity` is shared out: "uniform", "global", "erk" or "lamp".
        schedule: When: ``OneShot()``, ``Polynomial(...)``, or a mapping of start, length, frequency, exponent.
        layers: Name or glob -> own sparsity (number), granularity (text), both (mapping) or a `LayerRule`. An exact
            name wins over a glob, a longer glob over a shorter, separately for sparsity and granularity.
        skip: Names or globs of parameters left dense, whatever else the recipe says of them.
        skip_keywords: Substrings of names left dense; unlike all other names, these need not match anything.
        include_1d: Whether 1-D parameters (biases, normalisation) are pruned too.
        min_sparsity: Least sparsity that an allocation may give a parameter.
        max_sparsity: Largest sparsity that an allocation may give a parameter.
        bn_scales: For score "bn_scale": weight name -> name of its normalisation scale, where it is not the next one.
        seed: Seed of score "random", 0 or more.
        restore_sparsity: Whether the ramp starts from the zeros that the weights have already. Without any sparsity
            asked for it means `fix_sparsity`.
        fix_sparsity: Whether the zeros that the weights have already are kept as they are (fine-tuning).
        l1: Coefficient of the L1 penalty that an adapter adds to the gradients, 0 or more.
        initial_sparsity: Sparsity that the ramp starts from, 0 to 1.
        granularity_by_axes: Granularity of weights of so many axes, such as ``{"4d": "balanced:-1x4x-1x1"}``; others
            have `granularity`.
        channel_multiple: Convolutions whose input or output channels are no multiple of it are left dense.
        layers_from: What messages call `layers`; two recipes that differ in it alone are equal.
        groups: For `Filter(group=True)`: which filters of the network go together. They are a fact of the network that
            travels with the recipe for as long as it is used; it is compared, printed and saved without them.

    Raises:
        RecipeError: If a value has the wrong type or lies out of range.

    >>> recipe = Recipe(sparsity=0.9, granularity="bank:64", layers={"fc.weight": 0.5}, skip=["conv1.*"])
    >>> recipe.layers["fc.weight"], recipe.active
    (LayerRule(sparsity=0.5, granularity=None), True)
    >>> Recipe.load(recipe.to_dict()) == recipe
    True
    """

    sparsity: float | None = None
    granularity: Granularity | str = field(default_factory=Unstructured)
    score: str = "magnitude"
    allocation: str = "uniform"
    schedule: Schedule = field(default_factory=OneShot)
    layers: Mapping[str, Any] = field(default_factory=dict)
    skip: tuple[str, ...] = ()
    skip_keywords: tuple[str, ...] = ()
    include_1d: bool = False
    min_sparsity: float = 0.0
    max_sparsity: float = 1.0
    bn_scales: Mapping[str, str] = field(default_factory=dict)
    seed: int = 0
    restore_sparsity: bool = False
    fix_sparsity: bool = False
    l1: float = 0.0
    initial_sparsity: float = 0.0
    granularity_by_axes: Mapping[str, Any] = field(default_factory=dict)
    channel_multiple: int = 1
    layers_from: str = field(default="layers", compare=False, repr=False)
    groups: tuple[FilterGroup, ...] = field(default=(), compare=False, repr=False)

    def __post_init__(self) -> None:
        def put(name: str, value: Any) -> None:
            object.__setattr__(self, name, value)

        if self.sparsity is not None:
            put("sparsity", read_sparsity(self.sparsity, "recipe: sparsity"))
        put("granularity", read_granularity(self.granularity, "recipe: granularity"))
        check_choice(self.score, SCORES, "recipe: score")
        check_choice(self.allocation, ALLOCATIONS, "recipe: allocation")
        put("schedule", _schedule(self.schedule))
        rules = read_pairs(self.layers, self.layers_from)
        put("layers", {name: _rule(name, rule, self.layers_from) for name, rule in rules.items()})
        for name in ("skip", "skip_keywords"):
            put(name, read_names(getattr(self, name), f"recipe: {name}"))
        for name in ("include_1d", "restore_sparsity", "fix_sparsity"):
            put(name, read_flag(getattr(self, name), f"recipe: {name}"))
        for name in ("min_sparsity", "max_sparsity", "initial_sparsity"):
            put(name, read_sparsity(getattr(self, name), f"recipe: {name}"))
        scales = read_pairs(self.bn_scales, "bn_scales")
        put("bn_scales", {name: read_name(scale, f"bn_scales[{name!r}]") for name, scale in scales.items()})
        put("seed", read_whole(self.seed, "recipe: seed", least=0))
        put("channel_multiple", read_whole(self.channel_multiple, "recipe: channel_multiple", least=1))
        put("l1", read_number(self.l1, "recipe: l1", least=0.0))
        put("granularity_by_axes", _by_axes(self.granularity_by_axes))
        put("groups", read_groups(self.groups))
        self._settle()

    def _settle(self) -> None:
        """Fill in what several settings together mean, in place, and refuse what they cannot mean."""
        if self.min_sparsity > self.max_sparsity:
            raise RecipeError(f"min_sparsity {self.min_sparsity:g} lies above max_sparsity {self.max_sparsity:g}")
        named = any(rule.sparsity or isinstance(rule.granularity, NM) for rule in self.layers.values())
        if self.restore_sparsity and not self.sparsity and not named:
            object.__setattr__(self, "fix_sparsity", True)
        if isinstance(self.granularity, NM) and self.sparsity is None and not self.layers and not self.fix_sparsity:
            object.__setattr__(self, "sparsity", self.granularity.ceiling())
        if self.allocation != "uniform" and self.sparsity is None and not self.fix_sparsity:
            raise RecipeError(f"allocation {self.allocation!r} shares out the recipe's sparsity: give one, such as 0.9")

    @property
    def active(self) -> bool:
        """Whether the recipe ever changes a weight; where not, an optimizer behaves as its native one."""
        if self.restore_sparsity or self.fix_sparsity or self.l1 or self.sparsity:
            return True
        rules = self.layers.values()
        implied = any(
            isinstance(r.granularity, NM) and r.sparsity is None and r.granularity.n < r.granularity.m for r in rules
        )
        return any(r.sparsity for r in rules) or (self.sparsity is None and implied)

    @property
    def couples(self) -> bool:
        """Whether a granularity in it is `Filter(group=True)`, so that a plan needs groups."""
        rules = (rule.granularity for rule in self.layers.values())
        return Filter(group=True) in (self.granularity, *self.granularity_by_axes.values(), *rules)

    def plan(
        self, shapes: Mapping[str, Shape], frozen: Collection[str] = (), groups: Collection[FilterGroup] = ()
    ) -> Plan:
        """Say of every parameter what this recipe does to it, and why.

        Args:
            shapes: Canonical shape of every parameter by name, in the network's order.
            frozen: Names of parameters that are not trained; pruned only where `layers` names them exactly.
            groups: For `Filter(group=True)`: which filters go together; by default the recipe's own.

        Raises:
            UnknownNameError: If a name or glob of the recipe matches no parameter.
            RecipeError: If rules contradict each other, the allocation cannot reach the sparsity, or groups are
                missing or of another network.

        >>> print(Recipe(sparsity=0.5).plan({"fc.weight": (10, 64), "fc.bias": (10,)}))
        parameter  shape  granularity   target  reason
        fc.weight  10x64  unstructured  0.5     sparsity of the recipe
        fc.bias    10     dense         -       1-D (bias or normalisation)
        1 of 2 parameters pruned, 640 of 650 weights
        """
        from mopruning.plan import make_plan

        return make_plan(self, shapes, frozen, groups)

    @classmethod
    def load(cls, source: Recipe | Mapping[str, Any] | str | Path) -> Recipe:
        """Read a recipe in the native form or any published one, told apart by their keys.

        The published forms: a `prune_dict` (bare, or with the arguments of `Prune`), the arguments of the sparse
        optimizers (`target_sparsity`, ...), and the `prune_ratio` YAML.

        Args:
            source: A recipe (returned as it is), a mapping, the path of a YAML or JSON file, or YAML text.

        Raises:
            RecipeError: If the file cannot be read, its syntax is broken, or a key or value is none of a recipe's.

        >>> Recipe.load("prune_ratio: {module.conv1.weight: m4n2, module.fc.weight: 0.7}").layers
        ... # doctest: +NORMALIZE_WHITESPACE
        {'module.conv1.weight': LayerRule(sparsity=0.5, granularity=NM(n=2, m=4)),
         'module.fc.weight': LayerRule(sparsity=0.7, granularity=None)}
        """
        from mopruning.published import read_mapping, read_source

        if isinstance(source, Recipe):
            return source
        if isinstance(source, Mapping):
            return read_mapping(source, "recipe")
        if not isinstance(source, str | Path):
            raise RecipeError(f"expected a Recipe, a mapping, a path or YAML text, got {type(source).__name__}")
        return read_source(source, read_mapping)

    def to_dict(self) -> dict[str, Any]:
        """Return the whole recipe as numbers, text, lists and mappings, which `load` reads back equal."""
        result: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self) if f.compare}
        return result | {
            "granularity": str(self.granularity),
            "schedule": _schedule_dict(self.schedule),
            "layers": {name: rule.to_dict() for name, rule in self.layers.items()},
            "skip": list(self.skip),
            "skip_keywords": list(self.skip_keywords),
            "bn_scales": dict(self.bn_scales),
            "granularity_by_axes": {axes: str(g) for axes, g in self.granularity_by_axes.items()},
        }


def _rule(name: Any, value: Any, where: str) -> LayerRule:
    """Read one value of `layers`: a rule, a mapping, a granularity or a number."""
    if isinstance(value, LayerRule):
        return value
    try:
        if isinstance(value, Mapping):
            for key in value:
                check_choice(key, ("sparsity", "granularity"), "key")
            return LayerRule(**value)
        if isinstance(value, Granularity | str):
            return LayerRule(granularity=value)
        return LayerRule(value)
    except RecipeError as error:
        raise RecipeError(f"{where}[{name!r}]: {error}") from None


def _by_axes(value: Any) -> dict[str, Granularity]:
    for axes in (pairs := read_pairs(value, "granularity_by_axes")):
        if not re.fullmatch(r"[1-9]d", axes):
            raise RecipeError(f"granularity_by_axes: expected a number of axes such as '4d', got {axes!r}")
    return {axes: read_granularity(text, f"granularity_by_axes[{axes!r}]") for axes, text in pairs.items()}


def _schedule(value: Any) -> Schedule:
    if isinstance(value, Schedule):
        return value
    if not isinstance(value, Mapping):
        raise RecipeError(
            f"schedule: expected a Schedule or a mapping such as {{'start': 0, 'length': 800}}, got {value!r}"
        )
    for key in value:
        check_choice(key, _SCHEDULE, "schedule: key")
    numbers = {key: read_number(number, f"schedule: {key}") for key, number in value.items()}
    return OneShot(**numbers) if set(numbers) <= {"start"} else Polynomial(**numbers)  # type: ignore[arg-type]


def _schedule_dict(schedule: Schedule) -> dict[str, Any]:
    if type(schedule) not in (OneShot, Polynomial):
        raise RecipeError(f"schedule {schedule!r} has no plain form: only OneShot and Polynomial can be saved")
    return {f.name: getattr(schedule, f.name) for f in fields(schedule)}
