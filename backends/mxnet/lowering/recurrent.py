"""LSTM and GRU, by MXNet's RNN operator, which takes all weights of a layer as one row of numbers."""

from __future__ import annotations

import numpy as np
from onnx_ir import Node, Value

from mopruning.backends.mxnet.lowering.context import Lowering, Symbol, dtype_of
from mopruning.ir.attributes import attribute
from mopruning.ir.lowering import lowers, operands, sizes_of, weight_shape
from mopruning.ir.recurrent import ORDER, joint, sources


@lowers("LSTM", "GRU")
def recurrent(low: Lowering, node: Node) -> None:
    """Lower LSTM and GRU."""
    x, weights, recurrence, biases = operands(node, 4)[:4]
    lstm = node.op_type == "LSTM"
    states = operands(node, 7)[5 : 7 if lstm else 6]
    direction, hidden = attribute(node, "direction"), weight_shape(recurrence)[2]
    both = direction == "bidirectional"
    backwards = direction == "reverse"
    features = low.call("flip", low.symbol(x), axis=0) if backwards else low.symbol(x)
    options = {"mode": node.op_type.lower(), "state_size": hidden, "num_layers": 1, "bidirectional": both}
    initial = [_state(low, state, x, 2 if both else 1, hidden) for state in states]
    given = [features, _row(low, node, weights, recurrence, biases), *initial]
    parts = low.call("RNN", *given, name=node.name, state_outputs=True, **options)
    y = low.call("flip", parts[0], axis=0) if backwards else parts[0]
    joined = joint(node, 2 if both else 1)
    if joined is not None:  # directions side by side, as RNN gives them
        low.set(joined[-1].outputs[0], y)
        low.done |= {id(one) for one in joined}
    y = low.call("reshape", y, shape=(0, 0, 2 if both else 1, hidden))
    low.set(node.outputs[0], low.call("transpose", y, axes=(0, 2, 1, 3)))
    for index, output in enumerate(node.outputs[1:], start=1):
        low.set(output, parts[index])


def _row(low: Lowering, node: Node, weights: Value, recurrence: Value, biases: Value | None) -> Symbol:
    """Return all numbers of a layer: the weights of each direction, then the biases, gates in MXNet's order."""
    order = ORDER[node.op_type]
    gates, directions = len(order), weight_shape(weights)[0]
    hidden = weight_shape(recurrence)[2]
    own = [sources(weights, directions, order), sources(recurrence, directions, order)]
    own.append(sources(biases, directions, order, 2))
    if own[0] is not None and own[1] is not None and own[2] is not None:
        both = [value for pair in zip(own[0], own[1], strict=True) for one in pair for value in one]
        values = [*both, *(value for pair in own[2] for value in pair)]
        return low.call("concat", *(low.call("reshape", low.symbol(value), shape=(-1,)) for value in values), dim=0)
    blocks: list[Symbol] = []
    for value, count in ((weights, 1), (recurrence, 1), (biases, 2)):
        if value is None:
            zeros = np.zeros((directions, 2 * gates * hidden), dtype_of(weights))
            blocks.append(low.constants(f"{low.place}.zeros", zeros))
            continue
        rows = low.call("reshape", low.symbol(value), shape=(directions * count, gates * hidden, -1))
        parts = low.call("SliceChannel", rows, num_outputs=gates, axis=1)
        turned = low.call("concat", *(parts[order.index(place)] for place in range(gates)), dim=1)
        blocks.append(low.call("reshape", turned, shape=(directions, -1)))
    both = low.call("reshape", low.call("concat", blocks[0], blocks[1], dim=1), shape=(-1,))
    return low.call("concat", both, low.call("reshape", blocks[2], shape=(-1,)), dim=0)


def _state(low: Lowering, state: Value | None, x: Value, directions: int, hidden: int) -> Symbol:
    """Return an initial state [directions, N, hidden]; zeros where there is none."""
    if state is not None:
        return low.symbol(state)
    size = sizes_of(x)[1]
    zeros = low.constants(f"{low.place}.state", np.zeros((directions, size or 1, hidden), dtype_of(x)))
    return zeros if size is not None else low.call("broadcast_like", zeros, low.symbol(x), lhs_axes=(1,), rhs_axes=(1,))
