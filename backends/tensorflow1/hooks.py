"""What makes a native optimizer sparse: operations before and after those with which it applies gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow.compat.v1 as tf

from mopruning.backends.tensorflow1.sparsifier import GraphSparsifier, Slot
from mopruning.backends.tensorflow1.weights import Weights, name_of
from mopruning.errors import RecipeError
from mopruning.recipe import Recipe

Pairs = Sequence[tuple[Any, Any]]

# Sums of squares that a kernel divides by the root of, without an epsilon (TensorFlow 2.21): 0 / 0 is NaN.
_DIVISORS = {
    tf.train.AdagradOptimizer: "accumulator",
    tf.train.ProximalAdagradOptimizer: "accumulator",
    tf.train.AdagradDAOptimizer: "gradient_squared_accumulator",
}


class Hooks:
    """Makes one native optimizer sparse in every graph in which it applies gradients.

    Args:
        optimizer: The optimizer, whose slots are erased with the weights.
        recipe: What to prune.
        mask_device: As `GraphSparsifier`.

    Attributes:
        sparsifiers: One for each set of variables that gradients were applied to, the newest last.
    """

    def __init__(self, optimizer: tf.train.Optimizer, recipe: Recipe, mask_device: Any) -> None:
        self._optimizer, self._recipe, self._mask_device = optimizer, recipe, mask_device
        self.sparsifiers: list[GraphSparsifier] = []
        self._locks: dict[tf.Graph, tf.CriticalSection] = {}

    def apply(self, native: Callable[..., Any], pairs: Pairs, global_step: Any, name: str | None, **more: Any) -> Any:
        """Return the operation of one sparse update: before, native, after.

        Args:
            native: The native `apply_gradients`.
            pairs: Gradients and their variables.
            global_step: As the native one.
            name: As the native one.
            **more: Further arguments of the native one.
        """
        pairs = list(pairs)
        replica = tf.distribute.get_replica_context()
        if tf.executing_eagerly_outside_functions():
            raise RuntimeError(
                "sparse optimizers of tensorflow1 work in graphs and sessions: build the network in "
                "`with tf.Graph().as_default():`, or call tf.compat.v1.disable_v2_behavior() first"
            )
        if replica is None or all(gradient is None for gradient, _ in pairs):
            return native(pairs, global_step=global_step, name=name, **more)  # which says what is wrong
        train_ops = tf.get_collection_ref(tf.GraphKeys.TRAIN_OP)
        known = len(train_ops)
        scope = tf.get_default_graph().get_name_scope()

        def apply(pairs: Pairs) -> Any:
            with tf.name_scope(f"{scope}/" if scope else None):  # as the native one has it: it names variables
                return native(pairs, global_step=global_step, **more)

        def update() -> tf.Tensor:
            with tf.control_dependencies([self._update(apply, pairs)]):
                return tf.constant(True)

        with tf.name_scope(name or f"{self._optimizer.get_name()}Sparse") as own:
            if self._optimizer._use_locking and not tf.distribute.has_strategy():
                # What another thread adds to a weight between its reading and its erasing would be lost.
                done = self._lock(f"{own}lock").execute(update, exclusive_resource_access=False)
            else:
                done = update()
            with tf.control_dependencies([done]):
                operation = tf.no_op(name=own)
        train_ops[known:] = [operation]  # the native one, alone, would train without masks
        return operation

    def _update(self, native: Callable[[Pairs], Any], pairs: Pairs) -> tf.Operation:
        replica = tf.distribute.get_replica_context()
        sparsifier, begun = replica.merge_call(self._begin, args=(pairs,))
        with tf.control_dependencies([begun]):
            pairs = [(g if g is None else sparsifier.penalised(name_of(v), g), v) for g, v in pairs]
            observed = replica.merge_call(_observe, args=(sparsifier, pairs))
            kept = [(g if g is None else sparsifier.kept_gradient(name_of(v), g), v) for g, v in pairs]
        with tf.control_dependencies([begun, observed]):
            applied = native(kept)
        with tf.control_dependencies([applied]):
            slots = slots_of(self._optimizer, sparsifier.weights)
            return replica.merge_call(lambda _: sparsifier.update(slots))

    def _lock(self, name: str) -> tf.CriticalSection:
        graph = tf.get_default_graph()
        if graph not in self._locks:
            self._locks[graph] = tf.CriticalSection(shared_name=name)
        return self._locks[graph]

    def _begin(self, _: Any, pairs: Pairs) -> tuple[GraphSparsifier, tf.Operation]:
        sparsifier = self._sparsifier_of(pairs)
        return sparsifier, sparsifier.begin()

    def _sparsifier_of(self, pairs: Pairs) -> GraphSparsifier:
        variables = {name_of(variable): variable for _, variable in pairs}
        graph = next(iter(variables.values())).graph
        for known in self.sparsifiers:
            shared = known.weights.keys() & variables.keys() if known.weights.graph is graph else set()
            if shared and known.weights.keys() == variables.keys():
                return known
            if shared:
                raise RecipeError(
                    f"{sorted(shared)[0]} is among the variables of two train operations of one sparse optimizer, and "
                    "others are not: apply all gradients at once, or make an optimizer for each"
                )
        with_gradient = [name_of(variable) for gradient, variable in pairs if gradient is not None]
        weights = Weights(variables.values())
        self.sparsifiers.append(GraphSparsifier(weights, self._recipe, self._mask_device, with_gradient))
        return self.sparsifiers[-1]


def slots_of(optimizer: tf.train.Optimizer, weights: Weights) -> dict[str, list[Slot]]:
    """Return the slots of an optimizer that are shaped as the variable they belong to, by its name."""
    divisors = [slot for cls, slot in _DIVISORS.items() if isinstance(optimizer, cls)]
    slots: dict[str, list[Slot]] = {}
    for name, variable in weights.variables.items():
        found = [(optimizer.get_slot(variable, key), key in divisors) for key in optimizer.get_slot_names()]
        slots[name] = [Slot(slot, divides) for slot, divides in found if slot is not None]
        slots[name] = [slot for slot in slots[name] if slot.variable.shape == variable.shape]
    return slots


def _observe(strategy: Any, sparsifier: GraphSparsifier, pairs: Pairs) -> tf.Operation:
    wanted = [(g, v) for g, v in pairs if g is not None and name_of(v) in sparsifier.state.observed]
    if not wanted:
        return tf.no_op()
    summed = strategy.extended.batch_reduce_to(tf.distribute.ReduceOp.SUM, wanted)
    return sparsifier.observe({name_of(v): gradient for gradient, (_, v) in zip(summed, wanted, strict=True)})
