"""Lowering: builds the TensorFlow graph value by value, and the variables that hold its parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import onnx_ir
import tensorflow.compat.v1 as tf
from onnx_ir import Node, Value

from mopruning.backends.tensorflow1.naming import to_name
from mopruning.backends.tensorflow1.orders import (
    Held,
    Scatter,
    aligned,
    channels_last,
    moves,
    ordered,
    plain,
    same_memory,
    turned,
)
from mopruning.errors import FormatError
from mopruning.ir import lowering
from mopruning.ir.lowering import Refusal, sizes_of

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"
Tensor: TypeAlias = Any
Order: TypeAlias = tuple[int, ...]


@dataclass(frozen=True)
class Form:
    """How a variable holds an initializer.

    Args:
        kind: "order": its axes are in another order; "dense": a weight [out, in] as [in, out] for features that were
            flattened in another order; "depthwise": [channels * multiplier, 1, height, width] as [height, width,
            channels, multiplier].
        order: For "order", the order.
        scatter: For "dense", the order of the features.
        multiplier: For "depthwise", the outputs of each channel.
    """

    kind: str
    order: Order = ()
    scatter: Scatter | None = None
    multiplier: int = 0

    def array(self, content: NumPyArray) -> NumPyArray:
        """Return a content in this form."""
        if self.scatter is not None:
            return content.T[self.scatter.index()]
        if self.kind == "depthwise":
            return content.reshape(-1, self.multiplier, *content.shape[2:]).transpose(2, 3, 0, 1)
        return turned(content, self.order)

    def back(self, tensor: Tensor) -> Held[Tensor]:
        """Return what reads the initializer as it is, from what reads it in this form."""
        if self.scatter is not None:
            return Held(tf.gather(tensor, np.argsort(self.scatter.index())), (1, 0))
        if self.kind == "depthwise":
            height, width, channels, multiplier = tensor.shape.as_list()
            shape = [height, width, 1, channels * multiplier]
            return Held(tf.reshape(tensor, shape), (2, 3, 1, 0))
        return Held(tensor, self.order)


@dataclass(frozen=True)
class Stored:
    """What reads a variable, and the form that it has."""

    tensor: Tensor
    form: Form


@dataclass
class Notes:
    """What a graph of TensorFlow does not tell by itself, kept beside it.

    Args:
        orders: Input or output of the IR -> the order of its tensor's axes.
        momentum: Running mean of a batch normalisation -> ONNX's momentum.
        dropout: Name of an Identity -> the ratio that it drops in training.
        recurrent: Name of a recurrent layer -> its operator, attributes, and the tensors that it reads and gives.
    """

    orders: dict[str, list[int]] = field(default_factory=dict)
    momentum: dict[str, float] = field(default_factory=dict)
    dropout: dict[str, float] = field(default_factory=dict)
    recurrent: dict[str, dict[str, Any]] = field(default_factory=dict)


class Lowering(lowering.Lowering["Held[Tensor]"]):
    """Builds a TensorFlow graph from an IR graph; one function an operator tells it what to add.

    Tensors are held in whatever order of axes they come in, images as NHWC; an operator asks for the order that it
    needs.

    Args:
        model: The IR model, with shapes inferred.
        operators: Operator -> the function that adds it.
        frozen: Make weights constants, and leave out what only training needs.

    Attributes:
        graph: The graph; functions that add to it run with it as the default.
        training: Boolean tensor that says whether the network trains; None in a frozen graph.
        variables: Initializer -> its variable.
        contents: Initializer -> returns what its variable starts with.
        notes: What the graph does not tell.
    """

    def __init__(
        self, model: onnx_ir.Model, operators: Mapping[str, Callable[[Lowering, Node], None]], *, frozen: bool
    ) -> None:
        super().__init__(model, operators, "TensorFlow 1")
        self.frozen = frozen
        self.graph = tf.Graph()
        self.training: Tensor | None = None
        self.variables: dict[str, Any] = {}
        self.contents: dict[str, Callable[[], NumPyArray]] = {}
        self.notes = Notes()
        self._stored: dict[str, Stored] = {}
        self._turned: dict[tuple[int, Order], Tensor] = {}
        self._names: dict[str, str] = {}

    def lower(self, node: Node) -> None:
        """Add what a node computes, if it is not there yet; another node may be in the middle of its own."""
        with tf.name_scope(None):
            super().lower(node)

    def reserve(self) -> None:
        """Take the names of all parameters, in place, so that no operation gets one of them."""
        for name in self.model.graph.initializers:
            if self.roles[name] != "constant":
                self._names[name] = to_name(name)
                self.graph.unique_name(self._names[name])

    # Values

    def held(self, value: Value) -> Held[Tensor]:
        """Return the tensor of a value in whatever order it lies; a constant lies plainly."""
        lowered = self.get(value)
        if isinstance(lowered, Held):
            return lowered
        return Held(self._constant(lowered, plain(lowered.ndim), value), plain(lowered.ndim))

    def tensor(self, value: Value, order: Order | None = None) -> Tensor:
        """Return the tensor of a value in an order of axes, plainly by default."""
        lowered = self.get(value)
        if not isinstance(lowered, Held):
            return self._constant(lowered, plain(lowered.ndim) if order is None else order, value)
        wanted = plain(len(lowered.order)) if order is None else order
        return self.turn(lowered, wanted, self.sizes(value))

    def image(self, value: Value) -> Tensor:
        """Return the tensor of a value with its channels last."""
        return self.tensor(value, channels_last(self.rank(value)))

    def is_image(self, value: Value) -> bool:
        """Whether a tensor's channels are last already."""
        lowered = self.get(value)
        return isinstance(lowered, Held) and len(lowered.order) > 2 and lowered.order == channels_last(self.rank(value))

    def turn(self, held: Held[Tensor], wanted: Order, sizes: Sequence[int | None]) -> Tensor:
        """Return a tensor in another order of axes; the same one again for the same order."""
        if held.scatter is not None:
            return self.gathered(held)
        if held.order == wanted:
            return held.tensor
        key = id(held.tensor), wanted
        if key not in self._turned:
            permutation, own = moves(held.order, wanted), ordered(sizes, held.order)
            target = ordered(sizes, wanted)
            if same_memory(permutation, own) and target.count(None) < 2:
                result = tf.reshape(held.tensor, [-1 if size is None else size for size in target])
            else:
                result = tf.transpose(held.tensor, permutation)
            self._turned[key] = result
        return self._turned[key]

    def gathered(self, held: Held[Tensor]) -> Tensor:
        """Return a flattened tensor with its features in the order of the value."""
        assert held.scatter is not None
        key = id(held.tensor), (-1,)
        if key not in self._turned:
            sizes, order = held.scatter.sizes, held.scatter.order
            apart = tf.reshape(held.tensor, [-1, *ordered(sizes, order)])
            back = tf.transpose(apart, [0, *(1 + axis for axis in moves(order, plain(len(order))))])
            self._turned[key] = tf.reshape(back, [-1, int(np.prod(sizes))])
        return self._turned[key]

    def put(self, node: Node, tensor: Tensor, order: Order | None = None, scatter: Scatter | None = None) -> None:
        """Say what stands for the only output of a node."""
        self.put_value(node.outputs[0], tensor, order, scatter)

    def put_value(
        self, value: Value, tensor: Tensor, order: Order | None = None, scatter: Scatter | None = None
    ) -> None:
        """Say what stands for a value; by default it lies plainly."""
        own = plain(self.rank(value)) if order is None else order
        if value.shape is not None and len(own) == len(value.shape):
            known = [None if size is None else size for size in ordered(self.sizes(value), own)]
            tensor.set_shape(known)
        self.set(value, Held(tensor, own, scatter))

    def put_image(self, node: Node, tensor: Tensor) -> None:
        """Say what stands for the only output of a node, with its channels last."""
        self.put(node, tensor, channels_last(self.rank(node.outputs[0])))

    def sizes(self, value: Value) -> list[int | None]:
        """Return the shape of a value, None for each open axis."""
        return sizes_of(value)

    def together(self, values: Sequence[Value], result: Value) -> tuple[list[Tensor], Order]:
        """Return operands that are broadcast against each other, all in one order of axes, and that order.

        The order is that of the first computed operand with as many axes as the result.
        """
        rank = self.rank(result)
        helds = [self.get(value) for value in values]
        orders = [
            held.order for held in helds if isinstance(held, Held) and len(held.order) == rank and not held.scatter
        ]
        images = [order for order in orders if order == channels_last(rank) and rank > 2]
        order = (images or orders or [plain(rank)])[0]
        tensors = []
        for value in values:
            axes = self.rank(value)
            own = aligned(order, rank, axes)
            if own is None:
                tensors.append(self._spread(value, order, rank))
            else:
                tensors.append(self.weight(value, own))
        return tensors, order

    def _spread(self, value: Value, order: Order, rank: int) -> Tensor:
        """Return an operand of fewer axes with axes of size 1 before its own, in an order of the larger rank."""
        axes = self.rank(value)
        lowered = self.get(value)
        if isinstance(lowered, np.ndarray):
            return self._constant(lowered.reshape((1,) * (rank - axes) + lowered.shape), order, value)
        sizes = self.sizes(value)
        ones = [1] * (rank - axes)
        if sizes.count(None) > 1:
            whole = tf.concat([ones, tf.shape(self.tensor(value))], 0)
        else:
            whole = [*ones, *(-1 if size is None else size for size in sizes)]
        return self.turn(Held(tf.reshape(self.tensor(value), whole), plain(rank)), order, [*ones, *sizes])

    def target(self, shape: Sequence[int | None], otherwise: Callable[[], Tensor]) -> Any:
        """Return a shape to reshape to: numbers if at most one is open, else what computes it."""
        return [-1 if size is None else size for size in shape] if shape.count(None) < 2 else otherwise()

    def _constant(self, array: NumPyArray, order: Order, value: Value) -> Tensor:
        def make() -> Tensor:
            name = to_name(str(value.name)) if value.name else None
            return tf.constant(np.asarray(turned(array, order), order="C"), name=name and self._free(name))

        return self.once(array, make, order)

    # Parameters

    def fetch(self, name: str) -> Held[Tensor]:
        """Return what reads a parameter or buffer, in whatever order its variable has."""
        value = self.model.graph.initializers[name]
        if name not in self._stored:
            assert value.const_value is not None
            self._hold(value, Form("order", plain(len(value.const_value.shape))))
        found = self._stored[name]
        return found.form.back(found.tensor)

    def parameter(self, value: Value, form: Form) -> Tensor | None:
        """Return what reads an initializer in a form; None if its variable has another one, or it is a constant.

        The first form that is asked for is that of the variable.
        """
        name = str(value.name)
        if not value.is_initializer() or self.roles[name] == "constant":
            return None
        if name not in self._stored:
            self._hold(value, form)
        return self._stored[name].tensor if self._stored[name].form == form else None

    def weight(self, value: Value, order: Order) -> Tensor:
        """Return a value in an order of axes; a parameter that nothing has read before is held in it."""
        tensor = self.parameter(value, Form("order", order))
        return self.tensor(value, order) if tensor is None else tensor

    def _hold(self, value: Value, form: Form) -> None:
        """Make the variable of an initializer, in place."""
        content = value.const_value
        assert content is not None
        name = str(value.name)
        own, dtype = self._names[name], tf_dtype(content.dtype)

        def native() -> NumPyArray:
            return np.asarray(form.array(content.numpy()), order="C")

        with tf.control_dependencies(None):
            if self.frozen:
                self._stored[name] = Stored(tf.constant(native(), name=f"{own}/"), form)
                return
            # no content is needed to find out: one zero that is broadcast has the shape and takes no memory
            shape = form.array(np.broadcast_to(np.zeros((), np.int8), tuple(content.shape.numpy()))).shape
            variable = tf.Variable(
                initial_value=lambda: tf.zeros(shape, dtype),
                trainable=self.roles[name] == "parameter" and dtype.is_floating,
                name=f"{own}/",  # the slash at the end keeps the name as it is
                use_resource=True,
                dtype=dtype,
            )
            with tf.name_scope(f"{own}/"):
                self._stored[name] = Stored(variable.value(), form)
        self.variables[name], self.contents[name] = variable, native

    # Names

    def scoped(self, node: Node) -> str:
        """Return a free name for the operation that a node becomes."""
        return self._free(to_name(str(node.name)))

    def _free(self, name: str) -> str:
        with tf.name_scope(None):
            return f"{self.graph.unique_name(name)}/"


@contextmanager
def conditionals_of_version_1() -> Iterator[None]:
    """Let `tf.cond` make Switch and Merge, which TensorFlow 1 itself can read and sessions can prune."""
    before = tf.control_flow_v2_enabled()
    tf.disable_control_flow_v2()
    try:
        yield
    finally:
        if before:
            tf.enable_control_flow_v2()


def tf_dtype(dtype: onnx_ir.DataType) -> Any:
    """Return TensorFlow's name of a type."""
    names = {onnx_ir.DataType.FLOAT: "float32", onnx_ir.DataType.DOUBLE: "float64", onnx_ir.DataType.FLOAT16: "float16"}
    return tf.as_dtype(names.get(dtype, dtype.name.lower()))


__all__ = ["Form", "FormatError", "Lowering", "Notes", "Order", "Refusal", "Tensor", "tf_dtype"]
