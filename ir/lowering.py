"""Lowering: walks a graph and asks, value by value, for what stands for it in a framework."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Generic, TypeAlias, TypeVar

import numpy as np
import onnx_ir
from onnx_ir import Node, Value

from mopruning.errors import FormatError
from mopruning.ir.attributes import attribute, shortest
from mopruning.ir.operators import OPERATORS
from mopruning.ir.passes.constants import constant
from mopruning.ir.roles import roles_of
from mopruning.ir.validation import Problem, UnsupportedOperators

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"
T = TypeVar("T")
S = TypeVar("S")
F = TypeVar("F", bound=Callable[..., None])


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
        self._arrays: dict[tuple[int, Hashable], tuple[NumPyArray, Any]] = {}

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

    def number(self, value: Value | None) -> float | int | None:
        """Return the number that a constant holds; None if it is computed, or has many."""
        content = self.constant(value)
        return content.reshape(-1)[0].item() if content is not None and content.size == 1 else None

    def integers(self, value: Value | None, what: str) -> list[int]:
        """Return the whole numbers that a constant holds, such as axes.

        Raises:
            Refusal: If they are computed; `what` is what the message calls them.
        """
        content = self.constant(value)
        if content is None:
            raise Refusal(f"its {what} are computed; they must be constants")
        return [int(number) for number in content.reshape(-1)]

    def once(self, array: NumPyArray, make: Callable[[], S], form: Hashable = None) -> S:
        """Return what stands for a constant array in some form: what `make` gives when it is first asked for."""
        key = id(array), form
        if key not in self._arrays:
            self._arrays[key] = array, make()  # the array is kept, so that its `id` stays its own
        found: S = self._arrays[key][1]
        return found

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

    # What several inputs of a node say together

    def reduced_axes(self, node: Node) -> list[int] | None:
        """Return the axes over which a node reduces, in order, counted from the front; None if it reduces nothing.

        Raises:
            Refusal: If they are computed.
        """
        x, given = operands(node, 2)
        axes = [] if given is None else self.integers(given, "axes")
        if not axes and attribute(node, "noop_with_empty_axes"):
            return None
        rank = self.rank(x)
        return sorted({axis % rank for axis in axes}) or list(range(rank))

    def cuts(self, node: Node, bounds: tuple[str, str] = ("bounds", "bounds")) -> list[tuple[int, int, int, int]]:
        """Return the start, end, axis and step of each cut of a Slice, the axes counted from the front.

        Raises:
            Refusal: If they are computed; `bounds` is what the message calls starts and ends.
        """
        x, starts, ends, axes, steps = operands(node, 5)
        first, last = (self.integers(value, what) for value, what in zip((starts, ends), bounds, strict=True))
        chosen = list(range(len(first))) if axes is None else self.integers(axes, "axes")
        strides = [1] * len(first) if steps is None else self.integers(steps, "steps")
        rank = self.rank(x)
        return [(a, b, axis % rank, step) for a, b, axis, step in zip(first, last, chosen, strides, strict=True)]

    def dropped_share(self, node: Node) -> float | None:
        """Return the share that a Dropout drops, as short as float32 needs; None if it is computed."""
        ratio = operands(node, 2)[1]
        number = 0.5 if ratio is None else self.number(ratio)
        return None if number is None else shortest(number)

    def channel_slopes(self, node: Node) -> Value | None:
        """Return the parameter [1] or [channels] that is the slope of a PRelu; None if its slope is anything else."""
        x, slope = operands(node, 2)
        spread = slope.producer()
        weight = slope if spread is None or spread.op_type not in ("Unsqueeze", "Reshape") else spread.inputs[0]
        if not self.is_parameter(weight) or len(weight_shape(weight)) != 1:
            return None
        (count,), shape, rank = weight_shape(weight), weight_shape(slope), self.rank(x)
        place = 1 - rank + len(shape)  # of the channels in the slope's shape, which is aligned at the end
        by_channel = rank > 1 and 0 <= place < len(shape) and shape[place] == count == math.prod(shape)
        return weight if count == 1 or by_channel else None

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


def lowers(*operators: str) -> Callable[[F], F]:
    """Mark a function as the one that lowers some operators, for `lowerings` to find."""

    def mark(function: F) -> F:
        function.lowers = operators  # type: ignore[attr-defined]
        return function

    return mark


def lowerings(*modules: ModuleType) -> dict[str, Callable[..., None]]:
    """Collect the functions in modules that are marked with `lowers`.

    Args:
        modules: Where they are defined.

    Returns:
        Operator -> function.

    Raises:
        ValueError: If an operator is outside the profile, or two functions lower it.
    """
    found: dict[str, Callable[..., None]] = {}
    for module in modules:
        for function in vars(module).values():
            if getattr(function, "__module__", None) != module.__name__:
                continue
            for name in getattr(function, "lowers", ()):
                if name not in OPERATORS or name in found:
                    reason = "is lowered twice" if name in found else "is not in the operator profile"
                    raise ValueError(f"{module.__name__}.{function.__name__}: {name} {reason}")
                found[name] = function
    return found


def operands(node: Node, count: int = 0) -> list[Any]:
    """Return the inputs of a node, at least so many: with None for those at the end that are left out."""
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


def sizes_of(value: Value) -> list[int | None]:
    """Return the sizes of a value's axes, None where one is open.

    Raises:
        Refusal: If not even the number of axes is known.

    >>> sizes_of(Value(name="x", shape=onnx_ir.Shape(["N", 512])))
    [None, 512]
    """
    if value.shape is None:
        raise Refusal(f"the shape of {value.name!r} is not known; give the graph's inputs shapes")
    return [size if isinstance(size, int) else None for size in value.shape]


def open_shape(value: Value) -> list[int]:
    """Return the shape of a value for a reshape to it: -1 for the one axis that is open, such as the batch.

    Raises:
        Refusal: If the shape is not known, or more than one axis is open.

    >>> open_shape(Value(name="x", shape=onnx_ir.Shape(["N", 512])))
    [-1, 512]
    """
    sizes = [-1 if size is None else size for size in sizes_of(value)]
    if sizes.count(-1) > 1:
        raise Refusal(f"the shape of {value.name!r} is {list(value.shape or ())}: only one axis of it may be open")
    return sizes
