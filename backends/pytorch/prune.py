"""`Prune`: sparsity beside any training loop."""

from __future__ import annotations

from typing import Any, Literal

from mopruning.backends.pytorch.sparsifier import TorchSparsifier
from mopruning.backends.pytorch.weights import Weights
from mopruning.prune import BasePrune
from mopruning.recipe import Recipe


class Prune(BasePrune):
    """Prunes the parameters of a module step by step: call `prune` once after each optimizer update.

    `model` is a `torch.nn.Module`, `optimizer` a `torch.optim.Optimizer`; all arguments are those of
    `mopruning.prune.BasePrune`. Its state loads with `torch.load(weights_only=True)`.

    >>> import torch
    >>> model = torch.nn.Linear(64, 8)
    >>> pruner = Prune(model, prune_dict={"weight": 0.75})
    >>> pruner.prune()
    >>> pruner.sparsity()
    ({'weight': 0.75}, 0.75)
    """

    _sparsifier: TorchSparsifier

    def _link(self, model: Any, recipe: Recipe, prune_device: Literal["default", "cpu"]) -> TorchSparsifier:
        return TorchSparsifier(Weights(model), recipe, prune_device)

    def prune(self) -> None:
        """Count one optimizer update and zero the pruned weights in place.

        Scores made of gradients read those of the update, so call `zero_grad` after this.

        Raises:
            WeightError: If a weight is NaN or infinite at a mask update.
            StateError: If the score needs gradients and there are none.
        """
        self._sparsifier.observe()
        self._update()

    def _erase_state(self) -> None:
        self._sparsifier.erase_state(self._optimizer.state)
