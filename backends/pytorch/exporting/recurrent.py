"""How nn.LSTM and nn.GRU are spelt in ONNX: one operator a layer, with PyTorch's weights reordered for it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir
from onnx_ir import Value

from mopruning.backends.pytorch.exporting.spelling import PATH, SOURCE, Spelling, number_of, shape_of
from mopruning.errors import FormatError
from mopruning.ir.recurrent import ORDER


def lstm(spelling: Spelling, inputs: Sequence[Value | None]) -> Sequence[Value]:
    """Spell out all layers of an nn.LSTM."""
    return _layers(spelling, inputs, states=2)


def gru(spelling: Spelling, inputs: Sequence[Value | None]) -> Sequence[Value]:
    """Spell out all layers of an nn.GRU."""
    return _layers(spelling, inputs, states=1)


def _layers(spelling: Spelling, inputs: Sequence[Value | None], states: int) -> Sequence[Value]:
    x, initial, weights = inputs[0], inputs[1 : 1 + states], list(inputs[1 + states :])
    directions = 2 if spelling["bidirectional"] else 1
    per_direction = 4 if spelling["biases"] else 2
    layers = spelling["layers"]
    if len(weights) != layers * directions * per_direction:
        raise FormatError(f"{spelling.node.meta[PATH]}: a recurrent layer with proj_size has no form in ONNX")
    sequence = spelling.op("Transpose", [x], "time_first", perm=[1, 0, 2]) if spelling["batch_first"] else x
    starts = [None if _is_zero(state) else state for state in initial]
    ends: list[list[Value]] = [[] for _ in initial]
    for layer in range(layers):
        name = f"l{layer}" if layers > 1 else ""
        first = layer * directions * per_direction
        own = weights[first : first + directions * per_direction]
        states_here = [_layer_state(spelling, state, layer, directions, layers) for state in starts]
        outputs = _layer(spelling, name, sequence, own, states_here, directions)
        sequence = _joined(spelling, outputs[0], directions)
        for found, end in zip(ends, outputs[1:], strict=True):
            found.append(end)
        if spelling["ratio"] and layer < layers - 1:
            ratio = spelling.op("Constant", [], value=onnx_ir.tensor(np.float32(spelling["ratio"])))
            sequence = spelling.op("Dropout", [sequence, ratio], f"dropout{layer}")
    if spelling["batch_first"]:
        sequence = spelling.op("Transpose", [sequence], "batch_first", perm=[1, 0, 2])
    assert sequence is not None
    return [sequence, *(_stacked(spelling, found) for found in ends)]


def _layer(
    spelling: Spelling,
    name: str,
    x: Value | None,
    weights: Sequence[Value | None],
    states: Sequence[Value | None],
    directions: int,
) -> Sequence[Value]:
    operator = spelling.node.op_type
    each = len(weights) // directions
    parts = [weights[i * each : (i + 1) * each] for i in range(directions)]
    prefix = f"{name}." if name else ""
    arranged: list[Value | None] = []
    for index, what in enumerate(("input", "state")):
        rows = [
            _reordered(spelling, part[index], f"{prefix}{what}{'_reverse' if i else ''}")
            for i, part in enumerate(parts)
        ]
        arranged.append(_stack(spelling, rows, f"{prefix}{what}_weights"))
    if each == 4:
        biases = []
        for i, part in enumerate(parts):
            suffix = "_reverse" if i else ""
            both = [
                _reordered(spelling, part[2 + k], f"{prefix}{what}_bias{suffix}")
                for k, what in enumerate(("input", "state"))
            ]
            biases.append(spelling.op("Concat", both, f"{prefix}biases{suffix}", axis=0))
        arranged.append(_stack(spelling, biases, f"{prefix}biases"))
    else:
        arranged.append(None)
    inputs = [x, *arranged, None, *states]
    while inputs[-1] is None:
        inputs.pop()
    attributes = {"hidden_size": shape_of(weights[1])[1]}
    if directions == 2:
        attributes["direction"] = "bidirectional"
    if operator == "GRU":
        attributes["linear_before_reset"] = 1
    return spelling.ops(operator, inputs, name, 1 + len(states), **attributes)


def _reordered(spelling: Spelling, weight: Value | None, part: str) -> Value:
    """Put the gates in ONNX's order."""
    order = ORDER[spelling.node.op_type]
    gates = spelling.ops("Split", [weight], f"{part}_gates", len(order), axis=0, num_outputs=len(order))
    return spelling.op("Concat", [gates[i] for i in order], f"{part}_order", axis=0)


def _stack(spelling: Spelling, values: Sequence[Value], part: str) -> Value:
    """Give each direction an entry of a new first axis."""
    rows = [spelling.op("Unsqueeze", [v, spelling.constant([0])], f"{part}_{i}") for i, v in enumerate(values)]
    return rows[0] if len(rows) == 1 else spelling.op("Concat", rows, part, axis=0)


def _joined(spelling: Spelling, output: Value, directions: int) -> Value:
    """Join the directions: [time, directions, N, hidden] to [time, N, directions * hidden]."""
    if directions == 1:
        return spelling.op("Squeeze", [output, spelling.constant([1])], "squeeze")
    turned = spelling.op("Transpose", [output], "directions", perm=[0, 2, 1, 3])
    return spelling.op("Reshape", [turned, spelling.constant([0, 0, -1])], "join")


def _stacked(spelling: Spelling, ends: Sequence[Value]) -> Value:
    return ends[0] if len(ends) == 1 else spelling.op("Concat", list(ends), "states", axis=0)


def _layer_state(spelling: Spelling, state: Value | None, layer: int, directions: int, layers: int) -> Value | None:
    """Cut the states of one layer out of those of all."""
    if state is None or layers == 1:
        return state
    bounds = [spelling.constant([layer * directions]), spelling.constant([(layer + 1) * directions])]
    return spelling.op("Slice", [state, *bounds, spelling.constant([0])], f"l{layer}.initial")


def _is_zero(state: Value | None) -> bool:
    """Whether an initial state is zeros of some size, which ONNX takes for granted; one that is learned never is."""
    node = state.producer() if state is not None else None
    value = node.inputs[0] if node is not None and node.op_type == "Expand" else state
    number = None if value is None or SOURCE in value.meta else number_of(value)
    return number is not None and not number.any()
