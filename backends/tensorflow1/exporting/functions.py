"""Calls of functions, which TensorFlow 2 puts into saved models, replaced by the functions' nodes."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import tensorflow.compat.v1 as tf
from tensorflow.python.framework import op_def_registry  # names of outputs, which nothing public gives

from mopruning.backends.tensorflow1.exporting.nodes import NodeDef, Source
from mopruning.errors import FormatError

_CALLS = frozenset({"PartitionedCall", "StatefulPartitionedCall"})
_CONDITIONS = frozenset({"If", "StatelessIf"})
_DEEPEST = 64


def inlined(source: Source, flag: Callable[[Any, str], bool | None]) -> Any:
    """Return a graph without calls; of a condition that is known, the branch that is taken stands in its place.

    Args:
        source: The graph.
        flag: Says what a tensor of a graph is, by its name, if that is known.

    Raises:
        FormatError: If a function is missing, or calls itself.
    """
    graph = source.graph_def
    library = {function.signature.name: function for function in graph.library.function}
    if not any(node.op in _CALLS | _CONDITIONS for node in graph.node):
        return graph
    for _ in range(_DEEPEST):
        result = tf.GraphDef(versions=graph.versions)
        changed = False
        for node in graph.node:
            name = _called(node, graph, flag)
            if name is None:
                result.node.append(node)
                continue
            if name not in library:
                raise FormatError(f"{source.name}: node {node.name!r} ({node.op}): there is no function {name!r}")
            arguments = list(node.input)[1:] if node.op in _CONDITIONS else list(node.input)
            result.node.extend(_body(source, node, library[name], arguments))
            changed = True
        graph = result
        if not changed:
            return _renumbered(graph)
    raise FormatError(f"{source.name}: its functions call each other more than {_DEEPEST} deep")


def _called(node: NodeDef, graph: Any, flag: Callable[[Any, str], bool | None]) -> str | None:
    if node.op in _CALLS:
        return str(node.attr["f"].func.name)
    if node.op in _CONDITIONS and node.input:
        taken = flag(graph, node.input[0])
        if taken is not None:
            return str(node.attr["then_branch" if taken else "else_branch"].func.name)
    return None


def _body(source: Source, call: NodeDef, function: Any, arguments: list[str]) -> list[NodeDef]:
    """Return a function's nodes under the name of its call, and one more for each of its outputs."""
    data = [text for text in arguments if not text.startswith("^")]
    controls = [text for text in arguments if text.startswith("^")]
    formal = [argument.name for argument in function.signature.input_arg]
    if len(formal) != len(data):
        raise FormatError(f"{source.name}: node {call.name!r}: {len(data)} arguments for {len(formal)}")
    given = dict(zip(formal, data, strict=True))
    ranges = {node.name: output_places(node) for node in function.node_def}

    def outer(text: str) -> str:
        if text.startswith("^"):
            return f"^{call.name}/{text[1:]}" if text[1:] in ranges else controls[0] if controls else ""
        name, *rest = text.split(":")
        if name in given and not rest:
            return str(given[name])
        if name not in ranges:
            raise FormatError(f"{source.name}: function {function.signature.name!r}: {text!r} is given by no node")
        place = ranges[name].get(rest[0], 0) + int(rest[1]) if len(rest) > 1 and rest[1].isdigit() else 0
        return f"{call.name}/{name}:{place}" if place else f"{call.name}/{name}"

    nodes = []
    for inner in function.node_def:
        node = tf.NodeDef()
        node.CopyFrom(inner)
        node.name = f"{call.name}/{inner.name}"
        del node.input[:]
        node.input.extend(text for text in map(outer, inner.input) if text)
        nodes.append(node)
    for number, output in enumerate(function.signature.output_arg):
        node = tf.NodeDef(name=_result(call.name, number), op="Identity")
        node.input.append(outer(function.ret[output.name]))
        node.attr["T"].type = output.type
        nodes.append(node)
    return nodes


def _result(call: str, number: int) -> str:
    return f"{call}/mopruning_result_{number}" if number else call


def _renumbered(graph: Any) -> Any:
    """Let what reads a later output of a call read the node that gives it, in place, and return the graph."""
    names = {node.name for node in graph.node}
    for node in graph.node:
        for index, text in enumerate(node.input):
            node.input[index] = result_of(text, names)
    return graph


def result_of(text: str, names: Collection[str]) -> str:
    """Return the tensor that gives an output of a call, now that its function's nodes stand in its place.

    >>> result_of("call:1", {"call", "call/mopruning_result_1"}), result_of("split:1", {"split"})
    ('call/mopruning_result_1', 'split:1')
    """
    name, colon, number = text.rpartition(":")
    own = _result(name, int(number)) if colon and number.isdigit() else text
    return own if own in names and own != name else text


def output_places(node: NodeDef) -> dict[str, int]:
    """Return, for each named output of a node, the number of its first tensor."""
    definition = op_def_registry.get(node.op)
    places, total = {}, 0
    for output in [] if definition is None else definition.output_arg:
        places[output.name] = total
        if output.number_attr:
            total += node.attr[output.number_attr].i
        elif output.type_list_attr:
            total += len(node.attr[output.type_list_attr].list.type)
        else:
            total += 1
    return places
