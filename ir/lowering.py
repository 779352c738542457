"""Lowering: walks a graph and asks, value by value, for what stands for it in a framework."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

import numpy as np
import onnx_ir
from onnx_ir import Node, Value

from mopruning.errors import FormatError
from mopruning.ir.attributes import attribute
from mopruning.ir.passes.constants import constant
from mopruning.ir.roles import roles_of
from mopruning.ir.validation import Problem, UnsupportedOperators

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"
T = TypeVar("T")


class Refusal(FormatError):  # noqa: N818 - what a framework declines to express
    """A node that the framework cannot express; the message says why, without the node's name.

    A function that lowers an operator raises it; `Lowering.run` goes on, and in the end names all such nodes at once.
    """


class _Spoilt(Refusal):
    """A node that reads what a refused node would give; the refusal itself is told already."""


@dataclass(frozen=True)
class Window:
    """How a convolution or pool moves, one number an axis; `pads` has the starts, then the ends."""

    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]

    @property
    def starts(self) -> tuple[int, ...]:
        """Padding before the first element of each axis."""
        return self.pads[: len(self.strides)]

    @property
    def ends(self) -> tuple[int, ...]:
        """Padding after the last element of each axis."""
        return self.pads[len(self.strides) :]


class Lowering(ABC, Generic[T]):
    """Builds a framework's network from an IR graph; one function an operator tells it what to add.

    What follows from constants alone is computed once, with NumPy; what is made of weights alone waits until a layer
    asks for it, since layers take weights as they lie.

    Args:
        model: The IR model, with shapes inferred.
        operators: Operator -> the function that adds it: it reads its inputs by `get`, and calls `set` for each output.
        framework: What the framework is called, in messages.

    Attributes:
        model: The model.
        roles: Initializer -> "parameter", "buffer" or "constant".
        done: Nodes (by `id`) that are lowered.
        place: Name of the node that is being lowered.
    """

    def __init__(
        self, model: onnx_ir.Model, operators: Mapping[str, Callable[[Any, Node], None]], framework: str
    ) -> None:
        self.model = model
        self.roles = roles_of(model)
        self.done: set[int] = set()
        self.place = ""
        self._operators = operators
        self._framework = framework
        self._lowered: dict[int, T | NumPyArray] = {}
        self._spoilt: set[int] = set()
        self._problems: list[Problem] = []
        self._fixed: dict[int, bool] = {}
        self._known: dict[int, bool] = {}

    @abstractmethod
    def fetch(self, name: str) -> T:
        """Return what reads a parameter or buffer that no layer has taken."""

    def run(self) -> None:
        """Lower every node that computes from the inputs of the graph, in place.

        Raises:
            UnsupportedOperators: If the framework cannot express some nodes; all of them are named.
        """
        for node in self.model.graph:
            if not all(value is None or self.is_fixed(value) for value in node.inputs):
                self.lower(node)
        for value in self.model.graph.outputs:
            producer = value.producer()
            if producer is not None:
                self.lower(producer)
        if self._problems:
            reason = f"cannot be expressed in {self._framework}"
            raise UnsupportedOperators(self.model.graph.name or "", tuple(self._problems), reason)

    def lower(self, node: Node) -> None:
        """Add what a node computes, if it is not there yet."""
        if id(node) in self.done:
            return
        self.done.add(id(node))
        before = self.place
        self.place = str(node.name)
        try:
            if node.op_type not in self._operators:
                raise Refusal("it has no such operator")
            self._operators[node.op_type](self, node)
        except Refusal as refusal:
            if not isinstance(refusal, _Spoilt):
                self._problems.append(Problem(str(node.name), node.op_type, str(refusal)))
            self._spoilt.update(id(value) for value in node.outputs)
        finally:
            self.place = before

    # Values

    def set(self, value: Value, lowered: T | NumPyArray) -> None:
        """Say what stands for an ONNX value."""
        self._lowered[id(value)] = lowered

    def get(self, value: Value) -> T | NumPyArray:
        """Return what stands for an ONNX value; constants as arrays.

        Raises:
            FormatError: If nothing gives the value.
        """
        producer = value.producer()
        if id(value) not in self._lowered and producer is not None:
            array = constant(value) if self.is_constant(value) else None
            if array is None:
                self.lower(producer)
            else:
                self._lowered[id(value)] = array
        if id(value) in self._spoilt:
            raise _Spoilt("it reads what cannot be expressed")
        if id(value) in self._lowered:
            return self._lowered[id(value)]
        if not value.is_initializer() or value.const_value is None:
            raise FormatError(f"value {value.name!r} is given by nothing")
        name = str(value.name)
        if self.roles[name] != "constant":
            return self.fetch(name)
        self._lowered[id(value)] = array = value.const_value.numpy()
        return array

    def constant(self, value: Value | None) -> NumPyArray | None:
        """Return the content of a constant, None where it is a parameter or computed."""
        if value is None or (value.is_initializer() and self.roles[str(value.name)] != "constant"):
            return None
        lowered = self.get(value)
        return lowered if isinstance(lowered, np.ndarray) else None

    def is_parameter(self, value: Value | None) -> bool:
        """Whether a value is a trained parameter itself."""
        return value is not None and value.is_initializer() and self.roles.get(str(value.name)) == "parameter"

    def is_constant(self, value: Value) -> bool:
        """Whether a value follows from constants alone."""
        if id(value) not in self._known:
            node = value.producer()
            if node is None:
                self._known[id(value)] = value.is_initializer() and self.roles[str(value.name)] == "constant"
            else:
                self._known[id(value)] = bool(node.inputs) and all(
                    v is None or self.is_constant(v) for v in node.inputs
                )
        return self._known[id(value)]

    def is_fixed(self, value: Value) -> bool:
        """Whether a value follows from initializers alone."""
        if id(value) not in self._fixed:
            node = value.producer()
            self._fixed[id(value)] = value.is_initializer() or (
                node is not None and bool(node.inputs) and all(v is None or self.is_fixed(v) for v in node.inputs)
            )
        return self._fixed[id(value)]

    def rank(self, value: Value) -> int:
        """Return how many axes a value has."""
        if value.shape is None:
            raise FormatError(f"value {value.name!r}: its number of axes is not known; give the graph's inputs shapes")
        return len(value.shape)

    # Dense layers, which the profile spells with several nodes

    def dense_weight(self, value: Value) -> Value | None:
        """Return the weight [out, in] that a value is the Transpose of."""
        node = value.producer()
        if node is None or node.op_type != "Transpose" or attribute(node, "perm", [1, 0]) != [1, 0]:
            return None
        weight = node.inputs[0]
        return weight if self.is_parameter(weight) and len(weight_shape(weight)) == 2 else None

    def dense_bias(self, product: Value, size: int) -> tuple[Node | None, Value | None]:
        """Return the Add that alone uses a product, and the bias it adds."""
        users = list(product.uses())
        if len(users) != 1 or product.is_graph_output() or users[0].node.op_type != "Add":
            return None, None
        add = users[0].node
        bias = add.inputs[1 - users[0].idx]
        fits = bias is not None and self.is_parameter(bias) and weight_shape(bias) == [size]
        return (add, bias) if fits else (None, None)


def operands(node: Node, count: int) -> list[Any]:
    """Return the inputs of a node, with None for those at the end that are left out."""
    return [*node.inputs, *[None] * (count - len(node.inputs))]


def weight_shape(value: Any) -> list[int]:
    """Return the shape of a weight, which may be computed but has to be known."""
    shape = value.shape if value.const_value is None else value.const_value.shape
    if shape is None or not all(isinstance(size, int) for size in shape):
        raise FormatError(f"value {value.name!r} is used as a weight, but its shape is not known")
    return list(shape)


def window_of(node: Node, axes: int) -> Window:
    """Return how a convolution or pool of so many spatial axes moves."""
    return Window(
        tuple(attribute(node, "strides", [1] * axes)),
        tuple(attribute(node, "dilations", [1] * axes)),
        tuple(attribute(node, "pads", [0] * axes * 2)),
    )


def open_shape(value: Value) -> list[int]:
    """Return the shape of a value for a reshape to it: -1 for the one axis that is open, such as the batch.

    Raises:
        Refusal: If the shape is not known, or more than one axis is open.

    >>> open_shape(Value(name="x", shape=onnx_ir.Shape(["N", 512])))
    [-1, 512]
    """
    if value.shape is None:
        raise Refusal(f"the shape of {value.name!r} is not known; give the graph's inputs shapes")
    sizes = [size if isinstance(size, int) else -1 for size in value.shape]
    if sizes.count(-1) > 1:
        raise Refusal(f"the shape of {value.name!r} is {list(value.shape)}: only one axis of it may be open")
    return sizes
