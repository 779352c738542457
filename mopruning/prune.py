"""`Prune`, the part that every framework shares: sparsity beside any training loop."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any, Literal

from mopruning.coupling import FilterGroup
from mopruning.errors import GranularityWarning, RecipeError
from mopruning.plan import Plan
from mopruning.published import from_prune_dict
from mopruning.recipe import Recipe
from mopruning.report import sparsity
from mopruning.sparsifier import Sparsifier


class BasePrune(ABC):
    """Prunes the parameters of a network step by step; each adapter's `Prune` says how its framework is reached.

    Args:
        model: The network, with the weights it starts from.
        pretrain_step: Updates before pruning begins.
        sparse_step: Updates over which sparsity rises to its target (0: at once).
        frequency: Updates between two changes of the masks; a float is cut to a whole number.
        prune_dict: Parameter name -> target sparsity; not changed. Only listed parameters are pruned; vectors among
            them stay dense.
        restore_sparsity: The ramp starts at the sparsity the weights have now, whose zeros stay.
        fix_sparsity: The zeros that the weights have now are kept, and nothing else is pruned.
        balance: "fix" for bank-balanced with banks of 64, "none" for unstructured, or any granularity text, such
            as "bank:32" or "2:4".
        prune_device: "default" computes masks where a parameter lies, "cpu" on the host.
        recipe: A recipe (object, mapping or file) in place of all arguments above but the model and the device.
        optimizer: The optimizer, if its state at pruned positions shall be zeroed whenever masks change.
        groups: For granularity "filter:group": which filters of the network go together.

    Attributes:
        plan: What happens to every parameter and why; printable.
        prune_dict: Target of each parameter that is pruned; None where only a mask update knows. What follows the
            filters of others has none, and is not in it.

    Raises:
        UnknownNameError: If a name matches no parameter.
        RecipeError: If an argument makes no sense.

    Warns:
        GranularityWarning: For each listed parameter that cannot be balanced; it stays dense.
    """

    def __init__(
        self,
        model: Any,
        pretrain_step: int = 0,
        sparse_step: int = 0,
        frequency: float = 100,
        prune_dict: Mapping[str, float] | None = None,
        restore_sparsity: bool = False,
        fix_sparsity: bool = False,
        balance: str = "fix",
        prune_device: Literal["default", "cpu"] = "default",
        *,
        recipe: Any = None,
        optimizer: Any = None,
        groups: Collection[FilterGroup] = (),
    ) -> None:
        if recipe is None:
            recipe = from_prune_dict(
                prune_dict or {}, pretrain_step, sparse_step, frequency, restore_sparsity, fix_sparsity, balance
            )
        recipe = Recipe.load(recipe)
        if groups:
            recipe = replace(recipe, groups=groups)
        if recipe.l1:
            raise RecipeError(
                "Prune comes after the update, too late for an L1 penalty: use a sparse optimizer, or l1: 0"
            )
        self._optimizer = optimizer
        self._sparsifier = self._link(model, recipe, prune_device)
        for row in self.plan.rows if recipe.active else ():
            if row.granularity is None and row.misfit:
                warnings.warn(
                    f"{row.name} cannot be balanced pruned and will be deleted from the prune_dict: {row.reason}",
                    GranularityWarning,
                    stacklevel=2,
                )
        followers = self.plan.followers
        self.prune_dict = {row.name: row.target for row in self.plan.pruned if row.name not in followers}

    @abstractmethod
    def _link(self, model: Any, recipe: Recipe, prune_device: Literal["default", "cpu"]) -> Sparsifier:
        """Return what carries the recipe out on the network."""

    @abstractmethod
    def _erase_state(self) -> None:
        """Zero the optimizer's state at pruned positions in place; called only where an optimizer was given."""

    @property
    def plan(self) -> Plan:
        return self._sparsifier.pruner.plan

    def _update(self) -> None:
        """Count one optimizer update and zero the pruned weights in place."""
        if not self._sparsifier.step():
            self._sparsifier.erase_weights()
        elif self._optimizer is not None:
            self._erase_state()

    def sparsity(self) -> tuple[dict[str, float], float]:
        """Return the share of exact zeros of each pruned parameter by name, and of all of them together."""
        weights = self._sparsifier.seen
        report = self._sparsifier.pruner.place.total(
            sparsity({row.name: weights[row.name] for row in self.plan.pruned})
        )
        return report.per_parameter, report.sparsity

    def state_dict(self) -> dict[str, Any]:
        """Return step, plan and masks in types that the framework's own checkpoints hold."""
        return self._sparsifier.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue in place where `state` was saved; load the network's weights too.

        Raises:
            StateError: If the state belongs to another plan.
        """
        self._sparsifier.load_state_dict(state)
        if self._optimizer is not None:
            self._erase_state()
