"""The link between a pruner and the variables of a graph, shared by `Prune` and the sparse optimizers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import tensorflow.compat.v1 as tf

from mopruning.backends.tensorflow1.state import State, observable
from mopruning.backends.tensorflow1.symbolic import SymbolicArray
from mopruning.backends.tensorflow1.weights import Array, Weights, parts_of, session_or_default
from mopruning.errors import StateError
from mopruning.pruner import Pruner
from mopruning.recipe import Recipe
from mopruning.scores import SCORES
from mopruning.sparsifier import Sparsifier


class GraphSparsifier(Sparsifier):
    """Builds what a `Pruner` decides into a graph.

    Every step runs in the graph. Python runs where masks change, once for all weights: what decides is a pruner of
    the core, which is given the state that the variables hold and the weights as they are.

    All methods that return operations are called in the cross-replica context of a `tf.distribute` strategy (the
    default one included) while the graph is built.

    Args:
        weights: The variables.
        recipe: What to prune.
        mask_device: "default" or "cpu": masks are computed on the host either way.
        with_gradient: Names of the variables whose gradients `observe` will be given.

    Attributes:
        weights: The variables.
        state: The variables that hold the pruner's state.
        pruner: The pruner in the state that `fetch` found in a session, before that as it is at the start.
        seen: The weights as `fetch` found them.

    Raises:
        RecipeError: If `mask_device` is neither, or the recipe does not fit the variables.
    """

    weights: Weights

    def __init__(
        self,
        weights: Weights,
        recipe: Recipe,
        mask_device: Literal["default", "cpu"] = "default",
        with_gradient: Collection[str] = (),
    ) -> None:
        self._unread = _Unread(weights.shapes)
        super().__init__(weights, recipe, mask_device, self._unread)
        plan = self.pruner.plan
        self.state = State(plan, weights, observable(plan, with_gradient))
        self._score = SCORES[recipe.score]
        self._needed = self.pruner.needed
        with tf.init_scope():
            self._held = self.state.read()
            self._values = self._read_weights()
            self._erased = self.erase()

    # --- operations --------------------------------------------------------------------------------------------------

    def begin(self, fresh: bool = True) -> tf.Operation:
        """Return an operation that takes over weights as they are before the first update, or a restored state.

        It does so in the first step, and in the first one after another state was restored.

        Args:
            fresh: Whether it may begin; otherwise zeros that should have been read before are an error.
        """

        def start(*values: Any) -> list[Array]:
            if not fresh and not values[0] and (self.recipe.restore_sparsity or self.recipe.fix_sparsity):
                raise StateError(
                    "restore_sparsity and fix_sparsity read masks off the weights before they are updated: run "
                    "Prune.prepare once after the weights are loaded, before the first update"
                )
            held, weights = self._split(values)
            pruner = self.state.pruner(held, self._unread) if values[0] else Pruner(self.pruner.plan, weights)
            return self.state.to_values(pruner)[self.state.decided]

        def note() -> tf.Operation:
            return _assign(self.state.plan_text, lambda v: v.assign(self.state.text))

        known = tf.equal(_read(self.state.plan_text), self.state.text)
        return self._when(tf.logical_not(known), start, then=note)

    def update(self, slots: Mapping[str, Sequence[Slot]]) -> tf.Operation:
        """Return an operation that counts an optimizer update, erases, and changes masks where that is due.

        What the update made of pruned weights is erased before masks change, for new ones may bring them back.

        Args:
            slots: Slots by the name of the weight that they belong to, and are shaped as.
        """

        def decide(*values: Any) -> list[Array]:
            held, weights = self._split(values)
            pruner = self.state.pruner(held, self._unread)
            pruner.update(weights)
            return self.state.to_values(pruner)[self.state.decided]

        counted = _assign(self.state.steps, lambda steps: steps.assign_add(1))
        with tf.control_dependencies([counted]):
            settled = self.erase(slots)
        with tf.control_dependencies([settled]):
            due = self._due(_read(self.state.steps))
            changed = self._when(due, decide, then=lambda: self.erase(slots, references=False))
        # A condition of control flow version 2 is a function, which takes no reference variables (TensorFlow 2.21).
        with tf.control_dependencies([changed]):
            return self.erase(slots, references=True)

    def observe(self, gradients: Mapping[str, Any]) -> tf.Operation:
        """Return an operation that notes weights and gradients, where the score is made of both.

        Args:
            gradients: Gradients of the coming update by name, as the weights lie, summed over replicas.
        """
        if self.recipe.fix_sparsity:
            return tf.no_op()
        step = _read(self.state.steps) + 1
        if self._score.accumulates:
            wanted = _read(self.state.last_update) < self.recipe.schedule.end
        else:
            wanted = self._due(step)

        def note() -> tf.Tensor:
            notes = []
            for name, gradient in gradients.items():
                variable, weight = self.state.observed[name], SymbolicArray(_read(self.weights.variables[name]))
                score = self._score.function(weight, SymbolicArray(dense(gradient, variable.shape))).tensor
                how = "assign_add" if self._score.accumulates else "assign"
                notes.append(_assign(variable, lambda v, score, how=how: getattr(v, how)(score), score))
            with tf.control_dependencies(notes):
                return tf.constant(True)

        return tf.cond(wanted, note, lambda: tf.constant(False)).op

    def erase(self, slots: Mapping[str, Sequence[Slot]] | None = None, references: bool | None = None) -> tf.Operation:
        """Return an operation that sets weights, and their slots, to +0.0 where masks leave them out.

        Args:
            slots: As `update`.
            references: True for those that lie in reference variables alone, False for the others alone.
        """
        done = []
        for name, mask in self.state.masks.items():
            for held in (Slot(self.weights.variables[name]), *(slots or {}).get(name, ())):
                if references is None or references == _is_reference(held.variable):
                    done.append(_assign(held.variable, held.erased, mask))
        return tf.group(*done)

    def kept_gradient(self, name: str, gradient: Any) -> Any:
        """Return the gradient of one replica with +0.0 where the mask leaves a weight out."""
        mask = self.state.masks.get(name)
        if mask is None:
            return gradient
        if isinstance(gradient, tf.IndexedSlices):
            values = kept(gradient.values, tf.gather(mask.read_value(), gradient.indices))
            return tf.IndexedSlices(values, gradient.indices, gradient.dense_shape)
        return kept(gradient, mask.read_value())

    def penalised(self, name: str, gradient: Any) -> Any:
        """Return the gradient of one replica with its share of the L1 penalty's; a sparse one becomes dense by it."""
        if not self.recipe.l1 or name not in self.state.masks:
            return gradient
        weight = self.weights.variables[name].read_value()
        share = self.recipe.l1 / tf.distribute.get_strategy().num_replicas_in_sync
        return dense(gradient, weight.shape) + tf.sign(weight) * tf.cast(share, weight.dtype)

    def _due(self, step: tf.Tensor) -> tf.Tensor:
        """Tell in the graph whether the schedule has an update after the last one done, up to a step."""
        if self.recipe.fix_sparsity or not self.state.masks:
            return tf.constant(False)
        both = tf.stack([_read(self.state.last_update), step])
        done, scheduled = tf.unstack(tf.searchsorted(np.array(self.recipe.schedule.updates), both, side="right"))
        return scheduled > done

    def _when(
        self, condition: tf.Tensor, decide: Callable[..., list[Array]], then: Callable[[], tf.Operation]
    ) -> tf.Operation:
        """Return an operation that has Python decide on masks where a condition holds, and then does one thing more."""
        given = [*self.state.read(), *self._read_weights()]
        changed = self.state.variables[self.state.decided]

        def act() -> tf.Tensor:
            with tf.device("/cpu:0"):
                decided = tf.numpy_function(decide, given, [v.dtype.base_dtype for v in changed], name="decide")
            assigned = []
            for variable, value in zip(changed, decided, strict=True):
                value.set_shape(variable.shape)
                assigned.append(_assign(variable, lambda v, value: v.assign(value), value))
            with tf.control_dependencies(assigned), tf.control_dependencies([then()]):
                return tf.constant(True)

        return tf.cond(condition, act, lambda: tf.constant(False)).op

    def _read_weights(self) -> list[tf.Tensor]:
        return [_read(self.weights.variables[name]) for name in self._needed]

    def _split(self, values: Sequence[Any]) -> tuple[list[Any], dict[str, Array]]:
        """Split what a mask update is given into what the state's variables held, and canonical weights by name."""
        count = len(self.state.variables)
        weights = zip(self._needed, values[count:], strict=True)
        return list(values[:count]), {name: self.weights.layouts[name].to_canonical(value) for name, value in weights}

    # --- in a session ------------------------------------------------------------------------------------------------

    def fetch(self, session: Any = None) -> None:
        """Bring `pruner` and `seen` up to what a session (the default one) holds, in place."""
        held, values = session_or_default(session).run([self._held, self._values])
        self.seen = self._split([*held, *values])[1]
        self.pruner.load_state_dict(self.state.to_dict(held))

    def load_masks(self, session: Any = None) -> None:
        """Bring the pruner's state into force in a session in place and zero the weights its masks leave out."""
        session = session_or_default(session)
        for variable, value in zip(self.state.variables, self.state.to_values(self.pruner), strict=True):
            for part in parts_of(variable):
                session.run(part.initializer, {part.initializer.inputs[1]: value})
        self.erase_weights(session)

    def erase_weights(self, session: Any = None) -> None:
        """Zero every pruned weight in a session in place."""
        session_or_default(session).run(self._erased)


@dataclass(frozen=True)
class Slot:
    """A variable that has a number for each of a weight: the weight itself, or what an optimizer remembers of it.

    Args:
        variable: The variable.
        divides: Whether the optimizer divides by it as it is, so that it must not be 0 beside a weight that lives.
    """

    variable: Any
    divides: bool = False

    def erased(self, variable: Any, keep: Any) -> Any:
        """Return an operation that zeroes one replica's variable where `keep` is False."""
        value = variable.read_value()
        if self.divides:  # where a weight that was pruned has come back it starts as new
            value = tf.where_v2(tf.equal(value, 0.0), variable.initial_value, value)
        return variable.assign(kept(value, keep))


class _Unread(Mapping[str, Array]):
    """Stands for weights that are not known while a graph is built, without any zeros."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self._shapes = shapes

    def __getitem__(self, name: str) -> Array:
        return np.broadcast_to(np.float32(1.0), self._shapes[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)


def kept(tensor: Any, keep: Any) -> tf.Tensor:
    """Return a tensor with +0.0 where `keep` is False; unlike a product, whatever stood there.

    On a CPU zeros of the full shape are selected from twice as fast as a single one that is broadcast.
    """
    tensor = tf.convert_to_tensor(tensor)
    return tf.where_v2(keep, tensor, tf.zeros_like(tensor))


def dense(gradient: Any, shape: tf.TensorShape) -> tf.Tensor:
    """Return the gradient of a variable of some shape as a tensor; of a sparse one the slices are added up."""
    if not isinstance(gradient, tf.IndexedSlices):
        return gradient
    return tf.reshape(tf.math.unsorted_segment_sum(gradient.values, gradient.indices, shape[0]), shape)


def _read(variable: Any) -> tf.Tensor:
    return parts_of(variable)[0].read_value()


def _is_reference(variable: Any) -> bool:
    return bool(parts_of(variable)[0].op.type != "VarHandleOp")


def _assign(variable: Any, change: Callable[..., Any], *values: Any) -> Any:
    """Return an operation that changes a variable on every replica."""
    return tf.distribute.get_strategy().extended.update(variable, change, args=values)
