"""The link between a pruner and PyTorch tensors, shared by `Prune` and the sparse optimizers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from mopruning.backends.pytorch.sharding import local, place_of, spread_out
from mopruning.backends.pytorch.weights import Eraser, Named, Weights
from mopruning.errors import RecipeError
from mopruning.layouts import Layout
from mopruning.recipe import Recipe
from mopruning.sharding import Sharded
from mopruning.sparsifier import ErasingSparsifier, map_arrays


class TorchSparsifier(ErasingSparsifier):
    """Carries out in PyTorch what a `Pruner` decides.

    Args:
        weights: The parameters.
        recipe: What to prune.
        mask_device: "default" computes masks where the parameter lies, "cpu" on the host, which is slower but
            needs no memory of the accelerator.

    Attributes:
        weights: The parameters.

    Raises:
        RecipeError: If `mask_device` is neither, or the recipe does not fit the parameters.
    """

    weights: Weights
    _erasers: dict[str, Eraser]

    def __init__(self, weights: Weights, recipe: Recipe, mask_device: Literal["default", "cpu"] = "default") -> None:
        self._on_host = mask_device == "cpu"
        super().__init__(weights, recipe, mask_device, _OnHost(weights) if self._on_host else None)

    def _place(self) -> Sharded | None:
        return place_of(self.weights)

    def extend(self, source: Named, layouts: Mapping[int, Layout] | None = None) -> None:
        """Take further parameters in, in place; their masks start at the next update."""
        self.weights.extend(source, layouts=layouts)
        if not isinstance(self.pruner.place, Sharded) and self._place() is not None:
            raise RecipeError(
                "parameters that ranks share out join an optimizer of whole ones; build it of all of them"
            )
        self.replan()

    def observe(self, scale: Tensor | float = 1.0) -> None:
        """Show the pruner weights and gradients, where its score is made of both.

        Args:
            scale: What the gradients were multiplied by (loss scaling).
        """
        if self.pruner.wants_gradients:
            gradients = self.weights.gradients()
            if isinstance(scale, Tensor) or scale != 1.0:
                gradients = {name: gradient / scale for name, gradient in gradients.items()}
            if self._on_host:
                gradients = {name: gradient.cpu() for name, gradient in gradients.items()}
            self.pruner.observe(self.seen, gradients)

    def penalise(self, scale: Tensor | float = 1.0) -> None:
        """Add the gradient of the L1 penalty to the gradients of all parameters to be pruned in place.

        A sparse gradient becomes dense by it.

        Args:
            scale: What the gradients were multiplied by (loss scaling).
        """
        if self.recipe.l1:
            for row in self.pruner.plan.pruned:
                parameter = self.weights.parameters[row.name]
                if parameter.grad is None:
                    continue
                penalty = local(parameter.detach()).sign().mul_(self.recipe.l1 * scale)
                if parameter.grad.is_sparse:
                    parameter.grad = penalty.add_(parameter.grad.detach())
                else:
                    local(parameter.grad.detach()).add_(penalty)

    def erase_weights(self) -> None:
        """Zero every pruned weight in place."""
        for name, eraser in self._erasers.items():
            eraser.erase(self.weights.parameters[name])

    def erase_gradients(self) -> None:
        """Zero the gradient of every pruned weight in place."""
        for name, eraser in self._erasers.items():
            gradient = self.weights.parameters[name].grad
            if gradient is not None:
                eraser.erase(gradient)

    def erase_state(self, state: Mapping[Tensor, Mapping[str, Any]]) -> None:
        """Zero optimizer state at pruned positions in place: every tensor shaped like its parameter."""
        for name, eraser in self._erasers.items():
            for value in state.get(self.weights.parameters[name], {}).values():
                if eraser.fits(value):
                    eraser.erase(value)

    def state_dict(self) -> dict[str, Any]:
        """Return the pruner's state with tensors for arrays, so that `torch.load(weights_only=True)` reads it."""
        state: dict[str, Any] = map_arrays(
            super().state_dict(), lambda array: torch.from_numpy(array.copy()), np.ndarray
        )
        state["observed"] = {name: spread_out(self.weights, name, one) for name, one in state["observed"].items()}
        return state

    def check_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raise StateError where `load_state_dict` would."""
        self.pruner.checked(_with_numpy(state))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue in place where `state` was saved, and zero the weights its masks leave out.

        Raises:
            StateError: If the state belongs to another plan or is damaged; nothing is changed then.
        """
        self.pruner.load_state_dict(_with_numpy(state))
        for name, score in self.pruner.observed.items():
            device = "cpu" if self._on_host else self.weights.parameters[name].device
            self.pruner.observed[name] = torch.from_numpy(score).to(device)
        self.load_masks()


def _with_numpy(state: Any) -> Any:
    """Return a saved state with NumPy arrays, as the pruner knows it, for tensors."""
    return map_arrays(state, lambda value: local(value).cpu().numpy(), Tensor)


class _OnHost(Mapping[str, Tensor]):
    """Weights whose values are fetched to the host as they are looked up."""

    def __init__(self, weights: Weights) -> None:
        self._weights = weights

    def __getitem__(self, name: str) -> Tensor:
        return self._weights[name].cpu()

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)
