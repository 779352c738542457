"""The link between a pruner and MXNet arrays, shared by `Prune` and the sparse optimizers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from mopruning.backends.mxnet.framework import NDArray, mx
from mopruning.backends.mxnet.layouts import Array
from mopruning.backends.mxnet.states import arrays_in
from mopruning.backends.mxnet.weights import Eraser, Weights, spread
from mopruning.recipe import Recipe
from mopruning.sparsifier import ErasingSparsifier


class MxnetSparsifier(ErasingSparsifier):
    """Carries out in MXNet what a `Pruner` decides.

    Args:
        weights: The parameters.
        recipe: What to prune.
        mask_device: "default" or "cpu", which are the same here: masks are computed on the host.

    Attributes:
        weights: The parameters.

    Raises:
        RecipeError: If `mask_device` is neither, or the recipe does not fit the parameters.
    """

    weights: Weights
    _erasers: dict[str, Eraser]

    def __init__(self, weights: Weights, recipe: Recipe, mask_device: Literal["default", "cpu"] = "default") -> None:
        super().__init__(weights, recipe, mask_device)
        self._penalised = {row.name for row in self.pruner.plan.pruned} if recipe.l1 else set()

    def erase_weights(self) -> None:
        """Zero every pruned weight in place, in all its copies."""
        for name, eraser in self._erasers.items():
            for array in self.weights.arrays(name):
                eraser.erase(array)

    def erase(self, name: str, state: Any) -> None:
        """Zero pruned positions in place: in every dense array of `state` that is shaped like the parameter."""
        eraser = self._erasers.get(name)
        if eraser is not None:
            for array in arrays_in(state):
                if eraser.fits(array):
                    eraser.erase(array)

    def observe(self, gradients: Mapping[str, Array]) -> None:
        """Show the pruner the weights with canonical gradients, where its score is made of both."""
        if self.pruner.wants_gradients:
            self.pruner.observe(self.seen, gradients)

    def observe_gradients(self) -> None:
        """Show the pruner weights and the gradients that the parameters have, where its score is made of both."""
        if self.pruner.wants_gradients:
            self.pruner.observe(self.seen, self.weights.gradients())

    def penalised(self, name: str, weight: NDArray, gradient: NDArray, scale: float) -> NDArray:
        """Return a gradient with the slope of the L1 penalty added, in place where it is dense.

        Args:
            name: Name of the parameter.
            weight: Its values.
            gradient: Its gradient; one stored by rows becomes dense by the penalty.
            scale: What the optimizer multiplies gradients by (`rescale_grad`).
        """
        if name not in self._penalised or not scale:
            return gradient
        gradient = spread(gradient)
        gradient += mx.nd.sign(weight).as_in_context(gradient.context) * (self.recipe.l1 / scale)
        return gradient
