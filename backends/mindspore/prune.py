"""`Prune`: sparsity beside any training loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from mindspore import Tensor

from mopruning.backends.mindspore.sparsifier import MindSporeSparsifier
from mopruning.backends.mindspore.weights import Weights
from mopruning.prune import BasePrune
from mopruning.recipe import Recipe


class Prune(BasePrune):
    """Prunes the parameters of a Cell step by step: call `prune` once after each optimizer update.

    It works between the updates, in GRAPH and in PYNATIVE mode. `model` is a `mindspore.nn.Cell`, `optimizer` a
    `mindspore.nn.Optimizer`; all arguments are those of `mopruning.prune.BasePrune`. Its state is for the
    `append_dict` of `mindspore.save_checkpoint`, and `load_state_dict` takes what `load_checkpoint` returns.

    >>> from mindspore import nn
    >>> model = nn.Dense(64, 8)
    >>> pruner = Prune(model, prune_dict={"weight": 0.75})
    >>> pruner.prune()
    >>> pruner.sparsity()
    ({'weight': 0.75}, 0.75)
    """

    _sparsifier: MindSporeSparsifier

    def _link(self, model: Any, recipe: Recipe, prune_device: Literal["default", "cpu"]) -> MindSporeSparsifier:
        self._model = model
        return MindSporeSparsifier(Weights(None, model), recipe, prune_device)

    def prune(self, gradients: Sequence[Tensor] | Mapping[str, Tensor] = ()) -> None:
        """Count one optimizer update and zero the pruned weights in place.

        Args:
            gradients: Those of the update, in the order of `model.trainable_params()` or by name; needed by scores
                made of gradients alone.

        Raises:
            WeightError: If a weight is NaN or infinite at a mask update.
            StateError: If the score needs gradients and there are none.
        """
        if not isinstance(gradients, Mapping):
            names = [parameter.name for parameter in self._model.trainable_params()]
            gradients = dict(zip(names, gradients, strict=len(gradients) > 0))
        self._sparsifier.observe(gradients)
        self._update()

    def _erase_state(self) -> None:
        self._sparsifier.erase_state(self._optimizer)
