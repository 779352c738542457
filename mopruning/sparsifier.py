"""The link between a pruner and a framework's parameters: what every adapter does alike."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any, Literal, Protocol

from mopruning.arrays import Array
from mopruning.errors import RecipeError
from mopruning.names import Names, check_choice
from mopruning.placement import Whole
from mopruning.plan import Plan
from mopruning.pruner import Pruner
from mopruning.recipe import Recipe

LEAST_EPS = 1e-30
"""The least epsilon of an optimizer that keeps zero over zero from being NaN; one below it vanishes."""

NO_SECTION = (
    "this optimizer state has no sparsity section: masks and ramp stay as they are "
    "(restore_sparsity=True starts from the zeros in the weights)"
)
"""Warning where an optimizer loads a state that was saved without sparsity."""


class NamedWeights(Protocol):
    """Parameters by name, as an adapter shows them: looked up, each is a canonical array of its present values."""

    @property
    def aliases(self) -> Mapping[str, str]:
        """Further names of tied parameters -> their first name."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Canonical shapes by name."""

    @property
    def frozen(self) -> Collection[str]:
        """Names of parameters that do not train."""


class Sparsifier(ABC):
    """Carries out in one framework what a `Pruner` decides.

    Args:
        weights: The parameters; a mapping name -> canonical array, and `NamedWeights`.
        recipe: What to prune.
        mask_device: "default" or "cpu": where masks are computed, as far as the framework leaves a choice.
        seen: The same arrays as the pruner shall see them, where that is another device; `weights` itself by default.

    Attributes:
        weights: The parameters.
        recipe: What to prune.
        seen: The parameters as the pruner sees them.
        pruner: The state machine.

    Raises:
        RecipeError: If `mask_device` is neither, or the recipe does not fit the parameters.
    """

    def __init__(
        self,
        weights: Any,
        recipe: Recipe,
        mask_device: Literal["default", "cpu"] = "default",
        seen: Mapping[str, Array] | None = None,
    ) -> None:
        check_choice(mask_device, ("default", "cpu"), "prune_device")
        self.weights = weights
        self.recipe = recipe
        self.seen: Mapping[str, Array] = weights if seen is None else seen
        self.pruner = Pruner(self._plan(), self.seen, self._place())
        if recipe.l1 and not self.pruner.plan.pruned:
            warnings.warn("the L1 penalty acts on the parameters to be pruned, and there are none", stacklevel=2)
        self._begin()

    def _begin(self) -> None:  # noqa: B027  a framework whose graph does it has nothing to do
        """Bring into force in place the masks that the pruner starts with."""

    def _place(self) -> Whole | None:
        """Return where the parameters lie, None where they lie whole in this process."""
        return None

    def _plan(self) -> Plan:
        named: NamedWeights = self.weights
        return untied(self.recipe, named).plan(named.shapes, named.frozen)

    def replan(self) -> None:
        """Plan anew in place, after parameters joined; their masks start at the next update."""
        self.pruner.replan(self._plan(), self.seen)
        self.load_masks()

    @abstractmethod
    def load_masks(self) -> None:
        """Bring the pruner's current masks into force in place and zero the weights they leave out."""

    @abstractmethod
    def erase_weights(self) -> None:
        """Zero every pruned weight in place."""

    def step(self) -> bool:
        """Count one update; return whether it changed the masks, which are then in force."""
        return self.enforce(self.pruner.step(self.seen))

    def enforce(self, masks: Mapping[str, Array] | None) -> bool:
        """Bring into force in place what `Pruner.step` or `Pruner.update` returned; return whether it changed masks."""
        if masks is None:
            return False
        self.load_masks()
        return True

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs, in types that the framework's own checkpoints hold."""
        return self.pruner.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue in place where `state` was saved, and zero the weights its masks leave out.

        Raises:
            StateError: If the state belongs to another plan or is damaged; nothing is changed then.
        """
        self.pruner.load_state_dict(state)
        self.load_masks()


class ErasingSparsifier(Sparsifier):
    """A sparsifier that has one eraser for each pruned parameter, where tensors are written to one by one.

    Its `weights` make the erasers: `weights.eraser(name, mask)`, of canonical masks. Arguments and errors are those of
    `Sparsifier`.
    """

    _erasers: dict[str, Any]

    def _begin(self) -> None:
        self.load_masks()

    @property
    def pruning(self) -> bool:
        """Whether masks are in force."""
        return bool(self._erasers)

    def load_masks(self) -> None:
        """Bring the pruner's current masks into force in place and zero the weights they leave out."""
        self._erasers = {}  # lets the former ones go before others take memory
        for name, mask in self.pruner.masks.items():
            self._erasers[name] = self.weights.eraser(name, mask)
        self.erase_weights()


def untied(recipe: Recipe, weights: NamedWeights) -> Recipe:
    """Return a recipe with every further name of a tied parameter replaced by its first one.

    Raises:
        RecipeError: If two names of one parameter are given two rules, or its filters belong to two channels.
    """
    if not weights.aliases:
        return recipe
    own, further = Names(weights.shapes), Names(weights.aliases)

    def first(key: str) -> str:
        found, exact = ([], False) if own.find(key)[0] else further.find(key)
        return weights.aliases[found[0]] if exact and found else key

    layers: dict[str, Any] = {}
    for key, rule in recipe.layers.items():
        if layers.setdefault(first(key), rule) != rule:
            raise RecipeError(f"{recipe.layers_from}: {key!r} is tied to {first(key)!r}; give them one rule")
    scales = {first(weight): first(scale) for weight, scale in recipe.bn_scales.items()}
    groups = tuple(group.renamed(first) for group in recipe.groups)
    return replace(recipe, layers=layers, skip=tuple(map(first, recipe.skip)), bn_scales=scales, groups=groups)


def map_arrays(tree: Any, change: Callable[[Any], Any], kind: type) -> Any:
    """Return a copy of nested dictionaries with every value of type `kind` changed.

    >>> map_arrays({"steps": 3, "masks": {"fc": b"101"}}, len, bytes)
    {'steps': 3, 'masks': {'fc': 3}}
    """
    if isinstance(tree, Mapping):
        return {key: map_arrays(value, change, kind) for key, value in tree.items()}
    return change(tree) if isinstance(tree, kind) else tree
