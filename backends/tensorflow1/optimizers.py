"""Sparse optimizers: any optimizer of TensorFlow 1 plus sparsity, and one class for each of `tf.compat.v1.train`."""

from __future__ import annotations

from typing import Any

import tensorflow.compat.v1 as tf

from mopruning.backends.tensorflow1.hooks import Hooks
from mopruning.backends.tensorflow1.sparsifier import GraphSparsifier
from mopruning.names import check_choice
from mopruning.plan import Plan
from mopruning.pruner import Pruner
from mopruning.sparse_arguments import read_sparse, sparse_signature, take_sparse


class _Planned(tf.train.Optimizer):  # type: ignore[misc]
    """What both kinds of sparse optimizer show of their inside."""

    _hooks: Hooks | None = None

    @property
    def plan(self) -> Plan | None:
        """What happens to every variable and why; None until gradients are applied, which tells the variables."""
        return self._sparsifier.pruner.plan if self._sparsifier else None

    @property
    def pruner(self) -> Pruner | None:
        """The state machine as it stands in the default session, without one as at the start; None as `plan` is."""
        session = tf.get_default_session()
        if self._sparsifier and session is not None and session.graph is self._sparsifier.weights.graph:
            self._sparsifier.fetch(session)
        return self._sparsifier.pruner if self._sparsifier else None

    @property
    def _sparsifier(self) -> GraphSparsifier | None:
        return self._hooks.sparsifiers[-1] if self._hooks and self._hooks.sparsifiers else None

    def _state_variables(self) -> list[Any]:
        graph = tf.get_default_graph()
        known = self._hooks.sparsifiers if self._hooks else []
        return [variable for one in known if one.weights.graph is graph for variable in one.state.variables]


class _Sparse(_Planned):
    """The sparse half of every class below.

    Every argument of the native optimizer is accepted unchanged; those of
    `mopruning.published.from_optimizer_arguments`, and `groups`, come on top. With none of them set it behaves as the
    native one, bit for bit. Masks, step and plan live in variables, which a Saver saves with the others.

    Args:
        recipe: A recipe (object, mapping or file) in place of the sparse arguments.
        prune_device: "default" or "cpu": masks are computed on the host either way.

    Raises:
        RecipeError: If a sparse argument makes no sense, or, when gradients are applied, names no variable.
    """

    def __init__(self, *args: Any, recipe: Any = None, prune_device: Any = "default", **kwargs: Any) -> None:
        sparse = take_sparse(kwargs)
        super().__init__(*args, **kwargs)
        self._hooks = _hooks(self, recipe, prune_device, sparse, type(self).__name__)

    def __init_subclass__(cls) -> None:
        """Show the native signature with the sparse arguments after it."""
        super().__init_subclass__()
        native = cls if "__init__" in cls.__dict__ else cls.__mro__[cls.__mro__.index(_Planned) + 1]
        cls.__signature__ = sparse_signature(native, _Sparse.__init__)

    def apply_gradients(self, grads_and_vars: Any, global_step: Any = None, name: Any = None, **more: Any) -> Any:
        """Return an operation that updates variables once and then the masks; arguments as the native method's."""
        native = super().apply_gradients
        if self._hooks is None:
            return native(grads_and_vars, global_step=global_step, name=name, **more)
        return self._hooks.apply(native, grads_and_vars, global_step, name, **more)

    def variables(self) -> list[Any]:
        """Return the optimizer's variables in the default graph, then those of masks and step."""
        return [*super().variables(), *self._state_variables()]


class SparseOptimizer(_Planned):
    """Wraps any `tf.compat.v1.train.Optimizer` instance and adds sparsity to it.

    Gradients, slots and options are the wrapped optimizer's own.

    Args:
        optimizer: The optimizer to make sparse; from now on apply gradients through this wrapper.
        recipe: A recipe (object, mapping or file) in place of the sparse arguments.
        prune_device: "default" or "cpu": masks are computed on the host either way.
        **sparse: As `mopruning.published.from_optimizer_arguments`; and `groups`, as `mopruning.prune.BasePrune`.

    Raises:
        TypeError: If `optimizer` is none or sparse already, or an argument is unknown.
        RecipeError: If a sparse argument makes no sense, or, when gradients are applied, names no variable.

    >>> with tf.Graph().as_default(), tf.Session() as session:
    ...     weights = tf.get_variable("fc/weights", [8, 4])
    ...     native = tf.train.AdagradOptimizer(0.1)
    ...     train = SparseOptimizer(native, target_sparsity=0.5).minimize(tf.reduce_sum(weights * weights))
    ...     session.run(tf.global_variables_initializer())
    ...     session.run(train)
    ...     int((session.run(weights) == 0).sum())
    16
    """

    def __init__(
        self, optimizer: tf.train.Optimizer, *, recipe: Any = None, prune_device: Any = "default", **sparse: Any
    ) -> None:
        if not isinstance(optimizer, tf.train.Optimizer):
            raise TypeError(f"SparseOptimizer wraps a tf.compat.v1.train.Optimizer, got {type(optimizer).__name__}")
        if isinstance(optimizer, _Planned):
            raise TypeError(f"{type(optimizer).__name__} is sparse already: two sets of masks would fight over it")
        if isinstance(optimizer, tf.mixed_precision.MixedPrecisionLossScaleOptimizer):
            raise TypeError(
                "a loss scale belongs around the sparse optimizer, so that updates it leaves out are not counted: "
                "MixedPrecisionLossScaleOptimizer(SparseOptimizer(...), ...)"
            )
        super().__init__(use_locking=False, name=optimizer.get_name())
        self.optimizer = optimizer
        self._hooks = _hooks(optimizer, recipe, prune_device, sparse, type(self).__name__)

    def compute_gradients(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the wrapped optimizer's method returns."""
        return self.optimizer.compute_gradients(*args, **kwargs)

    def apply_gradients(self, grads_and_vars: Any, global_step: Any = None, name: Any = None, **more: Any) -> Any:
        """Return an operation that updates variables once and then the masks; arguments as the native method's."""
        native = self.optimizer.apply_gradients
        if self._hooks is None:
            return native(grads_and_vars, global_step=global_step, name=name, **more)
        return self._hooks.apply(native, grads_and_vars, global_step, name, **more)

    def get_slot(self, var: Any, name: str) -> Any:
        return self.optimizer.get_slot(var, name)

    def get_slot_names(self) -> list[str]:
        names: list[str] = self.optimizer.get_slot_names()
        return names

    def variables(self) -> list[Any]:
        """Return the optimizer's variables in the default graph, then those of masks and step."""
        return [*self.optimizer.variables(), *self._state_variables()]


class GradientDescentOptimizerSparse(_Sparse, tf.train.GradientDescentOptimizer):  # type: ignore[misc]
    """`tf.compat.v1.train.GradientDescentOptimizer` with sparsity."""


class MomentumOptimizerSparse(_Sparse, tf.train.MomentumOptimizer):  # type: ignore[misc]
    """`tf.compat.v1.train.MomentumOptimizer` with sparsity; `momentum` is 0.9 where it is not given.

    >>> with tf.Graph().as_default(), tf.Session() as session:
    ...     weights = tf.get_variable("fc/weights", [64, 8])
    ...     optimizer = MomentumOptimizerSparse(0.1, target_sparsity=0.75)
    ...     train = optimizer.minimize(tf.reduce_sum(weights * weights))
    ...     session.run(tf.global_variables_initializer())
    ...     session.run(train)
    ...     optimizer.pruner.sparsity
    0.75
    """

    def __init__(
        self,
        learning_rate: Any,
        momentum: Any = 0.9,
        use_locking: bool = False,
        name: str = "Momentum",
        use_nesterov: bool = False,
        **sparse: Any,
    ) -> None:
        super().__init__(learning_rate, momentum, use_locking, name, use_nesterov, **sparse)


class AdamOptimizerSparse(_Sparse, tf.train.AdamOptimizer):  # type: ignore[misc]
    """`tf.compat.v1.train.AdamOptimizer` with sparsity."""


class RMSPropOptimizerSparse(_Sparse, tf.train.RMSPropOptimizer):  # type: ignore[misc]
    """`tf.compat.v1.train.RMSPropOptimizer` with sparsity."""


class AdagradOptimizerSparse(_Sparse, tf.train.AdagradOptimizer):  # type: ignore[misc]
    """`tf.compat.v1.train.AdagradOptimizer` with sparsity."""


class AdagradDAOptimizerSparse(_Sparse, tf.train.AdagradDAOptimizer):  # type: ignore[misc]
    """`tf.compat.v1.train.AdagradDAOptimizer` with sparsity."""


class AdadeltaOptimizerSparse(_Sparse, tf.train.AdadeltaOptimizer):  # type: ignore[misc]
    """`tf.compat.v1.train.AdadeltaOptimizer` with sparsity."""


class FtrlOptimizerSparse(_Sparse, tf.train.FtrlOptimizer):  # type: ignore[misc]
    """`tf.compat.v1.train.FtrlOptimizer` with sparsity."""


class ProximalGradientDescentOptimizerSparse(
    _Sparse,
    tf.train.ProximalGradientDescentOptimizer,  # type: ignore[misc]
):
    """`tf.compat.v1.train.ProximalGradientDescentOptimizer` with sparsity."""


class ProximalAdagradOptimizerSparse(_Sparse, tf.train.ProximalAdagradOptimizer):  # type: ignore[misc]
    """`tf.compat.v1.train.ProximalAdagradOptimizer` with sparsity."""


def _hooks(optimizer: tf.train.Optimizer, recipe: Any, mask_device: Any, sparse: Any, who: str) -> Hooks | None:
    check_choice(mask_device, ("default", "cpu"), "prune_device")
    loaded = read_sparse(recipe, sparse, who)
    return Hooks(optimizer, loaded, mask_device) if loaded.active else None
