"""The network that is being read: an assembly whose shapes are known as it grows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx
import onnx_ir
from onnx.shape_inference import InferenceError
from onnx_ir import Value

from mopruning.backends.mxnet.exporting.symbol_file import SymbolNode
from mopruning.errors import FormatError
from mopruning.ir.assembly import Assembly
from mopruning.ir.lowering import Refusal
from mopruning.ir.operators import IR_VERSION, OPSET

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"
Values: TypeAlias = "Value | Sequence[Value]"

_SMALL = 1024  # numbers; longer constants are no shapes

CODES = {0: "float32", 1: "float64", 2: "float16", 3: "uint8", 4: "int32", 5: "int8", 6: "int64", 7: "bool"}
"""MXNet's numbers of types -> NumPy's names."""


class Network(Assembly):
    """Puts the graph of a symbol together; the shape of each value is inferred when it is added.

    Attributes:
        constants: Id of each constant -> its numbers.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.constants: dict[int, NumPyArray] = {}

    def nodes(
        self,
        op_type: str,
        name: str,
        inputs: Iterable[Value | None],
        outputs: int,
        attributes: Mapping[str, Any] | None = None,
    ) -> tuple[Value, ...]:
        """Add an operator with several outputs, numbered ``<name>.0``, ``<name>.1``, ..."""
        values = super().nodes(op_type, name, inputs, outputs, attributes)
        self._infer(values)
        return values

    def constant(self, name: str, numbers: Any, dtype: Any = np.int64) -> Value:
        """Add a constant that an operator needs, such as a shape."""
        value = super().constant(name, numbers, dtype)
        self.constants[id(value)] = np.asarray(numbers, dtype)
        return value

    def number(self, name: str, number: float, like: Value) -> Value:
        """Add a number of the type that a value has."""
        return self.constant(name, number, dtype_of(like))

    def model(
        self, outputs: Mapping[str, Value], *, source: str, metadata: Mapping[str, str] | None = None
    ) -> onnx_ir.Model:
        """Finish the graph, without the nodes that lead to no output."""
        given = set(outputs.values())
        for node in reversed(self._nodes):
            if not any(value.uses() or value in given for value in node.outputs):
                for index in range(len(node.inputs)):
                    node.replace_input_with(index, None)
        self._nodes = [node for node in self._nodes if any(value.uses() or value in given for value in node.outputs)]
        return super().model(outputs, source=source, metadata=metadata)

    def _infer(self, values: Sequence[Value]) -> None:
        """Set the shapes and types of a node's outputs in place, as far as they follow from its inputs."""
        node = values[0].producer()
        assert node is not None
        given = {str(value.name): value for value in node.inputs if value is not None}
        if any(value.shape is None or value.dtype is None for value in given.values()):
            return
        infos = [onnx_ir.serde.serialize_value(value) for value in given.values()]
        known = [
            onnx.numpy_helper.from_array(self.constants[id(value)], name)
            for name, value in given.items()
            if id(value) in self.constants and self.constants[id(value)].size <= _SMALL
        ]
        wanted = [onnx.ValueInfoProto(name=value.name) for value in values]
        graph = onnx.helper.make_graph([onnx_ir.serde.serialize_node(node)], "node", infos, wanted, known)
        proto = onnx.helper.make_model(
            graph, opset_imports=[onnx.helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
        )
        try:
            inferred = onnx.shape_inference.infer_shapes(proto, check_type=False, strict_mode=True, data_prop=True)
        except (InferenceError, RuntimeError) as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            raise FormatError(f"its shapes do not fit together: {lines[-1] if lines else error}") from None
        for value, info in zip(values, inferred.graph.output, strict=True):
            if info.type.HasField("tensor_type"):
                found = onnx_ir.serde.deserialize_value_info_proto(info, None)
                value.shape, value.type = found.shape, found.type


class Call:
    """One operator of a symbol, as a translation sees it.

    Args:
        network: The graph so far.
        node: The operator and its attributes.
        inputs: What it reads.
    """

    def __init__(self, network: Network, node: SymbolNode, inputs: Sequence[Value]) -> None:
        self.network = network
        self.node = node
        self.inputs = inputs
        self.name = node.name

    def input(self, index: int) -> Value:
        """Return one of its inputs.

        Raises:
            FormatError: If it has not so many.
        """
        if index >= len(self.inputs):
            raise FormatError(f"{self.node}: has {len(self.inputs)} inputs, expected {index + 1} or more")
        return self.inputs[index]

    @property
    def x(self) -> Value:
        """Its first input."""
        return self.input(0)

    def add(self, op_type: str, inputs: Iterable[Value | None], **attributes: Any) -> Value:
        """Add the operator of the profile that stands for it, and bears its name."""
        return self.network.node(op_type, self.name, inputs, attributes)

    def part(self, op_type: str, what: str, inputs: Iterable[Value | None], **attributes: Any) -> Value:
        """Add another operator that it needs."""
        return self.network.node(op_type, f"{self.name}.{what}", inputs, attributes)

    def constant(self, what: str, numbers: Any, dtype: Any = np.int64) -> Value:
        """Add a constant that it needs."""
        return self.network.constant(f"{self.name}.{what}", numbers, dtype)

    def number(self, what: str, number: float, like: Value) -> Value:
        """Add a number that it needs, of the type that a value has."""
        return self.network.number(f"{self.name}.{what}", number, like)

    def rank(self, index: int = 0) -> int:
        """Return how many axes an input has.

        Raises:
            Refusal: If that is not known.
        """
        return len(self.sizes(index))

    def sizes(self, index: int = 0) -> list[Any]:
        """Return the sizes of an input; those that are open are no whole numbers.

        Raises:
            Refusal: If not even the number of axes is known.
        """
        return sizes_of(self.input(index))

    def axis(self, name: str, otherwise: int, index: int = 0) -> int:
        """Return an attribute that is an axis of an input, counted from the front."""
        return self.checked(self.node.integer(name, otherwise), self.rank(index))

    def checked(self, axis: int, rank: int) -> int:
        """Return an axis counted from the front.

        Raises:
            FormatError: If there is no such axis.
        """
        if not -rank <= axis < rank:
            raise FormatError(f"{self.node}: its axis {axis} is none of {rank}")
        return axis % rank


Translation: TypeAlias = Callable[[Call], Values]


def dtype_of(value: Value) -> str:
    """Return NumPy's name of the type of a value; float32 where it is not known."""
    return "float32" if value.dtype is None else str(value.dtype.numpy().name)


def sizes_of(value: Value) -> list[Any]:
    """Return the sizes of a value; those that are open are no whole numbers.

    Raises:
        Refusal: If not even the number of axes is known.
    """
    if value.shape is None:
        raise Refusal("the shape of what it reads is not known; give the shapes of the network's inputs")
    return list(value.shape)


def known(sizes: Sequence[Any]) -> list[int]:
    """Return sizes that are all known.

    Raises:
        Refusal: If one is open.
    """
    if not all(isinstance(size, int) for size in sizes):
        raise Refusal("it depends on a size that is open; give the shapes of the network's inputs")
    return list(sizes)


def typed(name: str, node: SymbolNode) -> str:
    """Return a type that an attribute names, checked."""
    given = node.text(name, "float32")
    given = CODES.get(int(given), given) if given.isdigit() else given
    if given not in CODES.values():
        raise Refusal(f"its type {given} is not in the profile")
    return given
