"""Reading: walks a MINDIR graph and puts the IR graph together, operator by operator."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from onnx_ir import Value

from mopruning.backends.mindspore.exporting.batches import Batch, Filled, Varying
from mopruning.backends.mindspore.exporting.graph import MindGraph, MindNode, Output, Parameter, Unreadable
from mopruning.errors import FormatError
from mopruning.ir.assembly import Assembly
from mopruning.ir.validation import Problem, UnsupportedOperators

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"

PASSED = ("Load", "Depend", "StopGradient", "Identity", "Contiguous", "TensorMove")  # they give their first input
TUPLES = ("MakeTuple", "MakeList", "make_list", "make_tuple")
ORDERS = ("UpdateState",)  # they say what comes before what
MARK = "mopruning.dropout:"
"""Begins the name of the parameter that stands for a Dropout while a live network is exported."""


class Unsupported(Exception):  # noqa: N818 - what the IR cannot express
    """A node that the IR cannot express; the message says why."""


class Reading:
    """Turns a MINDIR graph into an IR graph.

    Args:
        graph: The graph.
        operators: Primitive -> the function that adds what it computes.
        momenta: Running mean -> the share of it that stays at an update, where it is known.

    Attributes:
        net: The IR graph so far.
        node: The node that is being read.
    """

    def __init__(
        self,
        graph: MindGraph,
        operators: Mapping[str, Callable[[Reading, MindNode], Any]],
        momenta: Mapping[str, float],
    ) -> None:
        self.net = Assembly(graph.name)
        self.momenta = momenta
        self.node = MindNode("constant", (), "", {}, (), "")
        self._operators = operators
        self._graphs = graph.graphs
        self._problems: list[Problem] = []
        self._known: dict[str, Any] = {}
        self._outputs: dict[int, Output] = {}
        self._uses: dict[str, list[MindNode]] = {}
        self._batch: Value | None = None
        self._contents: dict[str, NumPyArray] = {}
        self._producers: dict[str, MindNode] = {}
        self._depth = 0

    # The graph

    def run(self, graph: MindGraph, inputs: Mapping[str, Value]) -> list[Any]:
        """Read a graph whose inputs are given, and return its outputs, with tuples laid open.

        Raises:
            UnsupportedOperators: If the IR cannot express some nodes; all of them are named.
        """
        for name, value in inputs.items():
            self._known[name] = value
            self._outputs[id(value)] = graph.inputs[name]
            if self._batch is None and any(isinstance(size, Batch) for size in graph.inputs[name].dims[:1]):
                self._batch = value
        found = self._inside(graph)
        if self._problems:
            raise UnsupportedOperators(self.net.name, tuple(self._problems))
        try:
            return [self.value_of(one) for one in found]
        except Unsupported as problem:
            raise FormatError(f"its output: {problem}") from None

    def _inside(self, graph: MindGraph) -> list[Any]:
        self._known |= graph.constants
        self._known |= graph.parameters
        for node in graph.nodes:
            for name in node.inputs:
                self._uses.setdefault(name, []).append(node)
        for name in graph.output:
            self._uses.setdefault(name, []).append(graph.nodes[-1] if graph.nodes else None)  # type: ignore[arg-type]
        self._producers = {node.output: node for node in graph.nodes}
        for node in graph.nodes:
            if node.output not in self._known:
                self._read(node)
        found = [self._known.get(name) for name in graph.output]
        return [part for one in found for part in _opened(one)]

    def _read(self, node: MindNode) -> None:
        kind = node.operator
        before, self.node = self.node, node
        try:
            if kind in ORDERS:
                self._known[node.output] = None
            elif kind in PASSED:
                self._known[node.output] = self.get(0)
            elif kind in TUPLES:
                self._known[node.output] = tuple(self.get(index) for index in range(len(node.inputs)))
            elif kind == "TupleGetItem":
                self._known[node.output] = self._part()
            elif kind in self._graphs:
                self._known[node.output] = self._call(self._graphs[kind])
            elif kind in self._operators:
                self._known.setdefault(node.output, None)
                self._known[node.output] = self._operators[kind](self, node)
                self._note(node)
            else:
                control = kind in ("Switch", "Partial", "SwitchLayer") or ":" in kind
                raise Unsupported("control flow is not in the profile" if control else "the IR has no form of it")
        except _Spoilt:
            self._known[node.output] = _SPOILT
        except Unsupported as problem:
            self._problems.append(
                Problem(node.scope or node.output.rpartition(":")[0] or node.output, kind, str(problem))
            )
            self._known[node.output] = _SPOILT
        finally:
            self.node = before

    def _note(self, node: MindNode) -> None:
        """Remember the shapes of what a node gives."""
        for value, output in zip(_opened(self._known[node.output]), node.given, strict=False):
            if isinstance(value, Value):
                self._outputs.setdefault(id(value), output)

    def _part(self) -> Any:
        whole, index = self.get(0), self.get(1)
        if not isinstance(whole, tuple) or not isinstance(index, int) or index >= len(whole):
            raise Unsupported("it takes a part of what is no tuple of known length")
        return whole[index]

    def _call(self, graph: MindGraph) -> Any:
        if self._depth > 32 or len(graph.inputs) != len(self.node.inputs):
            raise Unsupported("graphs that call one another without end, or with other inputs")
        kept = self._known, self._uses, self._producers
        given = {name: self.get(index) for index, name in enumerate(graph.inputs)}
        self._known, self._uses = {**self._known, **given}, {}
        self._depth += 1
        try:
            results = self._inside(graph)
        finally:
            self._known, self._uses, self._producers = kept
            self._depth -= 1
        return results[0] if len(results) == 1 else tuple(results)

    # Operands

    def get(self, index: int) -> Any:
        """Return an operand: a value, a parameter, or a constant as Python has it."""
        name = self.node.inputs[index]
        if name not in self._known:
            producer = self._producers.get(name)
            if producer is None:
                raise FormatError(f"node {self.node.output!r} reads {name!r}, which nothing gives")
            self._read(producer)
        found = self._known[name]
        if found is _SPOILT:
            raise _Spoilt
        return found

    def has(self, index: int) -> bool:
        """Whether there is such an operand, and it is not None."""
        return index < len(self.node.inputs) and self.get(index) is not None

    def option(self, index: int | None, name: str, otherwise: Any = None) -> Any:
        """Return a setting, which is an operand in newer files and an attribute in older ones.

        Raises:
            Unsupported: If it is computed.
        """
        found = self.node.attributes.get(name, otherwise)
        if index is not None and index < len(self.node.inputs):
            found = self.get(index)
        if isinstance(found, np.ndarray):
            found = found.item() if found.ndim == 0 else tuple(found.tolist())
        if not _is_plain(found):
            raise Unsupported(f"its {name} is computed")
        return found

    def integers(self, index: int | None, name: str, otherwise: Any = None) -> tuple[int, ...]:
        """Return a setting of several whole numbers; a single one counts as a tuple of it."""
        found = self.option(index, name, otherwise)
        return (found,) if isinstance(found, int) else tuple(found or ())

    def x(self, index: int = 0) -> Value:
        """Return an operand as a value of the IR; a number as a constant of the type of the others."""
        return self.value_of(self.get(index))

    def value_of(self, found: Any) -> Value:
        """Return what was found as a value of the IR."""
        if isinstance(found, Value):
            return found
        if isinstance(found, Parameter):
            return self.parameter(found)
        if isinstance(found, Varying):
            raise Unsupported("it computes with the size of the batch; give dynamic_batch=False")
        if isinstance(found, Filled):
            number = self.net.constant(self.name("number"), found.number, np.asarray(found.number).dtype)
            return self.net.node("Expand", self.name("expand"), [number, self.sizes(found.shape)])
        if isinstance(found, np.ndarray):
            return self.constant(found)
        if isinstance(found, (bool, int, float)):
            return self.constant(np.array(found, self._dtype_beside() if not isinstance(found, bool) else np.bool_))
        if isinstance(found, tuple) and _is_plain(found):
            return self.constant(np.array(found, np.int64 if all(isinstance(n, int) for n in found) else np.float32))
        if isinstance(found, Unreadable):
            raise Unsupported(f"it reads a {found.kind}")
        raise Unsupported("it reads a tuple or nothing where a tensor is expected")

    def parameter(self, found: Parameter) -> Value:
        """Return a parameter."""
        content = self._content(found)
        value = self.net.parameter(found.name, content)
        self._outputs[id(value)] = Output(found.dims, found.dtype)
        return value

    def _content(self, found: Parameter) -> NumPyArray:
        if found.name not in self._contents:
            if found.content is None:
                raise FormatError(f"parameter {found.name!r} has no content; export the network with its weights")
            self._contents[found.name] = found.content()
        return self._contents[found.name]

    def constant(self, array: NumPyArray) -> Value:
        """Add a constant of the network."""
        array = array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))
        value = self.net.constant(self.name("constant"), array, array.dtype)
        self._outputs[id(value)] = Output(array.shape, array.dtype.name)
        return value

    def _dtype_beside(self) -> Any:
        """Return the type of the tensors that a node reads besides a number."""
        for index in range(len(self.node.inputs)):
            found = self.get(index)
            if isinstance(found, Value):
                return np.dtype(self.dtype(found) or "float32")
            if isinstance(found, Parameter):
                return np.dtype(found.dtype)
            if isinstance(found, np.ndarray):
                return found.dtype
        return np.dtype(np.float32)

    # What is known of values

    def dims(self, value: Value) -> tuple[int, ...]:
        """Return the shape of a value; -1 or a `Batch` where it is open.

        Raises:
            Unsupported: If even the number of its axes is not known.
        """
        output = self._outputs.get(id(value))
        if output is None or -2 in output.dims:
            raise Unsupported(f"the shape of {value.name!r} is not known")
        return output.dims

    def dtype(self, value: Value) -> str:
        """Return the type of a value by NumPy's name, "" where it is not known."""
        output = self._outputs.get(id(value))
        return "" if output is None else output.dtype

    def given(self, part: int = 0) -> tuple[int, ...]:
        """Return the shape of what the node gives."""
        if part >= len(self.node.given) or -2 in self.node.given[part].dims:
            raise Unsupported("the shape that it gives is not known")
        return self.node.given[part].dims

    def noted(self, value: Value, dims: Sequence[int], dtype: str) -> Value:
        """Note the shape and type of a value between nodes, and return it."""
        self._outputs[id(value)] = Output(tuple(dims), dtype)
        return value

    def sizes(self, dims: Sequence[int]) -> Value:
        """Return a shape as a value, with the size of the batch where it belongs."""
        if any(isinstance(size, Varying) or size == -1 for size in dims):
            raise Unsupported("a shape that is computed")
        if not any(isinstance(size, Batch) for size in dims):
            return self.net.constant(self.name("shape"), list(dims))
        assert self._batch is not None
        size = self.net.node("Shape", self.name("batch"), [self._batch], {"start": 0, "end": 1})
        parts = []
        for one in dims:
            if isinstance(one, Batch):
                times = self.net.constant(self.name("times"), [one.times])
                parts.append(size if one.times == 1 else self.net.node("Mul", self.name("times"), [size, times]))
            else:
                parts.append(self.net.constant(self.name("size"), [one]))
        return self.net.node("Concat", self.name("sizes"), parts, {"axis": 0})

    # Nodes

    def name(self, what: str = "") -> str:
        """Return a name for what stands in the node's place."""
        own = what or self.node.operator.lower()
        return f"{self.node.scope}.{own}" if self.node.scope else own

    def add(self, op_type: str, inputs: Sequence[Value | None], attributes: Mapping[str, Any] | None = None) -> Value:
        """Add a node of the IR."""
        return self.net.node(op_type, self.name(), inputs, attributes)

    def add_numbers(self, op_type: str, x: Value, *numbers: Sequence[int] | None, **attributes: Any) -> Value:
        """Add a node whose further inputs are whole numbers, such as axes."""
        given = [None if one is None else self.net.constant(self.name("numbers"), list(one)) for one in numbers]
        return self.net.node(op_type, self.name(), [x, *given], attributes)

    def only_user(self, node: MindNode) -> MindNode | None:
        """Return the only node that reads what a node gives."""
        users = self._uses.get(node.output, [])
        return users[0] if len(users) == 1 and users[0] is not None and users[0].output != node.output else None

    def bias_behind(self, node: MindNode) -> Value | None:
        """Return the bias that a BiasAdd alone adds to what a node gives; that node counts as read then."""
        user = self.only_user(node)
        if user is None or user.operator != "BiasAdd" or user.inputs[0] != node.output:
            return None
        kept, self.node = self.node, user
        try:
            found = self.get(1)
        finally:
            self.node = kept
        return self.parameter(found) if isinstance(found, Parameter) else None

    def done(self, node: MindNode, value: Value) -> None:
        """Note that the only user of a node is read, and gives this value."""
        user = self.only_user(node)
        assert user is not None
        self._known[user.output] = value
        self._note(user)


class _Spoilt(Exception):  # noqa: N818
    """A node that reads what an unsupported one gives."""


_SPOILT = object()


def _opened(found: Any) -> list[Any]:
    return [one for part in found for one in _opened(part)] if isinstance(found, tuple) else [found]


def _is_plain(found: Any) -> bool:
    if isinstance(found, tuple):
        return all(_is_plain(one) for one in found)
    return found is None or isinstance(found, (bool, int, float, str, np.number))
