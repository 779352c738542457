"""The variables of a checkpoint: which of them belongs to which node, read when they are asked for."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import tensorflow.compat.v1 as tf

from mopruning.backends.tensorflow1.exporting.nodes import VARIABLES, content_of, parsed
from mopruning.errors import FormatError

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"

_ASSIGN = frozenset({"Assign", "AssignVariableOp"})
_OBJECTS = "_CHECKPOINTABLE_OBJECT_GRAPH"
_SLICE = re.compile(r"^(?P<shape>[\d ]+) (?P<parts>[\d,:-]+)$")


def checkpoint_contents(graph: Any, prefix: Path, where: str) -> dict[str, Callable[[], NumPyArray]]:
    """Return what reads each variable of a graph from a checkpoint; nothing is read yet.

    The nodes of the graph's Saver say what a variable is called in the checkpoint; without them it is the name of its
    node.

    Args:
        graph: The GraphDef.
        prefix: The checkpoint, without .index.
        where: What errors call the graph.

    Raises:
        FormatError: If the checkpoint is missing or damaged.
    """
    variables = [node for node in graph.node if node.op in VARIABLES]
    if not variables:
        return {}
    index = Path(f"{prefix}.index")
    if not index.is_file() and not prefix.is_file():
        raise FormatError(f"{where}: its variables are not there: {str(index)!r} belongs beside it")
    reader = _opened(prefix)
    there = reader.get_variable_to_shape_map()
    keys = {**_objects(reader, there), **_restored(graph, where)}
    found = {}
    for node in variables:
        shared = node.attr["shared_name"].s.decode(errors="replace")
        for name in (node.name, shared):
            key, part = keys.get(name, (name, ""))
            if key in there:
                found[node.name] = _reads(reader, key, part, prefix)
                break
    return found


def _opened(prefix: Path) -> Any:
    try:
        return tf.train.load_checkpoint(str(prefix))
    except (tf.errors.OpError, ValueError, RuntimeError) as error:
        raise FormatError(f"{prefix}: is no checkpoint of TensorFlow: {' '.join(str(error).split())[:200]}") from None


def _reads(reader: Any, key: str, part: str, prefix: Path) -> Callable[[], NumPyArray]:
    def content() -> NumPyArray:
        try:
            array = np.asarray(reader.get_tensor(key))
        except (tf.errors.OpError, ValueError, RuntimeError) as error:
            raise FormatError(f"{prefix}: tensor {key!r}: damaged: {' '.join(str(error).split())[:200]}") from None
        return _part(array, part)

    return content


def _part(array: NumPyArray, text: str) -> NumPyArray:
    """Return the part of a partitioned variable: ``6 4 0,3:-`` is rows 0 to 2 of [6, 4]."""
    found = _SLICE.match(text)
    if found is None:
        return array
    ranges = []
    for axis in found["parts"].split(":"):
        start, _, length = axis.partition(",")
        ranges.append(slice(None) if axis == "-" else slice(int(start), int(start) + int(length)))
    return array[tuple(ranges)]


def _restored(graph: Any, where: str) -> dict[str, tuple[str, str]]:
    """Return what each variable is called in the checkpoint, and which part of that it is, as the Saver says."""
    nodes = {node.name: node for node in graph.node}
    found: dict[str, tuple[str, str]] = {}
    for node in graph.node:
        if node.op not in _ASSIGN or len(node.input) < 2:
            continue
        source = parsed(node.input[1])
        for _ in range(4):  # an Identity may stand between
            giver = nodes.get(source[0])
            if giver is None or giver.op != "Identity" or not giver.input:
                break
            source = parsed(giver.input[0])
        if giver is None or giver.op != "RestoreV2" or len(giver.input) < 3:
            continue
        names, slices = (nodes.get(parsed(text)[0]) for text in giver.input[1:3])
        if names is None or slices is None or names.op != "Const" or slices.op != "Const":
            continue
        keys, parts = (content_of(one, where).reshape(-1) for one in (names, slices))
        if source[1] < min(keys.size, parts.size):
            key, part = (bytes(one[source[1]]).decode(errors="replace") for one in (keys, parts))
            found[parsed(node.input[0])[0]] = key, part
    return found


def _objects(reader: Any, there: Any) -> dict[str, tuple[str, str]]:
    """Return what each variable is called in a checkpoint of TensorFlow 2, which holds a graph of objects."""
    if _OBJECTS not in there:
        return {}
    from tensorflow.core.protobuf import trackable_object_graph_pb2

    objects = trackable_object_graph_pb2.TrackableObjectGraph()
    objects.ParseFromString(reader.get_tensor(_OBJECTS))
    return {
        attribute.full_name: (attribute.checkpoint_key, "")
        for node in objects.nodes
        for attribute in node.attributes
        if attribute.full_name
    }
