"""The nodes of a GraphDef: how they refer to each other, and the constants in them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import tensorflow.compat.v1 as tf

from mopruning.errors import FormatError
from mopruning.ir.validation import Problem, UnsupportedOperators

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"
NodeDef: TypeAlias = Any
Reference: TypeAlias = tuple[str, int]
"""A tensor: the name of a node, and the number of its output."""

VARIABLES = frozenset({"VarHandleOp", "Variable", "VariableV2"})
PASSING = frozenset({"Identity", "StopGradient", "PreventGradient", "Snapshot", "CheckNumerics", "RefIdentity"})
SWITCHES = frozenset({"Switch", "RefSwitch"})
MERGES = frozenset({"Merge", "RefMerge"})
PLACEHOLDERS = frozenset({"Placeholder", "PlaceholderV2", "PlaceholderWithDefault"})

_STRING = 7  # TensorFlow's number of the type
_LARGEST = 1 << 34
"""Bytes that one constant may take: 16 GiB. A shape costs its author nothing."""


@dataclass
class Source:
    """A graph and all that is needed to read it.

    Args:
        name: What it is called in messages, and the model.
        graph_def: The graph.
        contents: Name of a variable -> what returns its content.
        inputs: Names of the tensors that are the inputs; None to find them.
        outputs: Names of the tensors that are the outputs; None to find them.
        flags: Name of a boolean placeholder -> what it is; all others are false, as is usual of "is_training".
        shapes: Name of an input -> its shape, where the graph does not tell it.
        title: Name of the model, `name` by default.
        titles: Name of a tensor that is an input or output -> what the model calls it.
    """

    name: str
    graph_def: Any
    contents: Mapping[str, Callable[[], NumPyArray]] = field(default_factory=dict)
    inputs: Sequence[str] | None = None
    outputs: Sequence[str] | None = None
    flags: Mapping[str, bool] = field(default_factory=dict)
    shapes: Mapping[str, Sequence[int | None]] = field(default_factory=dict)
    title: str = ""
    titles: Mapping[str, str] = field(default_factory=dict)


class Nodes:
    """The nodes of a graph by name.

    Args:
        source: The graph.

    Attributes:
        by_name: Node by name.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self.by_name: dict[str, NodeDef] = {}
        for node in source.graph_def.node:
            if node.name in self.by_name:
                raise FormatError(f"{source.name}: two nodes are called {node.name!r}")
            self.by_name[node.name] = node

    def node(self, reference: Reference, reader: str = "") -> NodeDef:
        """Return the node that gives a tensor.

        Raises:
            FormatError: If there is none.
        """
        found = self.by_name.get(reference[0])
        if found is None:
            where = f"node {reader!r}: its input" if reader else "tensor"
            raise FormatError(f"{self.source.name}: {where} {shown(reference)!r} is given by no node")
        return found

    def inputs(self, node: NodeDef) -> list[Reference]:
        """Return the tensors that a node reads."""
        return [parsed(text) for text in node.input if not text.startswith("^")]

    def controls(self, node: NodeDef) -> list[str]:
        """Return the nodes that a node waits for."""
        return [text[1:] for text in node.input if text.startswith("^")]

    def through(self, reference: Reference) -> Reference:
        """Return what a tensor is a copy of: identities and switches are looked through."""
        for _ in range(len(self.by_name)):
            node = self.by_name.get(reference[0])
            if node is None or node.op not in PASSING | SWITCHES | {"ReadVariableOp"} or not node.input:
                return reference
            reference = parsed(node.input[0])
        return reference

    def constant(self, reference: Reference) -> NumPyArray | None:
        """Return the content of a constant, None where a tensor is none."""
        node = self.by_name.get(self.through(reference)[0])
        return self.content(node) if node is not None and node.op == "Const" else None

    def content(self, node: NodeDef) -> NumPyArray:
        """Return the content of a Const."""
        return content_of(node, self.source.name)


def content_of(node: NodeDef, where: str) -> NumPyArray:
    """Return the content of a Const.

    Raises:
        FormatError: If type, shape and content do not agree.
    """
    proto = node.attr["value"].tensor
    shape_of(node, where)
    try:
        return np.asarray(tf.make_ndarray(proto))
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, UnicodeError) as error:
        raise FormatError(f"{where}: node {node.name!r} (Const): cannot be read: {error}") from None


def shape_of(node: NodeDef, where: str) -> tuple[int, ...]:
    """Return the shape of a Const, without its content.

    Raises:
        FormatError: If it is not known, or the content does not fill it, or would not fit into 16 GiB.
    """
    proto = node.attr["value"].tensor
    shape = tuple(int(axis.size) for axis in proto.tensor_shape.dim)
    place = f"{where}: node {node.name!r} (Const)"
    if proto.tensor_shape.unknown_rank or any(size < 0 for size in shape):
        raise FormatError(f"{place}: its shape is {list(shape)}; a constant needs one that is known")
    size = math.prod(shape)
    if size * 8 > _LARGEST:
        raise FormatError(f"{place}: the shape {list(shape)} takes more than {_LARGEST} bytes")
    if proto.tensor_content and proto.dtype != _STRING:
        expected = size * dtype_of(node, proto.dtype, where).size
        if len(proto.tensor_content) != expected:
            raise FormatError(f"{place}: {len(proto.tensor_content)} bytes do not hold the shape {list(shape)}")
    return shape


def dtype_of(node: NodeDef, number: int, where: str) -> Any:
    """Return a type by TensorFlow's number.

    Raises:
        FormatError: If there is no such type.
    """
    try:
        return tf.as_dtype(number).base_dtype
    except (TypeError, KeyError):
        raise FormatError(f"{where}: node {node.name!r} ({node.op}): {number} is no type") from None


def parsed(text: str) -> Reference:
    """Return the tensor that a text names.

    >>> parsed("conv1/Conv2D"), parsed("split:1")
    (('conv1/Conv2D', 0), ('split', 1))
    """
    name, colon, number = text.rpartition(":")
    return (name, int(number)) if colon and number.isdigit() else (text, 0)


def shown(reference: Reference) -> str:
    """Return a tensor's name as TensorFlow writes it, without the number of a first output."""
    return reference[0] if reference[1] == 0 else f"{reference[0]}:{reference[1]}"


def refuse(name: str, problems: Iterable[Problem]) -> None:
    """Raise an error that lists all operators that have no place in the IR, if there are any."""
    found = tuple(dict.fromkeys(problems))
    if found:
        raise UnsupportedOperators(name, found)
