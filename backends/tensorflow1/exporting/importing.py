"""The part of a graph that is needed, without its weights, as a `tf.Graph`: TensorFlow infers its shapes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import tensorflow.compat.v1 as tf

from mopruning.backends.tensorflow1.exporting.inference import Inference
from mopruning.backends.tensorflow1.exporting.nodes import (
    PLACEHOLDERS,
    VARIABLES,
    NodeDef,
    Reference,
    content_of,
    dtype_of,
    parsed,
    refuse,
    shape_of,
    shown,
)
from mopruning.errors import FormatError
from mopruning.ir.validation import Problem

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"

_SMALL = 1 << 10  # elements; TensorFlow infers shapes from constants as short as this
_COPIED = frozenset({"ReadVariableOp", "PlaceholderWithDefault"})
_BOOKKEEPING = frozenset({"_class", "_output_shapes", "_XlaCompile"})


@dataclass(frozen=True, eq=False)
class Leaf:
    """A weight or constant of a graph.

    Args:
        name: Name of its node.
        dtype: Its type.
        shape: Its shape.
        read: Reads its content.
        variable: Whether it is a variable, and not a constant.
    """

    name: str
    dtype: Any
    shape: tuple[int, ...]
    read: Callable[[], NumPyArray]
    variable: bool


@dataclass(frozen=True)
class Imported:
    """A graph as it computes in inference.

    Args:
        graph: The graph; weights are placeholders in it.
        leaves: Node -> the weight or constant that it stands for.
        inputs: Names of the tensors that are the inputs.
        outputs: Names of the tensors that are the outputs.
        dropouts: Identity -> ratio of the dropout that it stands for.
    """

    graph: Any
    leaves: Mapping[str, Leaf]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    dropouts: Mapping[str, float | None]


def imported(inference: Inference, outputs: list[Reference], known: Collection[str]) -> Imported:
    """Import what outputs are computed from.

    Args:
        inference: The graph as it computes in inference.
        outputs: The outputs.
        known: Operations that have a place in the IR; others are not imported.

    Raises:
        UnsupportedOperators: If there are other operations; all of them are listed.
        FormatError: If the graph is damaged, or a weight has no content.
    """
    source = inference.source
    ends = [inference.resolve(output) for output in outputs]
    stops = {parsed(name) for name in source.inputs or ()}
    result, leaves, found = tf.GraphDef(versions=source.graph_def.versions), {}, []
    problems: list[Problem] = []
    for node, reads in inference.needed(ends, stops):
        flag = inference.flag((node.name, 0)) if node.op in PLACEHOLDERS and (node.name, 0) not in stops else None
        if flag is not None:
            result.node.append(_flag(node.name, flag))
        elif (node.name, 0) in stops or (node.op in PLACEHOLDERS - _COPIED and not source.inputs):
            found.append(node.name)
            result.node.append(_placeholder(inference, node))
        elif node.op in PLACEHOLDERS - _COPIED:
            raise FormatError(f"{source.name}: {node.name!r} is fed as well, and no input: add it to the inputs")
        elif node.op in VARIABLES:
            leaves[node.name] = leaf = _variable(inference, node)
            result.node.append(_stand_in(node.name, leaf.dtype, leaf.shape))
        elif node.name in inference.layers:
            dtype = dtype_of(node, _number_of_type(node), source.name)
            stand_in = _stand_in(node.name, dtype, inference.layers[node.name][1])
            stand_in.input.extend(f"^{one[0]}" for one in reads)  # so that it comes after them
            result.node.append(stand_in)
        elif node.op == "Const":
            _add_constant(inference, node, result, leaves)
        elif node.op in _COPIED or node.name in inference.dropouts:
            result.node.append(_copy(node.name, reads[0], _type_of(inference, node)))
        elif node.op == "ResourceGather":
            result.node.extend(_gather(node, reads))
        elif node.op not in known:
            problems.append(Problem(node.name, node.op, _why(node.op)))
        else:
            result.node.append(_plain(node, reads))
    refuse(source.name, [*inference.problems, *problems])
    names = list(
        source.inputs or found
    )  # in the order in which they are asked for, and those that nothing needs as well
    for name in names:
        if parsed(name)[0] not in found:
            result.node.append(_placeholder(inference, inference.nodes.node(parsed(name))))
    graph = _import(source.name, result)
    return Imported(graph, leaves, tuple(names), tuple(map(shown, ends)), inference.dropouts)


def _import(name: str, definition: Any) -> Any:
    graph = tf.Graph()
    with graph.as_default():
        try:
            tf.import_graph_def(definition, name="")
        except (ValueError, TypeError, KeyError, tf.errors.OpError) as error:
            raise FormatError(
                f"{name}: TensorFlow cannot import its graph: {' '.join(str(error).split())[:400]}"
            ) from None
    return graph


def _why(kind: str) -> str:
    if "PyFunc" in kind:
        return "it runs Python code; refused"
    return "this operation is not known to the reader, or has no ONNX form"


def _placeholder(inference: Inference, node: NodeDef) -> NodeDef:
    source = inference.source
    dtype = dtype_of(node, _number_of_type(node), source.name)
    given = source.shapes.get(node.name, source.shapes.get(f"{node.name}:0"))
    if given is not None:
        return _stand_in(node.name, dtype, tuple(given))
    shape = node.attr["shape"].shape
    if shape.unknown_rank or ("shape" not in node.attr):
        shapes = node.attr["_output_shapes"].list.shape
        if not shapes or shapes[0].unknown_rank:
            raise FormatError(
                f"{source.name}: input {node.name!r} has no shape; give it by shapes={{{node.name!r}: ...}}"
            )
        shape = shapes[0]
    return _stand_in(node.name, dtype, tuple(None if axis.size < 0 else int(axis.size) for axis in shape.dim))


def _number_of_type(node: NodeDef) -> int:
    for name in ("dtype", "T", "output_type", "SrcT"):
        if node.attr[name].type:
            return int(node.attr[name].type)
    return 0


def _flag(name: str, flag: bool) -> NodeDef:
    node = tf.NodeDef(name=name, op="Const")
    node.attr["dtype"].type = tf.bool.as_datatype_enum
    node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(flag, tf.bool))
    return node


def _variable(inference: Inference, node: NodeDef) -> Leaf:
    source = inference.source
    read = source.contents.get(node.name)
    if read is None:
        shared = node.attr["shared_name"].s.decode(errors="replace")
        read = source.contents.get(shared)
    if read is None:
        raise FormatError(f"{source.name}: variable {node.name!r} has no content; is its checkpoint complete?")
    shape = node.attr["shape"].shape
    sizes: tuple[int, ...]
    if shape.unknown_rank or any(axis.size < 0 for axis in shape.dim):
        sizes = tuple(int(size) for size in read().shape)
    else:
        sizes = tuple(int(axis.size) for axis in shape.dim)
    return Leaf(node.name, dtype_of(node, node.attr["dtype"].type, source.name), sizes, read, True)


def _add_constant(inference: Inference, node: NodeDef, result: Any, leaves: dict[str, Leaf]) -> None:
    """Add a constant in place, a large one without its content."""
    where = inference.source.name
    shape = shape_of(node, where)
    dtype = dtype_of(node, node.attr["value"].tensor.dtype, where)
    leaves[node.name] = Leaf(node.name, dtype, shape, lambda: content_of(node, where), False)
    if int(np.prod(shape)) > _SMALL:
        result.node.append(_stand_in(node.name, dtype, shape))
    else:
        result.node.append(_plain(node, []))


def _stand_in(name: str, dtype: Any, shape: tuple[int | None, ...]) -> NodeDef:
    node = tf.NodeDef(name=name, op="Placeholder")
    node.attr["dtype"].type = dtype.as_datatype_enum
    node.attr["shape"].shape.CopyFrom(tf.TensorShape(shape).as_proto())
    return node


def _type_of(inference: Inference, node: NodeDef) -> int:
    if node.op == "ReadVariableOp" or node.op == "PlaceholderWithDefault":
        return int(node.attr["dtype"].type)
    return int(node.attr["T"].type)


def _copy(name: str, reads: Reference, number: int) -> NodeDef:
    node = tf.NodeDef(name=name, op="Identity")
    node.input.append(shown(reads))
    node.attr["T"].type = number
    return node


def _gather(node: NodeDef, reads: list[Reference]) -> list[NodeDef]:
    axis = tf.NodeDef(name=f"{node.name}/mopruning_axis", op="Const")
    axis.attr["dtype"].type = tf.int32.as_datatype_enum
    axis.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(0, tf.int32))
    result = tf.NodeDef(name=node.name, op="GatherV2")
    result.input.extend([*map(shown, reads), axis.name])
    result.attr["Tparams"].type = node.attr["dtype"].type
    result.attr["Tindices"].type = node.attr["Tindices"].type
    result.attr["Taxis"].type = tf.int32.as_datatype_enum
    return [axis, result]


def _plain(node: NodeDef, reads: list[Reference]) -> NodeDef:
    result = tf.NodeDef(name=node.name, op=node.op)
    result.input.extend(map(shown, reads))
    for name, value in node.attr.items():
        if name not in _BOOKKEEPING and not name.startswith("_"):
            result.attr[name].CopyFrom(value)
    return result
