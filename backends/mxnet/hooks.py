"""What makes an MXNet optimizer sparse: it acts before and after each update, and counts steps of all weights."""

from __future__ import annotations

import uuid
import warnings
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import numpy as np

from mopruning.backends.mxnet.entries import remembered, unknown_shapes
from mopruning.backends.mxnet.framework import NDArray, Optimizer
from mopruning.backends.mxnet.layouts import Description, describe
from mopruning.backends.mxnet.members import Key, Members
from mopruning.backends.mxnet.sparsifier import MxnetSparsifier
from mopruning.backends.mxnet.states import SparseState, arrays_in, moved
from mopruning.backends.mxnet.weights import Weights
from mopruning.errors import StateError
from mopruning.recipe import Recipe
from mopruning.scores import SCORES
from mopruning.sparsifier import LEAST_EPS, NO_SECTION

WATCHED = frozenset({"param_dict", "idx2name", "rescale_grad"})
"""Attributes that Trainer and Module set on an optimizer; `Rounds.noticed` is told of them."""

# With gradient, weight and state zero at a position, these leave all three zero there (read in MXNet 1.9.1): erasing
# gradients before the update is enough. Any other optimizer has weights and state erased after it, too.
ZERO_PRESERVING = frozenset({"SGD", "NAG", "Adam", "Nadam", "RMSProp", "Signum"})


class Rounds:
    """Counts one step of a pruner whenever the optimizer has updated all weights once: a round.

    Masks are decided from all weights together, so they change with the last update of a round. Before each update,
    gradients of pruned weights are zeroed; after it weights and state, where the optimizer would move them.

    Args:
        optimizer: The optimizer to be made sparse.
        recipe: What to prune.
        source: The network, as the sparse classes take it for `param_name`.
        mask_device: As for `MxnetSparsifier`.

    Attributes:
        sparsifier: The link to the pruner; None as long as the parameters are unknown.
    """

    def __init__(self, optimizer: Optimizer, recipe: Recipe, source: Any, mask_device: Any) -> None:
        self.recipe = recipe
        self.sparsifier: MxnetSparsifier | None = None
        self._optimizer = optimizer
        self._members = Members(optimizer, source)
        self._source = source
        self._mask_device = mask_device
        self._description: Description | None = None  # where `source` has been left behind
        self._pending: Mapping[str, Any] | None = None  # a saved state to continue from
        self._key = uuid.uuid4().hex
        self._successor: Rounds | None = None
        self._reset()
        self.link()

    def _reset(self) -> None:
        self._busy = False
        self._expected: set[Key] = set()  # the updates of the round that is running
        self._done: set[Key] = set()
        self._seen: set[str] = set()  # names met in this round
        self._notes: dict[Key, tuple[str, NDArray, Any]] = {}  # what was updated last: name, weight, state
        self._clean: set[Key] = set()  # wholly erased under the masks in force
        self._adopted: str | None = None
        self._failure: Exception | None = None
        self._warned = False
        self._loaded = False  # whether the sparsifier continues from a saved state

    # --- the parameters ----------------------------------------------------------------------------------------------

    def attach(self, optimizer: Optimizer) -> None:
        """Belong to an optimizer that was copied or unpickled, in place."""
        self._optimizer = optimizer
        self._members = Members(optimizer, self._source)

    def noticed(self, attribute: str) -> None:
        """Take note in place that one of `WATCHED` was set on the optimizer."""
        if attribute == "param_dict" and self._optimizer.param_dict:
            if self.sparsifier is not None:  # another Trainer, whose parameters may be others
                self._pending, self.sparsifier = self.sparsifier.state_dict(), None
            self._reset()
            self.link()
        elif attribute == "idx2name":
            self.link()
        elif attribute == "rescale_grad" and self._optimizer.param_dict and not self._busy:  # a Trainer begins a step
            failure, self._failure = self._failure, None
            if failure is not None:
                raise failure
            self._done.clear()
            self._members.check_store()
            self._members.note_fresh()
            self._reread()
            self.link()

    def link(self) -> MxnetSparsifier | None:
        """Plan in place as soon as all parameters are known; return the sparsifier, if there is one by now."""
        if self.sparsifier is None:
            source = self._members.parameters
            if source is not None and not unknown_shapes(source):
                self._start(source)
            elif source is None and self._description is not None and self._description.shapes:
                self._start(remembered(self._description))
        return self.sparsifier

    def _reread(self) -> None:
        """Forget in place, before the first update, the zeros that were read: weights may have been loaded since."""
        sparsifier, recipe = self.sparsifier, self.recipe
        if sparsifier is None or sparsifier.pruner.steps or not (recipe.restore_sparsity or recipe.fix_sparsity):
            return
        if not self._loaded and all(entry.copies() for entry in sparsifier.weights.entries.values()):
            self.sparsifier = None

    def _start(self, source: Any) -> MxnetSparsifier:
        description = self._description
        if description is None:
            description = describe(self._source)
            self._members.check_source(description.order)
        if self.recipe.score == "bn_scale" and not (self.recipe.bn_scales or description.order):
            self._members.check_order()
        sparsifier = MxnetSparsifier(Weights(source, description), self.recipe, self._mask_device)
        self._loaded = self._pending is not None
        if self._pending is not None:
            sparsifier.load_state_dict(self._pending)
        self.sparsifier, self._pending = sparsifier, None
        self._members.note_order(sparsifier.weights.entries)
        return sparsifier

    # --- a round -----------------------------------------------------------------------------------------------------

    def run(self, native: Callable[..., None], index: Any, weight: Any, gradient: Any, state: Any) -> None:
        """Carry out a native update, of one weight or a list of them, in place and sparse."""
        if self._busy:  # a native update that calls another
            native(index, weight, gradient, state)
            return
        self._busy = True
        try:
            if isinstance(index, (tuple, list)):
                self._update(native, list(index), list(weight), list(gradient), list(state))
            else:

                def single(i: Any, w: Any, g: Any, s: Any) -> None:
                    native(i[0], w[0], g[0], s[0])

                self._update(single, [index], [weight], [gradient], [state])
        except Exception as error:
            self._done.clear()
            if self._members.on_kvstore:  # called from C, where an exception is printed and lost
                self._failure = error
            raise
        finally:
            self._busy = False

    def _update(
        self,
        native: Callable[..., None],
        indices: list[Hashable],
        weights: list[NDArray],
        gradients: list[NDArray],
        states: list[Any],
    ) -> None:
        states = [self._opened(state, weight) for state, weight in zip(states, weights, strict=True)]
        if not self._done:
            self._begin(indices[0])
        by_context = any(context is not None for _, context in self._expected)
        keys = [(i, w.context if by_context else None) for i, w in zip(indices, weights, strict=True)]
        names = [self._members.name(index) for index in indices]
        self._check_new(keys, names)
        gradients = [self._before(*one) for one in zip(names, weights, gradients, strict=True)]
        native(indices, weights, gradients, states)
        for one in zip(keys, names, weights, gradients, states, strict=True):
            self._after(*one)
        if self._done >= self._expected:
            self._end()

    def _begin(self, index: Hashable) -> None:
        self._reread()
        sparsifier = self.link()
        self._expected = self._members.of_round(index, () if sparsifier is None else sparsifier.weights.frozen)
        self._seen.clear()
        if sparsifier is not None:
            sparsifier.weights.current.clear()
            return
        recipe = self.recipe
        if recipe.restore_sparsity or recipe.fix_sparsity or recipe.l1 or SCORES[recipe.score].gradients:
            raise StateError(
                "to go on from existing zeros, for an L1 penalty and for scores of gradients all weights must be known "
                "before the first update: build the optimizer with param_name={name: array}, or param_name=module"
            )

    def _check_new(self, keys: list[Key], names: list[str]) -> None:
        twice = [name for key, name in zip(keys, names, strict=True) if key in self._done]
        if twice:
            missing = sorted(self._members.name(index) for index, _ in self._expected - self._done)
            raise StateError(
                f"{twice[0]} was updated twice, {', '.join(missing[:5])} not once: masks need whole rounds. Leave what "
                "is not updated out of param_idx2name, or build the optimizer with param_name=module"
            )

    def _before(self, name: str, weight: NDArray, gradient: NDArray) -> NDArray:
        sparsifier = self.sparsifier
        if sparsifier is None or name not in sparsifier.weights:
            return gradient
        scale = float(self._optimizer.rescale_grad)
        gradient = sparsifier.penalised(name, weight, gradient, scale)
        if name not in self._seen:  # further contexts have the same weights and gradients
            self._seen.add(name)
            sparsifier.weights.current[name] = weight
            if sparsifier.pruner.wants_gradients:
                values = sparsifier.weights.canonical(name, gradient)
                sparsifier.observe({name: values if scale == 1.0 else values * values.dtype.type(scale)})
        sparsifier.erase(name, gradient)
        return gradient

    def _after(self, key: Key, name: str, weight: NDArray, gradient: NDArray, state: Any) -> None:
        sparsifier = self.sparsifier
        preserved = key in self._clean and gradient.stype == "default" and self._preserves_zeros(weight)
        if sparsifier is not None and sparsifier.pruning and not preserved:
            sparsifier.erase(name, (weight, state))
            self._clean.add(key)
        self._notes[key] = (name, weight, state)
        self._done.add(key)

    def _end(self) -> None:
        """Count a step in place; where masks change, zero all weights and all state they leave out."""
        self._done.clear()
        self._adopted = None
        sparsifier = self.sparsifier or self._start({name: weight for name, weight, _ in self._notes.values()})
        if sparsifier.step():
            self._clean = set(self._notes)
            for name, _, state in self._notes.values():
                sparsifier.erase(name, state)

    def _preserves_zeros(self, weight: NDArray) -> bool:
        """Tell whether an update leaves pruned weights and their state at zero by itself."""
        if weight.dtype not in (np.float32, np.float64) or getattr(self._optimizer, "epsilon", 1.0) < LEAST_EPS:
            return False
        own = next(base for base in type(self._optimizer).__mro__ if not base.__module__.startswith("mopruning."))
        return own.__module__.startswith("mxnet.") and own.__name__ in ZERO_PRESERVING

    # --- saved states ------------------------------------------------------------------------------------------------

    def _opened(self, state: Any, weight: NDArray) -> Any:
        """Return the native state within a state, on the context of its weight."""
        if not isinstance(state, SparseState):
            if state is not None and not self._warned:
                self._warned = True
                warnings.warn(NO_SECTION, stacklevel=6)
            return state
        if state.rounds.latest is not self:
            self._adopt(state.rounds.latest)
        if any(array.context != weight.context for array in arrays_in(state.native)):
            state.native = moved(state.native, weight.context)
        return state.native

    def _adopt(self, other: Any) -> None:
        """Continue in place where the states that were loaded into an Updater had been saved."""
        if not self._done:
            section = other.state_dict()
            if section is not None and self.sparsifier is not None:
                self.sparsifier.load_state_dict(section)
                self._loaded = True
                self._clean.clear()
            elif section is not None:
                self._pending, self._description = section, other._description
            self._adopted = other._key
        elif other._key not in (self._key, self._adopted):  # each context's Updater loads the states once more
            raise StateError("the states of this step come from different runs: load all contexts from one file")
        other._successor = self

    @property
    def latest(self) -> Rounds:
        """These rounds, or those that took over from them."""
        return self if self._successor is None else self._successor.latest

    def state_dict(self) -> Mapping[str, Any] | None:
        """Return the pruner's state; None where there is none yet."""
        return self._pending if self.sparsifier is None else self.sparsifier.state_dict()

    def __getstate__(self) -> dict[str, Any]:
        return {
            "recipe": self.recipe,
            "mask_device": self._mask_device,
            "description": self._description if self.sparsifier is None else self.sparsifier.weights.description,
            "state": self.state_dict(),
            "key": self._key,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.recipe = state["recipe"]
        self._mask_device = state["mask_device"]
        self._description = state["description"]
        self._pending = state["state"]
        self._key = state["key"]
        self.sparsifier = None
        self._source = None
        self._successor = None
        self._reset()  # `attach` follows, unless these are only what a state brought along
