"""Sparse optimizers: any MindSpore optimizer plus sparsity, and one class for each optimizer of `mindspore.nn`."""

from __future__ import annotations

import warnings
from typing import Any, ClassVar

import mindspore as ms
from mindspore import nn

from mopruning.backends.mindspore.hooks import PYTHON_IN_GRAPHS, Hooks, native_arguments
from mopruning.backends.mindspore.sparsifier import MindSporeSparsifier
from mopruning.backends.mindspore.weights import Named, Weights, cell_of, parameters_of
from mopruning.errors import RecipeError
from mopruning.plan import Plan
from mopruning.pruner import Pruner
from mopruning.sparse_arguments import read_sparse, sparse_signature, take_sparse


class SparseOptimizer(nn.Optimizer):  # type: ignore[misc]  # MindSpore brings no types
    """Wraps any `mindspore.nn.Optimizer` and adds sparsity to it.

    It stands wherever the wrapped one could: `nn.TrainOneStepCell` and its relatives, `Model`, a step made with
    `value_and_grad`; in GRAPH and in PYNATIVE mode. Parameters, rates and state are the wrapped optimizer's own. With
    nothing to prune it is the wrapped one, bit for bit. Step, plan and masks are parameters whose names begin with
    "mopruning.": checkpoints of the optimizer, or of a Cell that trains with it, hold them.

    Args:
        optimizer: The optimizer to make sparse; from now on only the wrapper is called.
        param_name: The network, which tells how weights lie. Without it, weights of transposed and of 1-D
            convolutions, whose layout nothing else tells, count as [out, in, *kernel] as they are.
        recipe: A recipe (object, mapping or file) in place of the sparse arguments.
        prune_device: "default" or "cpu"; masks are computed on the host either way.
        **sparse: As `mopruning.published.from_optimizer_arguments`; and `groups`, as `mopruning.prune.BasePrune`.

    Attributes:
        plan: What happens to every parameter and why; printable.
        pruner: The state machine behind it; both are None where nothing is to be pruned.

    Raises:
        TypeError: If `optimizer` is none or sparse already, or an argument is unknown.
        RecipeError: If a sparse argument makes no sense or names no parameter.

    >>> from mindspore import Tensor, ops
    >>> net = nn.Dense(8, 4)
    >>> sparse = SparseOptimizer(nn.SGD(net.trainable_params(), 0.1), net, target_sparsity=0.5)
    >>> _ = sparse((ops.ones((4, 8)), ops.ones(4)))
    >>> int((net.weight == 0).sum())
    16
    """

    def __init__(
        self,
        optimizer: nn.Optimizer,
        param_name: Named | None = None,
        *,
        recipe: Any = None,
        prune_device: Any = "default",
        **sparse: Any,
    ) -> None:
        nn.Cell.__init__(self, auto_prefix=False)  # not the optimizer's: all it makes is the wrapped one's
        self._sparsifier: MindSporeSparsifier | None = None
        self._hooks: Hooks | None = None
        if not isinstance(optimizer, nn.Optimizer):
            raise TypeError(f"{_name(self)} wraps a mindspore.nn.Optimizer, got {type(optimizer).__name__}")
        if isinstance(optimizer, SparseOptimizer) and optimizer.pruner:
            raise TypeError(f"{_name(optimizer)} is sparse already: two sets of masks would fight over it")
        self.optimizer = optimizer
        loaded = read_sparse(recipe, sparse)
        if loaded.active:
            weights = Weights(optimizer.parameters, param_name)
            self._sparsifier = MindSporeSparsifier(weights, loaded, prune_device)
            self._hooks = Hooks(self._sparsifier, optimizer)
            self._warn_of_graphs()

    def _warn_of_graphs(self) -> None:
        target = ms.get_context("device_target")
        if ms.get_context("mode") != ms.GRAPH_MODE or target in PYTHON_IN_GRAPHS:
            return
        link = self._sparsifier
        if link and link.updates and link.score.gradients:
            raise RecipeError(
                f"score {link.recipe.score!r} needs gradients, which a graph on {target} does not show to Python: use "
                "PYNATIVE mode or score='magnitude'"
            )
        warnings.warn(
            f"graphs on {target} do not call Python: where this optimizer is compiled into one, add "
            "PruneCallback(optimizer) to Model.train, or call optimizer.update_masks() after every step",
            stacklevel=3,
        )

    @property
    def plan(self) -> Plan | None:
        return self._sparsifier.pruner.plan if self._sparsifier else None

    @property
    def pruner(self) -> Pruner | None:
        return self._sparsifier.synchronised if self._sparsifier else None

    def update_masks(self) -> bool:
        """Carry out in place the mask update that is due, if one is; return whether it was.

        It is done already wherever the optimizer is called from Python, and in graphs on a CPU.
        """
        if self._sparsifier is None or not self._sparsifier.catch_up():
            return False
        self._sparsifier.erase_state(self.optimizer)
        return True

    def __call__(self, gradients: Any) -> Any:
        """Update all parameters in place, called from Python; a compiled graph holds `construct` in its place.

        Args:
            gradients: Gradients in the order of `parameters`.
        """
        if self._hooks is None:
            return self.optimizer(gradients)
        result = self.optimizer(self._hooks.before(gradients))
        self._hooks.after()
        return result

    def construct(self, gradients: Any) -> Any:
        """Update all parameters in place, as part of a graph."""
        if self._hooks is None:
            return self.optimizer(gradients)
        gradients = self._hooks.before_in_graph(gradients)
        return self._hooks.after_in_graph(self.optimizer(gradients))

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "optimizer":  # not set yet
                raise
            return getattr(self.optimizer, name)

    def __setattr__(self, name: str, value: Any) -> None:
        # Where sparse embeddings are updated, and whether rows are unique: steers the one that works.
        inner = name in ("target", "unique")
        setattr(self.optimizer, name, value) if inner else super().__setattr__(name, value)


class _Native(SparseOptimizer):
    """The sparse half of every class below.

    Every argument of the native optimizer is accepted unchanged; those of
    `mopruning.published.from_optimizer_arguments`, and `groups`, come on top. With none of them set it behaves as the
    native one, bit for bit.

    Args:
        params: As the native optimizer takes them, or the network itself, which also tells how weights lie.
        param_name: The network, where `params` is a list.
        recipe: A recipe (object, mapping or file) in place of the sparse arguments.
        prune_device: "default" or "cpu"; masks are computed on the host either way.

    Attributes:
        optimizer: The native optimizer at work.

    Raises:
        RecipeError: If a sparse argument makes no sense or names no parameter.
    """

    native: ClassVar[type[Any]]

    def __init__(
        self,
        params: Any,
        *args: Any,
        param_name: Named | None = None,
        recipe: Any = None,
        prune_device: Any = "default",
        **kwargs: Any,
    ) -> None:
        sparse = take_sparse(kwargs)
        source = cell_of(params) if param_name is None else param_name
        super().__init__(
            self.native(parameters_of(params), *args, **kwargs),
            source,
            recipe=recipe,
            prune_device=prune_device,
            **sparse,
        )

    def __init_subclass__(cls) -> None:
        """Show the native signature with the sparse arguments after it."""
        super().__init_subclass__()
        cls.__signature__ = sparse_signature(native_arguments(cls.native), _Native.__init__)


class MomentumSparse(_Native):
    """`mindspore.nn.Momentum` with sparsity.

    >>> from mindspore import ops
    >>> net = nn.Dense(64, 8)
    >>> optimizer = MomentumSparse(net, learning_rate=0.1, momentum=0.9, target_sparsity=0.75)
    >>> _ = optimizer((ops.ones((8, 64)), ops.ones(8)))
    >>> print(optimizer.pruner.sparsity)
    0.75
    """

    native = nn.Momentum


class SGDSparse(_Native):
    """`mindspore.nn.SGD` with sparsity."""

    native = nn.SGD


class AdamSparse(_Native):
    """`mindspore.nn.Adam` with sparsity."""

    native = nn.Adam


class AdamWeightDecaySparse(_Native):
    """`mindspore.nn.AdamWeightDecay` with sparsity."""

    native = nn.AdamWeightDecay


class AdamOffloadSparse(_Native):
    """`mindspore.nn.AdamOffload` with sparsity."""

    native = nn.AdamOffload


class LazyAdamSparse(_Native):
    """`mindspore.nn.LazyAdam` with sparsity."""

    native = nn.LazyAdam


class AdaMaxSparse(_Native):
    """`mindspore.nn.AdaMax` with sparsity."""

    native = nn.AdaMax


class AdaFactorSparse(_Native):
    """`mindspore.nn.AdaFactor` with sparsity."""

    native = nn.AdaFactor


class AdagradSparse(_Native):
    """`mindspore.nn.Adagrad` with sparsity."""

    native = nn.Adagrad


class AdadeltaSparse(_Native):
    """`mindspore.nn.Adadelta` with sparsity."""

    native = nn.Adadelta


class ASGDSparse(_Native):
    """`mindspore.nn.ASGD` with sparsity."""

    native = nn.ASGD


class FTRLSparse(_Native):
    """`mindspore.nn.FTRL` with sparsity."""

    native = nn.FTRL


class ProximalAdagradSparse(_Native):
    """`mindspore.nn.ProximalAdagrad` with sparsity."""

    native = nn.ProximalAdagrad


class RMSPropSparse(_Native):
    """`mindspore.nn.RMSProp` with sparsity."""

    native = nn.RMSProp


class RpropSparse(_Native):
    """`mindspore.nn.Rprop` with sparsity."""

    native = nn.Rprop


def _name(optimizer: object) -> str:
    return type(optimizer).__name__
