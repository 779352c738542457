"""`Prune`: sparsity beside any train operation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import tensorflow.compat.v1 as tf

from mopruning.backends.tensorflow1.hooks import slots_of
from mopruning.backends.tensorflow1.sparsifier import GraphSparsifier
from mopruning.backends.tensorflow1.weights import Weights, session_or_default
from mopruning.errors import RecipeError
from mopruning.prune import BasePrune
from mopruning.recipe import Recipe
from mopruning.scores import SCORES


class Prune(BasePrune):
    """Prunes the variables of a graph step by step: call `prune` once after each run of the train operation.

    `model` is a list of variables, the name of a collection, a graph (for its trainable variables) or anything with
    `trainable_variables`; all other arguments are those of `mopruning.prune.BasePrune`. `optimizer` is a
    `tf.compat.v1.train.Optimizer` that has applied gradients already, which makes its slots: they are zeroed with
    the weights. Masks and step live in variables, which a Saver saves with the others.

    Build it where the network stands, before variables are initialised. It adds to the graph:

    Attributes:
        prune_op: What `prune` runs. Built within `tf.control_dependencies([train_op])` it runs the train operation
            before, and is all that a session has to run.
        prepare_op: What `prepare` runs.

    Raises:
        RecipeError: If the score needs gradients, which a sparse optimizer sees and this does not.

    >>> with tf.Graph().as_default(), tf.Session() as session:
    ...     weights = tf.get_variable("fc/weights", [64, 8])
    ...     pruner = Prune([weights], prune_dict={"fc/weights": 0.75})
    ...     session.run(tf.global_variables_initializer())
    ...     pruner.prune()
    ...     pruner.sparsity()
    ({'fc/weights': 0.75}, 0.75)
    """

    _sparsifier: GraphSparsifier

    def _link(self, model: Any, recipe: Recipe, prune_device: Literal["default", "cpu"]) -> GraphSparsifier:
        if SCORES[recipe.score].gradients:
            raise RecipeError(f"score {recipe.score!r} needs gradients; Prune sees none: use a sparse optimizer")

        def build(_: Any = None) -> GraphSparsifier:
            sparsifier = GraphSparsifier(Weights(_variables(model)), recipe, prune_device)
            slots = slots_of(self._optimizer, sparsifier.weights) if self._optimizer is not None else {}
            with tf.control_dependencies([sparsifier.begin(fresh=False)]):
                self.prune_op = sparsifier.update(slots)
            with tf.control_dependencies(None):
                self.prepare_op = sparsifier.begin()
                self._erase_op = sparsifier.erase(slots)
            return sparsifier

        replica = tf.distribute.get_replica_context()  # None within the scope of a strategy
        sparsifier: GraphSparsifier = build() if replica is None else replica.merge_call(build)
        return sparsifier

    def prepare(self, session: Any = None) -> None:
        """Read off masks, where the recipe says so: run it once after weights are loaded, before the first update.

        Only `restore_sparsity` and `fix_sparsity` need it, for the first update would fill the zeros they go by.

        Args:
            session: The session; the default one if None.
        """
        session_or_default(session).run(self.prepare_op)

    def prune(self, session: Any = None) -> None:
        """Count one optimizer update and zero the pruned weights in place.

        Args:
            session: The session; the default one if None.

        Raises:
            tf.errors.InvalidArgumentError: If a weight is NaN or infinite at a mask update.
        """
        session_or_default(session).run(self.prune_op)

    def sparsity(self, session: Any = None) -> tuple[dict[str, float], float]:
        """Return the share of exact zeros of each pruned variable by name, and of all of them together.

        Args:
            session: The session; the default one if None.
        """
        self._sparsifier.fetch(session)
        return super().sparsity()

    def state_dict(self, session: Any = None) -> dict[str, Any]:
        """Return step, plan and masks as plain values and NumPy arrays; a Saver has them without this."""
        self._sparsifier.fetch(session)
        return super().state_dict()

    def load_state_dict(self, state: Mapping[str, Any], session: Any = None) -> None:
        """Continue in place where `state` was saved; load the network's weights too.

        Raises:
            StateError: If the state belongs to another plan.
        """
        with session_or_default(session).as_default():
            super().load_state_dict(state)

    def _erase_state(self) -> None:
        session_or_default(None).run(self._erase_op)


def _variables(model: Any) -> list[Any]:
    if isinstance(model, str):
        return list(tf.get_collection(model))
    if isinstance(model, tf.Graph):
        return list(model.get_collection(tf.GraphKeys.TRAINABLE_VARIABLES))
    return list(getattr(model, "trainable_variables", model))
