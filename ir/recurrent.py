"""Recurrent layers as readers spell them: weights whose gates stand in the source's order, outputs that are joined.

ONNX stacks the weights of the directions and has its gates in an order of its own, so a reader puts a Split, a Concat
and an Unsqueeze between a parameter and its layer. Writers for frameworks with the source's order look through these.
"""

from __future__ import annotations

from collections.abc import Sequence

from onnx_ir import Node, Value

from mopruning.ir.attributes import attribute
from mopruning.ir.passes.constants import constant

ORDER = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2)}
"""For each of ONNX's gates (input, output, forget, cell; update, reset, hidden) its place among cuDNN's.

PyTorch and MXNet order them as cuDNN does: input, forget, cell, output; reset, update, new.
"""


def sources(value: Value | None, directions: int, order: Sequence[int], parts: int = 1) -> list[list[Value]] | None:
    """Return what the weights or biases of a layer are made of, with the gates in the source's order.

    Args:
        value: Weights [directions, gates * hidden, in], or biases [directions, parts * gates * hidden].
        directions: 1 or 2.
        order: For each of ONNX's gates its place among the source's.
        parts: 2 for biases: those of the input, then those of the state.

    Returns:
        For each direction its parts, each [gates * hidden, ...]; None where the value is made in another way.
    """
    rows = [value] if directions == 1 else _joined_from(value, directions)
    found = []
    for row in rows:
        node = None if row is None else row.producer()
        if node is None or node.op_type != "Unsqueeze" or node.inputs[0] is None:
            return None
        pieces = [node.inputs[0]] if parts == 1 else _joined_from(node.inputs[0], parts)
        own = [_reordered(piece, order) for piece in pieces]
        known = [one for one in own if one is not None]
        if len(known) != parts:
            return None
        found.append(known)
    return found if len(found) == directions else None


def joint(node: Node, directions: int) -> list[Node] | None:
    """Return the nodes that make [time, N, directions * hidden] of a layer's output, if nothing else uses it."""
    user = only_user(node.outputs[0])
    if user is None:
        return None
    if directions == 1:
        axes = constant(user.inputs[1]) if user.op_type == "Squeeze" and len(user.inputs) > 1 else None
        return [user] if axes is not None and axes.reshape(-1).tolist() == [1] else None
    if user.op_type != "Transpose" or attribute(user, "perm") != [0, 2, 1, 3]:
        return None
    join = only_user(user.outputs[0])
    shape = None if join is None or join.op_type != "Reshape" else join.outputs[0].shape
    return [user, join] if join is not None and shape is not None and len(shape) == 3 else None


def only_user(value: Value) -> Node | None:
    """Return the node that alone uses a value; None for an output of the graph."""
    users = list(value.uses())
    return users[0].node if len(users) == 1 and not value.is_graph_output() else None


def _joined_from(value: Value | None, count: int) -> list[Value | None]:
    """Return what a value is joined from along its first axis."""
    node = None if value is None else value.producer()
    if node is None or node.op_type != "Concat" or attribute(node, "axis") != 0 or len(node.inputs) != count:
        return []
    return list(node.inputs)


def _reordered(value: Value | None, order: Sequence[int]) -> Value | None:
    """Return the value whose gates, in another order, a value has."""
    parts = _joined_from(value, len(order))
    split = parts[0].producer() if parts and parts[0] is not None else None
    if split is None or split.op_type != "Split" or attribute(split, "axis") != 0 or len(split.outputs) != len(order):
        return None
    sizes = constant(split.inputs[1]) if len(split.inputs) > 1 else None
    if (sizes is not None and len(set(sizes.tolist())) > 1) or parts != [split.outputs[place] for place in order]:
        return None
    return split.inputs[0]
