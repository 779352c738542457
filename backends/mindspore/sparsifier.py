"""The link between a pruner and MindSpore parameters, shared by `Prune` and the sparse optimizers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from mindspore import Parameter, Tensor, nn

from mopruning.backends.mindspore.state import SparseState
from mopruning.backends.mindspore.weights import Host, Weights, erase, slots_of, write
from mopruning.pruner import Pruner
from mopruning.recipe import Recipe
from mopruning.scores import SCORES
from mopruning.sparsifier import Sparsifier


class MindSporeSparsifier(Sparsifier):
    """Carries out in MindSpore what a `Pruner` decides, between the updates or by the arrays that a graph hands over.

    Step and masks live in parameters (`state`), so that a checkpoint loaded at any time is what counts: the pruner
    takes them up each time it is asked.

    Args:
        weights: The parameters.
        recipe: What to prune.
        mask_device: "default" or "cpu"; masks are computed on the host either way.

    Attributes:
        weights: The parameters.
        state: What the pruner remembers, as parameters.

    Raises:
        RecipeError: If `mask_device` is neither, or the recipe does not fit the parameters.
    """

    weights: Weights

    def __init__(self, weights: Weights, recipe: Recipe, mask_device: Literal["default", "cpu"] = "default") -> None:
        super().__init__(weights, recipe, mask_device)
        self.state = SparseState(weights, self.pruner)
        self.updates = () if recipe.fix_sparsity or not self.state.names else tuple(recipe.schedule.updates)
        self.score = SCORES[recipe.score]
        self.erase_weights()

    @property
    def synchronised(self) -> Pruner:
        """The pruner, after it took up what the parameters hold."""
        self.state.restore(self.pruner)
        return self.pruner

    @property
    def pruned(self) -> list[tuple[Parameter, Parameter]]:
        """Each pruned weight with its mask, where masks are in force."""
        if not self.state.pruning:
            return []
        return [(self.weights.parameters[n], mask) for n, mask in zip(self.state.names, self.state.masks, strict=True)]

    def load_masks(self) -> None:
        """Bring the pruner's current masks into force in place and zero the weights they leave out."""
        self.state.store(self.pruner)
        self.erase_weights()

    def erase_weights(self) -> None:
        """Zero every pruned weight in place."""
        for parameter, keep in self.pruned:
            erase(parameter, keep)

    def erase_state(self, optimizer: nn.Optimizer) -> None:
        """Zero an optimizer's state at pruned positions in place: every parameter shaped like its weight."""
        for parameter, keep in self.pruned:
            for slot in slots_of(optimizer, parameter):
                erase(slot, keep)

    def step(self) -> bool:
        """Count one update; return whether it changed the masks, which are then in force."""
        write(self.state.step, self.state.step.asnumpy() + 1)
        return self.catch_up()

    def catch_up(self) -> bool:
        """Carry out in place the mask update that is due, if one is; return whether it was."""
        step, last = (int(one.asnumpy()[0]) for one in (self.state.step, self.state.last_update))
        if not self.updates or self.recipe.schedule.latest_update(last, step) is None:
            return False
        return self.enforce(self.synchronised.update(self.seen))

    def observe(self, gradients: Mapping[str, Tensor], scale: float = 1.0) -> None:
        """Show the pruner weights and gradients in place, where its score is made of both.

        Args:
            gradients: Gradients by name of their parameter.
            scale: What they were multiplied by (loss scaling).
        """
        if not self.score.gradients or not self.synchronised.wants_gradients:
            return
        canonical = {name: self.weights.to_canonical(name, value.asnumpy()) for name, value in gradients.items()}
        self.pruner.observe(self.seen, {name: _unscaled(value, scale) for name, value in canonical.items()})
        self.state.store(self.pruner)

    def decide_in_graph(self, *arrays: Host) -> tuple[Host, ...]:
        """Do the mask update that is due, with the arrays that a running graph hands over.

        Args:
            *arrays: Values of `state.members`, then the weights that `Pruner.needed` names, as they lie.

        Returns:
            New values of last_update, seen and masks.
        """
        self._restore(arrays)
        self.pruner.update(self._handed_over(self.pruner.needed, arrays[len(self.state.members) :]))
        _, last, seen, _, _, *rest = self.state.values(self.pruner)
        return last, seen, *rest[: len(self.state.names)]

    def observe_in_graph(self, *arrays: Host) -> tuple[Host, ...]:
        """Observe with the arrays that a running graph hands over.

        Args:
            *arrays: Values of `state.members`, then pruned weights and their unscaled gradients, as they lie.

        Returns:
            New values of seen and observed.
        """
        self._restore(arrays)
        names, rest = self.state.names, arrays[len(self.state.members) :]
        if self.pruner.wants_gradients:
            weights, gradients = rest[: len(names)], rest[len(names) :]
            self.pruner.observe(self._handed_over(names, weights), self._handed_over(names, gradients))
        _, _, seen, _, _, *values = self.state.values(self.pruner)
        return seen, *values[len(names) :]

    def _restore(self, arrays: Sequence[Host]) -> None:
        self.state.restore(self.pruner, arrays[: len(self.state.members)])

    def _handed_over(self, names: Sequence[str], arrays: Sequence[Host]) -> dict[str, Host]:
        return {name: self.weights.to_canonical(name, array) for name, array in zip(names, arrays, strict=True)}

    def state_dict(self) -> dict[str, Any]:
        """Return step, plan and masks as tensors by name, which `mindspore.save_checkpoint` takes as `append_dict`."""
        return {parameter.name: Tensor(parameter.asnumpy().copy()) for parameter in self.state.members}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue in place where `state` was saved, and zero the weights its masks leave out.

        Args:
            state: What `state_dict` returned, or a whole checkpoint that holds it.

        Raises:
            StateError: If the state belongs to another plan or is damaged; nothing is changed then.
        """
        self.state.load(self.pruner, state)
        self.erase_weights()


def _unscaled(gradient: Host, scale: float) -> Host:
    return gradient if scale == 1.0 else gradient / gradient.dtype.type(scale)
