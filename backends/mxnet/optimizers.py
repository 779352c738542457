"""Sparse optimizers: any MXNet optimizer plus sparsity, and one class for each optimizer of `mxnet.optimizer`."""

from __future__ import annotations

import inspect
import warnings
from typing import Any

from mopruning.backends.mxnet.framework import NDArray, Optimizer, mx
from mopruning.backends.mxnet.hooks import WATCHED, Rounds
from mopruning.backends.mxnet.states import SparseState
from mopruning.plan import Plan
from mopruning.pruner import Pruner
from mopruning.sparse_arguments import read_sparse, sparse_signature, take_sparse


def _native_arguments(cls: type[Any]) -> Any:
    """Return a function with all arguments of the native optimizer: its own, then those of their base class."""
    native = next(base for base in cls.__mro__ if base.__module__.startswith("mxnet."))
    own, shared = inspect.signature(native).parameters, inspect.signature(Optimizer).parameters
    shown = {**own, **{name: value for name, value in shared.items() if name not in own}}
    shown.pop("kwargs", None)

    def arguments() -> None: ...

    named = [value.replace(kind=inspect.Parameter.KEYWORD_ONLY) for value in shown.values()]
    arguments.__signature__ = inspect.Signature(named)  # type: ignore[attr-defined]
    return arguments


class _Planned:
    """What both kinds of sparse optimizer have in common."""

    _rounds: Rounds | None = None

    @property
    def plan(self) -> Plan | None:
        pruner = self.pruner
        return None if pruner is None else pruner.plan

    @property
    def pruner(self) -> Pruner | None:
        sparsifier = None if self._rounds is None else self._rounds.link()
        return None if sparsifier is None else sparsifier.pruner

    def _opened(self, native: Any) -> Any:
        return native if self._rounds is None else SparseState(native, self._rounds)

    def _run(self, native: Any, index: Any, weight: Any, gradient: Any, state: Any) -> None:
        if self._rounds is None:
            native(index, weight, gradient, _without_sparsity(state))
        else:
            self._rounds.run(native, index, weight, gradient, state)


class _Sparse(_Planned, Optimizer):  # type: ignore[misc]  # MXNet brings no types
    """The sparse half of every class below.

    Every argument of the native optimizer is accepted unchanged; those of
    `mopruning.published.from_optimizer_arguments`, and `groups`, come on top. With none of them set it behaves as the
    native one, bit for bit. Pickles, and so the states that Trainer, Module and Updater save, keep plan and masks.

    Args:
        param_name: The network: a Block, which tells a Trainer's parameters how they lie in their layers and adds the
            names of its `.params` files; a Module; or, for updates without either, names with arrays. A Trainer's
            parameters have their names without it.
        recipe: A recipe (object, mapping or file) in place of the sparse arguments.
        prune_device: "default" or "cpu", which are the same here: masks are computed on the host.

    Attributes:
        plan: What happens to every parameter and why; printable.
        pruner: The state machine behind it; both are None where nothing is to be pruned, and as long as the parameters
            are not known.

    Raises:
        RecipeError: If a sparse argument makes no sense or, as soon as the parameters are known, names none of them.
    """

    def __init__(
        self, *args: Any, param_name: Any = None, recipe: Any = None, prune_device: Any = "default", **kwargs: Any
    ) -> None:
        sparse = take_sparse(kwargs)
        super().__init__(*args, **kwargs)
        self._rounds = _make_rounds(self, param_name, recipe, sparse, prune_device)

    def __init_subclass__(cls) -> None:
        """Show the native signature with the sparse arguments after it, and make the class known by its name."""
        super().__init_subclass__()
        if "__init__" not in cls.__dict__:
            cls.__signature__ = sparse_signature(_native_arguments(cls), _Sparse.__init__)
            if cls.__module__ == __name__:  # MXNet creates optimizers by name, and others may take the name
                mx.optimizer.register(cls)

    def __setattr__(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)
        if self._rounds is not None and name in WATCHED:
            self._rounds.noticed(name)

    def __setstate__(self, state: dict[str, Any]) -> None:
        if state["_rounds"] is not None:
            state["_rounds"].attach(self)
        super().__setstate__(state)

    def create_state_multi_precision(self, index: Any, weight: NDArray) -> Any:
        """Return the native state of a weight, with the sparsity that travels with it."""
        return self._opened(super().create_state_multi_precision(index, weight))

    def update(self, index: Any, weight: Any, grad: Any, state: Any) -> None:
        """Update a weight, or a list of them, in place; the last one of all counts a step."""
        self._run(super().update, index, weight, grad, state)

    def update_multi_precision(self, index: Any, weight: Any, grad: Any, state: Any) -> None:
        """Update a weight, or a list of them, in place and in the precision asked for."""
        self._run(super().update_multi_precision, index, weight, grad, state)


class SparseOptimizer(_Planned, Optimizer):  # type: ignore[misc]
    """Wraps any `mxnet.optimizer.Optimizer` instance and adds sparsity to it.

    Learning rate, multipliers and counters are the wrapped optimizer's own, so that schedulers, Trainer and Module see
    what they know. Pickles keep plan and masks.

    Args:
        optimizer: The optimizer to make sparse; from now on update through this wrapper.
        param_name: As for the sparse classes: a Block, a Module, or names with arrays.
        recipe: A recipe (object, mapping or file) in place of the sparse arguments.
        prune_device: "default" or "cpu", which are the same here: masks are computed on the host.
        **sparse: As `mopruning.published.from_optimizer_arguments`; and `groups`, as `mopruning.prune.BasePrune`.

    Raises:
        TypeError: If `optimizer` is none or sparse already, or an argument is unknown.
        RecipeError: If a sparse argument makes no sense or, as soon as the parameters are known, names none of them.

    >>> weight = mx.nd.arange(8).reshape((2, 4))
    >>> native = mx.optimizer.SGD(learning_rate=0.5)
    >>> sparse = SparseOptimizer(native, {"fc.weight": weight}, target_sparsity=0.5)
    >>> updater = mx.optimizer.get_updater(sparse)
    >>> updater(0, mx.nd.ones_like(weight), weight)
    >>> weight.asnumpy()
    array([[0. , 0. , 0. , 0. ],
           [3.5, 4.5, 5.5, 6.5]], dtype=float32)
    """

    def __init__(
        self,
        optimizer: Optimizer,
        param_name: Any = None,
        *,
        recipe: Any = None,
        prune_device: Any = "default",
        **sparse: Any,
    ) -> None:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"SparseOptimizer wraps a mxnet.optimizer.Optimizer, got {type(optimizer).__name__}")
        if isinstance(optimizer, _Planned) and optimizer._rounds is not None:
            raise TypeError(f"{type(optimizer).__name__} is sparse already: two sets of masks would fight over it")
        object.__setattr__(self, "optimizer", optimizer)
        object.__setattr__(self, "_rounds", _make_rounds(optimizer, param_name, recipe, sparse, prune_device))

    def __getattribute__(self, name: str) -> Any:
        own = name in _OWN or name.startswith("__")
        return object.__getattribute__(self, name) if own else getattr(object.__getattribute__(self, "optimizer"), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.optimizer, name, value)
        if self._rounds is not None and name in WATCHED:
            self._rounds.noticed(name)

    def __getstate__(self) -> dict[str, Any]:
        return {"optimizer": self.optimizer, "_rounds": self._rounds}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self._rounds is not None:
            self._rounds.attach(self.optimizer)

    def create_state_multi_precision(self, index: Any, weight: NDArray) -> Any:
        """Return the wrapped optimizer's state of a weight, with the sparsity that travels with it."""
        return self._opened(self.optimizer.create_state_multi_precision(index, weight))

    def update(self, index: Any, weight: Any, grad: Any, state: Any) -> None:
        """Update a weight, or a list of them, in place; the last one of all counts a step."""
        self._run(self.optimizer.update, index, weight, grad, state)

    def update_multi_precision(self, index: Any, weight: Any, grad: Any, state: Any) -> None:
        """Update a weight, or a list of them, in place and in the precision asked for."""
        self._run(self.optimizer.update_multi_precision, index, weight, grad, state)

    def __repr__(self) -> str:
        return f"SparseOptimizer({self.optimizer!r})"


_OWN = frozenset({"optimizer", "plan", "pruner", "create_state_multi_precision", "update", "update_multi_precision"})
_OWN |= {name for name in vars(_Planned) if name.startswith("_")}


class SGDSparse(_Sparse, mx.optimizer.SGD):  # type: ignore[misc]
    """`mxnet.optimizer.SGD` with sparsity.

    >>> net = mx.gluon.nn.Dense(8, in_units=64)
    >>> net.initialize()
    >>> trainer = mx.gluon.Trainer(net.collect_params(), SGDSparse(learning_rate=0.1, target_sparsity=0.75))
    >>> with mx.autograd.record():
    ...     loss = net(mx.nd.ones((1, 64))).sum()
    >>> loss.backward()
    >>> trainer.step(1)
    >>> trainer.optimizer.pruner.sparsity
    0.75
    """


class NAGSparse(_Sparse, mx.optimizer.NAG):  # type: ignore[misc]
    """`mxnet.optimizer.NAG` with sparsity."""


class AdamSparse(_Sparse, mx.optimizer.Adam):  # type: ignore[misc]
    """`mxnet.optimizer.Adam` with sparsity."""


class NadamSparse(_Sparse, mx.optimizer.Nadam):  # type: ignore[misc]
    """`mxnet.optimizer.Nadam` with sparsity."""


class AdamaxSparse(_Sparse, mx.optimizer.Adamax):  # type: ignore[misc]
    """`mxnet.optimizer.Adamax` with sparsity."""


class AdaGradSparse(_Sparse, mx.optimizer.AdaGrad):  # type: ignore[misc]
    """`mxnet.optimizer.AdaGrad` with sparsity."""


class AdaDeltaSparse(_Sparse, mx.optimizer.AdaDelta):  # type: ignore[misc]
    """`mxnet.optimizer.AdaDelta` with sparsity."""


class RMSPropSparse(_Sparse, mx.optimizer.RMSProp):  # type: ignore[misc]
    """`mxnet.optimizer.RMSProp` with sparsity."""


class FtrlSparse(_Sparse, mx.optimizer.Ftrl):  # type: ignore[misc]
    """`mxnet.optimizer.Ftrl` with sparsity."""


class FTMLSparse(_Sparse, mx.optimizer.FTML):  # type: ignore[misc]
    """`mxnet.optimizer.FTML` with sparsity."""


class SignumSparse(_Sparse, mx.optimizer.Signum):  # type: ignore[misc]
    """`mxnet.optimizer.Signum` with sparsity."""


class SGLDSparse(_Sparse, mx.optimizer.SGLD):  # type: ignore[misc]
    """`mxnet.optimizer.SGLD` with sparsity."""


class DCASGDSparse(_Sparse, mx.optimizer.DCASGD):  # type: ignore[misc]
    """`mxnet.optimizer.DCASGD` with sparsity."""


class LARSSparse(_Sparse, mx.optimizer.LARS):  # type: ignore[misc]
    """`mxnet.optimizer.LARS` with sparsity."""


class LBSGDSparse(_Sparse, mx.optimizer.LBSGD):  # type: ignore[misc]
    """`mxnet.optimizer.LBSGD` with sparsity."""


class LAMBSparse(_Sparse, mx.optimizer.LAMB):  # type: ignore[misc]
    """`mxnet.optimizer.LAMB` with sparsity."""


class GroupAdaGradSparse(_Sparse, mx.optimizer.contrib.GroupAdaGrad):  # type: ignore[misc]
    """`mxnet.optimizer.contrib.GroupAdaGrad` with sparsity."""


def _make_rounds(
    optimizer: Optimizer, param_name: Any, recipe: Any, sparse: dict[str, Any], prune_device: Any
) -> Rounds | None:
    loaded = read_sparse(recipe, sparse)
    return Rounds(optimizer, loaded, param_name, prune_device) if loaded.active else None


def _without_sparsity(state: Any) -> Any:
    """Return the native states within the states of a sparse optimizer, and warn that their masks are ignored."""
    if isinstance(state, (tuple, list)) and any(isinstance(one, SparseState) for one in state):
        return [_without_sparsity(one) for one in state]
    if not isinstance(state, SparseState):
        return state
    warnings.warn(
        "this optimizer state holds masks, but no sparsity is configured: they are ignored, and pruned weights will "
        "train again (fix_sparsity=True keeps the zeros in the weights)",
        stacklevel=4,
    )
    return state.native
