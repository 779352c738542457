"""Group normalisation, which ONNX spells as an instance normalisation of reshaped channels."""

from __future__ import annotations

from typing import Any

from onnx_ir import Node, Value
from torch import nn

from mopruning.backends.pytorch.lowering.context import Lowering
from mopruning.ir.attributes import attribute


def group_norm(low: Lowering, node: Node) -> bool:
    """Lower an InstanceNormalization together with the nodes around it as one nn.GroupNorm, if it is part of one."""
    x, scale, bias = node.inputs
    before, after = (None if x is None else x.producer()), _user(node)
    neutral = [low.constant(value) if value is not None and value.is_initializer() else None for value in (scale, bias)]
    if neutral[0] is None or neutral[1] is None or (neutral[0] != 1).any() or neutral[1].any():
        return False
    if before is None or after is None or (before.op_type, after.op_type) != ("Reshape", "Reshape"):
        return False
    source, result = before.inputs[0], after.outputs[0]
    shapes = [tuple(value.shape or ()) for value in (source, before.outputs[0], result) if value is not None]
    if len(shapes) != 3 or len(shapes[0]) < 2 or len(shapes[1]) != 3 or shapes[0] != shapes[2]:
        return False
    if shapes[0][0] != shapes[1][0] or not isinstance(shapes[0][1], int) or shapes[1][1] != neutral[0].size:
        return False
    channels, rank = shapes[0][1], len(shapes[0])
    scaled, weight = _spread(low, after, "Mul", channels, rank)
    shifted, added = _spread(low, scaled, "Add", channels, rank) if scaled is not None else (None, None)
    if shifted is None or scaled is None or source is None:
        return False
    arguments: dict[str, Any] = {"num_groups": int(neutral[0].size), "num_channels": channels}
    arguments["eps"] = attribute(node, "epsilon")
    found = low.layer(str(node.name), nn.GroupNorm, arguments, {"weight": weight, "bias": added}, low.tensor(source))
    if found is None:
        return False
    low.set(shifted.outputs[0], found)
    low.done |= {id(other) for other in (after, scaled, shifted)}
    return True


def _spread(
    low: Lowering, node: Node, op_type: str, channels: int, rank: int
) -> tuple[Node, Value] | tuple[None, None]:
    """Return the node that alone uses another's output with a parameter of each channel, and that parameter."""
    user = _user(node)
    if user is None or user.op_type != op_type:
        return None, None
    other = next((value for value in user.inputs if value is not node.outputs[0]), None)
    producer = None if other is None else other.producer()
    wanted = (channels, *[1] * (rank - 2))
    if other is None or tuple(other.shape or ()) != wanted:
        return None, None
    own = other if producer is None else producer.inputs[0] if producer.op_type in ("Unsqueeze", "Reshape") else None
    if own is None or low.roles.get(str(own.name)) != "parameter" or tuple(own.shape or ()) != (channels,):
        return None, None
    return user, own


def _user(node: Node) -> Node | None:
    """Return the only user of a node's output."""
    users = list(node.outputs[0].uses())
    return users[0].node if len(users) == 1 and not node.outputs[0].is_graph_output() else None
