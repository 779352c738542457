"""`Prune`: sparsity beside any training loop."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Hashable, Iterable, Mapping
from typing import Any, Literal

from mopruning.backends.mxnet.entries import unknown_shapes
from mopruning.backends.mxnet.framework import NDArray, Updater, gluon, mx
from mopruning.backends.mxnet.sparsifier import MxnetSparsifier
from mopruning.backends.mxnet.states import SparseState
from mopruning.backends.mxnet.weights import Weights
from mopruning.errors import StateError
from mopruning.prune import BasePrune
from mopruning.recipe import Recipe


class Prune(BasePrune):
    """Prunes the parameters of a network step by step: call `prune` once after each optimizer update.

    `model` is a Gluon Block (or its ParameterDict), or a bound Module; `optimizer` a Trainer, a Module or an Updater;
    all arguments are those of `mopruning.prune.BasePrune`. Where the first batch is to tell the shapes of a Block, the
    plan is made after it.

    >>> net = gluon.nn.Dense(8, in_units=64, prefix="fc_")
    >>> net.initialize()
    >>> pruner = Prune(net, prune_dict={"fc_weight": 0.75})
    >>> pruner.prepare()
    >>> pruner.prune()
    >>> pruner.sparsity()
    ({'fc_weight': 0.75}, 0.75)
    """

    __signature__ = inspect.signature(BasePrune)

    _sparsifier: MxnetSparsifier

    def __init__(self, model: Any, *arguments: Any, **named: Any) -> None:
        self.__signature__.bind(model, *arguments, **named)
        self._model = model
        self._prepared = False
        self._later = functools.partial(super().__init__, model, *arguments, **named)
        if not unknown_shapes(model):
            self._later()

    def __getattr__(self, name: str) -> Any:
        """Plan at the first need, for a network whose shapes were not known at the start."""
        if name not in ("_sparsifier", "_optimizer", "prune_dict"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        self._later()
        return self.__dict__[name]

    def _link(self, model: Any, recipe: Recipe, prune_device: Literal["default", "cpu"]) -> MxnetSparsifier:
        return MxnetSparsifier(Weights(model), recipe, prune_device)

    def prepare(self) -> None:
        """Show weights and gradients, before the update, to scores that are made of both.

        May be left out: such scores then read the weights as they are after the update.
        """
        self._sparsifier.observe_gradients()
        self._prepared = True

    def prune(self) -> None:
        """Count one optimizer update and zero the pruned weights in place, on every context.

        Raises:
            WeightError: If a weight is NaN or infinite at a mask update.
            StateError: If the score needs gradients and there are none.
        """
        if not self._prepared:
            self._sparsifier.observe_gradients()
        self._prepared = False
        self._update()
        self._write_to_store()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue in place where `state` was saved; load the network's weights too.

        Raises:
            StateError: If the state belongs to another plan.
        """
        super().load_state_dict(state)
        self._write_to_store()

    def _write_to_store(self) -> None:
        """Bring the pruned weights in place to the kvstore that updates run on, where the next one starts from."""
        store, keys = _store(self._model)
        if store is None:
            return
        if "dist" in store.type:
            raise StateError(
                f"weights updated on a {store.type} kvstore cannot be pruned: use Trainer(..., update_on_kvstore=False)"
            )
        updater = store._updater
        store._set_updater(_assign)
        for name in self._sparsifier.pruner.masks:
            if name in keys:
                store.push(keys[name], self._sparsifier.weights.arrays(name)[0])
        store._set_updater(updater)

    def _erase_state(self) -> None:
        for updater in _updaters(self._optimizer):
            for index, state in updater.states.items():
                native = state.native if isinstance(state, SparseState) else state
                self._sparsifier.erase(_name(updater, index), native)


def _assign(_: Hashable, pushed: NDArray, stored: NDArray) -> None:
    pushed.copyto(stored)


def _store(model: Any) -> tuple[Any, Mapping[str, Hashable]]:
    """Return the kvstore that updates of a network run on, if they do, and the key of each parameter."""
    if isinstance(model, mx.mod.BaseModule):
        model = getattr(model, "_curr_module", model)  # of a BucketingModule
        on_store = getattr(model, "_update_on_kvstore", False)
        return (model._kvstore, {name: name for name in model._param_names}) if on_store else (None, {})
    parameters = model.collect_params() if isinstance(model, gluon.Block) else model
    trainers = [getattr(parameter, "_trainer", None) for parameter in parameters.values()]
    trainer = next((trainer for trainer in trainers if trainer is not None), None)
    if trainer is None or not trainer._update_on_kvstore:
        return None, {}
    return trainer._kvstore, trainer._param2idx


def _updaters(optimizer: Any) -> Iterable[Updater]:
    if isinstance(optimizer, Updater):
        return [optimizer]
    if optimizer._update_on_kvstore:
        return [optimizer._kvstore._updater]
    return optimizer._updaters if isinstance(optimizer, gluon.Trainer) else filter(None, [optimizer._updater])


def _name(updater: Updater, index: Hashable) -> str:
    optimizer = updater.optimizer
    parameter = optimizer.param_dict.get(index)
    return str(optimizer.idx2name.get(index, index) if parameter is None else parameter.name)
