"""RNN, MXNet's operator for whole stacks of LSTM or GRU layers, whose weights are one row of numbers.

Gluon's layers join that row from parameters of their own; these keep their names and shapes, as far as the row is made
of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx_ir import Value

from mopruning.backends.mxnet.exporting.network import Call, Translation, Values, known, sizes_of
from mopruning.ir.lowering import Refusal
from mopruning.ir.recurrent import ORDER


def recurrent(call: Call) -> Values:
    """Translate RNN to one LSTM or GRU a layer."""
    node, mode = call.node, call.node.text("mode")
    if mode not in ("lstm", "gru"):
        raise Refusal(f"its mode is {mode}")
    if node.flag("use_sequence_length") or node.text("projection_size") or node.text("lstm_state_clip_min"):
        raise Refusal("it has lengths, projections or clipped states")
    hidden, layers = node.integer("state_size", 0), node.integer("num_layers", 1)
    directions = 2 if node.flag("bidirectional") else 1
    (inputs,) = known(call.sizes()[2:])
    row, states = call.input(1), [call.input(index) for index in range(2, 4 if mode == "lstm" else 3)]
    gates = len(ORDER[mode.upper()]) * hidden
    places = _places(layers, directions, gates, hidden, inputs)
    x, ends = call.x, list[list[Value]]()
    attributes: dict[str, Any] = {"hidden_size": hidden} | ({"linear_before_reset": 1} if mode == "gru" else {})
    attributes |= {"direction": "bidirectional"} if directions == 2 else {}
    for layer in range(layers):
        last = layer == layers - 1
        name = call.name if layers == 1 else f"{call.name}.{layer}"
        own = places[layer * directions : (layer + 1) * directions]
        weights = [_stacked(call, f"{name}.{what}", row, [one[what] for one in own]) for what in ("input", "state")]
        rows = [_biases(call, f"{name}.bias_{index}", row, one["biases"]) for index, one in enumerate(own)]
        biases = rows[0] if directions == 1 else call.network.node("Concat", f"{name}.biases", rows, {"axis": 0})
        initial = [
            _initial(call, f"{name}.state_{i}", state, layer, directions, layers) for i, state in enumerate(states)
        ]
        given = [x, *weights, biases, None, *initial]
        while given[-1] is None:
            given.pop()
        y, *final = call.network.nodes(mode.upper(), name, given, 1 + len(states), attributes)
        ends.append(final)
        x = _joined(call, name, y, directions)
        ratio = node.number("p", 0.0)
        if ratio and not last:
            x = call.network.node("Dropout", f"{name}.dropout", [x, call.constant("ratio", ratio, np.float32)])
    if not node.flag("state_outputs"):
        return x
    if layers == 1:
        return [x, *ends[0]]
    return [x, *(call.part("Concat", f"states_{i}", [one[i] for one in ends], axis=0) for i in range(len(states)))]


def _joined(call: Call, name: str, y: Value, directions: int) -> Value:
    """Join the directions of an output [time, directions, N, hidden]."""
    if directions == 1:
        return call.network.node("Squeeze", f"{name}.output", [y, call.network.constant(f"{name}.axes", [1])])
    turned = call.network.transpose(f"{name}.transpose", y, [0, 2, 1, 3])
    return call.network.reshape(f"{name}.output", turned, [0, 0, -1])


def _places(layers: int, directions: int, gates: int, hidden: int, inputs: int) -> list[dict[str, Any]]:
    """Return where in the row the parameters of each layer and direction lie: start and shape (MXNet, RNN)."""
    start, result = 0, list[dict[str, Any]]()
    for layer in range(layers):
        for _ in range(directions):
            width = inputs if layer == 0 else hidden * directions
            result.append({"input": (start, (gates, width)), "state": (start + gates * width, (gates, hidden))})
            start += gates * (width + hidden)
    for place in result:
        place["biases"] = [(start, (gates,)), (start + gates, (gates,))]
        start += 2 * gates
    return result


def _stacked(call: Call, name: str, row: Value, places: Sequence[tuple[int, tuple[int, ...]]]) -> Value:
    """Return the weights of all directions [directions, gates * hidden, in], their gates in ONNX's order."""
    found = []
    for index, place in enumerate(places):
        own = name if len(places) == 1 else f"{name}_{index}"
        ordered = _ordered(call, own, _segment(call, own, row, *place))
        axes = call.network.constant(f"{own}.axes", [0])
        found.append(call.network.node("Unsqueeze", f"{own}.stacked", [ordered, axes]))
    return found[0] if len(found) == 1 else call.network.node("Concat", name, found, {"axis": 0})


def _biases(call: Call, name: str, row: Value, places: Sequence[tuple[int, tuple[int, ...]]]) -> Value:
    """Return the biases of one direction [1, 2 * gates * hidden]."""
    parts = [
        _ordered(call, f"{name}_{index}", _segment(call, f"{name}_{index}", row, *place))
        for index, place in enumerate(places)
    ]
    both = call.network.node("Concat", name, parts, {"axis": 0})
    return call.network.node("Unsqueeze", f"{name}.stacked", [both, call.network.constant(f"{name}.axes", [0])])


def _ordered(call: Call, name: str, weights: Value) -> Value:
    """Put the gates of weights [gates * hidden, ...] in ONNX's order."""
    order = ORDER[call.node.text("mode").upper()]
    sizes = call.network.constant(f"{name}.split", [known(sizes_of(weights)[:1])[0] // len(order)] * len(order))
    parts = call.network.nodes("Split", f"{name}.gates", [weights, sizes], len(order), {"axis": 0})
    return call.network.node("Concat", f"{name}.ordered", [parts[place] for place in order], {"axis": 0})


def _segment(call: Call, name: str, row: Value, start: int, shape: tuple[int, ...]) -> Value:
    """Return a part of a row in its shape: the very parameter, where the row is joined from parameters."""
    size = math.prod(shape)
    node = row.producer()
    if node is not None and node.op_type == "Concat":
        before = 0
        for part in node.inputs:
            assert part is not None
            (length,) = known(sizes_of(part))
            if before <= start and start + size <= before + length:
                return _segment(call, name, part, start - before, shape)
            before += length
    if node is not None and node.op_type == "Reshape" and start == 0:
        source = node.inputs[0]
        if source is not None and source.shape is not None and list(source.shape) == list(shape):
            return source
    if known(sizes_of(row)) != [size]:
        row = call.network.slice(f"{name}.part", row, {0: (start, start + size, 1)})
    return row if len(shape) == 1 else call.network.reshape(f"{name}.matrix", row, shape)


def _initial(call: Call, name: str, state: Value, layer: int, directions: int, layers: int) -> Value | None:
    """Return the initial state of a layer; None for zeros."""
    node = state.producer()
    source = node.inputs[0] if node is not None and node.op_type == "Expand" else state
    content = call.network.constants.get(id(source))
    if content is not None and not content.any():
        return None
    if layers == 1:
        return state
    return call.network.slice(name, state, {0: (layer * directions, (layer + 1) * directions, 1)})


def param_concat(call: Call) -> Values:
    """Translate _rnn_param_concat."""
    return call.add("Concat", call.inputs, axis=call.node.integer("dim", 0))


TRANSLATIONS: dict[str, Translation] = {
    "RNN": recurrent,
    **dict.fromkeys(("_rnn_param_concat", "_npi_rnn_param_concat"), param_concat),
}
"""MXNet's operator -> its translation."""
