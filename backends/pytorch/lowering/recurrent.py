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
from mopruning.ir.attributes import attribute, shortest

_GATES = {"LSTM": [0, 3, 1, 2], "GRU": [1, 0, 2]}  # which of PyTorch's gates stands at each place of ONNX's
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


def recurrent(low: Lowering, node: Node) -> None:
    """Lower LSTM and GRU."""
    stack = _stack_of(low, node)
    if stack is None or not _as_module(low, stack):
        _as_function(low, node)


def _as_function(low: Lowering, node: Node) -> None:
    operands: list[Value | None] = [*node.inputs, *([None] * (7 - len(node.inputs)))]
    x, weights, recurrence, biases = operands[:4]
    states = operands[5 : 7 if node.op_type == "LSTM" else 6]
    values = [None if value is None else low.tensor(value) for value in (x, weights, recurrence, biases)]
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
    joined = _joined(last, directions)
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
    joint = users[0][0].node if users[0] else None
    if (
        joint is not None
        and joint.op_type == "Concat"
        and list(joint.inputs) == values
        and attribute(joint, "axis") == 0
    ):
        low.set(joint.outputs[0], end)
        low.done.add(id(joint))
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
        chain = _joined(nodes[-1], directions)
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
    user = None if chain is None else _only_user(chain[-1].outputs[0])
    if user is not None and user.op_type == "Dropout":
        dropout, user = user, _only_user(user.outputs[0])
    if user is None or user.op_type not in _GATES:
        return None
    own = _weights(low, user)
    if own is None or _prefix(own) != prefix or any(_layer_of(name) != layer for name in own):
        return None
    return user, own, dropout


def _weights(low: Lowering, node: Node) -> dict[str, Value] | None:
    """Return attribute -> initializer of one layer whose weights are nn.LSTM's or nn.GRU's, reordered."""
    inputs = [*node.inputs, *[None] * 5]
    directions = 2 if attribute(node, "direction") == "bidirectional" else 1
    if attribute(node, "direction") == "reverse":
        return None
    rows = [_rows(inputs[index], directions) for index in (1, 2)]
    found = [[_source(low, row, node) for row in each] for each in rows]
    if inputs[3] is not None:
        pairs = [_parts(row, 2) for row in _rows(inputs[3], directions)]
        found += [[_source(low, pair[k] if len(pair) == 2 else None, node) for pair in pairs] for k in (0, 1)]
    values = [value for each in found for value in each]
    if None in values or any(len(each) != directions for each in found):
        return None
    return {str(value.name).rpartition(".")[2]: value for value in values if value is not None}


def _layer_of(attribute: str) -> int:
    """Return the layer in a name such as "weight_ih_l1_reverse", -1 if it is none of these."""
    found = re.fullmatch(r"(?:weight|bias)_[ih]h_l(\d+)(?:_reverse)?", attribute)
    return int(found[1]) if found else -1


def _prefix(weights: dict[str, Value]) -> str:
    (prefix, *others) = {str(value.name).rpartition(".")[0] for value in weights.values()}
    return prefix if not others else "\0"


def _rows(value: Value | None, directions: int) -> list[Value | None]:
    """Return what each direction has of weights that are stacked."""
    parts = [value] if directions == 1 else _parts(value, directions)
    rows: list[Value | None] = []
    for part in parts:
        node = None if part is None else part.producer()
        rows.append(node.inputs[0] if node is not None and node.op_type == "Unsqueeze" else None)
    return rows


def _parts(value: Value | None, count: int) -> list[Value | None]:
    """Return what a value is joined from along its first axis."""
    node = None if value is None else value.producer()
    joined = (
        node is not None and node.op_type == "Concat" and attribute(node, "axis") == 0 and len(node.inputs) == count
    )
    return list(node.inputs) if joined and node is not None else []


def _source(low: Lowering, value: Value | None, layer: Node) -> Value | None:
    """Return the parameter whose gates, in another order, a value is."""
    order = _GATES[layer.op_type]
    parts = _parts(value, len(order))
    split = parts[0].producer() if parts and parts[0] is not None else None
    if split is None or split.op_type != "Split" or attribute(split, "axis") != 0 or len(split.outputs) != len(order):
        return None
    sizes = low.constant(split.inputs[1]) if len(split.inputs) > 1 else None
    even = sizes is None or len(set(sizes.tolist())) == 1
    source = split.inputs[0]
    if not even or source is None or parts != [split.outputs[i] for i in order]:
        return None
    return source if source.is_initializer() and low.roles.get(str(source.name)) == "parameter" else None


def _joined(node: Node, directions: int) -> list[Node] | None:
    """Return the nodes that join the directions of a layer's output, if nothing else uses it."""
    user = _only_user(node.outputs[0])
    if user is None:
        return None
    if directions == 1:
        return [user] if user.op_type == "Squeeze" else None
    if user.op_type != "Transpose" or attribute(user, "perm") != [0, 2, 1, 3]:
        return None
    join = _only_user(user.outputs[0])
    shape = None if join is None else join.outputs[0].shape
    return (
        [user, join]
        if join is not None and join.op_type == "Reshape" and shape is not None and len(shape) == 3
        else None
    )


def _only_user(value: Value) -> Node | None:
    users = list(value.uses())
    return users[0].node if len(users) == 1 and not value.is_graph_output() else None


def _ratio(low: Lowering, dropout: Node) -> float:
    number = low.constant(dropout.inputs[1]) if len(dropout.inputs) > 1 else None
    return 0.5 if number is None else shortest(float(number.reshape(-1)[0]))


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
