"""A MINDIR graph as plain data: what its protobuf message holds, checked, with constants as Python has them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from mindspore.train import mind_ir_pb2

from mopruning.errors import FormatError

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"
Dims: TypeAlias = "tuple[int, ...]"

_TENSOR = mind_ir_pb2.TensorProto
_ATTRIBUTE = mind_ir_pb2.AttributeProto
_TYPES = {
    _TENSOR.FLOAT: "float32",
    _TENSOR.UINT8: "uint8",
    _TENSOR.INT8: "int8",
    _TENSOR.UINT16: "uint16",
    _TENSOR.INT16: "int16",
    _TENSOR.INT32: "int32",
    _TENSOR.INT64: "int64",
    _TENSOR.BOOL: "bool",
    _TENSOR.FLOAT16: "float16",
    _TENSOR.DOUBLE: "float64",
    _TENSOR.UINT32: "uint32",
    _TENSOR.UINT64: "uint64",
    _TENSOR.BFLOAT16: "bfloat16",
    _TENSOR.FLOAT64: "float64",
}
_NUMBERS = {
    **dict.fromkeys(("INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64", "BOOL"), "i"),
    "FLOAT": "f",
    "DOUBLE": "d",
    "FLOAT16": "f",
    "BFLOAT16": "f",
}
_DEEPEST = 16  # tuples within tuples


@dataclass(frozen=True)
class Output:
    """What a node gives.

    Args:
        dims: Its shape; -1 for an axis whose size is open.
        dtype: Its type by NumPy's name, "" where the file does not say.
    """

    dims: Dims
    dtype: str


@dataclass(frozen=True)
class MindNode:
    """One operator.

    Args:
        operator: Name of the primitive, or of the graph of the file that it calls.
        inputs: Names of values.
        output: Name of the value it gives, which may be a tuple.
        attributes: Settings that are no inputs.
        given: What comes out, one entry for each part of a tuple.
        scope: Path of the Cell that it stands in, as "layer1.0.conv1".
    """

    operator: str
    inputs: tuple[str, ...]
    output: str
    attributes: Mapping[str, Any]
    given: tuple[Output, ...]
    scope: str


@dataclass(frozen=True)
class Parameter:
    """A parameter: its name in the network, and how it lies."""

    name: str
    dims: Dims
    dtype: str
    content: Callable[[], NumPyArray] | None


@dataclass(frozen=True)
class MindGraph:
    """One graph.

    Args:
        name: What it is called.
        inputs: Value -> what it is, in order.
        parameters: Value -> parameter.
        constants: Value -> number, text, tuple, array or None.
        nodes: In the order in which they compute.
        output: Values that it returns.
        graphs: Further graphs that its nodes may call.
    """

    name: str
    inputs: Mapping[str, Output]
    parameters: Mapping[str, Parameter]
    constants: Mapping[str, Any]
    nodes: tuple[MindNode, ...]
    output: tuple[str, ...]
    graphs: Mapping[str, MindGraph] = field(default_factory=dict)


class Unreadable:
    """A constant that has no counterpart outside MindSpore."""

    def __init__(self, kind: str) -> None:
        self.kind = kind


def graph_of(model: Any, content_of: Callable[[str, Any], Callable[[], NumPyArray] | None]) -> MindGraph:
    """Return the graph of a MINDIR message.

    Args:
        model: The message (`ModelProto` of mind_ir.proto).
        content_of: Parameter's name and message -> what reads its numbers.

    Raises:
        FormatError: If it is damaged; the message does not name the file.
    """
    if not model.HasField("graph") or not model.graph.name:
        raise FormatError("it holds no graph")
    primitives = {one.name: one for one in model.primitives}
    graphs = {one.name: _graph(one, primitives, content_of, {}) for one in model.functions}
    return _graph(model.graph, primitives, content_of, graphs)


def _graph(
    graph: Any,
    primitives: Mapping[str, Any],
    content_of: Callable[[str, Any], Callable[[], NumPyArray] | None],
    graphs: Mapping[str, MindGraph],
) -> MindGraph:
    parameters = {}
    for one in graph.parameter:
        name = one.name.partition(":")[2] or one.name
        parameters[one.name] = Parameter(name, _dims(one), _dtype(one), content_of(name, one))
    constants: dict[str, Any] = {}
    nodes = []
    for node in graph.node:
        if len(node.output) != 1:
            raise FormatError(f"node {node.name!r} has {len(node.output)} outputs, expected one")
        if node.op_type == "Constant":
            constants[node.output[0]] = _value(node.attribute[0], node.name) if node.attribute else None
            continue
        operator = node.op_type.removeprefix("REF::")
        primitive = primitives.get(operator)
        attributes: dict[str, Any] = {}
        given: tuple[Output, ...] = ()
        for attribute in [*([] if primitive is None else primitive.attribute), *node.attribute]:
            if attribute.name == "shape" and attribute in node.attribute:
                given = tuple(_outputs(attribute, 0))
            elif attribute.name not in ("input_names", "output_names"):
                attributes[attribute.name] = _value(attribute, node.name)
        kind = operator if primitive is None else primitive.op_type
        nodes.append(MindNode(kind, tuple(node.input), node.output[0], attributes, given, _scope(node.domain)))
    inputs = {one.name: Output(_dims(one.tensor[0]), _dtype(one.tensor[0])) if one.tensor else Output((), "")
              for one in graph.input}  # fmt: skip
    return MindGraph(
        *(graph.name, inputs, parameters, constants, tuple(nodes), tuple(one.name for one in graph.output)), graphs
    )


def _dims(tensor: Any) -> Dims:
    return tuple(int(size) for size in tensor.dims)


def _dtype(tensor: Any) -> str:
    return _TYPES.get(tensor.data_type, "")


def _outputs(attribute: Any, depth: int) -> Iterable[Output]:
    """Yield what a node gives, from its "shape"."""
    if depth > _DEEPEST:
        raise FormatError("a shape is nested too deeply")
    for tensor in attribute.tensors:
        yield Output(_dims(tensor), _dtype(tensor))
    for inner in attribute.values:
        yield from _outputs(inner, depth + 1)


def _value(attribute: Any, place: str, depth: int = 0) -> Any:
    """Return what an attribute or constant holds."""
    if depth > _DEEPEST:
        raise FormatError(f"node {place!r}: a tuple is nested too deeply")
    kind = _ATTRIBUTE.AttributeType.Name(attribute.type)
    if kind in ("TUPLE", "LIST"):
        items = [_value(one, place, depth + 1) for one in attribute.values]
        return tuple(items)
    if kind in _NUMBERS:
        letter = _NUMBERS[kind]
        many = {"i": attribute.ints, "f": attribute.floats, "d": attribute.doubles}[letter]
        if len(many) > 1:
            return tuple(many)
        number = many[0] if many else getattr(attribute, letter)
        return bool(number) if kind == "BOOL" else number
    if kind == "STRING":
        text = attribute.strings[0] if attribute.strings else attribute.s
        return text.decode(errors="replace")
    if kind in ("TENSORS", "TENSOR"):
        tensors = attribute.tensors or [attribute.t]
        arrays = tuple(array_of(one, place) for one in tensors)
        return arrays[0] if len(arrays) == 1 else arrays
    if kind in ("NONE", "UMONAD", "IOMONAD"):
        return None
    return Unreadable(kind)


def array_of(tensor: Any, place: str, raw: bytes | memoryview | None = None) -> NumPyArray:
    """Return the numbers of a tensor.

    Raises:
        FormatError: If they are not as many as its shape says, or of a type that NumPy does not have.
    """
    name = _dtype(tensor)
    if not name:
        raise FormatError(f"{place!r} is of type {tensor.data_type}, which no other program can hold")
    if name == "bfloat16":
        import ml_dtypes

        dtype = np.dtype(ml_dtypes.bfloat16)
    else:
        dtype = np.dtype(name).newbyteorder("<")
    content = tensor.raw_data if raw is None else raw
    dims = _dims(tensor)
    if any(size < 0 for size in dims) or math.prod(dims) * dtype.itemsize != len(content):
        raise FormatError(f"{place!r} is damaged: {name} {list(dims)} does not take {len(content)} bytes")
    return np.frombuffer(content, dtype).reshape(dims)


def _scope(domain: str) -> str:
    """Return the path of a Cell from the scope that MindSpore notes.

    >>> _scope("Default/layer1-SequentialCell/0-Block/conv1-Conv2d/Conv2D-op0")
    'layer1.0.conv1'
    """
    parts = [part.rpartition("-")[0] for part in domain.split("/")[1:-1]]
    return ".".join(part for part in parts if part and not part.startswith(("network", "_backbone")))
