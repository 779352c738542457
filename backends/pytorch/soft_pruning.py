"""Pruning training: one-shot masks, a phase in which pruned weights grow back, then masks that stay."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mopruning.backends.pytorch import data_parallel
from mopruning.backends.pytorch.hooks import attach, is_attached
from mopruning.backends.pytorch.sparsifier import TorchSparsifier
from mopruning.backends.pytorch.trained_weights import save_weights
from mopruning.backends.pytorch.weights import Weights
from mopruning.plan import Plan
from mopruning.recipe import Recipe
from mopruning.training.agreement import check_agreement, digests
from mopruning.training.data import Data
from mopruning.training.rows import Row
from mopruning.training.settings import Settings
from mopruning.training.soft_pruning import SoftPruning


class PruningTraining(data_parallel.Training):
    """Prunes and fine-tunes a network in place, as `soft` says when.

    Once masks are frozen, pruned weights are exactly zero after every update, and so is what the optimizer remembers
    of them. Whenever masks are made, all processes compare theirs.

    Args:
        net: The network.
        data: The images.
        settings: The numbers.
        recipe: What is pruned, and how much.
        soft: When.
        options: See `data_parallel.Training`.

    Raises:
        RecipeError: If the recipe does not fit the network, or as `data_parallel.Training` does.
    """

    def __init__(
        self,
        net: nn.Module,
        data: Data,
        settings: Settings,
        recipe: Recipe,
        soft: SoftPruning,
        **options: Any,
    ) -> None:
        super().__init__(net, data, settings, **options)
        self.recipe, self.soft = recipe, soft
        self._weights = Weights(self.net)
        self._sparsifier = TorchSparsifier(self._weights, recipe)

    @property
    def plan(self) -> Plan:
        """What happens to every parameter, and why."""
        return self._sparsifier.pruner.plan

    def begin(self) -> Sequence[str]:
        """Prune, and return what became of every parameter, of sparsity and of accuracy."""
        before = self.accuracy()
        self.update_masks()
        rows = [row for row in self.plan.rows if row.granularity is not None or row.misfit]
        told = [" ".join(row.texts()) for row in rows]
        return [*told, str(self.sparsity()), f"Epoch=0 Acc {before:.2%} -> {self.accuracy():.2%}"]

    def update_masks(self) -> None:
        """Make masks of the weights as they are, zero what they leave out in place, and compare those of all processes.

        Raises:
            StateError: If the processes have different masks.
        """
        self._sparsifier = TorchSparsifier(self._weights, self.recipe)
        self._sparsifier.step()
        check_agreement(self.ranks.everyone(digests(self._sparsifier.pruner.masks)))

    def record(self) -> dict[str, Any]:
        """Return what this training is; see `data_parallel.Training`."""
        plan = [" ".join(row.texts()[:4]) for row in self.plan.pruned]
        return super().record() | {
            "retrain_epoch": self.soft.retrain_epoch,
            "prune_freq": self.soft.prune_freq,
            "plan": plan,
        }

    def write(self, path: Path, row: Row | None) -> None:
        """Write the weights as a plain state dict."""
        save_weights(self.net, path)

    def _epoch(self, shown: Callable[[int, Tensor], None] | None) -> dict[str, float]:
        if self.soft.frozen(self.completed) and not is_attached(self._optimizer):
            self._freeze()
        return super()._epoch(shown)

    def _end_epoch(self) -> bool:
        if self.soft.updates(self.completed):
            self.update_masks()
        return self.soft.sparse(self.completed)

    def _freeze(self) -> None:
        attach(self._optimizer, self._sparsifier)
        self._sparsifier.erase_state(self._optimizer.state)

    def _own_state(self) -> dict[str, Any]:
        # masks that do not hold any more would zero what has grown back
        holds = self.soft.sparse(self.completed - 1)
        return {"masks": self._sparsifier.state_dict() if holds else None, "frozen": is_attached(self._optimizer)}

    def _load_own_state(self, content: Mapping[str, Any]) -> None:
        if content["masks"] is not None:
            self._sparsifier = TorchSparsifier(self._weights, self.recipe)
            self._sparsifier.load_state_dict(content["masks"])
        if content["frozen"]:
            self._freeze()
