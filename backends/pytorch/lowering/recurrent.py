"""LSTM and GRU: whole nn.LSTM and nn.GRU modules where the weights come from such, else one function a layer."""

from __future__ import annotations

import operator
import re
from dataclasses import dataclass
from typing import Any

from onnx_ir import Node, Value
from torch import fx, nn

from mopruning.backends.pytorch.lowering import functions
from mopruning.backends.pytorch.lowering.context import Lowering
from mopruning.ir.attributes import attribute
from mopruning.ir.lowering import lowers, operands
from mopruning.ir.recurrent import ORDER, joint, only_user, sources

_MODULES = {"LSTM": nn.LSTM, "GRU": nn.GRU}


@dataclass(frozen=True)
class Stack:
    """The layers that make up one module.

    Args:
        nodes: One node a layer, the first first.
        weights: Attribute of the module -> initializer.
        between: Nodes between the layers, which the module takes over.
        ratio: Ratio of the Dropout between the layers.
        initial: Initial states of all layers; none where they are zeros.
    """

    nodes: tuple[Node, ...]
    weights: dict[str, Value]
    between: tuple[Node, ...]
    ratio: float
    initial: tuple[Value, ...]


@lowers(*_MODULES)
def recurrent(low: Lowering, node: Node) -> None:
    """Lower LSTM and GRU."""
    stack = _stack_of(low, node)
    if stack is None or not _as_module(low, stack):
        _as_function(low, node)


def _as_function(low: Lowering, node: Node) -> None:
    given = operands(node, 7)
    states = given[5 : 7 if node.op_type == "LSTM" else 6]
    values = [None if value is None else low.tensor(value) for value in given[:4]]
    initial = [None if value is None else low.tensor(value) for value in states]
    direction = attribute(node, "direction")
    results = low.call(functions.recurrent, node.op_type, *values, initial, direction, name=node.name)
    for index, output in enumerate(node.outputs):
        if output.uses() or output.is_graph_output():
            low.set(output, low.call(operator.getitem, results, index))


def _as_module(low: Lowering, stack: Stack) -> bool:
    """Add one module for all layers at the first of them; return whether that is possible."""
    first, last = stack.nodes[0], stack.nodes[-1]
    directions = 2 if attribute(first, "direction") == "bidirectional" else 1
    features = first.inputs[0]
    if features is None or not all(_comes_before(low, value, first) for value in stack.initial):
        return False
    count = len(stack.nodes)
    table = stack.weights["weight_ih_l0"].const_value
    assert table is not None
    arguments: dict[str, Any] = {"input_size": table.shape.numpy()[1], "hidden_size": attribute(first, "hidden_size")}
    arguments |= {"num_layers": count} if count > 1 else {}
    arguments |= {} if "bias_ih_l0" in stack.weights else {"bias": False}
    arguments |= {"dropout": stack.ratio} if stack.ratio else {}
    arguments |= {"bidirectional": True} if directions == 2 else {}
    kind = _MODULES[first.op_type]
    states = [low.tensor(value) for value in stack.initial]
    initial: tuple[Any, ...] = () if not states else (tuple(states) if kind is nn.LSTM else states[0],)
    both = low.layer(str(first.name), kind, arguments, stack.weights, low.tensor(features), *initial)
    if both is None:
        return False
    output, ends = (low.call(operator.getitem, both, index) for index in (0, 1))
    low.set(last.outputs[0], low.call(functions.by_direction, output, directions))
    joined = joint(last, directions)
    if joined is not None:
        low.set(joined[-1].outputs[0], output)
        low.done |= {id(node) for node in joined}
    for index in range(1, len(last.outputs)):
        end = low.call(operator.getitem, ends, index - 1) if kind is nn.LSTM else ends
        _set_ends(low, [node.outputs[index] for node in stack.nodes if index < len(node.outputs)], end, directions)
    low.done |= {id(node) for node in (*stack.nodes, *stack.between)}
    return True


def _set_ends(low: Lowering, values: list[Value], end: fx.Node, directions: int) -> None:
    """Say where the final states of each layer are among those of all."""
    users = [list(value.uses()) for value in values]
    union = users[0][0].node if users[0] else None
    if (
        union is not None
        and union.op_type == "Concat"
        and list(union.inputs) == values
        and attribute(union, "axis") == 0
    ):
        low.set(union.outputs[0], end)
        low.done.add(id(union))
        if all(len(uses) == 1 for uses in users):
            return
    for layer, value in enumerate(values):
        part = slice(layer * directions, (layer + 1) * directions)
        low.set(value, end if len(values) == 1 else low.call(operator.getitem, end, part))


def _stack_of(low: Lowering, node: Node) -> Stack | None:
    """Return the layers of the module that a first layer belongs to; None if they are none."""
    first = _weights(low, node)
    if first is None or not all(_layer_of(name) == 0 for name in first):
        return None
    nodes, weights, between = [node], dict(first), list[Node]()
    ratios = set()
    directions = 2 if attribute(node, "direction") == "bidirectional" else 1
    prefix = _prefix(first)
    while True:
        chain = joint(nodes[-1], directions)
        following = _following(low, chain, len(nodes), prefix)
        if chain is None or following is None:
            break
        upper, own, dropout = following
        between += [*chain, *([] if dropout is None else [dropout])]
        ratios.add(0.0 if dropout is None else _ratio(low, dropout))
        nodes.append(upper)
        weights |= own
    initial = _initial(low, nodes, directions)
    if initial is None or len(ratios) > 1:
        return None
    return Stack(tuple(nodes), weights, tuple(between), ratios.pop() if ratios else 0.0, initial)


def _following(
    low: Lowering, chain: list[Node] | None, layer: int, prefix: str
) -> tuple[Node, dict[str, Value], Node | None] | None:
    """Return the next layer, its weights, and the Dropout in front of it."""
    dropout = None
    user = None if chain is None else only_user(chain[-1].outputs[0])
    if user is not None and user.op_type == "Dropout":
        dropout, user = user, only_user(user.outputs[0])
    if user is None or user.op_type not in ORDER:
        return None
    own = _weights(low, user)
    if own is None or _prefix(own) != prefix or any(_layer_of(name) != layer for name in own):
        return None
    return user, own, dropout


def _weights(low: Lowering, node: Node) -> dict[str, Value] | None:
    """Return attribute -> initializer of one layer whose weights are nn.LSTM's or nn.GRU's, reordered."""
    given = operands(node, 4)
    directions = 2 if attribute(node, "direction") == "bidirectional" else 1
    if attribute(node, "direction") == "reverse":
        return None
    order = ORDER[node.op_type]
    found = [sources(value, directions, order) for value in given[1:3]]
    if given[3] is not None:
        found.append(sources(given[3], directions, order, parts=2))
    values = [value for rows in found if rows is not None for part in zip(*rows, strict=True) for value in part]
    if None in found or not all(low.is_parameter(value) for value in values):
        return None
    return {str(value.name).rpartition(".")[2]: value for value in values}


def _layer_of(attribute: str) -> int:
    """Return the layer in a name such as "weight_ih_l1_reverse", -1 if it is none of these."""
    found = re.fullmatch(r"(?:weight|bias)_[ih]h_l(\d+)(?:_reverse)?", attribute)
    return int(found[1]) if found else -1


def _prefix(weights: dict[str, Value]) -> str:
    (prefix, *others) = {str(value.name).rpartition(".")[0] for value in weights.values()}
    return prefix if not others else "\0"


def _ratio(low: Lowering, dropout: Node) -> float:
    share = low.dropped_share(dropout)
    return 0.5 if share is None else share


def _initial(low: Lowering, nodes: list[Node], directions: int) -> tuple[Value, ...] | None:
    """Return the initial states of all layers together: none for zeros; None if they are no parts of one value."""
    found: list[Value] = []
    places = (5, 6) if nodes[0].op_type == "LSTM" else (5,)
    for index in places:
        states = [node.inputs[index] if index < len(node.inputs) else None for node in nodes]
        if all(state is None for state in states):
            continue
        if len(states) == 1 and states[0] is not None:
            found.append(states[0])
            continue
        whole = {_slice_of(low, state, layer, directions) for layer, state in enumerate(states)}
        if len(whole) != 1 or None in whole:
            return None
        found.append(next(value for value in whole if value is not None))
    return tuple(found) if len(found) in (0, len(places)) else None


def _slice_of(low: Lowering, state: Value | None, layer: int, directions: int) -> Value | None:
    """Return the value that a layer's state is cut out of, at its own place."""
    node = None if state is None else state.producer()
    if node is None or node.op_type != "Slice" or len(node.inputs) < 4:
        return None
    bounds = [low.constant(value) for value in node.inputs[1:4]]
    wanted = [[layer * directions], [(layer + 1) * directions], [0]]
    same = all(bound is not None and bound.tolist() == want for bound, want in zip(bounds, wanted, strict=True))
    return node.inputs[0] if same else None


def _comes_before(low: Lowering, value: Value, node: Node) -> bool:
    """Whether a value is there when a node is lowered."""
    producer = value.producer()
    if producer is None:
        return True
    order = {id(other): position for position, other in enumerate(low.model.graph)}
    return order[id(producer)] < order[id(node)]
