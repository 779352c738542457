"""Who takes part in an update of all weights: MXNet asks for updates one weight and one context at a time."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping
from typing import Any, TypeAlias

from mopruning.backends.mxnet.framework import Context, Optimizer, mx
from mopruning.errors import RecipeError, StateError

Key: TypeAlias = "tuple[Hashable, Context | None]"
"""One update of a round: the index it is asked for with, and the context where that does not say it already."""


class Members:
    """Tells what the indices of an optimizer's updates are called, and which updates make up a round.

    Args:
        optimizer: The optimizer; a Trainer gives it `param_dict`, a Module `idx2name`.
        source: Where the parameters come from otherwise: a Module, or names with arrays; a Block tells nothing here.
    """

    def __init__(self, optimizer: Optimizer, source: Any) -> None:
        self._optimizer = optimizer
        self._module = source if isinstance(source, mx.mod.BaseModule) else None
        self._source = None if isinstance(source, mx.gluon.Block) else source
        self._fresh: set[Key] | None = None  # what the coming step of a Trainer will update
        self._order: list[str] = []

    @property
    def parameters(self) -> Any:
        """What holds all parameters; None where only the updates themselves will show them."""
        return list(self._optimizer.param_dict.values()) if self._optimizer.param_dict else self._source

    @property
    def on_kvstore(self) -> bool:
        """Whether a Trainer has its updates run on the kvstore: once a weight, on a copy that all contexts pull."""
        trainer = next(iter(self._optimizer.param_dict.values()))._trainer if self._optimizer.param_dict else None
        return bool(trainer is not None and trainer._kvstore and trainer._update_on_kvstore)

    def note_order(self, names: Collection[str]) -> None:
        """Take note in place that indices without any name count through these names."""
        self._order = list(names)

    def check_source(self, names: Collection[str]) -> None:
        """Raise RecipeError where a network with these parameters is not the one that a Trainer updates."""
        own = {parameter.name for parameter in self._optimizer.param_dict.values()}
        if own and names and own.isdisjoint(names):
            raise RecipeError("param_name names none of the Trainer's parameters; is it of another network?")

    def check_store(self) -> None:
        """Raise StateError where a Trainer leaves the updates to other processes."""
        trainer = next(iter(self._optimizer.param_dict.values()))._trainer
        wanted = {} if trainer is None else trainer._kvstore_params
        kind = str(getattr(wanted.get("kvstore"), "type", wanted.get("kvstore")))
        if "dist" in kind and wanted.get("update_on_kvstore") is not False:
            raise StateError(
                f"a {kind} kvstore updates weights in processes that see only parts of the network: use "
                "Trainer(..., update_on_kvstore=False), then all workers find the same masks"
            )

    def check_order(self) -> None:
        """Raise StateError where the order of a Trainer's parameters may not be that of the network."""
        names = [parameter.name for parameter in self._optimizer.param_dict.values()]
        if len(names) > 1 and names == sorted(names):
            raise StateError(
                "a Trainer sorts parameters by name, so their order does not tell which normalisation follows a "
                "weight: build the optimizer with param_name=net, or name the pairs in bn_scales"
            )

    def note_fresh(self) -> None:
        """Take note in place which weights a Trainer is about to update.

        A Trainer updates the weights whose gradient is fresh. It lowers their flags before it asks for the updates, so
        this is to be called as it sets `rescale_grad`, which it does first (MXNet 1.9.1).
        """
        self._fresh = {
            (index, array.context)
            for index, parameter in self._optimizer.param_dict.items()
            if parameter.grad_req != "null" and parameter._data is not None
            for array in parameter.list_data()
            if array._fresh_grad
        }

    def name(self, index: Hashable) -> str:
        """Return the name of the parameter that is updated under an index.

        Raises:
            StateError: If it has none.
        """
        parameter = self._optimizer.param_dict.get(index)
        names = self._names
        if parameter is None and index not in names and index not in names.values():
            raise StateError(
                f"update of index {index!r}, which has no name: use a Trainer, or build the optimizer with "
                "param_name={name: array} or param_idx2name={index: name} for all that it updates"
            )
        return str(names.get(index, index) if parameter is None else parameter.name)

    def of_round(self, index: Hashable, frozen: Collection[str]) -> set[Key]:
        """Return the updates that make up the round which begins with that of `index`.

        Args:
            index: The first index.
            frozen: Names of parameters that are not updated.

        Raises:
            StateError: If that cannot be told.
        """
        optimizer = self._optimizer
        fresh, self._fresh = self._fresh, None
        if optimizer.param_dict:
            if fresh and not self.on_kvstore:
                return fresh
            return {(i, None) for i, parameter in optimizer.param_dict.items() if parameter.grad_req != "null"}
        self.name(index)
        names = self._names
        if index not in names and self._module is None:
            raise StateError(
                f"update of {index!r} on the kvstore of a Module, whose contexts hold copies: build the optimizer with "
                "param_name=module, so that they are pruned with it"
            )
        return {(i if index in names else name, None) for i, name in names.items() if name not in frozen}

    @property
    def _names(self) -> Mapping[Hashable, str]:
        return self._optimizer.idx2name or dict(enumerate(self._order))
