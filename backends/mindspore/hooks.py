"""What makes any MindSpore optimizer a sparse one: before and after its update, in Python and in compiled graphs."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops
from mindspore import dtype as mstype

from mopruning.backends.mindspore.sparsifier import MindSporeSparsifier
from mopruning.backends.mindspore.weights import erased, slots_of

PYTHON_IN_GRAPHS = ("CPU",)
"""Devices on which a compiled graph calls Python. On others masks change between two runs of a graph."""


class Hooks(nn.Cell):  # type: ignore[misc]  # MindSpore brings no types
    """Carries a sparsifier out around the updates of an optimizer.

    `before` and `after` work in Python, around an update that is called from there. `before_in_graph` and
    `after_in_graph` do the same where the update is compiled into a larger graph: MindSpore translates them, and
    only mask updates and scores made of gradients come back to Python.

    Args:
        sparsifier: What to carry out.
        optimizer: The native optimizer.
    """

    def __init__(self, sparsifier: MindSporeSparsifier, optimizer: nn.Optimizer) -> None:
        super().__init__(auto_prefix=False)
        self.sparsifier = sparsifier
        self.state = sparsifier.state
        self._optimizer = (optimizer,)  # in a tuple, which does not make it a part of this Cell
        self._scale = float(getattr(optimizer, "loss_scale", 1.0))
        self._penalty = sparsifier.recipe.l1 * self._scale
        weights = sparsifier.weights
        state = sparsifier.state
        pruned = [weights.parameters[name] for name in state.names]
        order = {id(parameter): place for place, parameter in enumerate(pruned)}
        slots = [(place, slot) for place, parameter in enumerate(pruned) for slot in slots_of(optimizer, parameter)]
        # What follows is constant in graphs. Of each parameter of the optimizer: its place among the masks, or -1.
        self.places = tuple(order.get(id(parameter), -1) for parameter in optimizer.parameters)
        self.slot_places = tuple(place for place, _ in slots)
        self.updates = Tensor(np.array(sparsifier.updates or [0], np.int32))
        self.in_graph = ms.get_context("device_target") in PYTHON_IN_GRAPHS and bool(sparsifier.updates)
        self.scores = self.in_graph and sparsifier.score.gradients
        self.accumulates = sparsifier.score.accumulates
        self._refer("weights", optimizer.parameters)
        self._refer("slots", [slot for _, slot in slots])
        self._refer("needed", [weights.parameters[name] for name in sparsifier.pruner.needed])
        self._refer("members", state.members)
        self._refer("decided", [state.last_update, state.seen, *state.masks])
        self._refer("noted", [state.seen, *state.observed])
        count = len(self.members)
        self.decide = python_operator(sparsifier.decide_in_graph, count + len(self.needed), self.decided)
        self.observe = python_operator(sparsifier.observe_in_graph, count + 2 * len(pruned), self.noted)

    def _refer(self, name: str, parameters: Iterable[Parameter]) -> None:
        """Keep parameters of others in place as an attribute, which does not make them parameters of this Cell."""
        object.__setattr__(self, name, ParameterTuple(list(parameters)))

    def before(self, gradients: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return the gradients for the update: with the L1 penalty, and zero where weights are pruned."""
        dense = {
            parameter.name: gradient
            for parameter, gradient, place in zip(self.weights, gradients, self.places, strict=True)
            if place >= 0 and isinstance(gradient, Tensor)  # others are rows of an embedding
        }
        if self._penalty:
            dense = {
                name: gradient + ops.sign(self.sparsifier.weights.parameters[name]) * self._penalty
                for name, gradient in dense.items()
            }
        self.sparsifier.observe(dense, self._scale)
        for parameter, keep in self.sparsifier.pruned:
            if parameter.name in dense:
                dense[parameter.name] = erased(dense[parameter.name], keep)
        return tuple(dense.get(p.name, gradient) for p, gradient in zip(self.weights, gradients, strict=True))

    def after(self) -> None:
        """Count the update, change masks where that is due, and zero in place what is pruned."""
        self.sparsifier.erase_weights()  # first: some updates make NaN where weight, slope and state are zero
        self.sparsifier.step()
        self.sparsifier.erase_state(self._optimizer[0])

    def before_in_graph(self, gradients: Any) -> Any:
        """Do what `before` does."""
        result: Any = ()
        for index in range(len(self.places)):
            gradient = gradients[index]
            if self.places[index] >= 0 and self._penalty > 0.0:
                gradient = _penalised(gradient, self.weights[index], self._penalty)
            result += (gradient,)
        if self.scores:
            if self.accumulates:
                wanted = self.state.last_update < self.updates[-1]
            else:
                wanted = self._reached(self.state.step + 1) > self.state.last_update
            if wanted:
                self._observe(result)
        kept: Any = ()
        for index in range(len(self.places)):
            gradient = result[index]
            if self.places[index] >= 0:
                gradient = _masked(self.state.masks[self.places[index]], gradient)
            kept += (gradient,)
        return kept

    def after_in_graph(self, result: Any) -> Any:
        """Do what `after` does, and return the result of the update."""
        step = ops.depend(self.state.step, result) + 1
        ops.assign(self.state.step, step)
        self._erase_weights()
        if self.in_graph:  # noqa: SIM102  this is settled when a graph is compiled, the next when it runs
            if self._reached(step) > self.state.last_update:
                values = self.decide(*self.members, *self._wide_weights())
                for parameter, value in zip(self.decided, values):  # noqa: B905  graphs know no strict zip
                    ops.assign(parameter, value)
                self._erase_weights()
        for index in range(len(self.slot_places)):
            slot = self.slots[index]
            ops.assign(slot, _masked(self.state.masks[self.slot_places[index]], slot))
        return result

    def _erase_weights(self) -> None:
        for index in range(len(self.places)):
            if self.places[index] >= 0:
                parameter = self.weights[index]
                ops.assign(parameter, _masked(self.state.masks[self.places[index]], parameter))

    def _reached(self, step: Any) -> Any:
        """Return the newest scheduled update that a step has reached, -1 where there is none."""
        return ops.select(self.updates <= step, self.updates, -ops.ones_like(self.updates)).max()

    def _wide_weights(self) -> Any:
        weights: Any = ()
        for parameter in self.needed:
            weights += (_wide(parameter),)
        return weights

    def _observe(self, gradients: Any) -> None:
        weights: Any = ()
        slopes: Any = ()
        for index in range(len(self.places)):
            if self.places[index] >= 0:
                weights += (_wide(self.weights[index]),)
                slopes += (_wide(gradients[index]) / self._scale,)
        values = self.observe(*self.members, *weights, *slopes)
        for parameter, value in zip(self.noted, values):  # noqa: B905
            ops.assign(parameter, value)


def python_operator(function: Callable[..., Any], inputs: int, outputs: Sequence[Parameter]) -> Any:
    """Return an operator that calls a Python function from within a graph.

    Args:
        function: Takes NumPy arrays, returns a tuple of them.
        inputs: How many it takes.
        outputs: Parameters whose shapes and dtypes are those of the arrays returned.
    """

    def call(*arrays: Any) -> Any:
        return function(*arrays)

    # MindSpore 2.10 counts the parameters of the signature, and takes `*arrays` for one.
    places = [inspect.Parameter(f"array{i}", inspect.Parameter.POSITIONAL_ONLY) for i in range(inputs)]
    call.__signature__ = inspect.Signature(places)  # type: ignore[attr-defined]
    return ops.Custom(call, tuple(p.shape for p in outputs), tuple(p.dtype for p in outputs), "pyfunc")


def native_arguments(native: type[Any]) -> Any:
    """Return a callable whose signature is that of a native optimizer, which MindSpore 2.10 hides by decorators."""
    function: Any = native.__init__
    while "fn" in (inner := inspect.getclosurevars(function).nonlocals) or "func" in inner:
        function = inner.get("fn", inner.get("func"))
    return native if function is native.__init__ else functools.partial(function, None)


_masked = ops.MultitypeFuncGraph("mopruning_masked")
_penalised = ops.MultitypeFuncGraph("mopruning_penalised")


@_masked.register("Tensor", "Tensor")  # type: ignore[untyped-decorator]
def _masked_tensor(keep: Any, tensor: Any) -> Any:
    """Return a tensor with +0 where `keep` is False; no product, which would keep NaN and signs."""
    return ops.select(keep, tensor, ops.zeros_like(tensor))


@_masked.register("Tensor", "RowTensor")  # type: ignore[untyped-decorator]
def _masked_rows(keep: Any, rows: Any) -> Any:
    """Leave the gradient of some rows of an embedding as it is: the weight is erased after the update."""
    return rows


@_penalised.register("Tensor", "Tensor", "Number")  # type: ignore[untyped-decorator]
def _penalised_tensor(gradient: Any, weight: Any, penalty: Any) -> Any:
    return gradient + ops.sign(weight) * penalty


@_penalised.register("RowTensor", "Tensor", "Number")  # type: ignore[untyped-decorator]
def _penalised_rows(rows: Any, weight: Any, penalty: Any) -> Any:
    """Return a dense gradient: the penalty acts on every row."""
    penalties = ops.sign(weight) * penalty
    return ops.tensor_scatter_add(penalties, ops.expand_dims(rows.indices, -1), rows.values)


def _wide(tensor: Any) -> Any:
    """Return a tensor in a dtype that NumPy has and scores are computed in."""
    if tensor.dtype == mstype.float64:
        return tensor
    return ops.cast(tensor, mstype.float32)
